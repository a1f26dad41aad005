//! Lists the data directory into the source list: depth first, names bytewise, so the list is in the manifest's
//! order. Holds the names of the directories on the way down, never more. Works relative to open directories, so
//! no path is too long to reach and no symlink is ever followed.
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::manifest::entry::{Meta, PATH_MAX};
use palinurus_repository::{Error, Result};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use crate::ahead::ahead;
use crate::progress::Counters;
use crate::source::{self, Class, SourceEntry, SourceKind, SourceListWriter, Totals};
use crate::warning::Warnings;

mod directory;
mod hardlinks;
mod links;
mod lister;
mod listxattrat;
mod rules;
mod xattrs;

pub(crate) use links::Links;
pub(crate) use rules::{Rules, Verdict};

use hardlinks::{Hardlinks, Identity};
use links::Linked;
use lister::{Found, Lister, Named, judged, warning};

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
    pending: Option<Box<Named>>,
}

struct Walker<'a> {
    walk: Walk<'a>,
    /// On its way to the list.
    found: VecDeque<Found>,
    hardlinks: Hardlinks,
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
            found: VecDeque::new(),
            hardlinks: Hardlinks::default(),
            root: Arc::new(root),
            device: stat.st_dev,
            levels: Vec::new(),
            path: Vec::new(),
            said_unlinkable: false,
            said_forgotten: false,
            failed: None,
            walk: self,
        };
        let mut lister = Lister::new(list, walker.walk.root, walker.walk.strict);
        if !lister.xattrs.can_read() {
            walker.warn("no extended attributes are read: /proc is not mounted");
        }
        walker.enter_root(&stat);
        ahead(
            || walker.next(),
            |next| {
                while let Some(found) = next()? {
                    lister.take(found)?;
                }
                Ok(())
            },
        )?;
        if let Some(links) = &walker.walk.links {
            links.sync()?;
        }
        lister.finish()
    }
}

impl Walker<'_> {
    fn enter_root(&mut self, stat: &Stat) {
        let root = Arc::clone(&self.root);
        // Listed whatever the rules include: a restore needs its mode and owner.
        let entry = SourceEntry { path: b".".to_vec(), meta: meta(stat), kind: SourceKind::Directory };
        self.found.push_back(Found::Entry(Box::new(Named { entry, parent: Arc::clone(&root), name: 1 })));
        let included = self.walk.rules.includes_all();
        self.enter(root, stat, included, None);
    }

    /// What is found next, until there is no more.
    fn next(&mut self) -> Result<Option<Found>> {
        while self.found.is_empty() && !self.levels.is_empty() {
            if self.walk.cancel.is_cancelled() {
                return Err(Error::unavailable("the walk was cancelled"));
            }
            self.step();
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
        }
        Ok(self.found.pop_front())
    }

    /// The next name of the deepest directory, or one directory up.
    fn step(&mut self) {
        let top = self.levels.len() == 1;
        let Some(level) = self.levels.last_mut() else { return };
        self.path.truncate(level.path_len);
        let Some(name) = level.names.next() else {
            self.levels.pop();
            return;
        };
        let inside = level.included;
        let Some(parent) = self.parent() else { return };
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&name);
        if top && name.starts_with(OWN_PREFIX) {
            return;
        }
        if self.path.len() >= PATH_MAX {
            let message =
                format!("left out: its path of {} bytes is longer than a program can open", self.path.len());
            return self.warn(message);
        }
        match self.walk.rules.verdict(&self.path, inside) {
            Verdict::Excluded => {}
            verdict => self.visit(parent, &name, verdict == Verdict::Included),
        }
    }

    fn visit(&mut self, parent: Arc<OwnedFd>, name: &[u8], included: bool) {
        let stat = match directory::stat(parent.as_fd(), name) {
            Ok(stat) => stat,
            Err(errno) => return self.warn_errno("left out", errno),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.visit_directory(parent, name, included, &stat),
            _ if !included => {}
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
            }
        }
    }

    fn visit_directory(&mut self, parent: Arc<OwnedFd>, name: &[u8], included: bool, stat: &Stat) {
        if self.walk.skip.contains(&(stat.st_dev, stat.st_ino)) {
            return;
        }
        let found = self.named(Arc::clone(&parent), name, stat, SourceKind::Directory);
        let pending = if included {
            self.list_entry(found);
            None
        } else {
            Some(found)
        };
        if stat.st_dev != self.device && !self.walk.cross_file_systems {
            return self.warn("not entered: another file system is mounted here (engine.cross_file_systems)");
        }
        let opened = directory::open(parent.as_fd(), name);
        match opened.and_then(|fd| rustix::fs::fstat(&fd).map(|stat| (fd, stat))) {
            Ok((fd, stat)) => self.enter(Arc::new(fd), &stat, included, pending),
            Err(errno) => self.warn_errno("what it holds is left out", errno),
        }
    }

    fn visit_symlink(&mut self, parent: Arc<OwnedFd>, name: &[u8], stat: &Stat) {
        match rustix::fs::readlinkat(&parent, name, Vec::new()) {
            Ok(target) => {
                let kind = SourceKind::Symlink { target: target.into_bytes() };
                let found = self.named(parent, name, stat, kind);
                self.list_entry(found);
            }
            Err(errno) => self.warn_errno("left out", errno),
        }
    }

    fn visit_file(&mut self, parent: Arc<OwnedFd>, name: &[u8], mut stat: Stat) {
        let nlink = u32::try_from(stat.st_nlink).unwrap_or(u32::MAX);
        let inode = stat.st_ino;
        let shared =
            (nlink > 1 && !self.walk.links_elsewhere).then(|| Identity::of(parent.as_fd(), name, &stat));
        if let Some(target) = shared.and_then(|identity| self.hardlinks.seen(identity)) {
            let found = self.named(parent, name, &stat, SourceKind::Hardlink { target });
            return self.list_entry(found);
        }
        let class = self.walk.rules.class_of(&self.path);
        let mut snapshot = false;
        if matches!(class, Class::Immutable | Class::AppendOnly)
            && let Some(links) = &mut self.walk.links
        {
            match links.link(parent.as_fd(), name, stat) {
                Linked::Yes(linked) => (snapshot, stat) = (true, linked),
                Linked::Vanished => return self.warn_errno("left out", Errno::NOENT),
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
        let found = self.named(parent, name, &stat, SourceKind::File { size, class, snapshot, nlink });
        self.list_entry(found);
    }

    /// Reads a directory's names and makes it the deepest level.
    fn enter(&mut self, fd: Arc<OwnedFd>, stat: &Stat, included: bool, pending: Option<Box<Named>>) {
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

    fn named(&self, parent: Arc<OwnedFd>, name: &[u8], stat: &Stat, kind: SourceKind) -> Box<Named> {
        let entry = SourceEntry { path: self.path.clone(), meta: meta(stat), kind };
        Box::new(Named { entry, parent, name: name.len() })
    }

    /// Lists an entry behind those directories above it that are not listed yet.
    fn list_entry(&mut self, found: Box<Named>) {
        for level in &mut self.levels {
            self.found.extend(level.pending.take().map(Found::Entry));
        }
        self.found.push_back(Found::Entry(found));
    }

    fn warn(&mut self, message: impl Into<String>) {
        self.found.push_back(Found::Warning(warning(&self.path, message)));
    }

    fn warn_errno(&mut self, what: &str, errno: Errno) {
        match judged(self.walk.strict, self.walk.root, &self.path, what, errno) {
            Ok(warning) => self.found.extend(warning.map(Found::Warning)),
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
    }
}

/// Without extended attributes.
fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_seconds: stat.st_mtime,
        mtime_nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        device: stat.st_dev,
        inode: stat.st_ino,
        xattrs: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
