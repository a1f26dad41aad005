//! The directory that a restore fills: whether it may, and how it ends being half full.
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use palinurus_repository::manifest::entry::Meta;
use palinurus_repository::{Error, Result};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fsync, open, syncfs};
use rustix::io::Errno;

use super::beneath::Beneath;
use super::marker::{self, Marker};
use super::metadata::{Attributes, Origin, stop_inheritance};
use super::report::Report;

/// Every file system of its own may have this at its root; it is nobody's data.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Whether a restore that may overwrite nothing may fill `path`: it is absent, holds nothing, or holds what an
/// interrupted restore left.
pub fn is_empty(path: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    let mut foreign = false;
    for entry in entries {
        let name = entry?.file_name();
        if name.as_bytes() == marker::NAME.as_bytes() {
            return Ok(true);
        }
        foreign |= !is_spared(name.as_bytes());
    }
    Ok(!foreign)
}

/// First-level names that are no data: they do not count, and a delta restore does not remove them.
pub(super) fn is_spared(name: &[u8]) -> bool {
    name == LOST_AND_FOUND || name.starts_with(marker::OURS)
}

#[derive(Debug)]
pub(super) struct Target {
    pub(super) beneath: Beneath,
    /// It may hold files: every name is looked at before it is made.
    pub(super) existing: bool,
    /// Names that the backup does not have are removed.
    pub(super) delta: bool,
    path: PathBuf,
    /// Held while open: two restores into one directory would undo each other.
    lock: OwnedFd,
}

impl Target {
    /// Creates the directory if need be, decides, and leaves the marker in it.
    pub(super) fn claim(path: &Path, wanted: &Marker) -> Result<Self> {
        let failed = |doing: &str, e: io::Error| Error::io(format!("{doing} {}", path.display()), e);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| failed("create directory", e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || open(path, flags, Mode::empty()).map_err(|e| failed("open directory", e.into()));
        let lock = open()?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::conflict(format!("another restore is writing into {}", path.display()))
                    .with_hint("wait for it or cancel it"));
            }
            locked => locked.map_err(|e| failed("lock", e.into()))?,
        }
        let beneath = Beneath::new(open()?);
        let (existing, delta) = decide(path, &beneath, wanted)?;
        let mut marker = wanted.clone();
        marker.delta = delta;
        marker.write(beneath.dir()).map_err(|e| failed("write a marker into", e))?;
        stop_inheritance(beneath.dir());
        Ok(Self { beneath, existing, delta, path: path.to_owned(), lock })
    }

    /// Everything is on the disk and the directory its own; the marker goes last. `meta` is that of the data
    /// directory in the backup, where it was selected.
    pub(super) fn finish(&self, meta: Option<&Meta>, attributes: Attributes, report: &Report) -> Result<()> {
        let dir = self.beneath.dir();
        if let Some(meta) = meta {
            // Whoever is not root must still be able to remove the marker.
            let open = if attributes.is_privileged() { 0 } else { 0o700 };
            let passable = Meta { mode: meta.mode | open, ..meta.clone() };
            attributes.give(dir, b".", &passable, Origin::Found, report);
        }
        self.sync()?;
        Marker::remove(dir).map_err(|e| self.failed("remove the marker from", e))?;
        if let Some(meta) = meta {
            attributes.give(dir, b".", meta, Origin::Made, report);
        }
        fsync(dir).map_err(|e| self.failed("fsync", e.into()))
    }

    /// Makes all that was written durable.
    pub(super) fn sync(&self) -> Result<()> {
        syncfs(self.beneath.dir()).map_err(|e| self.failed("sync", e.into()))
    }

    /// Lets the next restore in, though a thread of this one may still hold the context.
    pub(super) fn release(&self) {
        // Closing does the same, only later.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }

    fn failed(&self, doing: &str, error: io::Error) -> Error {
        Error::io(format!("{doing} {}", self.path.display()), error)
    }
}

/// Whether the target may hold files, and whether names unknown to the backup are removed.
fn decide(path: &Path, beneath: &Beneath, wanted: &Marker) -> Result<(bool, bool)> {
    let found = match Marker::read(beneath.dir()) {
        // Not ours, or of a later version: then only what lies beside it counts.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => None,
        found => found.map_err(|e| Error::io(format!("read the marker in {}", path.display()), e))?,
    };
    if holds_nothing(beneath.dir()).map_err(|e| Error::io(format!("list {}", path.display()), e))? {
        return Ok((false, wanted.delta));
    }
    match found {
        Some(found) if found.is_same_restore(wanted) => Ok((true, wanted.delta || found.delta)),
        _ if wanted.delta => Ok((true, true)),
        Some(found) => Err(Error::conflict(format!(
            "{} holds the beginning of another restore, of node {}",
            path.display(),
            found.node
        ))
        .with_hint("finish that one, or empty the directory, or restore with --delta to overwrite what differs")),
        None => Err(Error::conflict(format!("{} is not empty", path.display()))
            .with_hint("empty it, or restore with --delta to overwrite what differs and remove what is not in the backup")),
    }
}

fn holds_nothing(dir: BorrowedFd<'_>) -> io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && !is_spared(name) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use palinurus_repository::manifest::ManifestRef;
    use palinurus_repository::{ErrorKind, TransactionId, WriterId};
    use std::fs;

    fn marker(root: u8, delta: bool) -> Marker {
        let reference = ManifestRef {
            transaction: TransactionId([1; 16]),
            node: "n1".into(),
            writer: WriterId([2; 8]),
            parts: 1,
            size: 100,
            tail: 50,
            root: [root; 32],
        };
        Marker::new(&reference, delta, &[])
    }

    fn claim(path: &Path, marker: &Marker) -> Result<(bool, bool), ErrorKind> {
        Target::claim(path, marker).map(|target| (target.existing, target.delta)).map_err(|e| e.kind())
    }

    #[test]
    fn only_an_empty_directory_or_the_same_restore_is_filled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert!(is_empty(&path).unwrap());
        assert_eq!(claim(&path, &marker(1, false)), Ok((false, false)));
        fs::create_dir(path.join("lost+found")).unwrap();
        fs::write(path.join(".palinurus-other"), b"").unwrap();
        assert!(is_empty(&path).unwrap());
        assert_eq!(claim(&path, &marker(2, false)), Ok((false, false)), "nothing was restored yet");
        fs::write(path.join("data"), b"").unwrap();
        assert!(is_empty(&path).unwrap(), "an interrupted restore");
        assert_eq!(claim(&path, &marker(2, false)), Ok((true, false)));
        assert_eq!(claim(&path, &marker(3, false)), Err(ErrorKind::Conflict));
        fs::remove_file(path.join(marker::NAME)).unwrap();
        assert!(!is_empty(&path).unwrap());
        assert_eq!(claim(&path, &marker(2, false)), Err(ErrorKind::Conflict));
        assert_eq!(claim(&path, &marker(2, true)), Ok((true, true)));
        assert_eq!(claim(&path, &marker(2, false)), Ok((true, true)), "an interrupted delta stays one");
    }

    #[test]
    fn strange_markers_are_no_licence() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("data"), b"").unwrap();
        fs::write(dir.path().join(marker::NAME), b"{").unwrap();
        assert_eq!(claim(dir.path(), &marker(1, false)), Err(ErrorKind::Conflict));
        fs::remove_file(dir.path().join(marker::NAME)).unwrap();
        std::os::unix::fs::symlink("data", dir.path().join(marker::NAME)).unwrap();
        assert!(claim(dir.path(), &marker(1, false)).is_err());
        assert_eq!(fs::read(dir.path().join("data")).unwrap(), b"");
    }

    #[test]
    fn two_restores_do_not_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Target::claim(dir.path(), &marker(1, false)).unwrap();
        assert_eq!(claim(dir.path(), &marker(1, false)), Err(ErrorKind::Conflict));
        drop(first);
        claim(dir.path(), &marker(1, false)).unwrap();
    }

    #[test]
    fn a_file_is_no_target() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(claim(file.path(), &marker(1, true)).is_err());
        assert!(is_empty(file.path()).is_err());
    }
}
