//! Names that share a file: the first is the file, the others point to it.
use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Stat, StatxFlags};

/// Paths of files whose other names were not seen yet. A farm of links to another tree must not fill the memory:
/// beyond this, names are listed as files of their own, whose content is still stored once.
const PATHS_MAX: usize = 64 << 20;

/// Device, inode, and birth, since a number is used again once its file is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity(u64, u64, i64, u32);

#[derive(Debug)]
struct Group {
    first: Vec<u8>,
    /// Names not yet seen.
    left: u64,
}

#[derive(Debug, Default)]
pub(super) struct Hardlinks {
    groups: HashMap<Identity, Group>,
    bytes: usize,
}

impl Identity {
    pub(super) fn of(directory: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Self {
        let birth = rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME);
        let (seconds, nanos) =
            birth.map_or((0, 0), |found| (found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
        Self(stat.st_dev, stat.st_ino, seconds, nanos)
    }
}

impl Hardlinks {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The name under which the file is listed already.
    pub(super) fn seen(&mut self, identity: Identity) -> Option<Vec<u8>> {
        let group = self.groups.get_mut(&identity)?;
        let target = group.first.clone();
        group.left -= 1;
        if group.left == 0 {
            self.bytes -= target.len();
            self.groups.remove(&identity);
        }
        Some(target)
    }

    /// Remembers the first name of a file that has `nlink`. False: there is no room.
    pub(super) fn remember(&mut self, identity: Identity, path: &[u8], nlink: u32) -> bool {
        if self.bytes + path.len() > PATHS_MAX {
            return false;
        }
        self.bytes += path.len();
        let left = u64::from(nlink).saturating_sub(1).max(1);
        self.groups.insert(identity, Group { first: path.to_vec(), left });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_dropped_with_its_last_name() {
        let mut links = Hardlinks::default();
        let (one, other) = (Identity(1, 2, 3, 4), Identity(1, 2, 9, 9));
        assert_eq!(links.seen(one), None);
        assert!(links.remember(one, b"a", 3));
        assert_eq!(links.seen(one), Some(b"a".to_vec()));
        assert_eq!(links.seen(other), None, "the number was used again");
        assert!(links.remember(other, b"x", 2));
        assert_eq!(links.seen(one), Some(b"a".to_vec()));
        assert_eq!((links.groups.len(), links.bytes), (1, 1));
    }

    #[test]
    fn memory_is_bounded() {
        let mut links = Hardlinks::default();
        let path = vec![b'p'; 4095];
        let id = |n| Identity(1, n, 0, 0);
        let room = (PATHS_MAX / path.len()) as u64;
        assert!((0..room).all(|n| links.remember(id(n), &path, 2)));
        assert!(!links.remember(id(room), &path, 2));
        assert_eq!(links.seen(id(0)), Some(path.clone()));
        assert!(links.remember(id(room), &path, 2));
    }
}
