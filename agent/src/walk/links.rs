//! The snapshot's directory: a hard link of each file that must stay as it is until it was read.
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use palinurus_repository::{Error, Result};
use rustix::fs::{AtFlags, Mode, Stat};
use rustix::io::Errno;

use super::directory;
use crate::source;

/// A name that is replaced again and again is given up as not linkable.
const TRIES: u32 = 4;

#[derive(Debug)]
pub(crate) struct Links {
    directory: OwnedFd,
    /// Which of the 256 subdirectories are there.
    shards: [bool; 256],
}

#[derive(Debug)]
pub(super) enum Linked {
    /// What was linked, as it was just after.
    Yes(Stat),
    Vanished,
    /// Read it where it is.
    Not(Errno),
}

impl Links {
    /// `path` is empty or absent: what an earlier attempt linked is gone.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        crate::durable::create_dir(path)?;
        let directory = source::open_root(path)
            .map_err(|e| Error::io(format!("open snapshot directory {}", path.display()), e.into()))?;
        Ok(Self { directory, shards: [false; 256] })
    }

    /// A list that survives the machine must not name links that did not. A journaling file system makes all
    /// earlier links durable with the directory.
    pub(super) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.directory).map_err(|e| Error::io("fsync the snapshot directory", e.into()))
    }

    /// `expected` is what the name was when it was looked at.
    pub(super) fn link(&mut self, from: BorrowedFd<'_>, name: &[u8], mut expected: Stat) -> Linked {
        for _ in 0..TRIES {
            let link = source::link_name(expected.st_ino);
            if let Err(errno) = self.shard((expected.st_ino & 0xff) as u8) {
                return Linked::Not(errno);
            }
            match rustix::fs::linkat(from, name, &self.directory, link.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Linked::Vanished,
                Err(errno) => return Linked::Not(errno),
            }
            // The name may have been given to another file in between.
            match directory::stat(self.directory.as_fd(), link.as_bytes()) {
                Ok(found) if (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino) => {
                    return Linked::Yes(found);
                }
                Ok(_) => {
                    if let Err(errno) = rustix::fs::unlinkat(&self.directory, link.as_str(), AtFlags::empty())
                    {
                        return Linked::Not(errno);
                    }
                }
                Err(errno) => return Linked::Not(errno),
            }
            expected = match directory::stat(from, name) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return Linked::Vanished,
                Err(errno) => return Linked::Not(errno),
            };
            if !is_regular(&expected) {
                return Linked::Vanished;
            }
        }
        Linked::Not(Errno::AGAIN)
    }

    fn shard(&mut self, number: u8) -> rustix::io::Result<()> {
        if !self.shards[usize::from(number)] {
            match rustix::fs::mkdirat(&self.directory, format!("{number:02x}"), Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => self.shards[usize::from(number)] = true,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

fn is_regular(stat: &Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
}
