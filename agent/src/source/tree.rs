//! Opens what the list names, never anything outside the data directory and what the engine joins to it.
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::{Error, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::judge::why_unread;
use super::{Judge, Readable, Remote, SourceEntry, SourceKind};

/// The data directory and, where the engine made one, the snapshot's directory of hard links.
#[derive(Debug)]
pub struct Tree {
    /// Absent: nothing of it may be read any more.
    root: Option<OwnedFd>,
    snapshot: Option<OwnedFd>,
    /// Directories elsewhere whose contents are listed below these paths.
    joined: Vec<(Vec<u8>, OwnedFd)>,
    judge: Option<Arc<dyn Judge>>,
    remote: Option<Arc<dyn Remote>>,
}

impl Tree {
    /// `snapshot` may be absent: then no entry may say that it lies there.
    pub fn open(root: &Path, snapshot: Option<&Path>) -> Result<Self> {
        let (root, snapshot) = (Some(open_dir(root)?), snapshot.map(open_dir).transpose()?);
        Ok(Self { root, snapshot, joined: Vec::new(), judge: None, remote: None })
    }

    /// Whose files may not be read any more: what that means is the judge's to say.
    pub fn closed() -> Self {
        Self { root: None, snapshot: None, joined: Vec::new(), judge: None, remote: None }
    }

    /// What is listed below `path` lies in `directory`.
    pub fn join(mut self, path: &[u8], directory: &Path) -> Result<Self> {
        self.joined.push(([path, b"/"].concat(), open_dir(directory)?));
        Ok(self)
    }

    pub fn judged_by(mut self, judge: Arc<dyn Judge>) -> Self {
        self.judge = Some(judge);
        self
    }

    /// What `remote` knows is read by it.
    pub fn with_remote(mut self, remote: Arc<dyn Remote>) -> Self {
        self.remote = Some(remote);
        self
    }

    /// See [`Judge::bytes`]. What lies elsewhere is not judged.
    pub(crate) fn judge(
        &self,
        entry: &SourceEntry,
        file: &Readable,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<Vec<String>> {
        match (&self.judge, file) {
            (Some(judge), Readable::Here(file)) => judge.bytes(entry, file, offset, bytes),
            _ => Ok(Vec::new()),
        }
    }

    /// See [`Judge::unread`].
    pub(crate) fn unread(&self, entry: &SourceEntry, error: &io::Error) -> Result<Option<String>> {
        self.judge.as_ref().map_or_else(|| Ok(Some(why_unread(error))), |judge| judge.unread(entry, error))
    }

    /// See [`Remote::ahead`].
    pub(crate) fn ahead<'a>(&self, mut entries: impl Iterator<Item = &'a SourceEntry>) {
        if let Some(remote) = &self.remote {
            remote.ahead(&mut entries);
        }
    }

    /// [`open_file`](Self::open_file), also of what lies elsewhere, with what the file was when it was opened.
    pub(crate) fn open_any(&self, entry: &SourceEntry) -> io::Result<(Readable, Option<Stat>)> {
        match self.remote.as_ref().map(|remote| remote.open(entry)).transpose()?.flatten() {
            Some(remote) => Ok((Readable::Remote(remote), None)),
            None => self.open_here(entry).map(|(file, stat)| (Readable::Here(file), Some(stat))),
        }
    }

    #[cfg(test)]
    pub(crate) fn read(&self, entry: &SourceEntry) -> io::Result<Readable> {
        self.open_any(entry).map(|(file, _)| file)
    }

    /// For reading. The file behind the name may be another one by now, or have another size: compare `fstat`
    /// with the entry.
    pub fn open_file(&self, entry: &SourceEntry) -> io::Result<File> {
        self.open_here(entry).map(|(file, _)| file)
    }

    fn open_here(&self, entry: &SourceEntry) -> io::Result<(File, Stat)> {
        let SourceKind::File { snapshot, .. } = entry.kind else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        };
        let fd = match (snapshot, &self.snapshot) {
            (false, _) => {
                let joined = |(path, _): &&(Vec<u8>, OwnedFd)| entry.path.starts_with(path);
                match (self.joined.iter().find(joined), &self.root) {
                    (Some((path, dir)), _) => open_beneath(dir.as_fd(), &entry.path[path.len()..])?,
                    (None, Some(root)) => open_beneath(root.as_fd(), &entry.path)?,
                    (None, None) => {
                        return Err(io::Error::new(
                            io::ErrorKind::PermissionDenied,
                            "the data is not held any more",
                        ));
                    }
                }
            }
            (true, Some(links)) => open_beneath(links.as_fd(), link_name(entry.meta.inode).as_bytes())?,
            (true, None) => return Err(io::Error::new(io::ErrorKind::NotFound, "the snapshot was released")),
        };
        // O_NONBLOCK did no more than keep the open from waiting for a writer of a FIFO.
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no longer a regular file"));
        }
        Ok((File::from(fd), stat))
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    open_root(path).map_err(|e| Error::io(format!("open directory {}", path.display()), e.into()))
}

/// Where the snapshot's link to an inode lies. A link keeps the inode, so its number stays unique while it is there.
pub(crate) fn link_name(inode: u64) -> String {
    format!("{:02x}/{inode:016x}", inode & 0xff)
}

pub(crate) fn open_root(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Only the owner may leave the access time alone.
    match resolve_beneath(root, path, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => resolve_beneath(root, path, flags),
        other => other,
    }
}

/// Opens `path` below `root` without following any symlink on the way.
pub(crate) fn resolve_beneath(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        // Linux before 5.6, or a container's filter.
        Err(Errno::NOSYS) => step_beneath(root, path, flags),
        other => other,
    }
}

/// The same, one part at a time.
fn step_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut parts = path.split(|b| *b == b'/').peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        if part == b".." || part.is_empty() {
            return Err(Errno::XDEV);
        }
        let flags = if parts.peek().is_some() { step } else { flags | OFlags::NOFOLLOW };
        at = Some(rustix::fs::openat(at.as_ref().map_or(root, AsFd::as_fd), part, flags, Mode::empty())?);
    }
    at.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn both_ways_stay_inside_and_follow_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), b"in").unwrap();
        std::fs::write(dir.path().join("secret"), b"out").unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("a", root.join("in")).unwrap();
        let fd = open_root(&root).unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        for open in [resolve_beneath, step_beneath] {
            open(fd.as_fd(), b"a/b/file", flags).unwrap();
            open(fd.as_fd(), b"a/b", flags).unwrap();
            for bad in [&b"out"[..], b"in/b/file", b"../secret", b"a/../../secret", b"absent", b"/etc/passwd"]
            {
                assert!(open(fd.as_fd(), bad, flags).is_err(), "{}", String::from_utf8_lossy(bad));
            }
        }
    }
}
