//! One block of a manifest: up to 4096 entries as columns, with dictionaries of its own, so that it opens alone.
//! [`Builder`] makes the columns, [`decode`](super::columns::decode) reads them back.
//!
//! Whatever is likely is written as zero and zstd removes it: a whole frame after the last one, a frame after the
//! last one in its pack, the next pack of a writer.
use std::collections::HashMap;
use std::ops::Range;

use prost::Message;

use super::entry::{Content, Entry, Kind, Meta, Piece};
use super::wire;
use crate::error::{Error, Result};
use crate::id::{TransactionId, WriterId};
use crate::pack::{ChunkAt, FRAME_MAX, FrameAt, HEADER_LEN, PackId};

/// The most entries in one block.
pub const ENTRIES_MAX: usize = 4096;
/// The most pieces and page maps in one block.
pub const PIECES_MAX: usize = 65_536;
/// The most bytes of one block before compression. Readers refuse more unread.
pub(super) const PLAIN_MAX: usize = 16 << 20;
/// The most bytes of extended attributes in one block, each entry's counted, shared or not.
pub(super) const XATTRS_MAX: usize = 16 << 20;
/// A block is closed when its variable parts have grown to this.
const FULL: usize = 3 << 20;

/// Entries in order, as read from one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub entries: Vec<Entry>,
    /// The first entry is a file whose first pieces were in the block before; its other fields repeat.
    pub continued_from_previous: bool,
    /// The last entry is a file whose further pieces are in the next block.
    pub continues: bool,
}

/// Names and values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The kinds as stored.
pub(super) const DIRECTORY: u8 = 0;
pub(super) const FILE: u8 = 1;
pub(super) const PAGED: u8 = 2;
pub(super) const SYMLINK: u8 = 3;
pub(super) const HARDLINK: u8 = 4;

/// What decoder and builder expect next, kept the same way by both.
#[derive(Debug, Default)]
pub(super) struct Expect {
    /// The frame after the last piece's.
    pub(super) frame: i64,
    /// The last piece's frame, and where in it the piece ended.
    pub(super) end: Option<(i64, u32)>,
    /// For each pack, the ordinal and offset after the last frame of it.
    pub(super) in_pack: HashMap<i64, (u32, u32)>,
    pub(super) pack: i64,
}

impl Expect {
    pub(super) fn start(&self, frame: i64) -> u32 {
        self.end.filter(|(last, _)| *last == frame).map_or(0, |(_, end)| end)
    }

    pub(super) fn next_in(&self, pack: i64) -> (u32, u32) {
        self.in_pack.get(&pack).copied().unwrap_or((0, HEADER_LEN as u32))
    }
}

pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(super) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// Builds the columns of one block.
#[derive(Debug, Default)]
pub(super) struct Builder {
    columns: wire::Block,
    bytes: usize,
    xattr_bytes: usize,
    first: Vec<u8>,
    path: Vec<u8>,
    seconds: i64,
    inode: u64,
    owners: HashMap<(u32, u32, u32, u64), u32>,
    xattrs: HashMap<Xattrs, u32>,
    frames: HashMap<FrameAt, i64>,
    /// Small files come one after the other out of one frame: most need not be looked up.
    last_frame: Option<(FrameAt, i64)>,
    packs: HashMap<PackId, i64>,
    writers: HashMap<(TransactionId, WriterId), u32>,
    counters: HashMap<u32, i64>,
    expect: Expect,
}

impl Builder {
    pub(super) fn is_empty(&self) -> bool {
        self.columns.kinds.is_empty()
    }

    /// How many more pieces and maps fit, for an entry with these attributes; none when the block is to be closed.
    pub(super) fn room(&self, meta: &Meta) -> usize {
        let closed = self.columns.kinds.len() >= ENTRIES_MAX
            || self.bytes >= FULL
            || (!self.is_empty() && self.xattr_bytes + meta.xattrs_len() > XATTRS_MAX / 2);
        if closed { 0 } else { PIECES_MAX - self.columns.pieces.len() }
    }

    pub(super) fn packs(&self) -> impl Iterator<Item = PackId> + '_ {
        self.packs.keys().copied()
    }

    /// The path of the first entry.
    pub(super) fn first(&self) -> &[u8] {
        &self.first
    }

    pub(super) fn push(&mut self, entry: &Entry) {
        match &entry.kind {
            Kind::File(content) => {
                let maps = content.pages.as_ref().map_or(0, |pages| pages.maps.len());
                self.push_slice(entry, content, 0..content.pieces.len(), 0..maps);
            }
            Kind::Directory => self.push_name(entry, DIRECTORY),
            Kind::Symlink { target } => self.push_link(entry, SYMLINK, target),
            Kind::Hardlink { target } => self.push_link(entry, HARDLINK, target),
        }
    }

    /// Pushes some of a file's pieces and maps.
    pub(super) fn push_slice(
        &mut self,
        entry: &Entry,
        content: &Content,
        pieces: Range<usize>,
        maps: Range<usize>,
    ) {
        self.push_name(entry, if content.pages.is_some() { PAGED } else { FILE });
        let mut elsewhere = content.size;
        self.columns.piece_counts.push(pieces.len() as u32);
        for piece in &content.pieces[pieces] {
            elsewhere = elsewhere.wrapping_sub(piece.len());
            self.push_piece(piece);
        }
        self.columns.elsewhere.push(elsewhere);
        self.columns.file_ids.extend_from_slice(content.id.as_bytes());
        if let Some(pages) = &content.pages {
            self.columns.page_sizes.push(pages.page_size);
            self.columns.map_counts.push(maps.len() as u32);
            for map in &pages.maps[maps] {
                self.push_chunk(map);
            }
        }
    }

    fn push_link(&mut self, entry: &Entry, kind: u8, target: &[u8]) {
        self.push_name(entry, kind);
        self.columns.target_lens.push(target.len() as u32);
        self.columns.targets.extend_from_slice(target);
        self.bytes += target.len();
    }

    fn push_name(&mut self, entry: &Entry, kind: u8) {
        if self.is_empty() {
            self.first.clone_from(&entry.path);
        }
        let c = &mut self.columns;
        c.kinds.push(kind);
        let shared = self.path.iter().zip(&entry.path).take_while(|(a, b)| a == b).count();
        c.path_shared.push(shared as u32);
        c.path_lens.push((entry.path.len() - shared) as u32);
        c.paths.extend_from_slice(&entry.path[shared..]);
        self.bytes += entry.path.len() - shared + 32;
        self.path.clone_from(&entry.path);

        let meta = &entry.meta;
        c.mtime_seconds.push(meta.mtime_seconds.wrapping_sub(self.seconds));
        self.seconds = meta.mtime_seconds;
        c.mtime_nanos.push(meta.mtime_nanos);
        c.inodes.push(meta.inode.wrapping_sub(self.inode) as i64);
        self.inode = meta.inode;
        let next = self.owners.len() as u32;
        let owner = *self.owners.entry((meta.mode, meta.uid, meta.gid, meta.device)).or_insert_with(|| {
            c.owner_modes.push(meta.mode);
            c.owner_uids.push(meta.uid);
            c.owner_gids.push(meta.gid);
            c.owner_devices.push(meta.device);
            next
        });
        c.owners.push(owner);
        let set = self.xattr_set(&meta.xattrs);
        self.columns.xattrs.push(set);
    }

    /// The number of a set of extended attributes; 0 for none.
    fn xattr_set(&mut self, xattrs: &[(Vec<u8>, Vec<u8>)]) -> u32 {
        if xattrs.is_empty() {
            return 0;
        }
        self.xattr_bytes += xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if let Some(number) = self.xattrs.get(xattrs) {
            return *number;
        }
        let c = &mut self.columns;
        c.xattr_counts.push(xattrs.len() as u32);
        for (name, value) in xattrs {
            c.xattr_name_lens.push(name.len() as u32);
            c.xattr_value_lens.push(value.len() as u32);
            c.xattr_bytes.extend_from_slice(name);
            c.xattr_bytes.extend_from_slice(value);
            self.bytes += name.len() + value.len() + 8;
        }
        let number = self.xattrs.len() as u32 + 1;
        self.xattrs.insert(xattrs.to_vec(), number);
        number
    }

    fn push_piece(&mut self, piece: &Piece) {
        match piece {
            Piece::Hole(len) => {
                self.columns.pieces.push(0);
                self.columns.holes.push(*len);
            }
            Piece::Data(at) => self.push_chunk(at),
        }
    }

    fn push_chunk(&mut self, at: &ChunkAt) {
        let frame = self.frame(&at.frame);
        let partial = at.start != 0 || at.len != at.frame.plain;
        self.columns.pieces.push(1 + (zigzag(frame - self.expect.frame) << 1 | u64::from(partial)));
        if partial {
            self.columns.piece_starts.push(i64::from(at.start) - i64::from(self.expect.start(frame)));
            self.columns.piece_lens.push(at.len);
        }
        self.expect.frame = frame + 1;
        self.expect.end = Some((frame, at.start + at.len));
    }

    fn frame(&mut self, at: &FrameAt) -> i64 {
        if let Some((last, number)) = &self.last_frame
            && last == at
        {
            return *number;
        }
        let number = self.frames.get(at).copied().unwrap_or_else(|| self.new_frame(at));
        self.last_frame = Some((*at, number));
        number
    }

    fn new_frame(&mut self, at: &FrameAt) -> i64 {
        let pack = self.pack(at.pack);
        let (ordinal, offset) = self.expect.next_in(pack);
        let c = &mut self.columns;
        c.frame_packs.push(pack - self.expect.pack);
        c.frame_ordinals.push(i64::from(at.ordinal) - i64::from(ordinal));
        c.frame_offsets.push(i64::from(at.offset) - i64::from(offset));
        c.frame_stored.push(at.stored);
        c.frame_missing.push(FRAME_MAX as u32 - at.plain);
        c.frame_codecs.push(at.codec as u8);
        self.expect.pack = pack;
        self.expect.in_pack.insert(pack, (at.ordinal.wrapping_add(1), at.offset + at.stored));
        let number = self.frames.len() as i64;
        self.frames.insert(*at, number);
        number
    }

    fn pack(&mut self, pack: PackId) -> i64 {
        if let Some(number) = self.packs.get(&pack) {
            return *number;
        }
        let c = &mut self.columns;
        let next = self.writers.len() as u32;
        let writer = *self.writers.entry((pack.transaction, pack.writer)).or_insert_with(|| {
            c.writers.extend_from_slice(pack.transaction.as_bytes());
            c.writers.extend_from_slice(pack.writer.as_bytes());
            next
        });
        c.pack_writers.push(writer);
        let expected = self.counters.insert(writer, i64::from(pack.counter) + 1).unwrap_or(0);
        c.pack_counters.push(i64::from(pack.counter) - expected);
        let number = self.packs.len() as i64;
        self.packs.insert(pack, number);
        number
    }

    pub(super) fn finish(mut self, continued: bool, continues: bool) -> Result<Vec<u8>> {
        self.columns.continued = continued;
        self.columns.continues = continues;
        let plain = self.columns.encode_to_vec();
        if plain.len() > PLAIN_MAX {
            return Err(Error::internal(format!("a manifest block of {} bytes", plain.len())));
        }
        Ok(plain)
    }
}
