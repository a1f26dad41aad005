//! Builds packs.
use std::fmt;

use prost::Message;

use super::place::{Codec, FrameAt, PackId};
use super::seal::{TRAILER_NONCE, frame_aad, trailer_aad};
use super::summary::{FrameSummary, PackSummary};
use super::{
    CHUNKS_MAX, FOOTER_LEN, FOOTER_MAGIC, FRAME_MAX, HEADER_LEN, HEADER_MAGIC, PACK_BUFFER, PACK_TARGET,
};
use crate::crypto::{Aead, TAG_LEN};
use crate::error::{Error, Result};
use crate::id::{ChunkId, RepositoryId, WriterId};
use crate::keys::{Keys, TransactionKey};

/// Compression that saves less than this share is not worth undoing.
const WORTH_NUMERATOR: usize = 97;

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

pub(super) fn footer(trailer: &[u8], frames: u32) -> [u8; FOOTER_LEN] {
    let mut footer = [0; FOOTER_LEN];
    footer[..4].copy_from_slice(&(trailer.len() as u32).to_le_bytes());
    footer[4..8].copy_from_slice(&frames.to_le_bytes());
    footer[8..16].copy_from_slice(&blake3::hash(trailer).as_bytes()[..8]);
    footer[16..].copy_from_slice(FOOTER_MAGIC);
    footer
}
