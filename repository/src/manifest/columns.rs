//! Reads a block's columns back. The bytes are authentic but need not be honest: every index, count and sum is
//! checked, columns must be used up exactly, and nothing is allocated that the input does not pay for.
use prost::Message;

use super::block::{
    Block, DIRECTORY, ENTRIES_MAX, Expect, FILE, HARDLINK, PAGED, PIECES_MAX, PLAIN_MAX, SYMLINK, XATTRS_MAX,
    Xattrs, unzigzag,
};
use super::entry::{Content, Entry, Kind, Meta, PATH_MAX, PageMaps, Piece};
use super::wire;
use crate::error::{Error, Result};
use crate::id::{FileId, TransactionId, WriterId};
use crate::pack::{ChunkAt, Codec, FRAME_MAX, FrameAt, PackId};

pub(super) fn decode(plain: &[u8]) -> Result<Block> {
    if plain.len() > PLAIN_MAX {
        return Err(wrong("is too long"));
    }
    let w = wire::Block::decode(plain).map_err(|e| wrong("does not decode").with_source(e))?;
    let count = w.kinds.len();
    if !(1..=ENTRIES_MAX).contains(&count) {
        return Err(wrong(&format!("has {count} entries")));
    }
    if w.pieces.len() > PIECES_MAX {
        return Err(wrong(&format!("has {} pieces", w.pieces.len())));
    }
    let (continued, continues) = (w.continued, w.continues);
    let mut decoder = Decoder::new(w)?;
    let mut entries = Vec::with_capacity(count);
    for index in 0..count {
        let entry = decoder.entry()?;
        let slice = (index == 0 && continued) || (index + 1 == count && continues);
        if slice {
            entry.check_slice()?;
            if entry.content().is_none() {
                return Err(wrong("continues what is no file"));
            }
        } else {
            entry.check()?;
        }
        entries.push(entry);
    }
    decoder.finish()?;
    Ok(Block { entries, continued_from_previous: continued, continues })
}

fn wrong(why: &str) -> Error {
    Error::corrupt(format!("a manifest block {why}"))
}

/// One column, taken value by value.
struct Column<T>(std::vec::IntoIter<T>, &'static str);

impl<T> Column<T> {
    fn new(values: Vec<T>, name: &'static str) -> Self {
        Self(values.into_iter(), name)
    }

    fn next(&mut self) -> Result<T> {
        self.0.next().ok_or_else(|| wrong(&format!("has too few {}", self.1)))
    }

    fn done(&self) -> Result<()> {
        if self.0.len() == 0 { Ok(()) } else { Err(wrong(&format!("has too many {}", self.1))) }
    }
}

/// A column of bytes, taken in runs.
struct Bytes(Vec<u8>, usize, &'static str);

impl Bytes {
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        let end = self.1.checked_add(len).filter(|end| *end <= self.0.len());
        let Some(end) = end else { return Err(wrong(&format!("has too few {}", self.2))) };
        let run = &self.0[self.1..end];
        self.1 = end;
        Ok(run)
    }

    fn done(&self) -> Result<()> {
        if self.1 == self.0.len() { Ok(()) } else { Err(wrong(&format!("has too many {}", self.2))) }
    }
}

struct Decoder {
    kinds: Column<u8>,
    path_shared: Column<u32>,
    path_lens: Column<u32>,
    paths: Bytes,
    path: Vec<u8>,
    owner: Column<u32>,
    owners: Vec<(u32, u32, u32, u64)>,
    mtime_seconds: Column<i64>,
    seconds: i64,
    mtime_nanos: Column<u32>,
    inodes: Column<i64>,
    inode: u64,
    xattr_set: Column<u32>,
    xattrs: Vec<Xattrs>,
    xattr_bytes: usize,
    target_lens: Column<u32>,
    targets: Bytes,
    elsewhere: Column<u64>,
    file_ids: Bytes,
    piece_counts: Column<u32>,
    page_sizes: Column<u32>,
    map_counts: Column<u32>,
    pieces: Column<u64>,
    piece_starts: Column<i64>,
    piece_lens: Column<u32>,
    holes: Column<u64>,
    frames: Vec<FrameAt>,
    expect: Expect,
}

impl Decoder {
    fn new(mut w: wire::Block) -> Result<Self> {
        let owners = owners(&mut w)?;
        let xattrs = xattrs(&mut w)?;
        let packs = packs(&mut w)?;
        let frames = frames(&mut w, &packs)?;
        Ok(Self {
            kinds: Column::new(w.kinds, "kinds"),
            path_shared: Column::new(w.path_shared, "shared path lengths"),
            path_lens: Column::new(w.path_lens, "path lengths"),
            paths: Bytes(w.paths, 0, "path bytes"),
            path: Vec::new(),
            owner: Column::new(w.owners, "owners"),
            owners,
            mtime_seconds: Column::new(w.mtime_seconds, "mtimes"),
            seconds: 0,
            mtime_nanos: Column::new(w.mtime_nanos, "mtimes"),
            inodes: Column::new(w.inodes, "inodes"),
            inode: 0,
            xattr_set: Column::new(w.xattrs, "extended attributes"),
            xattrs,
            xattr_bytes: 0,
            target_lens: Column::new(w.target_lens, "targets"),
            targets: Bytes(w.targets, 0, "target bytes"),
            elsewhere: Column::new(w.elsewhere, "sizes"),
            file_ids: Bytes(w.file_ids, 0, "file ids"),
            piece_counts: Column::new(w.piece_counts, "piece counts"),
            page_sizes: Column::new(w.page_sizes, "page sizes"),
            map_counts: Column::new(w.map_counts, "page map counts"),
            pieces: Column::new(w.pieces, "pieces"),
            piece_starts: Column::new(w.piece_starts, "piece starts"),
            piece_lens: Column::new(w.piece_lens, "piece lengths"),
            holes: Column::new(w.holes, "holes"),
            frames,
            expect: Expect::default(),
        })
    }

    fn entry(&mut self) -> Result<Entry> {
        let shared = self.path_shared.next()? as usize;
        let suffix = self.path_lens.next()? as usize;
        if shared > self.path.len() || shared + suffix > PATH_MAX {
            return Err(wrong("has a path of an impossible length"));
        }
        self.path.truncate(shared);
        self.path.extend_from_slice(self.paths.take(suffix)?);
        let path = self.path.clone();
        let meta = self.meta()?;
        let kind = match self.kinds.next()? {
            DIRECTORY => Kind::Directory,
            SYMLINK => Kind::Symlink { target: self.target()? },
            HARDLINK => Kind::Hardlink { target: self.target()? },
            kind @ (FILE | PAGED) => Kind::File(self.content(kind == PAGED)?),
            kind => return Err(wrong(&format!("has an entry of kind {kind}"))),
        };
        Ok(Entry { path, meta, kind })
    }

    fn meta(&mut self) -> Result<Meta> {
        let owner = self.owner.next()? as usize;
        let &(mode, uid, gid, device) =
            self.owners.get(owner).ok_or_else(|| wrong("names an owner it lacks"))?;
        self.seconds = self.seconds.wrapping_add(self.mtime_seconds.next()?);
        self.inode = self.inode.wrapping_add(self.inodes.next()? as u64);
        let xattrs = match self.xattr_set.next()? as usize {
            0 => Vec::new(),
            set => {
                let set = self.xattrs.get(set - 1).ok_or_else(|| wrong("names attributes it lacks"))?;
                // One large set that many entries share would cost more memory than the input had.
                self.xattr_bytes += set.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
                if self.xattr_bytes > XATTRS_MAX {
                    return Err(wrong("has too many extended attributes"));
                }
                set.clone()
            }
        };
        Ok(Meta {
            mode,
            uid,
            gid,
            mtime_seconds: self.seconds,
            mtime_nanos: self.mtime_nanos.next()?,
            device,
            inode: self.inode,
            xattrs,
        })
    }

    fn target(&mut self) -> Result<Vec<u8>> {
        let len = self.target_lens.next()? as usize;
        Ok(self.targets.take(len)?.to_vec())
    }

    fn content(&mut self, paged: bool) -> Result<Content> {
        // What other blocks hold of it, to begin with.
        let mut size = self.elsewhere.next()?;
        let id = FileId::from_slice(self.file_ids.take(FileId::LEN)?)?;
        let count = self.counted(|d| &mut d.piece_counts)?;
        let mut pieces = Vec::with_capacity(count);
        for _ in 0..count {
            let piece = self.piece()?;
            size = size.checked_add(piece.len()).ok_or_else(|| wrong("has a file of an impossible size"))?;
            pieces.push(piece);
        }
        let mut pages = None;
        if paged {
            let page_size = self.page_sizes.next()?;
            let count = self.counted(|d| &mut d.map_counts)?;
            let mut maps = Vec::with_capacity(count);
            for _ in 0..count {
                let Piece::Data(at) = self.piece()? else { return Err(wrong("has a hole for a page map")) };
                maps.push(at);
            }
            pages = Some(PageMaps { page_size, maps });
        }
        Ok(Content { size, id, pieces, pages })
    }

    /// A count of pieces, not above what is left of them.
    fn counted(&mut self, column: impl FnOnce(&mut Self) -> &mut Column<u32>) -> Result<usize> {
        let count = column(self).next()? as usize;
        if count > self.pieces.0.len() { Err(wrong("has too few pieces")) } else { Ok(count) }
    }

    fn piece(&mut self) -> Result<Piece> {
        let Some(code) = self.pieces.next()?.checked_sub(1) else {
            return Ok(Piece::Hole(self.holes.next()?));
        };
        let number = self.expect.frame.checked_add(unzigzag(code >> 1));
        let frame = number.and_then(|number| self.frames.get(usize::try_from(number).ok()?));
        let (Some(number), Some(&frame)) = (number, frame) else {
            return Err(wrong("names a frame it lacks"));
        };
        let (start, len) = if code & 1 == 0 {
            (0, frame.plain)
        } else {
            let start = near(self.expect.start(number), self.piece_starts.next()?)?;
            (start, self.piece_lens.next()?)
        };
        let at = ChunkAt { frame, start, len };
        at.check()?;
        self.expect.frame = number + 1;
        self.expect.end = Some((number, start + len));
        Ok(Piece::Data(at))
    }

    fn finish(self) -> Result<()> {
        self.path_shared.done()?;
        self.path_lens.done()?;
        self.paths.done()?;
        self.owner.done()?;
        self.mtime_seconds.done()?;
        self.mtime_nanos.done()?;
        self.inodes.done()?;
        self.xattr_set.done()?;
        self.target_lens.done()?;
        self.targets.done()?;
        self.elsewhere.done()?;
        self.file_ids.done()?;
        self.piece_counts.done()?;
        self.page_sizes.done()?;
        self.map_counts.done()?;
        self.pieces.done()?;
        self.piece_starts.done()?;
        self.piece_lens.done()?;
        self.holes.done()
    }
}

/// `expected + difference`, where that is a u32.
fn near(expected: u32, difference: i64) -> Result<u32> {
    i64::from(expected)
        .checked_add(difference)
        .and_then(|value| u32::try_from(value).ok())
        .ok_or_else(|| wrong("has a number out of range"))
}

fn owners(w: &mut wire::Block) -> Result<Vec<(u32, u32, u32, u64)>> {
    let count = w.owner_modes.len();
    if w.owner_uids.len() != count || w.owner_gids.len() != count || w.owner_devices.len() != count {
        return Err(wrong("has an owner dictionary with gaps"));
    }
    Ok((0..count).map(|i| (w.owner_modes[i], w.owner_uids[i], w.owner_gids[i], w.owner_devices[i])).collect())
}

fn xattrs(w: &mut wire::Block) -> Result<Vec<Xattrs>> {
    let mut names = Column::new(std::mem::take(&mut w.xattr_name_lens), "attribute names");
    let mut values = Column::new(std::mem::take(&mut w.xattr_value_lens), "attribute values");
    let mut bytes = Bytes(std::mem::take(&mut w.xattr_bytes), 0, "attribute bytes");
    let mut sets = Vec::with_capacity(w.xattr_counts.len());
    for count in &w.xattr_counts {
        if *count as usize > names.0.len() {
            return Err(wrong("has too few attribute names"));
        }
        let mut set = Vec::with_capacity(*count as usize);
        for _ in 0..*count {
            let name = bytes.take(names.next()? as usize)?.to_vec();
            set.push((name, bytes.take(values.next()? as usize)?.to_vec()));
        }
        sets.push(set);
    }
    names.done()?;
    values.done()?;
    bytes.done()?;
    Ok(sets)
}

fn packs(w: &mut wire::Block) -> Result<Vec<PackId>> {
    const WRITER: usize = TransactionId::LEN + WriterId::LEN;
    if w.pack_counters.len() != w.pack_writers.len() || !w.writers.len().is_multiple_of(WRITER) {
        return Err(wrong("has a pack dictionary with gaps"));
    }
    let mut expected = vec![0i64; w.writers.len() / WRITER];
    let mut packs = Vec::with_capacity(w.pack_writers.len());
    for (writer, difference) in w.pack_writers.iter().zip(&w.pack_counters) {
        let number = *writer as usize;
        let expected = expected.get_mut(number).ok_or_else(|| wrong("names a writer it lacks"))?;
        let (transaction, writer) = w.writers[number * WRITER..][..WRITER].split_at(TransactionId::LEN);
        let counter = expected.checked_add(*difference).and_then(|counter| u32::try_from(counter).ok());
        let counter = counter.ok_or_else(|| wrong("has a pack counter out of range"))?;
        *expected = i64::from(counter) + 1;
        packs.push(PackId {
            transaction: TransactionId::from_slice(transaction)?,
            writer: WriterId::from_slice(writer)?,
            counter,
        });
    }
    Ok(packs)
}

fn frames(w: &mut wire::Block, packs: &[PackId]) -> Result<Vec<FrameAt>> {
    let count = w.frame_packs.len();
    let columns =
        [w.frame_ordinals.len(), w.frame_offsets.len(), w.frame_stored.len(), w.frame_missing.len()];
    if columns.iter().any(|len| *len != count) || w.frame_codecs.len() != count {
        return Err(wrong("has a frame dictionary with gaps"));
    }
    let mut expect = Expect::default();
    let mut frames = Vec::with_capacity(count);
    for i in 0..count {
        let number = expect.pack.checked_add(w.frame_packs[i]);
        let pack = number.and_then(|number| packs.get(usize::try_from(number).ok()?));
        let (Some(number), Some(&pack)) = (number, pack) else { return Err(wrong("names a pack it lacks")) };
        let (ordinal, offset) = expect.next_in(number);
        let frame = FrameAt {
            pack,
            ordinal: near(ordinal, w.frame_ordinals[i])?,
            offset: near(offset, w.frame_offsets[i])?,
            stored: w.frame_stored[i],
            plain: (FRAME_MAX as u32)
                .checked_sub(w.frame_missing[i])
                .ok_or_else(|| wrong("has a frame too long"))?,
            codec: Codec::from_u32(u32::from(w.frame_codecs[i]))?,
        };
        frame.check()?;
        expect.pack = number;
        expect.in_pack.insert(number, (frame.ordinal.wrapping_add(1), frame.offset + frame.stored));
        frames.push(frame);
    }
    Ok(frames)
}
