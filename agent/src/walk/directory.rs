//! Reads one directory: its names, sorted.
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Stat};
use rustix::io::Result;

const BUFFER: usize = 64 << 10;

/// Never follows a symlink; refuses what is no directory.
pub(super) fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

pub(super) fn stat(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Stat> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// All names but `.` and `..`, in the order of bytes. An error ends the list early: the names so far come with it.
pub(super) fn names(directory: impl AsFd) -> (Vec<Vec<u8>>, Result<()>) {
    let mut names = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut ended = Ok(());
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => names.push(name.to_vec()),
            },
            Err(errno) => {
                ended = Err(errno);
                break;
            }
        }
    }
    names.sort_unstable();
    // A directory that changes while it is read may show a name twice.
    names.dedup();
    (names, ended)
}
