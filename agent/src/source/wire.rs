//! How an entry of the source list lies on disk. Read only by the build that wrote it: no promise beyond that.
use palinurus_repository::manifest::entry::Meta;
use palinurus_repository::{Error, Result};

use super::{Class, SourceEntry, SourceKind};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) path: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) kind: u32,
    #[prost(uint32, tag = "3")]
    pub(super) mode: u32,
    #[prost(uint32, tag = "4")]
    pub(super) uid: u32,
    #[prost(uint32, tag = "5")]
    pub(super) gid: u32,
    #[prost(sint64, tag = "6")]
    pub(super) mtime_seconds: i64,
    #[prost(uint32, tag = "7")]
    pub(super) mtime_nanos: u32,
    #[prost(uint64, tag = "8")]
    pub(super) device: u64,
    #[prost(uint64, tag = "9")]
    pub(super) inode: u64,
    #[prost(message, repeated, tag = "10")]
    pub(super) xattrs: Vec<Xattr>,
    #[prost(bytes = "vec", tag = "11")]
    pub(super) target: Vec<u8>,
    #[prost(uint64, tag = "12")]
    pub(super) size: u64,
    #[prost(uint32, tag = "13")]
    pub(super) class: u32,
    #[prost(uint32, tag = "14")]
    pub(super) page_size: u32,
    #[prost(bool, tag = "15")]
    pub(super) snapshot: bool,
    #[prost(uint32, tag = "16")]
    pub(super) nlink: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Xattr {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Warning {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) path: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Trailer {
    #[prost(uint64, tag = "1")]
    pub(super) entries: u64,
    #[prost(uint64, tag = "2")]
    pub(super) files: u64,
    #[prost(uint64, tag = "3")]
    pub(super) bytes: u64,
    #[prost(uint64, tag = "4")]
    pub(super) scan_started_ms: u64,
    #[prost(uint64, tag = "5")]
    pub(super) warnings_at: u64,
    #[prost(uint64, tag = "6")]
    pub(super) warnings_kept: u64,
    #[prost(uint64, tag = "7")]
    pub(super) warnings_count: u64,
    #[prost(uint64, tag = "8")]
    pub(super) index_at: u64,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub(super) largest: Vec<Vec<u8>>,
}

const DIRECTORY: u32 = 1;
const SYMLINK: u32 = 2;
const HARDLINK: u32 = 3;
const FILE: u32 = 4;

impl From<&SourceEntry> for Entry {
    fn from(entry: &SourceEntry) -> Self {
        let meta = &entry.meta;
        let xattr = |(name, value): &(Vec<u8>, Vec<u8>)| Xattr { name: name.clone(), value: value.clone() };
        let mut wire = Entry {
            path: entry.path.clone(),
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime_seconds: meta.mtime_seconds,
            mtime_nanos: meta.mtime_nanos,
            device: meta.device,
            inode: meta.inode,
            xattrs: meta.xattrs.iter().map(xattr).collect(),
            ..Entry::default()
        };
        match &entry.kind {
            SourceKind::Directory => wire.kind = DIRECTORY,
            SourceKind::Symlink { target } => (wire.kind, wire.target) = (SYMLINK, target.clone()),
            SourceKind::Hardlink { target } => (wire.kind, wire.target) = (HARDLINK, target.clone()),
            SourceKind::File { size, class, snapshot, nlink } => {
                (wire.kind, wire.size, wire.snapshot, wire.nlink) = (FILE, *size, *snapshot, *nlink);
                (wire.class, wire.page_size) = match class {
                    Class::Immutable => (1, 0),
                    Class::AppendOnly => (2, 0),
                    Class::Mutable => (3, 0),
                    Class::Opaque => (4, 0),
                    Class::Paged(size) => (5, *size),
                    Class::Logged(size) => (6, *size),
                };
            }
        }
        wire
    }
}

impl TryFrom<Entry> for SourceEntry {
    type Error = Error;

    fn try_from(wire: Entry) -> Result<Self> {
        let wrong = |what: &str, number: u32| Error::corrupt(format!("source list: {what} {number}"));
        let kind = match wire.kind {
            DIRECTORY => SourceKind::Directory,
            SYMLINK => SourceKind::Symlink { target: wire.target },
            HARDLINK => SourceKind::Hardlink { target: wire.target },
            FILE => {
                let class = match wire.class {
                    1 => Class::Immutable,
                    2 => Class::AppendOnly,
                    3 => Class::Mutable,
                    4 => Class::Opaque,
                    5 => Class::Paged(wire.page_size),
                    6 => Class::Logged(wire.page_size),
                    other => return Err(wrong("class", other)),
                };
                SourceKind::File { size: wire.size, class, snapshot: wire.snapshot, nlink: wire.nlink }
            }
            other => return Err(wrong("kind", other)),
        };
        let meta = Meta {
            mode: wire.mode,
            uid: wire.uid,
            gid: wire.gid,
            mtime_seconds: wire.mtime_seconds,
            mtime_nanos: wire.mtime_nanos,
            device: wire.device,
            inode: wire.inode,
            xattrs: wire.xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect(),
        };
        Ok(SourceEntry { path: wire.path, meta, kind })
    }
}
