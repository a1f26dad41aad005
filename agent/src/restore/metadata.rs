//! Gives restored names their owner, mode, times and extended attributes, in the order that keeps them: a change
//! of owner clears setuid and capabilities, a write changes the mtime.
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use palinurus_repository::manifest::entry::Meta;
use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, fchmod, fchown,
    fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, futimens, lsetxattr, utimensat,
};
use rustix::io::Errno;

use super::report::Report;

#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    /// Only root may give files away; others restore what they own, silently, as rsync does.
    privileged: bool,
    /// Who owns what is made.
    own: (u32, u32),
}

/// Whether something may carry attributes that the backup did not give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Made,
    Found,
}

impl Attributes {
    pub(super) fn new() -> Self {
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { privileged: user.is_root(), own: (user.as_raw(), group.as_raw()) }
    }

    pub(super) fn is_privileged(self) -> bool {
        self.privileged
    }

    /// A file or directory, by its open descriptor.
    pub(super) fn give(self, fd: BorrowedFd<'_>, path: &[u8], meta: &Meta, origin: Origin, report: &Report) {
        if self.privileged && !self.has_owner(fd, meta) {
            let owner = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
            missed(report, "owner", path, fchown(fd, owner.0, owner.1));
        }
        if origin == Origin::Found || !meta.xattrs.is_empty() {
            give_xattrs(fd, path, meta, origin, report);
        }
        missed(report, "mode", path, fchmod(fd, Mode::from_raw_mode(meta.mode)));
        missed(report, "mtime", path, futimens(fd, &times(meta)));
    }

    /// A look costs less than a change that changes nothing, and only what may be our own is looked at.
    fn has_owner(self, fd: BorrowedFd<'_>, meta: &Meta) -> bool {
        (meta.uid, meta.gid) == self.own
            && fstat(fd).is_ok_and(|found| (found.st_uid, found.st_gid) == (meta.uid, meta.gid))
    }

    /// A symlink, by its directory and name.
    pub(super) fn give_symlink(
        self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        meta: &Meta,
        report: &Report,
    ) {
        if self.privileged {
            let owner = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
            missed(report, "owner", path, chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW));
        }
        if !meta.xattrs.is_empty() {
            let mut by_path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
            by_path.extend_from_slice(name);
            for (key, value) in &meta.xattrs {
                let set = lsetxattr(&by_path, &key[..], value, XattrFlags::empty());
                missed_xattr(report, key, path, set);
            }
        }
        missed(report, "mtime", path, utimensat(dir, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW));
    }
}

fn give_xattrs(fd: BorrowedFd<'_>, path: &[u8], meta: &Meta, origin: Origin, report: &Report) {
    let present = match origin {
        Origin::Made => Vec::new(),
        Origin::Found => names(fd).unwrap_or_default(),
    };
    // Labels come from the system's policy when the backup has none.
    let spared =
        |name: &[u8]| name.starts_with(b"security.") || meta.xattrs.iter().any(|(wanted, _)| wanted == name);
    let too_many: Vec<&Vec<u8>> = present.iter().filter(|name| !spared(name)).collect();
    let there = |name: &Vec<u8>, value: &[u8]| {
        present.contains(name) && read(fd, name, value.len()).is_ok_and(|found| found == value)
    };
    let missing: Vec<_> = meta.xattrs.iter().filter(|(name, value)| !there(name, value)).collect();
    if origin == Origin::Found && !(too_many.is_empty() && missing.is_empty()) {
        // Who may not write a file may not change these either; its own mode is given last.
        missed(report, "mode", path, fchmod(fd, Mode::RWXU));
    }
    for name in too_many {
        missed_xattr(report, name, path, fremovexattr(fd, &name[..]));
    }
    for (name, value) in missing {
        missed_xattr(report, name, path, fsetxattr(fd, &name[..], value, XattrFlags::empty()));
    }
}

/// The names of the extended attributes.
fn names(fd: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut list: Vec<u8> = vec![0; 1024];
    let len = loop {
        match flistxattr(fd, &mut list[..]) {
            Err(Errno::RANGE) if list.len() < 1 << 20 => list.resize(list.len() * 4, 0),
            len => break len?,
        }
    };
    Ok(list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

fn read(fd: BorrowedFd<'_>, name: &[u8], expected: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; expected + 1];
    let len = fgetxattr(fd, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

/// A default ACL would be inherited by everything that is made below. The backup's own is given last.
pub(super) fn stop_inheritance(dir: impl AsFd) {
    // Absent, or on a file system without ACLs, in nearly every case.
    let _ = fremovexattr(dir, c"system.posix_acl_default");
}

fn times(meta: &Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: meta.mtime_seconds, tv_nsec: i64::from(meta.mtime_nanos) },
    }
}

fn missed(report: &Report, what: &str, path: &[u8], done: rustix::io::Result<()>) {
    if let Err(errno) = done {
        report.warn(&format!("{what} {errno:?}"), path, || format!("its {what} is not restored: {errno}"));
    }
}

fn missed_xattr(report: &Report, name: &[u8], path: &[u8], done: rustix::io::Result<()>) {
    if let Err(errno) = done {
        let name = String::from_utf8_lossy(name);
        let space = name.split_once('.').map_or("", |(space, _)| space);
        report.warn(&format!("xattr {space} {errno:?}"), path, || {
            format!("its extended attribute {name:?} is not restored: {errno}")
        });
    }
}
