//! The data directory as a place: what is in it, what fits, and where the snapshots' links lie. All of it blocks.
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use palinurus_repository::id::check_name;
use palinurus_repository::{Error, Result};
use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::walk::Links;
use crate::{durable, restore};

#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    /// Below it a directory for each operation. Shared with nobody.
    links: PathBuf,
}

impl Place {
    /// `links`: by default in the root.
    pub(super) fn new(root: PathBuf, links: Option<PathBuf>) -> Self {
        let links = links.unwrap_or_else(|| root.join(".palinurus"));
        Self { root, links }
    }

    /// Whether a restore may fill it.
    pub(super) fn is_empty(&self) -> Result<bool> {
        restore::target::is_empty(&self.root)
            .map_err(|e| Error::io(format!("list data directory {}", self.root.display()), e))
    }

    /// Half a restore is no state to back up.
    pub(super) fn check_whole(&self) -> Result<()> {
        if self.root.join(restore::UNFINISHED).symlink_metadata().is_err() {
            return Ok(());
        }
        let what = format!("the data directory {} holds a restore that has not ended", self.root.display());
        Err(Error::conflict(what).with_hint("finish the restore first"))
    }

    /// That it can be read, and how many names are at its top.
    pub(super) fn names(&self) -> Result<usize> {
        let listed = std::fs::read_dir(&self.root)
            .and_then(|names| names.map(|name| name.map(drop)).collect::<Result<Vec<()>, std::io::Error>>());
        listed
            .map(|names| names.len())
            .map_err(|e| Error::io(format!("list data directory {}", self.root.display()), e))
    }

    /// For one who is not root.
    pub(super) fn free_bytes(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(&self.root).map_err(|e| {
            Error::io(format!("look at data directory {}", self.root.display()), e.into())
                .with_hint("engine.root must name a directory that the agent may read")
        })?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    pub(super) fn links_of(&self, operation: &str) -> Result<PathBuf> {
        check_name("operation", operation)?;
        Ok(self.links.join(operation))
    }

    /// Device and inode of the directory of all links, to keep it out of the list wherever it lies.
    pub(super) fn links_identity(&self) -> Option<(u64, u64)> {
        self.links.metadata().ok().map(|found| (found.dev(), found.ino()))
    }

    /// An empty directory for the operation's links.
    pub(super) fn create_links(&self, operation: &str) -> Result<Links> {
        let path = self.links_of(operation)?;
        self.remove_links(operation)?;
        self.keeping_mtime(|| Links::create(&path))
    }

    pub(super) fn remove_links(&self, operation: &str) -> Result<()> {
        let path = self.links_of(operation)?;
        if self.links.exists() {
            self.keeping_mtime(|| {
                durable::remove_dir(&path)?;
                // Fails while another operation has something there, as it should.
                let _ = std::fs::remove_dir(&self.links);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Removes the links of all operations but those that are `known`.
    pub(super) fn sweep_links(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        if !self.links.exists() {
            return Ok(());
        }
        for name in durable::names(&self.links)? {
            match name.to_str() {
                Some(operation) if known(operation) => {}
                Some(operation) if check_name("operation", operation).is_ok() => {
                    tracing::info!(operation, "removing the snapshot of an operation that is over");
                    self.remove_links(operation)?;
                }
                _ => {
                    tracing::warn!(path = %self.links.join(&name).display(), "not ours, and in a directory of ours")
                }
            }
        }
        Ok(())
    }

    /// The root's mtime is part of the backup: what we do in it must not show. One who may not set times leaves
    /// the new one.
    fn keeping_mtime<T>(&self, deed: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.links.parent() != Some(self.root.as_path()) {
            return deed();
        }
        let before = rustix::fs::stat(&self.root);
        let done = deed();
        if let Ok(before) = before {
            let times = Timestamps {
                last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
                last_modification: Timespec {
                    tv_sec: before.st_mtime as _,
                    tv_nsec: before.st_mtime_nsec as _,
                },
            };
            let _ = rustix::fs::utimensat(rustix::fs::CWD, &self.root, &times, AtFlags::empty());
        }
        done
    }
}

/// Whether `path` lies in `directory` or is it, as far as both exist.
pub(super) fn is_inside(path: &Path, directory: &Path) -> bool {
    match (path.canonicalize(), directory.canonicalize()) {
        (Ok(path), Ok(directory)) => path.starts_with(directory),
        _ => path.starts_with(directory),
    }
}
