//! The file that lies in a target from the first write to the last: while it is there, the target is not whole,
//! and only the restore it names may go on.
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use palinurus_repository::manifest::ManifestRef;
use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Names that begin like this are ours, at the first level of a target.
pub(super) const OURS: &[u8] = b".palinurus";
pub(super) const NAME: &str = ".palinurus-restore";
const NEW: &str = ".palinurus-restore.new";
/// A marker is short; anything longer is none.
const LEN_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    version: u32,
    /// Of the manifest: equal contents may be continued from any backup.
    pub(super) root: String,
    pub(super) node: String,
    pub(super) delta: bool,
    pub(super) include: Vec<String>,
}

impl Marker {
    pub(super) fn new(manifest: &ManifestRef, delta: bool, include: &[String]) -> Self {
        let root = manifest.root.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { version: 1, root, node: manifest.node.clone(), delta, include: include.to_vec() }
    }

    /// Whether a restore of `other` goes on where this one stopped.
    pub(super) fn is_same_restore(&self, other: &Marker) -> bool {
        (self.version, &self.root, &self.include) == (other.version, &other.root, &other.include)
    }

    /// `None` when there is none; `InvalidData` when it is not one.
    pub(super) fn read(dir: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(dir, NAME, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            file => File::from(file?),
        };
        let mut text = String::new();
        file.take(LEN_MAX).read_to_string(&mut text)?;
        serde_json::from_str(&text).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Durable when it returns, whole or not there.
    pub(super) fn write(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        remove(dir, NEW)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(dir, NEW, flags, Mode::RUSR | Mode::WUSR)?);
        let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        text.push('\n');
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        renameat(dir, NEW, dir, NAME)?;
        Ok(fsync(dir)?)
    }

    pub(super) fn remove(dir: BorrowedFd<'_>) -> io::Result<()> {
        remove(dir, NAME)
    }
}

fn remove(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => Ok(removed?),
    }
}
