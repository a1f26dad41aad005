//! A pack's trailer: read, and asked which chunk lies where.
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::keys::Keys;
use crate::pack::{
    FOOTER_LEN, FrameAt, HEADER_LEN, PackId, PackSummary, check_footer, open_trailer, trailer_len,
};
use crate::storage::Storage;

/// Read at once from the end of a pack: most trailers are shorter.
const TAIL: u64 = 64 << 10;
/// No trailer of ours is longer.
const TRAILER_MAX: u64 = 4 << 20;

/// The places and ids of one pack's chunks.
#[derive(Debug)]
pub(super) struct Trailer {
    /// With the number of its first chunk.
    frames: Vec<(FrameAt, usize)>,
    starts: Vec<u32>,
    lens: Vec<u32>,
    ids: Vec<ChunkId>,
}

impl Trailer {
    pub(super) fn of(summary: &PackSummary) -> Self {
        let mut trailer = Self { frames: Vec::new(), starts: Vec::new(), lens: Vec::new(), ids: Vec::new() };
        for (ordinal, frame) in (0u32..).zip(&summary.frames) {
            trailer.frames.extend(summary.frame(ordinal).map(|at| (at, trailer.ids.len())));
            let mut start = 0;
            for (id, len) in &frame.chunks {
                trailer.starts.push(start);
                trailer.lens.push(*len);
                trailer.ids.push(*id);
                start += len;
            }
        }
        trailer
    }

    pub(super) fn has_frame(&self, at: &FrameAt) -> bool {
        self.frames.get(at.ordinal as usize).is_some_and(|(frame, _)| frame == at)
    }

    /// The chunk that begins and ends there in that frame.
    pub(super) fn chunk(&self, at: &FrameAt, start: u32, len: u32) -> Option<ChunkId> {
        let (_, first) = self.frames.get(at.ordinal as usize).filter(|(frame, _)| frame == at)?;
        let end = self.frames.get(at.ordinal as usize + 1).map_or(self.ids.len(), |(_, next)| *next);
        let from = first + self.starts[*first..end].partition_point(|other| *other < start);
        (from..end)
            .take_while(|index| self.starts[*index] == start)
            .find(|index| self.lens[*index] == len)
            .map(|index| self.ids[index])
    }

    pub(super) fn cost(&self) -> usize {
        200 + self.frames.len() * size_of::<(FrameAt, usize)>() + self.ids.len() * (ChunkId::LEN + 8)
    }
}

/// The trailer of a pack of `size` bytes, and how long trailer and footer are.
pub async fn read_trailer(
    storage: &dyn Storage,
    keys: &Keys,
    pack: PackId,
    size: u64,
) -> Result<(PackSummary, u64)> {
    let key = pack.key();
    if size < (HEADER_LEN + FOOTER_LEN) as u64 {
        return Err(Error::corrupt(format!("{size} bytes are no pack")));
    }
    let mut tail: Bytes = storage.get(&key, Some(size.saturating_sub(TAIL)..size)).await?;
    let length = u64::from(trailer_len(&tail[tail.len().saturating_sub(FOOTER_LEN)..])?) + FOOTER_LEN as u64;
    if length > size || length > TRAILER_MAX {
        return Err(Error::corrupt(format!("a trailer of {length} bytes in a pack of {size}")));
    }
    if length > tail.len() as u64 {
        tail = storage.get(&key, Some(size - length..size)).await?;
    }
    let tail = tail.slice((tail.len() as u64).saturating_sub(length) as usize..);
    let summary = open_trailer(keys, &keys.transaction(pack.transaction)?, pack, &tail, size)?;
    check_footer(&tail, summary.frames.len())?;
    Ok((summary, length))
}
