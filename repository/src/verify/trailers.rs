//! Pack trailers as the manifests are compared with them. Keeps a bounded number; the rest is read again.
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::commit::Repository;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::keys::Keys;
use crate::pack::{
    FOOTER_LEN, FrameAt, HEADER_LEN, PackId, PackSummary, check_footer, open_trailer, trailer_len,
};
use crate::storage::Storage;

/// What all trailers kept may take together.
const KEPT_MAX: usize = 64 << 20;
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

    fn cost(&self) -> usize {
        200 + self.frames.len() * size_of::<(FrameAt, usize)>() + self.ids.len() * (ChunkId::LEN + 8)
    }
}

/// `None` for a pack whose trailer cannot be had: that was found already.
#[derive(Debug)]
pub(super) struct Trailers {
    storage: Arc<dyn Storage>,
    keys: Keys,
    kept: HashMap<PackId, Option<Arc<Trailer>>>,
    order: VecDeque<PackId>,
    cost: usize,
}

impl Trailers {
    pub(super) fn new(repository: &Repository) -> Self {
        Self {
            storage: repository.storage().clone(),
            keys: repository.keys().clone(),
            kept: HashMap::new(),
            order: VecDeque::new(),
            cost: 0,
        }
    }

    pub(super) fn keep(&mut self, pack: PackId, trailer: Option<Trailer>) -> Option<Arc<Trailer>> {
        let trailer = trailer.map(Arc::new);
        self.cost += trailer.as_ref().map_or(200, |trailer| trailer.cost());
        if self.kept.insert(pack, trailer.clone()).is_none() {
            self.order.push_back(pack);
        }
        while self.cost > KEPT_MAX && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else { break };
            let gone = self.kept.remove(&oldest).flatten();
            self.cost -= gone.map_or(200, |trailer| trailer.cost());
        }
        trailer
    }

    pub(super) async fn get(&mut self, pack: PackId) -> Option<Arc<Trailer>> {
        if let Some(kept) = self.kept.get(&pack) {
            return kept.clone();
        }
        let read = async {
            let size = self.storage.size(&pack.key()).await?;
            read_trailer(&*self.storage, &self.keys, pack, size).await
        };
        let trailer = read.await.ok().map(|(summary, _)| Trailer::of(&summary));
        self.keep(pack, trailer)
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
