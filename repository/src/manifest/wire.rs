//! Manifests as stored. Columns, because values of one kind stand together and compress to little.
//! `docs/format.md` says what each column means; tags are never used for something else.

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ManifestRef {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) transaction: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) node: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) writer: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub(super) parts: u32,
    #[prost(uint64, tag = "5")]
    pub(super) size: u64,
    #[prost(uint32, tag = "6")]
    pub(super) tail: u32,
    #[prost(bytes = "vec", tag = "7")]
    pub(super) root: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Block {
    #[prost(bool, tag = "1")]
    pub(super) continued: bool,
    #[prost(bool, tag = "2")]
    pub(super) continues: bool,

    // One value for each entry.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) kinds: Vec<u8>,
    #[prost(uint32, repeated, tag = "4")]
    pub(super) path_shared: Vec<u32>,
    #[prost(uint32, repeated, tag = "5")]
    pub(super) path_lens: Vec<u32>,
    #[prost(bytes = "vec", tag = "6")]
    pub(super) paths: Vec<u8>,
    #[prost(uint32, repeated, tag = "7")]
    pub(super) owners: Vec<u32>,
    #[prost(sint64, repeated, tag = "8")]
    pub(super) mtime_seconds: Vec<i64>,
    #[prost(fixed32, repeated, tag = "9")]
    pub(super) mtime_nanos: Vec<u32>,
    #[prost(sint64, repeated, tag = "10")]
    pub(super) inodes: Vec<i64>,
    #[prost(uint32, repeated, tag = "11")]
    pub(super) xattrs: Vec<u32>,

    // The owner dictionary.
    #[prost(uint32, repeated, tag = "12")]
    pub(super) owner_modes: Vec<u32>,
    #[prost(uint32, repeated, tag = "13")]
    pub(super) owner_uids: Vec<u32>,
    #[prost(uint32, repeated, tag = "14")]
    pub(super) owner_gids: Vec<u32>,
    #[prost(uint64, repeated, tag = "15")]
    pub(super) owner_devices: Vec<u64>,

    // The dictionary of sets of extended attributes.
    #[prost(uint32, repeated, tag = "16")]
    pub(super) xattr_counts: Vec<u32>,
    #[prost(uint32, repeated, tag = "17")]
    pub(super) xattr_name_lens: Vec<u32>,
    #[prost(uint32, repeated, tag = "18")]
    pub(super) xattr_value_lens: Vec<u32>,
    #[prost(bytes = "vec", tag = "19")]
    pub(super) xattr_bytes: Vec<u8>,

    // One value for each symlink and hard link.
    #[prost(uint32, repeated, tag = "20")]
    pub(super) target_lens: Vec<u32>,
    #[prost(bytes = "vec", tag = "21")]
    pub(super) targets: Vec<u8>,

    // One value for each file.
    #[prost(uint64, repeated, tag = "22")]
    pub(super) elsewhere: Vec<u64>,
    #[prost(bytes = "vec", tag = "23")]
    pub(super) file_ids: Vec<u8>,
    #[prost(uint32, repeated, tag = "24")]
    pub(super) piece_counts: Vec<u32>,

    // One value for each paged file.
    #[prost(uint32, repeated, tag = "25")]
    pub(super) page_sizes: Vec<u32>,
    #[prost(uint32, repeated, tag = "26")]
    pub(super) map_counts: Vec<u32>,

    // One value for each piece and page map, then for those that need more.
    #[prost(uint64, repeated, tag = "27")]
    pub(super) pieces: Vec<u64>,
    #[prost(sint64, repeated, tag = "28")]
    pub(super) piece_starts: Vec<i64>,
    #[prost(uint32, repeated, tag = "29")]
    pub(super) piece_lens: Vec<u32>,
    #[prost(uint64, repeated, tag = "30")]
    pub(super) holes: Vec<u64>,

    // The frame dictionary.
    #[prost(sint64, repeated, tag = "31")]
    pub(super) frame_packs: Vec<i64>,
    #[prost(sint64, repeated, tag = "32")]
    pub(super) frame_ordinals: Vec<i64>,
    #[prost(sint64, repeated, tag = "33")]
    pub(super) frame_offsets: Vec<i64>,
    #[prost(uint32, repeated, tag = "34")]
    pub(super) frame_stored: Vec<u32>,
    #[prost(uint32, repeated, tag = "35")]
    pub(super) frame_missing: Vec<u32>,
    #[prost(bytes = "vec", tag = "36")]
    pub(super) frame_codecs: Vec<u8>,

    // The pack dictionary.
    #[prost(uint32, repeated, tag = "37")]
    pub(super) pack_writers: Vec<u32>,
    #[prost(sint64, repeated, tag = "38")]
    pub(super) pack_counters: Vec<i64>,
    #[prost(bytes = "vec", tag = "39")]
    pub(super) writers: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Footer {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) transaction: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) node: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) writer: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(super) scan_started: u64,
    #[prost(uint64, tag = "5")]
    pub(super) entries: u64,
    #[prost(uint64, tag = "6")]
    pub(super) files: u64,
    #[prost(uint64, tag = "7")]
    pub(super) directories: u64,
    #[prost(uint64, tag = "8")]
    pub(super) bytes: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) warnings: Vec<Warning>,
    #[prost(uint64, tag = "10")]
    pub(super) warning_count: u64,
    #[prost(bytes = "vec", tag = "11")]
    pub(super) packs: Vec<u8>,
    #[prost(bytes = "vec", tag = "12")]
    pub(super) root: Vec<u8>,
    #[prost(message, repeated, tag = "13")]
    pub(super) blocks: Vec<BlockAt>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Warning {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) path: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BlockAt {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) first: Vec<u8>,
    #[prost(bool, tag = "2")]
    pub(super) continued: bool,
    #[prost(uint32, tag = "3")]
    pub(super) part: u32,
    #[prost(uint32, tag = "4")]
    pub(super) offset: u32,
    #[prost(uint32, tag = "5")]
    pub(super) stored: u32,
    #[prost(uint32, tag = "6")]
    pub(super) plain: u32,
}
