//! The highest key epoch that this agent has sealed under, of each repository. Who takes the store back to a time before
//! would have an agent seal under a master that keys since removed still have: it refuses, also after a restart.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use palinurus_repository::{Error, RepositoryId, Result};

use crate::durable;

#[derive(Debug)]
pub(crate) struct KeyEpochs {
    path: PathBuf,
    seen: Mutex<BTreeMap<String, u32>>,
}

impl KeyEpochs {
    pub(crate) fn open(state: &Path) -> Result<Self> {
        let path = state.join("key-epochs.json");
        let seen = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::corrupt(format!("{} does not parse", path.display()))
                    .with_hint(
                        "see with `palinurus keys list` that no key epoch is missing, then remove the file",
                    )
                    .with_source(e)
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
        };
        Ok(Self { path, seen: Mutex::new(seen) })
    }

    /// Before anything is sealed under that epoch: `Denied` when a higher one was; a higher one than ever is durable.
    pub(crate) fn observe(&self, repository: RepositoryId, epoch: u32) -> Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let name = repository.to_string();
        let highest = seen.get(&name).copied().unwrap_or_default();
        if epoch < highest {
            return Err(Error::denied(format!(
                "repository {name} is of key epoch {epoch}, and this agent has written to it under {highest}"
            ))
            .with_hint(format!(
                "its ledger was taken back to an older state: bring the later records back from the store's older \
                 versions. Only if the old state is meant, remove {}, and begin another key epoch",
                self.path.display()
            )));
        }
        if epoch > highest {
            let mut next = seen.clone();
            next.insert(name, epoch);
            let bytes =
                serde_json::to_vec(&next).map_err(|e| Error::internal("key epochs").with_source(e))?;
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
    fn nothing_is_sealed_under_an_earlier_master_ever_again() {
        let dir = tempfile::tempdir().unwrap();
        let epochs = KeyEpochs::open(dir.path()).unwrap();
        let (one, two) = (RepositoryId([1; 16]), RepositoryId([2; 16]));
        for epoch in [0, 0, 2, 2] {
            epochs.observe(one, epoch).unwrap();
        }
        for epochs in [epochs, KeyEpochs::open(dir.path()).unwrap()] {
            for lower in [0, 1] {
                let error = epochs.observe(one, lower).unwrap_err();
                assert!(
                    error.kind() == ErrorKind::Denied && error.hint().unwrap().contains("older"),
                    "{error:?}"
                );
            }
            epochs.observe(one, 2).unwrap();
            epochs.observe(two, 0).unwrap();
        }
        std::fs::write(dir.path().join("key-epochs.json"), b"{").unwrap();
        assert_eq!(KeyEpochs::open(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
