//! What a backup has that no directory of the server's has: the label that makes a server recover it, the control file
//! as it was when all else had been read, and the WAL in between.
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use palinurus_repository::manifest::entry::{Meta, compare_paths};
use palinurus_repository::{Error, Result, Timestamp};

use super::control::{Control, NAME};
use super::lsn::Segment;
use super::session::Ended;
use crate::durable;
use crate::source::{Class, SourceEntry, SourceKind, SourceListWriter};
use crate::warning::Warnings;

pub(super) const WAL: &str = "pg_wal";
const STATUS: &str = "pg_wal/archive_status";
pub(super) const TABLESPACES: &str = "tablespace_map";

/// Empty, for the receiver to fill. Blocks.
pub(super) fn prepare(added: &Path) -> Result<()> {
    durable::remove_dir(added)?;
    for part in ["global", STATUS] {
        durable::create_dir(&added.join(part))?;
    }
    Ok(())
}

/// The last that is read of the data directory. Blocks.
pub(super) fn keep_control(root: &Path, added: &Path) -> Result<()> {
    durable::write(&added.join(NAME), &Control::read(root)?.bytes)
}

/// Puts the rest beside it, and lists all of it to `list`. Blocks.
pub(super) fn finish(
    root: &Path,
    added: &Path,
    list: &Path,
    ended: &Ended,
    wal: &[Segment],
    now: Timestamp,
) -> Result<()> {
    let mut names = vec!["backup_label".to_owned(), NAME.to_owned()];
    durable::write(&added.join("backup_label"), ended.label.as_bytes())?;
    if !ended.tablespaces.is_empty() {
        durable::write(&added.join(TABLESPACES), ended.tablespaces.as_bytes())?;
        names.push(TABLESPACES.to_owned());
    }
    for segment in wal {
        let name = segment.name();
        // A restored server must not archive what is the old one's to archive.
        let done = format!("{STATUS}/{name}.done");
        durable::write(&added.join(&done), b"")?;
        names.extend([format!("{WAL}/{name}"), done]);
    }
    names.push(STATUS.to_owned());
    names.sort_by(|a, b| compare_paths(a.as_bytes(), b.as_bytes()));
    let failed = |e| Error::io(format!("look at {}", root.display()), e);
    let owner = root.metadata().map_err(failed)?;
    let mut writer = SourceListWriter::create(list, now)?;
    for name in names {
        let found = added.join(&name).metadata().map_err(|e| Error::io(format!("look at {name}"), e))?;
        // As the server would have made it: its group may read where it may read the data directory.
        let group = if owner.mode() & 0o050 == 0o050 { 0o050 } else { 0 };
        let mode = if found.is_dir() { 0o700 | group } else { 0o600 | (group & 0o040) };
        let meta = Meta {
            mode,
            uid: owner.uid(),
            gid: owner.gid(),
            mtime_seconds: found.mtime(),
            mtime_nanos: u32::try_from(found.mtime_nsec()).unwrap_or(0),
            device: found.dev(),
            inode: found.ino(),
            xattrs: Vec::new(),
        };
        let kind = if found.is_dir() {
            SourceKind::Directory
        } else {
            SourceKind::File { size: found.len(), class: Class::Immutable, snapshot: false, nlink: 1 }
        };
        writer.push(&SourceEntry { path: name.into_bytes(), meta, kind })?;
    }
    writer.finish(&Warnings::default()).map(drop)
}

/// Whether the segments are all that lie from the first to the one that holds the end.
pub(super) fn check_whole(wal: &[Segment], first: Segment, last: Segment) -> Result<()> {
    let mut want = first;
    for segment in wal {
        if *segment != want {
            return Err(Error::corrupt(format!("WAL segment {} is missing", want.name())));
        }
        want = want.next();
    }
    if want <= last {
        return Err(Error::corrupt(format!("WAL segment {} is missing", want.name())));
    }
    Ok(())
}
