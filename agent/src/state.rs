//! The agent's own directory. One agent at a time, nobody else reads it.
//!
//! ```text
//! lock  instance  epochs.json  node-epoch.json  freeze.json
//! recovery  ahead/  log.sock                what a restored database asks for; ahead/ may go at any time
//! stood-down.json                           another agent has this one's place for good
//! journal/<operation>/<task>-<attempt>      a task, before it is started
//! drill/<operation>/                        a restore for proof, unless the settings name another place
//! spool/<operation>/                        what a backup needs until it is released
//! ```
use std::fs::File;
use std::path::{Path, PathBuf};

use palinurus_repository::id::check_name;
use palinurus_repository::{Error, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::durable;

#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    _lock: File,
}

impl StateDirectory {
    /// Makes it when absent. `Conflict` while another agent has it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        for directory in [path.to_owned(), path.join("journal"), path.join("spool")] {
            durable::create_dir(&directory)?;
        }
        let lock_path = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| Error::io(format!("open {}", lock_path.display()), e))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(Errno::WOULDBLOCK) => {
                Err(Error::conflict(format!("another agent runs with state directory {}", path.display()))
                    .with_hint("each agent needs a state directory of its own"))
            }
            Err(errno) => Err(Error::io(format!("lock {}", lock_path.display()), errno.into())),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Where an operation keeps its lists and drafts.
    pub(crate) fn spool(&self, operation: &str) -> Result<PathBuf> {
        check_name("operation", operation)?;
        Ok(self.path.join("spool").join(operation))
    }

    pub(crate) fn create_spool(&self, operation: &str) -> Result<PathBuf> {
        let path = self.spool(operation)?;
        durable::create_dir(&path)?;
        Ok(path)
    }

    pub(crate) fn remove_spool(&self, operation: &str) -> Result<()> {
        durable::remove_dir(&self.spool(operation)?)
    }

    /// Removes the spools of operations that nobody here knows any more.
    pub(crate) fn sweep_spools(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        let path = self.path.join("spool");
        for name in durable::names(&path)? {
            if !name.to_str().is_some_and(&known) {
                tracing::info!(operation = ?name, "removing the spool of an operation that is over");
                durable::remove_dir(&path.join(name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palinurus_repository::ErrorKind;

    #[test]
    fn one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/state");
        let state = StateDirectory::open(&path).unwrap();
        assert_eq!(StateDirectory::open(&path).unwrap_err().kind(), ErrorKind::Conflict);
        drop(state);
        StateDirectory::open(&path).unwrap();
    }

    #[test]
    fn spools_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(dir.path()).unwrap();
        for name in ["..", "a/b", ""] {
            assert!(state.create_spool(name).is_err(), "{name}");
        }
        for name in ["kept", "gone", "released"] {
            std::fs::write(state.create_spool(name).unwrap().join("walk"), b"").unwrap();
        }
        state.remove_spool("released").unwrap();
        state.remove_spool("released").unwrap();
        state.sweep_spools(|name| name == "kept").unwrap();
        assert_eq!(durable::names(&dir.path().join("spool")).unwrap(), ["kept"]);
    }
}
