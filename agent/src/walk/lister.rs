//! The walk's other half, on a thread of its own: reads the extended attributes of what was found, which is as much work as
//! finding it, and writes the list.
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::{Error, Result};
use rustix::io::Errno;

use super::xattrs::Xattrs;
use crate::ahead::{Weight, named};
use crate::source::{SourceEntry, SourceKind, SourceListWriter, Totals};
use crate::warning::{Warning, Warnings};

/// What an open directory counts for: a batch holds few of them.
const OPEN: usize = 16 << 10;

/// In the order of the list, and warnings in the order in which they were come upon.
#[derive(Debug)]
pub(super) enum Found {
    Entry(Box<Named>),
    Warning(Warning),
}

/// An entry without its extended attributes, and where it lies.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) entry: SourceEntry,
    pub(super) parent: Arc<OwnedFd>,
    /// The bytes of its name, at the end of its path.
    pub(super) name: usize,
}

impl Weight for Found {
    fn weight(&self) -> usize {
        match self {
            Found::Entry(found) => {
                let entry = &found.entry;
                // Each may be the parent of all that comes next.
                let open = if matches!(entry.kind, SourceKind::Directory) { OPEN } else { 0 };
                named(&entry.path, &entry.meta) + open
            }
            Found::Warning(warning) => warning.path.len() + warning.message.len(),
        }
    }
}

/// A warning, or of a strict walk the end of it; nothing where that would be no loss.
pub(super) fn judged(
    strict: bool,
    root: &Path,
    path: &[u8],
    what: &str,
    errno: Errno,
) -> Result<Option<Warning>> {
    if strict && errno == Errno::NOENT {
        return Ok(None);
    }
    if strict {
        let path = root.join(std::ffi::OsStr::from_bytes(path));
        return Err(Error::io(format!("{}: {what}", path.display()), errno.into()));
    }
    let why = match errno {
        Errno::NOENT => "vanished during the walk".to_owned(),
        errno => std::io::Error::from(errno).to_string(),
    };
    Ok(Some(warning(path, format!("{what}: {why}"))))
}

pub(super) fn warning(path: &[u8], message: impl Into<String>) -> Warning {
    let path = if path.is_empty() { b"." } else { path };
    Warning { path: path.to_vec(), message: message.into() }
}

#[derive(Debug)]
pub(super) struct Lister<'a> {
    pub(super) list: SourceListWriter,
    pub(super) xattrs: Xattrs,
    pub(super) warnings: Warnings,
    pub(super) root: &'a Path,
    pub(super) strict: bool,
}

impl<'a> Lister<'a> {
    pub(super) fn new(list: SourceListWriter, root: &'a Path, strict: bool) -> Self {
        Self { list, xattrs: Xattrs::new(), warnings: Warnings::default(), root, strict }
    }

    pub(super) fn take(&mut self, found: Found) -> Result<()> {
        match found {
            Found::Entry(found) => self.entry(*found),
            Found::Warning(warning) => {
                self.warnings.push(&warning.path, warning.message);
                Ok(())
            }
        }
    }

    fn entry(&mut self, found: Named) -> Result<()> {
        let Named { mut entry, parent, name } = found;
        let name = &entry.path[entry.path.len().saturating_sub(name)..];
        let unread = match self.xattrs.read(parent.as_fd(), name, entry.meta.device) {
            Ok((xattrs, unread)) => {
                entry.meta.xattrs = xattrs;
                unread.map(|unread| {
                    let name = String::from_utf8_lossy(&unread.name).into_owned();
                    (format!("extended attribute {name} not read"), unread.error)
                })
            }
            Err(errno) => Some(("extended attributes not read".to_owned(), errno)),
        };
        if let Some((what, errno)) = unread
            && let Some(warning) = judged(self.strict, self.root, &entry.path, &what, errno)?
        {
            self.warnings.push(&warning.path, warning.message);
        }
        self.list.push(&entry)
    }

    pub(super) fn finish(self) -> Result<(Totals, Warnings)> {
        let totals = self.list.finish(&self.warnings)?;
        Ok((totals, self.warnings))
    }
}
