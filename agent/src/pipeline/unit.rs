//! The pieces that work is cut into, and what comes back of them.
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use palinurus_repository::ChunkId;
use palinurus_repository::chunk::EXTENT;
use palinurus_repository::manifest::entry::Piece;
use palinurus_repository::pack::ChunkAt;

use super::draft::{Draft, DraftPiece, Ref};
use super::read::Cut;
use crate::source::{Class, Readable, SourceEntry, SourceKind, Tree};

/// What one worker takes of a large file at a time: one huge file keeps all cores as busy as many files do.
pub(crate) const RANGE: u64 = 64 << 20;

/// A place in the order in which the draft is written.
pub(crate) type Order = u64;

#[derive(Debug)]
pub(crate) enum Unit {
    /// Small files that share a frame.
    Small(Vec<(Order, SourceEntry)>),
    Range {
        file: Arc<Shared>,
        part: u32,
        range: Range<u64>,
    },
    Pages {
        file: Arc<Shared>,
        part: u32,
        range: Range<u64>,
        base: Option<BasePart>,
    },
}

/// What the base backup has of a unit of pages, its map not yet fetched.
#[derive(Debug)]
pub(crate) struct BasePart {
    pub(crate) pieces: Vec<(u64, Piece)>,
    pub(crate) map: ChunkAt,
}

/// A large file, read by several workers at once.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) order: Order,
    pub(crate) entry: SourceEntry,
    pub(crate) size: u64,
    pub(crate) class: Class,
    pub(crate) parts: u32,
    unread: AtomicU32,
    opened: OnceLock<Result<Opened, io::ErrorKind>>,
}

#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: Readable,
    pub(crate) before: Stat,
}

impl Shared {
    pub(crate) fn new(order: Order, entry: SourceEntry, size: u64, class: Class, parts: u32) -> Arc<Self> {
        Arc::new(Self {
            order,
            entry,
            size,
            class,
            parts,
            unread: AtomicU32::new(parts),
            opened: OnceLock::new(),
        })
    }

    pub(crate) fn open(&self, tree: &Tree) -> io::Result<&Opened> {
        let opened = self.opened.get_or_init(|| Opened::open(tree, &self.entry).map_err(|e| e.kind()));
        opened.as_ref().map_err(|kind| io::Error::from(*kind))
    }

    /// Called once for each part. The last one says whether the file changed while it was read.
    pub(crate) fn part_was_read(&self, opened: &Opened) -> io::Result<bool> {
        if self.unread.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(false);
        }
        opened.changed(&self.entry, self.size, self.class)
    }
}

impl Opened {
    pub(crate) fn open(tree: &Tree, entry: &SourceEntry) -> io::Result<Self> {
        let (file, stat) = tree.open_any(entry)?;
        let listed = file_of(entry).map_or(0, |(size, _)| size);
        let before = stat.as_ref().map_or_else(|| Stat::listed(entry, listed), Stat::from);
        Ok(Self { file, before })
    }

    pub(crate) fn sparse(&self) -> bool {
        self.before.blocks * 512 < self.before.size
    }

    /// Whether the bytes read may be of several versions of the file.
    pub(crate) fn changed(&self, entry: &SourceEntry, size: u64, class: Class) -> io::Result<bool> {
        let after = match &self.file {
            Readable::Here(file) => Stat::from(&rustix::fs::fstat(file)?),
            Readable::Remote(_) => Stat::listed(entry, self.before.size),
        };
        Ok(match class {
            Class::Immutable | Class::Mutable | Class::Opaque => {
                let meta = &entry.meta;
                let listed = (size, meta.mtime_seconds, i64::from(meta.mtime_nanos));
                listed != self.before.version() || self.before.version() != after.version()
            }
            Class::AppendOnly => after.size < size,
            // The engine's backup mode makes them whole again; only lost pages count.
            Class::Paged(_) => after.size < size,
            Class::Logged(_) => false,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) inode: u64,
    pub(crate) device: u64,
    pub(crate) mtime: (i64, i64),
}

impl Stat {
    /// What lies elsewhere is as it was listed.
    fn listed(entry: &SourceEntry, size: u64) -> Self {
        Self {
            size,
            blocks: size.div_ceil(512),
            inode: entry.meta.inode,
            device: entry.meta.device,
            mtime: (entry.meta.mtime_seconds, i64::from(entry.meta.mtime_nanos)),
        }
    }

    fn version(&self) -> (u64, i64, i64) {
        (self.size, self.mtime.0, self.mtime.1)
    }
}

impl From<&rustix::fs::Stat> for Stat {
    fn from(stat: &rustix::fs::Stat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            inode: stat.st_ino,
            device: stat.st_dev,
            mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        }
    }
}

/// Where files of this class and size are cut.
pub(crate) fn cut(class: Class, size: u64) -> Cut {
    match class {
        Class::Opaque => Cut::Content,
        Class::Mutable if size >= EXTENT as u64 => Cut::Content,
        _ => Cut::Fixed,
    }
}

/// Size and class of a file's entry.
pub(crate) fn file_of(entry: &SourceEntry) -> Option<(u64, Class)> {
    match entry.kind {
        SourceKind::File { size, class, .. } => Some((size, class)),
        _ => None,
    }
}

/// Some at a time on their way to the collector: a hop between threads for each small file costs more than its bytes.
pub(crate) type Batch = Vec<Done>;

#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) order: Order,
    pub(crate) outcome: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Whole(Draft),
    Part(Part),
    /// Left out of the backup, and why where that is worth a warning.
    Dropped {
        path: Vec<u8>,
        why: Option<String>,
    },
    /// Read and kept, with a warning.
    Noted {
        path: Vec<u8>,
        what: String,
    },
}

#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) file: Arc<Shared>,
    pub(crate) part: u32,
    pub(crate) pieces: Vec<DraftPiece>,
    /// Ids of the chunks, or of the page map.
    pub(crate) ids: Vec<ChunkId>,
    pub(crate) map: Option<Ref>,
    pub(crate) torn: bool,
}
