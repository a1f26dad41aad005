//! Opens names strictly below one directory: through no symlink and never out of it, whatever a manifest or
//! somebody else in the directory does. Everything that a restore touches is reached from here.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

const PATH_ONLY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(super) struct Beneath {
    dir: OwnedFd,
    /// Kernels before 5.6 and some sandboxes have no `openat2`.
    openat2: bool,
}

impl Beneath {
    pub(super) fn new(dir: OwnedFd) -> Self {
        let probe = openat2(&dir, c".", PATH_ONLY, Mode::empty(), resolve());
        Self { openat2: probe.is_ok(), dir }
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// `path` as in a manifest. A symlink on the way or at its end is `ELOOP` or `ENOTDIR`.
    pub(super) fn open(&self, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if !self.openat2 {
            return Ok(self.walk(path, flags, mode)?);
        }
        loop {
            match openat2(&self.dir, path, flags, mode, resolve()) {
                // Something was renamed meanwhile: the kernel wants to look again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return Ok(opened?),
            }
        }
    }

    fn walk(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let (parent, name) = split(path);
        let mut at: Option<OwnedFd> = None;
        for part in parent.split(|byte| *byte == b'/').filter(|part| *part != b".") {
            let next = openat(at.as_ref().unwrap_or(&self.dir), part, PATH_ONLY, Mode::empty())?;
            at = Some(next);
        }
        openat(at.as_ref().unwrap_or(&self.dir), name, flags, mode)
    }
}

fn resolve() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// The directory that holds `path`, `.` for the first level, and the name in it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b".", path),
    }
}

/// Finds the directories of names for the calls that take a directory and a name. Neighbours are cheap.
#[derive(Debug, Default)]
pub(super) struct Places {
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Places {
    pub(super) fn find<'a>(
        &'a mut self,
        beneath: &'a Beneath,
        path: &'a [u8],
    ) -> io::Result<(BorrowedFd<'a>, &'a [u8])> {
        let (parent, name) = split(path);
        if parent == b"." {
            return Ok((beneath.dir(), name));
        }
        if self.last.as_ref().is_none_or(|(known, _)| known != parent) {
            self.last = Some((parent.to_vec(), beneath.open(parent, PATH_ONLY, Mode::empty())?));
        }
        match &self.last {
            Some((_, dir)) => Ok((dir.as_fd(), name)),
            None => Err(Errno::NOENT.into()),
        }
    }

    /// After a directory was removed: its name may soon be another's.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn beneath(path: &std::path::Path) -> [Beneath; 2] {
        let open = || OwnedFd::from(fs::File::open(path).unwrap());
        let modern = Beneath::new(open());
        [Beneath { dir: open(), openat2: false }, modern]
    }

    #[test]
    fn nothing_leads_out_and_no_symlink_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), b"x").unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), b"y").unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink("b", dir.path().join("a/in")).unwrap();
        symlink(outside.path().join("secret"), dir.path().join("a/leaf")).unwrap();
        for beneath in beneath(dir.path()) {
            let read = |path: &[u8]| beneath.open(path, OFlags::RDONLY, Mode::empty());
            let create = |path: &[u8]| beneath.open(path, OFlags::WRONLY | OFlags::CREATE, Mode::RUSR);
            read(b"a/b/file").unwrap();
            read(b".").unwrap();
            for bad in [&b"out/secret"[..], b"a/in/file", b"a/leaf", b"out"] {
                assert!(read(bad).is_err(), "{bad:?} {beneath:?}");
            }
            for bad in [&b"out/new"[..], b"a/leaf", b"a/in/new"] {
                assert!(create(bad).is_err(), "{bad:?} {beneath:?}");
            }
            let mut places = Places::default();
            places.find(&beneath, b"a/b/file").unwrap();
            assert!(places.find(&beneath, b"out/secret").is_err());
            assert!(places.find(&beneath, b"a/in/file").is_err());
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn a_way_out_is_refused_even_if_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        let [_, modern] = beneath(&dir.path().join("in"));
        for bad in [&b".."[..], b"../in", b"/etc/passwd"] {
            assert!(modern.open(bad, OFlags::RDONLY, Mode::empty()).is_err(), "{bad:?}");
        }
    }
}
