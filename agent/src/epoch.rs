//! The highest epoch seen of each service. What an older leader still says is refused, also after a restart.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use palinurus_repository::mutant::{self, Mutant};
use palinurus_repository::{Epoch, Error, Result};

use crate::durable;

#[derive(Debug)]
pub(crate) struct Epochs {
    path: PathBuf,
    seen: Mutex<BTreeMap<String, u64>>,
}

impl Epochs {
    pub(crate) fn open(state: &Path) -> Result<Self> {
        let path = state.join("epochs.json");
        let seen = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::corrupt(format!("{} does not parse", path.display()))
                    .with_hint("see that no old coordinator runs any more, then remove the file")
                    .with_source(e)
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
        };
        Ok(Self { path, seen: Mutex::new(seen) })
    }

    pub(crate) fn highest(&self, service: &str) -> Epoch {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Epoch(seen.get(service).copied().unwrap_or_default())
    }

    /// `Fenced` when a higher one was seen; a higher one than ever is durable before anything is done in its name.
    pub(crate) fn observe(&self, service: &str, epoch: Epoch) -> Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = seen.get(service).copied().unwrap_or_default();
        if mutant::on(Mutant::AgentIgnoresEpochs) {
            seen.insert(service.to_owned(), epoch.0);
            return Ok(());
        }
        if epoch.0 < highest {
            return Err(Error::fenced(format!(
                "epoch {epoch} is over: epoch {highest} has spoken for {service}"
            )));
        }
        if epoch.0 > highest {
            let mut next = seen.clone();
            next.insert(service.to_owned(), epoch.0);
            let bytes = serde_json::to_vec(&next).map_err(|e| Error::internal("epochs").with_source(e))?;
            durable::write(&self.path, &bytes)?;
            *seen = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palinurus_repository::ErrorKind;

    #[test]
    fn an_older_epoch_is_refused_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let epochs = Epochs::open(dir.path()).unwrap();
        for epoch in [0, 3, 3, 5] {
            epochs.observe("db", Epoch(epoch)).unwrap();
        }
        epochs.observe("other", Epoch(1)).unwrap();
        for epochs in [epochs, Epochs::open(dir.path()).unwrap()] {
            assert_eq!(epochs.observe("db", Epoch(4)).unwrap_err().kind(), ErrorKind::Fenced);
            assert_eq!((epochs.highest("db"), epochs.highest("none")), (Epoch(5), Epoch(0)));
        }
        std::fs::write(dir.path().join("epochs.json"), b"{").unwrap();
        assert_eq!(Epochs::open(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
