//! The node epoch that this agent was last welcomed with. Told in every hello: an agent that slept through a
//! failover of its place is known by it.
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::durable;

const NAME: &str = "node-epoch.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    service: String,
    node: String,
    epoch: u64,
}

#[derive(Debug)]
pub(crate) struct NodeEpoch {
    path: PathBuf,
    seen: Mutex<Seen>,
}

impl NodeEpoch {
    /// Another node's epoch is none of ours: the agent was given another place.
    pub(crate) fn open(state: &Path, service: &str, node: &str) -> Result<Self> {
        let path = state.join(NAME);
        let read: Seen = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::corrupt(format!("{} does not parse", path.display()))
                    .with_hint("see that the node's data is this agent's, then remove the file")
                    .with_source(e)
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Seen::default(),
            Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
        };
        let ours = read.service == service && read.node == node;
        let epoch = if ours { read.epoch } else { 0 };
        let seen = Seen { service: service.to_owned(), node: node.to_owned(), epoch };
        Ok(Self { path, seen: Mutex::new(seen) })
    }

    pub(crate) fn last(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).epoch
    }

    /// A coordinator that knows less of the place than this agent is not to be followed. One that says 0 is from
    /// before there were node epochs.
    pub(crate) fn observe(&self, epoch: u64) -> Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch > 0 && epoch < seen.epoch {
            return Err(Error::fenced(format!(
                "welcomed as {} of node epoch {epoch}, after {}",
                seen.node, seen.epoch
            ))
            .with_hint("its coordinator has lost what it knew of the node: see its log"));
        }
        if epoch > seen.epoch {
            let next = Seen { epoch, ..seen.clone() };
            let bytes =
                serde_json::to_vec(&next).map_err(|e| Error::internal("node epoch").with_source(e))?;
            durable::write(&self.path, &bytes)?;
            *seen = next;
        }
        Ok(())
    }

    /// With its place an agent loses its part in it.
    pub(crate) fn forget(state: &Path) -> Result<()> {
        durable::remove(&state.join(NAME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palinurus_repository::ErrorKind;

    #[test]
    fn it_only_grows_and_belongs_to_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let open = |node: &str| NodeEpoch::open(dir.path(), "db", node).unwrap();
        let epoch = open("n1");
        for seen in [0, 1, 0, 3, 3] {
            epoch.observe(seen).unwrap();
        }
        for epoch in [epoch, open("n1")] {
            assert_eq!(epoch.last(), 3);
            assert_eq!(epoch.observe(2).unwrap_err().kind(), ErrorKind::Fenced);
        }
        assert_eq!(open("n2").last(), 0);
        NodeEpoch::forget(dir.path()).unwrap();
        assert_eq!(open("n1").last(), 0);
    }
}
