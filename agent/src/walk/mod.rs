//! Lists the data directory into the source list: depth first, names bytewise, so the list is in the manifest's
//! order. Holds the names of the directories on the way down, never more. Works relative to open directories, so
//! no path is too long to reach and no symlink is ever followed.
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::manifest::entry::{Meta, PATH_MAX};
use palinurus_repository::{Error, Result};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use crate::progress::Counters;
use crate::source::{self, Class, SourceEntry, SourceKind, SourceListWriter, Totals};
use crate::warning::Warnings;

mod directory;
mod hardlinks;
mod links;
mod rules;
mod xattrs;

pub(crate) use links::Links;
pub(crate) use rules::{Rules, Verdict};

use hardlinks::{Hardlinks, Identity};
use links::Linked;
use xattrs::Xattrs;

/// Names at the top that are ours begin so; they are in no backup.
pub(crate) const OWN_PREFIX: &[u8] = b".palinurus";
/// Directories held open. Those above are opened again on the way back, so that depth needs no descriptors.
const KEPT_OPEN: usize = 64;

/// What to list, and how.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    pub(crate) root: &'a Path,
    pub(crate) rules: &'a Rules,
    pub(crate) cross_file_systems: bool,
    /// What vanishes meanwhile is no loss, and what cannot be read ends the walk.
    pub(crate) strict: bool,
    /// Where immutable and append-only files are linked; none: they are read in place.
    pub(crate) links: Option<Links>,
    /// The tree is a farm of links to another one: two names of a file within it are listed as two files, whose content is
    /// stored once, and no table is kept of them.
    pub(crate) links_elsewhere: bool,
    /// Directories never entered, by device and inode: our own, wherever they lie.
    pub(crate) skip: Vec<(u64, u64)>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) cancel: CancellationToken,
}

/// A directory on the way down.
struct Level {
    fd: Option<Arc<OwnedFd>>,
    identity: (u64, u64),
    names: std::vec::IntoIter<Vec<u8>>,
    path_len: usize,
    included: bool,
    /// The directory's own entry, listed once something below it is included.
    pending: Option<SourceEntry>,
}

struct Walker<'a> {
    walk: Walk<'a>,
    list: SourceListWriter,
    warnings: Warnings,
    hardlinks: Hardlinks,
    xattrs: Xattrs,
    root: Arc<OwnedFd>,
    device: u64,
    levels: Vec<Level>,
    path: Vec<u8>,
    said_unlinkable: bool,
    said_forgotten: bool,
    /// Of a strict walk.
    failed: Option<Error>,
}

impl Walk<'_> {
    /// Blocks: for a thread that may.
    pub(crate) fn run(self, list: SourceListWriter) -> Result<(Totals, Warnings)> {
        let shown = self.root.display();
        let failed = |e: Errno| {
            Error::io(format!("open data directory {shown}"), e.into())
                .with_hint("engine.root must name a directory that the agent may read")
        };
        let root = source::open_root(self.root).map_err(failed)?;
        let stat = rustix::fs::fstat(&root).map_err(failed)?;
        let mut walker = Walker {
            list,
            warnings: Warnings::default(),
            hardlinks: Hardlinks::default(),
            xattrs: Xattrs::new(),
            root: Arc::new(root),
            device: stat.st_dev,
            levels: Vec::new(),
            path: Vec::new(),
            said_unlinkable: false,
            said_forgotten: false,
            failed: None,
            walk: self,
        };
        walker.enter_root(&stat)?;
        while !walker.levels.is_empty() {
            if walker.walk.cancel.is_cancelled() {
                return Err(Error::unavailable("the walk was cancelled"));
            }
            walker.step()?;
            if let Some(error) = walker.failed {
                return Err(error);
            }
        }
        if let Some(links) = &walker.walk.links {
            links.sync()?;
        }
        let totals = walker.list.finish(&walker.warnings)?;
        Ok((totals, walker.warnings))
    }
}

impl Walker<'_> {
    fn enter_root(&mut self, stat: &Stat) -> Result<()> {
        if !self.xattrs.can_read() {
            self.warn("no extended attributes are read: /proc is not mounted");
        }
        let root = Arc::clone(&self.root);
        let meta = self.meta(root.as_fd(), b".", stat);
        // Listed whatever the rules include: a restore needs its mode and owner.
        self.list.push(&SourceEntry { path: b".".to_vec(), meta, kind: SourceKind::Directory })?;
        let included = self.walk.rules.includes_all();
        self.enter(root, stat, included, None);
        Ok(())
    }

    /// The next name of the deepest directory, or one directory up.
    fn step(&mut self) -> Result<()> {
        let top = self.levels.len() == 1;
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        self.path.truncate(level.path_len);
        let Some(name) = level.names.next() else {
            self.levels.pop();
            return Ok(());
        };
        let inside = level.included;
        let Some(parent) = self.parent() else { return Ok(()) };
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&name);
        if top && name.starts_with(OWN_PREFIX) {
            return Ok(());
        }
        if self.path.len() >= PATH_MAX {
            let message =
                format!("left out: its path of {} bytes is longer than a program can open", self.path.len());
            self.warn(message);
            return Ok(());
        }
        match self.walk.rules.verdict(&self.path, inside) {
            Verdict::Excluded => Ok(()),
            verdict => self.visit(parent.as_fd(), &name, verdict == Verdict::Included),
        }
    }

    fn visit(&mut self, parent: BorrowedFd<'_>, name: &[u8], included: bool) -> Result<()> {
        let stat = match directory::stat(parent, name) {
            Ok(stat) => stat,
            Err(errno) => {
                self.warn_errno("left out", errno);
                return Ok(());
            }
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.visit_directory(parent, name, included, &stat),
            _ if !included => Ok(()),
            FileType::RegularFile => self.visit_file(parent, name, stat),
            FileType::Symlink => self.visit_symlink(parent, name, &stat),
            special => {
                let what = match special {
                    FileType::Socket => "socket",
                    FileType::Fifo => "fifo",
                    FileType::CharacterDevice => "character device",
                    FileType::BlockDevice => "block device",
                    _ => "file of an unknown type",
                };
                self.warn(format!("left out: {what}"));
                Ok(())
            }
        }
    }

    fn visit_directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        included: bool,
        stat: &Stat,
    ) -> Result<()> {
        if self.walk.skip.contains(&(stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        let meta = self.meta(parent, name, stat);
        let entry = SourceEntry { path: self.path.clone(), meta, kind: SourceKind::Directory };
        let pending = if included {
            self.list_entry(entry)?;
            None
        } else {
            Some(entry)
        };
        if stat.st_dev != self.device && !self.walk.cross_file_systems {
            self.warn("not entered: another file system is mounted here (engine.cross_file_systems)");
            return Ok(());
        }
        match directory::open(parent, name).and_then(|fd| rustix::fs::fstat(&fd).map(|stat| (fd, stat))) {
            Ok((fd, stat)) => self.enter(Arc::new(fd), &stat, included, pending),
            Err(errno) => self.warn_errno("what it holds is left out", errno),
        }
        Ok(())
    }

    fn visit_symlink(&mut self, parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<()> {
        let target = match rustix::fs::readlinkat(parent, name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(errno) => {
                self.warn_errno("left out", errno);
                return Ok(());
            }
        };
        let meta = self.meta(parent, name, stat);
        self.list_entry(SourceEntry { path: self.path.clone(), meta, kind: SourceKind::Symlink { target } })
    }

    fn visit_file(&mut self, parent: BorrowedFd<'_>, name: &[u8], mut stat: Stat) -> Result<()> {
        let nlink = u32::try_from(stat.st_nlink).unwrap_or(u32::MAX);
        let inode = stat.st_ino;
        let shared = (nlink > 1 && !self.walk.links_elsewhere).then(|| Identity::of(parent, name, &stat));
        if let Some(target) = shared.and_then(|identity| self.hardlinks.seen(identity)) {
            let meta = self.meta(parent, name, &stat);
            let kind = SourceKind::Hardlink { target };
            return self.list_entry(SourceEntry { path: self.path.clone(), meta, kind });
        }
        let class = self.walk.rules.class_of(&self.path);
        let mut snapshot = false;
        if matches!(class, Class::Immutable | Class::AppendOnly)
            && let Some(links) = &mut self.walk.links
        {
            match links.link(parent, name, stat) {
                Linked::Yes(linked) => (snapshot, stat) = (true, linked),
                Linked::Vanished => {
                    self.warn_errno("left out", Errno::NOENT);
                    return Ok(());
                }
                Linked::Not(errno) => {
                    if !std::mem::replace(&mut self.said_unlinkable, true) {
                        self.warn_errno(
                            "cannot be linked into the snapshot, read in place (as may be others)",
                            errno,
                        );
                    }
                }
            }
        }
        // Only what is listed may be pointed to, and only as the file that was looked at first.
        if let Some(identity) = shared
            && stat.st_ino == inode
            && !self.hardlinks.remember(identity, &self.path, nlink)
            && !std::mem::replace(&mut self.said_forgotten, true)
        {
            self.warn("too many hard links at once: from here on some are listed as files of their own");
        }
        let meta = self.meta(parent, name, &stat);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let counters = &self.walk.counters;
        for (counter, amount) in [
            (&counters.files_total, 1),
            (&counters.files_done, 1),
            (&counters.bytes_total, size),
            (&counters.bytes_done, size),
        ] {
            Counters::add(counter, amount);
        }
        let kind = SourceKind::File { size, class, snapshot, nlink };
        self.list_entry(SourceEntry { path: self.path.clone(), meta, kind })
    }

    /// Reads a directory's names and makes it the deepest level.
    fn enter(&mut self, fd: Arc<OwnedFd>, stat: &Stat, included: bool, pending: Option<SourceEntry>) {
        let (names, ended) = directory::names(&fd);
        if let Err(errno) = ended {
            self.warn_errno("some of what it holds is left out", errno);
        }
        self.levels.push(Level {
            fd: Some(fd),
            identity: (stat.st_dev, stat.st_ino),
            names: names.into_iter(),
            path_len: self.path.len(),
            included,
            pending,
        });
        if let Some(above) = self.levels.len().checked_sub(KEPT_OPEN + 1) {
            self.levels[above].fd = None;
        }
    }

    /// The deepest directory. One that was closed on the way down is opened again if it is still the same; else
    /// the rest of it is left out.
    fn parent(&mut self) -> Option<Arc<OwnedFd>> {
        let level = self.levels.last_mut()?;
        if let Some(fd) = &level.fd {
            return Some(Arc::clone(fd));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = if self.path.is_empty() { b"." } else { self.path.as_slice() };
        let opened = source::resolve_beneath(self.root.as_fd(), path, flags).and_then(|fd| {
            let stat = rustix::fs::fstat(&fd)?;
            if (stat.st_dev, stat.st_ino) == level.identity { Ok(fd) } else { Err(Errno::STALE) }
        });
        match opened {
            Ok(fd) => {
                let fd = Arc::new(fd);
                level.fd = Some(Arc::clone(&fd));
                Some(fd)
            }
            Err(errno) => {
                level.names = Vec::new().into_iter();
                self.warn_errno("moved during the walk, the rest of what it held is left out", errno);
                None
            }
        }
    }

    /// Lists an entry behind those directories above it that are not listed yet.
    fn list_entry(&mut self, entry: SourceEntry) -> Result<()> {
        for level in &mut self.levels {
            if let Some(directory) = level.pending.take() {
                self.list.push(&directory)?;
            }
        }
        self.list.push(&entry)
    }

    fn meta(&mut self, parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Meta {
        let xattrs = match self.xattrs.read(parent, name, stat.st_dev) {
            Ok((xattrs, None)) => xattrs,
            Ok((xattrs, Some(unread))) => {
                let message =
                    format!("extended attribute {} not read", String::from_utf8_lossy(&unread.name));
                self.warn_errno(&message, unread.error);
                xattrs
            }
            Err(errno) => {
                self.warn_errno("extended attributes not read", errno);
                Vec::new()
            }
        };
        Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_seconds: stat.st_mtime,
            mtime_nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            device: stat.st_dev,
            inode: stat.st_ino,
            xattrs,
        }
    }

    fn warn(&mut self, message: impl Into<String>) {
        let path = if self.path.is_empty() { b"." } else { self.path.as_slice() };
        self.warnings.push(path, message);
    }

    fn warn_errno(&mut self, what: &str, errno: Errno) {
        if self.walk.strict {
            if errno != Errno::NOENT {
                let path = self.walk.root.join(std::ffi::OsStr::from_bytes(&self.path));
                self.failed.get_or_insert(Error::io(format!("{}: {what}", path.display()), errno.into()));
            }
            return;
        }
        let why = match errno {
            Errno::NOENT => "vanished during the walk".to_owned(),
            errno => std::io::Error::from(errno).to_string(),
        };
        self.warn(format!("{what}: {why}"));
    }
}

#[cfg(test)]
mod tests;
