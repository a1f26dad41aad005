//! A pack: many sealed frames in one object, its trailer last, so that it is written without seeking.
//!
//! ```text
//! header 8     "PALN" 'P' version suite 0
//! frames       ciphertext || tag, no plain header: sizes and kinds are hidden
//! trailer      sealed PackSummary
//! footer 24    trailer length u32 | frame count u32 | checksum u64 | "PALNPEND"
//! ```
//! The key of a pack is its own and the nonce is the frame's ordinal, so no nonce is stored or used twice.
//! The associated data of a frame names repository, pack, ordinal, codec and plain length: a frame cannot be
//! moved, swapped or cut.
use std::fmt;

use prost::Message;

use crate::crypto::{Aead, TAG_LEN};
use crate::error::{Error, Result};
use crate::id::{ChunkId, RepositoryId, TransactionId, WriterId};
use crate::keys::{Keys, TransactionKey};

/// The most plain bytes in one frame.
pub const FRAME_MAX: usize = 1 << 20;
/// What a pack is filled to.
pub const PACK_TARGET: usize = 32 << 20;
/// What a trailer may need behind the last frame: 1 MiB holds the ids of 28,000 chunks.
const TRAILER_ROOM: usize = 1 << 20;
/// The size of the buffer that a pack is built in.
pub const PACK_BUFFER: usize = PACK_TARGET + FRAME_MAX + TRAILER_ROOM;
/// A pack holds at most this many chunks, so that its trailer fits the room left for it.
const CHUNKS_MAX: usize = 24_000;

pub const HEADER_LEN: usize = 8;
pub const FOOTER_LEN: usize = 24;
const HEADER_MAGIC: &[u8; 6] = b"PALNP\x01";
const FOOTER_MAGIC: &[u8; 8] = b"PALNPEND";
/// The nonce of the trailer; no frame reaches it.
const TRAILER_NONCE: u64 = u64::MAX;
/// Compression that saves less than this share is not worth undoing.
const WORTH_NUMERATOR: usize = 97;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    pub transaction: TransactionId,
    pub writer: WriterId,
    pub counter: u32,
}

impl PackId {
    /// The object's name. Counters are hex of fixed width, so listing order is writing order.
    pub fn key(&self) -> String {
        format!("t/{}/p/{}-{:08x}", self.transaction, self.writer, self.counter)
    }

    pub fn from_key(key: &str) -> Result<Self> {
        let parse = || {
            let rest = key.strip_prefix("t/")?;
            let (transaction, rest) = rest.split_once("/p/")?;
            let (writer, counter) = rest.split_once('-')?;
            Some(PackId {
                transaction: transaction.parse().ok()?,
                writer: writer.parse().ok()?,
                counter: u32::from_str_radix(counter, 16).ok()?,
            })
        };
        parse()
            .filter(|id| id.key() == key)
            .ok_or_else(|| Error::invalid(format!("{key:?} is not the name of a pack")))
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackId({self})")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    Raw = 0,
    Zstd = 1,
}

impl Codec {
    pub fn from_u32(value: u32) -> Result<Self> {
        match value {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            other => Err(Error::corrupt(format!("codec {other} is not known"))),
        }
    }
}

/// Where a frame lies: all that a restore needs beside the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameAt {
    pub pack: PackId,
    pub ordinal: u32,
    /// From the start of the pack.
    pub offset: u32,
    /// With the tag.
    pub stored: u32,
    pub plain: u32,
    pub codec: Codec,
}

impl FrameAt {
    /// Refuses lengths that no writer of ours produces, before anything is allocated for them.
    pub fn check(&self) -> Result<()> {
        let fits = self.plain as usize <= FRAME_MAX
            && (TAG_LEN..=FRAME_MAX + TAG_LEN).contains(&(self.stored as usize))
            && self.offset as usize >= HEADER_LEN
            && self.offset.checked_add(self.stored).is_some();
        if fits { Ok(()) } else { Err(Error::corrupt(format!("impossible frame {self:?}"))) }
    }

    pub fn range(&self) -> std::ops::Range<u64> {
        u64::from(self.offset)..u64::from(self.offset) + u64::from(self.stored)
    }
}

/// Where a chunk lies: a frame, and the bytes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkAt {
    pub frame: FrameAt,
    pub start: u32,
    pub len: u32,
}

impl ChunkAt {
    pub fn check(&self) -> Result<()> {
        self.frame.check()?;
        match self.start.checked_add(self.len) {
            Some(end) if end <= self.frame.plain => Ok(()),
            _ => Err(Error::corrupt(format!("chunk lies outside its frame: {self:?}"))),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        wire::ChunkAt {
            transaction: self.frame.pack.transaction.as_bytes().to_vec(),
            writer: self.frame.pack.writer.as_bytes().to_vec(),
            counter: self.frame.pack.counter,
            ordinal: self.frame.ordinal,
            offset: self.frame.offset,
            stored: self.frame.stored,
            plain: self.frame.plain,
            codec: self.frame.codec as u32,
            start: self.start,
            len: self.len,
        }
        .encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let w = wire::ChunkAt::decode(bytes)
            .map_err(|e| Error::corrupt("a chunk's place does not decode").with_source(e))?;
        let at = Self {
            frame: FrameAt {
                pack: PackId {
                    transaction: TransactionId::from_slice(&w.transaction)?,
                    writer: WriterId::from_slice(&w.writer)?,
                    counter: w.counter,
                },
                ordinal: w.ordinal,
                offset: w.offset,
                stored: w.stored,
                plain: w.plain,
                codec: Codec::from_u32(w.codec)?,
            },
            start: w.start,
            len: w.len,
        };
        at.check()?;
        Ok(at)
    }
}

/// What a pack holds: its trailer, decoded. The truth that indexes are rebuilt from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackSummary {
    pub pack: PackId,
    /// Length of the whole object.
    pub size: u64,
    pub frames: Vec<FrameSummary>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameSummary {
    pub offset: u32,
    pub stored: u32,
    pub plain: u32,
    pub codec: Codec,
    /// Chunks in order; they fill the frame without gaps.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl PackSummary {
    pub fn frame(&self, ordinal: u32) -> Option<FrameAt> {
        let frame = self.frames.get(ordinal as usize)?;
        Some(FrameAt {
            pack: self.pack,
            ordinal,
            offset: frame.offset,
            stored: frame.stored,
            plain: frame.plain,
            codec: frame.codec,
        })
    }

    /// Every chunk of the pack and where it lies.
    pub fn chunks(&self) -> impl Iterator<Item = (ChunkId, ChunkAt)> + '_ {
        (0u32..).zip(&self.frames).flat_map(move |(ordinal, frame)| {
            let at = FrameAt {
                pack: self.pack,
                ordinal,
                offset: frame.offset,
                stored: frame.stored,
                plain: frame.plain,
                codec: frame.codec,
            };
            frame.chunks.iter().scan(0u32, move |start, (id, len)| {
                let chunk = ChunkAt { frame: at, start: *start, len: *len };
                *start += len;
                Some((*id, chunk))
            })
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    pub(crate) fn to_wire(&self) -> wire::PackSummary {
        let mut w = wire::PackSummary {
            transaction: self.pack.transaction.as_bytes().to_vec(),
            writer: self.pack.writer.as_bytes().to_vec(),
            counter: self.pack.counter,
            size: self.size,
            ..Default::default()
        };
        for frame in &self.frames {
            w.stored.push(frame.stored);
            w.plain.push(frame.plain);
            w.codec.push(frame.codec as u32);
            w.chunks.push(u32::try_from(frame.chunks.len()).unwrap_or(u32::MAX));
            for (id, len) in &frame.chunks {
                w.ids.extend_from_slice(id.as_bytes());
                w.lens.push(*len);
            }
        }
        w
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let w = wire::PackSummary::decode(bytes)
            .map_err(|e| Error::corrupt("a pack's trailer does not decode").with_source(e))?;
        Self::from_wire(&w)
    }

    pub(crate) fn from_wire(w: &wire::PackSummary) -> Result<Self> {
        let wrong = |why: &str| Error::corrupt(format!("a pack's trailer is inconsistent: {why}"));
        let pack = PackId {
            transaction: TransactionId::from_slice(&w.transaction)?,
            writer: WriterId::from_slice(&w.writer)?,
            counter: w.counter,
        };
        let count = w.stored.len();
        if w.plain.len() != count || w.codec.len() != count || w.chunks.len() != count {
            return Err(wrong("columns of different lengths"));
        }
        if w.ids.len() != w.lens.len() * ChunkId::LEN {
            return Err(wrong("ids and lengths differ in number"));
        }
        let mut chunks =
            w.ids.as_chunks::<{ ChunkId::LEN }>().0.iter().map(|id| ChunkId(*id)).zip(w.lens.iter().copied());
        let mut offset = HEADER_LEN as u32;
        let mut frames = Vec::with_capacity(count);
        for i in 0..count {
            let held: Vec<_> = chunks.by_ref().take(w.chunks[i] as usize).collect();
            if held.len() != w.chunks[i] as usize
                || held.iter().map(|(_, len)| u64::from(*len)).sum::<u64>() != u64::from(w.plain[i])
            {
                return Err(wrong("chunks do not fill their frame"));
            }
            let frame = FrameSummary {
                offset,
                stored: w.stored[i],
                plain: w.plain[i],
                codec: Codec::from_u32(w.codec[i])?,
                chunks: held,
            };
            FrameAt {
                pack,
                ordinal: i as u32,
                offset,
                stored: frame.stored,
                plain: frame.plain,
                codec: frame.codec,
            }
            .check()?;
            offset = offset.checked_add(frame.stored).ok_or_else(|| wrong("frames too long"))?;
            frames.push(frame);
        }
        if chunks.next().is_some() {
            return Err(wrong("chunks left over"));
        }
        Ok(Self { pack, size: w.size, frames })
    }
}

/// Builds one pack in a buffer that somebody else owns and may pool. One writer, one thread.
pub struct PackWriter {
    repository: RepositoryId,
    suite: u8,
    summary: PackSummary,
    chunk_count: usize,
    aead: Box<dyn Aead>,
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
    filled: usize,
}

impl fmt::Debug for PackWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackWriter({}, {} bytes)", self.summary.pack, self.filled)
    }
}

/// A finished pack: `buffer[..len]` is the object.
#[derive(Debug)]
pub struct SealedPack {
    pub summary: PackSummary,
    pub buffer: Vec<u8>,
    pub len: usize,
}

impl PackWriter {
    /// `buffer` is used as it is: at least [`PACK_BUFFER`] long, its contents ignored.
    pub fn new(
        keys: &Keys,
        transaction: &TransactionKey,
        writer: WriterId,
        counter: u32,
        level: i32,
        mut buffer: Vec<u8>,
    ) -> Result<Self> {
        if buffer.len() < PACK_BUFFER {
            buffer.resize(PACK_BUFFER, 0);
        }
        let compressor = zstd::bulk::Compressor::new(level)
            .map_err(|e| Error::invalid(format!("zstd level {level}")).with_source(e))?;
        let pack = PackId { transaction: transaction.id(), writer, counter };
        buffer[..6].copy_from_slice(HEADER_MAGIC);
        buffer[6] = keys.suite();
        buffer[7] = 0;
        Ok(Self {
            repository: keys.repository(),
            suite: keys.suite(),
            summary: PackSummary { pack, size: 0, frames: Vec::new() },
            chunk_count: 0,
            aead: transaction.pack_aead(writer, counter)?,
            compressor,
            buffer,
            filled: HEADER_LEN,
        })
    }

    pub fn id(&self) -> PackId {
        self.summary.pack
    }

    pub fn is_empty(&self) -> bool {
        self.summary.frames.is_empty()
    }

    /// No further frame fits for sure.
    pub fn is_full(&self) -> bool {
        self.filled >= PACK_TARGET || self.chunk_count >= CHUNKS_MAX
    }

    /// Compresses and seals one frame, in place at the end of the pack. `chunks` fill `plain` in order.
    pub fn append(&mut self, plain: &[u8], chunks: Vec<(ChunkId, u32)>) -> Result<FrameAt> {
        if plain.len() > FRAME_MAX || self.is_full() {
            return Err(Error::internal(format!("frame of {} bytes for {self:?}", plain.len())));
        }
        let start = self.filled;
        // Room for the frame only: zstd gives up, and cheaply, when compression would not pay.
        let worth = plain.len() * WORTH_NUMERATOR / 100;
        let (codec, length) =
            match self.compressor.compress_to_buffer(plain, &mut self.buffer[start..start + worth]) {
                Ok(length) => (Codec::Zstd, length),
                Err(_) => {
                    self.buffer[start..start + plain.len()].copy_from_slice(plain);
                    (Codec::Raw, plain.len())
                }
            };
        let at = FrameAt {
            pack: self.summary.pack,
            ordinal: u32::try_from(self.summary.frames.len())
                .map_err(|_| Error::internal("too many frames"))?,
            offset: start as u32,
            stored: (length + TAG_LEN) as u32,
            plain: plain.len() as u32,
            codec,
        };
        let aad = frame_aad(self.repository, self.suite, &at);
        let tag = self.aead.seal(u64::from(at.ordinal), &aad, &mut self.buffer[start..start + length])?;
        self.buffer[start + length..start + length + TAG_LEN].copy_from_slice(&tag);
        self.filled = start + length + TAG_LEN;
        self.chunk_count += chunks.len();
        self.summary.frames.push(FrameSummary {
            offset: at.offset,
            stored: at.stored,
            plain: at.plain,
            codec,
            chunks,
        });
        Ok(at)
    }

    pub fn finish(mut self) -> Result<SealedPack> {
        let mut trailer = self.summary.to_wire();
        trailer.size = 0; // known only with the trailer's own length; readers take the object's
        let mut trailer = trailer.encode_to_vec();
        let aad = trailer_aad(self.repository, self.suite, &self.summary.pack);
        let tag = self.aead.seal(TRAILER_NONCE, &aad, &mut trailer)?;
        trailer.extend_from_slice(&tag);
        let end = self.filled + trailer.len() + FOOTER_LEN;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer[self.filled..self.filled + trailer.len()].copy_from_slice(&trailer);
        let footer = footer(&trailer, self.summary.frames.len() as u32);
        self.buffer[end - FOOTER_LEN..end].copy_from_slice(&footer);
        self.summary.size = end as u64;
        Ok(SealedPack { summary: self.summary, buffer: self.buffer, len: end })
    }
}

fn footer(trailer: &[u8], frames: u32) -> [u8; FOOTER_LEN] {
    let mut footer = [0; FOOTER_LEN];
    footer[..4].copy_from_slice(&(trailer.len() as u32).to_le_bytes());
    footer[4..8].copy_from_slice(&frames.to_le_bytes());
    footer[8..16].copy_from_slice(&blake3::hash(trailer).as_bytes()[..8]);
    footer[16..].copy_from_slice(FOOTER_MAGIC);
    footer
}

/// Checks a footer (the last 24 bytes of a pack) and says how long the trailer before it is.
pub fn trailer_len(footer: &[u8]) -> Result<u32> {
    if footer.len() != FOOTER_LEN || &footer[16..] != FOOTER_MAGIC {
        return Err(Error::corrupt("a pack does not end as a pack does: cut off, or something else"));
    }
    let mut len = [0; 4];
    len.copy_from_slice(&footer[..4]);
    Ok(u32::from_le_bytes(len))
}

/// Checks the first bytes of a pack, which no seal covers.
pub fn check_header(header: &[u8], suite: u8) -> Result<()> {
    let fits = header.len() == HEADER_LEN && &header[..6] == HEADER_MAGIC && header[6..] == [suite, 0];
    if fits { Ok(()) } else { Err(Error::corrupt("a pack does not begin as a pack does")) }
}

/// Checks what the footer says of the trailer before it; no seal covers that either.
pub fn check_footer(tail: &[u8], frames: usize) -> Result<()> {
    let (trailer, end) = tail.split_at(tail.len().saturating_sub(FOOTER_LEN));
    let fits = u32::try_from(frames).is_ok_and(|frames| end == footer(trailer, frames));
    if fits { Ok(()) } else { Err(Error::corrupt("a pack's footer does not fit its trailer")) }
}

/// Opens the trailer of `pack`, given the object's last `trailer length + 24` bytes and its size.
pub fn open_trailer(
    keys: &Keys,
    transaction: &TransactionKey,
    pack: PackId,
    tail: &[u8],
    size: u64,
) -> Result<PackSummary> {
    let split = tail.len().saturating_sub(FOOTER_LEN);
    let length = trailer_len(&tail[split..])? as usize;
    if split != length || length < TAG_LEN {
        return Err(Error::corrupt(format!("{pack}: the trailer's length is wrong")));
    }
    let mut trailer = tail[..split].to_vec();
    let aad = trailer_aad(keys.repository(), keys.suite(), &pack);
    let plain = transaction
        .pack_aead(pack.writer, pack.counter)?
        .open(TRAILER_NONCE, &aad, &mut trailer)
        .map_err(|e| Error::corrupt(format!("{pack}: the trailer")).with_source(e))?
        .to_vec();
    let mut summary = PackSummary::decode(&plain)?;
    if summary.pack != pack {
        return Err(Error::corrupt(format!("{pack} says it is {}", summary.pack)));
    }
    summary.size = size;
    Ok(summary)
}

/// Opens frames of one transaction's packs. Keeps the last pack's key; one a thread.
pub struct FrameReader {
    repository: RepositoryId,
    suite: u8,
    keys: Keys,
    current: Option<(PackId, Box<dyn Aead>)>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameReader({:?})", self.current.as_ref().map(|(pack, _)| pack))
    }
}

impl FrameReader {
    pub fn new(keys: &Keys) -> Result<Self> {
        Ok(Self {
            repository: keys.repository(),
            suite: keys.suite(),
            keys: keys.clone(),
            current: None,
            decompressor: zstd::bulk::Decompressor::new()
                .map_err(|e| Error::internal("zstd").with_source(e))?,
        })
    }

    /// Decrypts `stored` in place and decompresses it into `plain`, whose old contents are replaced.
    pub fn open(&mut self, at: &FrameAt, stored: &mut [u8], plain: &mut Vec<u8>) -> Result<()> {
        at.check()?;
        let damaged = |e: Error| {
            Error::corrupt(format!("{} frame {} at {}", at.pack, at.ordinal, at.offset)).with_source(e)
        };
        if stored.len() != at.stored as usize {
            return Err(damaged(Error::corrupt(format!("{} bytes of {}", stored.len(), at.stored))));
        }
        if self.current.as_ref().is_none_or(|(pack, _)| *pack != at.pack) {
            let transaction = self.keys.transaction(at.pack.transaction)?;
            self.current = Some((at.pack, transaction.pack_aead(at.pack.writer, at.pack.counter)?));
        }
        let Some((_, aead)) = &self.current else { return Err(Error::internal("no pack key")) };
        let aad = frame_aad(self.repository, self.suite, at);
        let opened = aead.open(u64::from(at.ordinal), &aad, stored).map_err(damaged)?;
        plain.clear();
        match at.codec {
            Codec::Raw => plain.extend_from_slice(opened),
            Codec::Zstd => {
                plain.reserve(at.plain as usize);
                self.decompressor
                    .decompress_to_buffer(opened, plain)
                    .map_err(|e| damaged(Error::corrupt("does not decompress").with_source(e)))?;
            }
        }
        if plain.len() != at.plain as usize {
            return Err(damaged(Error::corrupt(format!("{} plain bytes, want {}", plain.len(), at.plain))));
        }
        Ok(())
    }
}

fn frame_aad(repository: RepositoryId, suite: u8, at: &FrameAt) -> [u8; 70] {
    let mut aad = [0; 70];
    aad[..52].copy_from_slice(&pack_aad(b"frame", repository, suite, &at.pack));
    aad[52..56].copy_from_slice(&at.ordinal.to_le_bytes());
    aad[56] = at.codec as u8;
    aad[57..61].copy_from_slice(&at.plain.to_le_bytes());
    aad
}

fn trailer_aad(repository: RepositoryId, suite: u8, pack: &PackId) -> [u8; 52] {
    pack_aad(b"trail", repository, suite, pack)
}

fn pack_aad(what: &[u8; 5], repository: RepositoryId, suite: u8, pack: &PackId) -> [u8; 52] {
    let mut aad = [0; 52];
    aad[..5].copy_from_slice(what);
    aad[5] = 1;
    aad[6] = suite;
    aad[8..24].copy_from_slice(repository.as_bytes());
    aad[24..40].copy_from_slice(pack.transaction.as_bytes());
    aad[40..48].copy_from_slice(pack.writer.as_bytes());
    aad[48..52].copy_from_slice(&pack.counter.to_le_bytes());
    aad
}

/// As stored and sent. Columns, because ids dominate and everything else then compresses to little.
pub(crate) mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ChunkAt {
        #[prost(bytes, tag = "1")]
        pub(crate) transaction: Vec<u8>,
        #[prost(bytes, tag = "2")]
        pub(crate) writer: Vec<u8>,
        #[prost(uint32, tag = "3")]
        pub(crate) counter: u32,
        #[prost(uint32, tag = "4")]
        pub(crate) ordinal: u32,
        #[prost(uint32, tag = "5")]
        pub(crate) offset: u32,
        #[prost(uint32, tag = "6")]
        pub(crate) stored: u32,
        #[prost(uint32, tag = "7")]
        pub(crate) plain: u32,
        #[prost(uint32, tag = "8")]
        pub(crate) codec: u32,
        #[prost(uint32, tag = "9")]
        pub(crate) start: u32,
        #[prost(uint32, tag = "10")]
        pub(crate) len: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct PackSummary {
        #[prost(bytes, tag = "1")]
        pub(crate) transaction: Vec<u8>,
        #[prost(bytes, tag = "2")]
        pub(crate) writer: Vec<u8>,
        #[prost(uint32, tag = "3")]
        pub(crate) counter: u32,
        #[prost(uint64, tag = "4")]
        pub(crate) size: u64,
        #[prost(uint32, repeated, tag = "5")]
        pub(crate) stored: Vec<u32>,
        #[prost(uint32, repeated, tag = "6")]
        pub(crate) plain: Vec<u32>,
        #[prost(uint32, repeated, tag = "7")]
        pub(crate) codec: Vec<u32>,
        /// How many chunks each frame holds.
        #[prost(uint32, repeated, tag = "8")]
        pub(crate) chunks: Vec<u32>,
        #[prost(bytes, tag = "9")]
        pub(crate) ids: Vec<u8>,
        #[prost(uint32, repeated, tag = "10")]
        pub(crate) lens: Vec<u32>,
    }
}

#[cfg(test)]
mod tests;
