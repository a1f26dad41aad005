//! Opens packs: trailers and frames. What comes from the store is hostile until its seal has held.
use std::fmt;

use super::place::{Codec, FrameAt, PackId};
use super::seal::{TRAILER_NONCE, frame_aad, trailer_aad};
use super::summary::PackSummary;
use super::writer::footer;
use super::{FOOTER_LEN, FOOTER_MAGIC, HEADER_LEN, HEADER_MAGIC};
use crate::crypto::{Aead, TAG_LEN};
use crate::error::{Error, Result};
use crate::id::RepositoryId;
use crate::keys::{Keys, TransactionKey};

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
