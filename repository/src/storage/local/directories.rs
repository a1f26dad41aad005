//! Which directories are known to be there for good, and the syncs that make them so.
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// How many are remembered as known to be durable. More are merely synced again.
const KNOWN: usize = 4096;

#[derive(Default)]
pub(super) struct Directories {
    /// Those that this process has seen durably entered in their parents.
    durable: Mutex<HashSet<PathBuf>>,
    syncs: Mutex<HashMap<PathBuf, Arc<DirectorySync>>>,
}

/// Lets those who wait for a sync of one directory share it.
#[derive(Default)]
struct DirectorySync {
    asked: AtomicU64,
    done: Mutex<u64>,
}

impl Directories {
    /// Makes `directory` with all its parents, and sees to it that a power cut leaves them.
    pub(super) fn make(&self, root: &Path, directory: &Path) -> Result<()> {
        if self.durable().contains(directory) {
            return Ok(());
        }
        let failed = |e: std::io::Error| {
            let what = format!("cannot make the directory {}", directory.display());
            // Something else has the name. Not a conflict: nobody created the object.
            if e.kind() == Io::AlreadyExists {
                Error::invalid(what).with_source(e)
            } else {
                Error::io(what, e)
            }
        };
        fs::create_dir_all(directory).map_err(failed)?;
        // Also a directory that exists: whoever made it may have died before its sync.
        for path in directory.ancestors().take_while(|path| path.starts_with(root)) {
            if let Some(parent) = path.parent() {
                match self.sync(parent) {
                    // The parent of the root may be closed to us; it is not ours to guarantee.
                    Err(e) if e.kind() == Io::PermissionDenied && path == root => {}
                    other => other.map_err(failed)?,
                }
            }
        }
        let mut durable = self.durable();
        if durable.len() >= KNOWN {
            durable.clear();
        }
        durable.insert(directory.to_owned());
        Ok(())
    }

    /// It is gone, or may be.
    pub(super) fn forget(&self, directory: &Path) {
        self.durable().remove(directory);
    }

    /// Returns when a sync has ended that began after this call did.
    pub(super) fn sync(&self, directory: &Path) -> std::io::Result<()> {
        let syncs = || self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        let sync = syncs().entry(directory.to_owned()).or_default().clone();
        let ticket = sync.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let result = {
            let mut done = sync.done.lock().unwrap_or_else(PoisonError::into_inner);
            if *done >= ticket {
                Ok(())
            } else {
                let asked = sync.asked.load(Ordering::SeqCst);
                File::open(directory).and_then(|file| file.sync_all()).map(|()| *done = asked)
            }
        };
        let mut syncs = syncs();
        if Arc::strong_count(&sync) == 2 {
            syncs.remove(directory);
        }
        result
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
