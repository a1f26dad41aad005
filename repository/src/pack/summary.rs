//! What a pack holds, as its trailer says.
use prost::Message;

use super::place::{ChunkAt, Codec, FrameAt, PackId};
use super::{HEADER_LEN, wire};
use crate::error::{Error, Result};
use crate::id::{ChunkId, TransactionId, WriterId};

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
