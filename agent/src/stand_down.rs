//! The mark of an agent that has lost its place for good: written before anything else is done about it, and kept
//! until an operator removes it. The agent then is another one to the coordinator.
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use palinurus_repository::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::durable;

const NAME: &str = "stood-down.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    instance: String,
    why: String,
    at_ms: u64,
}

#[derive(Debug)]
pub(crate) struct StandDown {
    path: PathBuf,
    mark: Mutex<Option<Mark>>,
}

impl StandDown {
    pub(crate) fn open(state: &Path) -> Result<Self> {
        let path = state.join(NAME);
        let mark = match std::fs::read(&path) {
            // Whatever is in it: that it is there says enough.
            Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap_or_else(|e| Mark {
                instance: String::new(),
                why: format!("{} does not parse: {e}", path.display()),
                at_ms: 0,
            })),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
        };
        Ok(Self { path, mark: Mutex::new(mark) })
    }

    /// Why this agent has stood down, if it has.
    pub(crate) fn why(&self) -> Option<Error> {
        let mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        mark.as_ref().map(|mark| {
            Error::fenced(format!("this agent has stood down: {}", mark.why)).with_hint(format!(
                "its data directory is untouched; to use the machine again empty that, remove {} and start the agent",
                self.path.display()
            ))
        })
    }

    /// Who this agent was when it stood down: it is that one until the mark is removed.
    pub(crate) fn instance(&self) -> Option<String> {
        let mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        mark.as_ref().map(|mark| mark.instance.clone())
    }

    /// Durable when it returns; in force whether or not that could be.
    pub(crate) fn set(&self, instance: &str, why: String, now: Timestamp) -> Result<()> {
        let next = Mark { instance: instance.to_owned(), why, at_ms: now.0 };
        let bytes = serde_json::to_vec(&next).map_err(|e| Error::internal("stand down").with_source(e))?;
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        if mark.is_some() {
            return Ok(());
        }
        *mark = Some(next);
        durable::write(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_until_the_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mark = StandDown::open(dir.path()).unwrap();
        assert!(mark.why().is_none() && mark.instance().is_none());
        mark.set("i1", "replaced by i2".to_owned(), Timestamp(7)).unwrap();
        mark.set("i1", "something else".to_owned(), Timestamp(8)).unwrap();
        for mark in [mark, StandDown::open(dir.path()).unwrap()] {
            let why = mark.why().unwrap();
            assert!(why.what().contains("replaced by i2") && why.hint().unwrap().contains(NAME), "{why:?}");
            assert_eq!(mark.instance().unwrap(), "i1");
        }
        std::fs::write(dir.path().join(NAME), b"{").unwrap();
        assert!(StandDown::open(dir.path()).unwrap().why().is_some());
        std::fs::remove_file(dir.path().join(NAME)).unwrap();
        assert!(StandDown::open(dir.path()).unwrap().why().is_none());
    }
}
