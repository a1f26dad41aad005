//! Which chunks the packs have, for the manifests that name them. Trailers are kept as far as memory goes; what is asked
//! for beyond that is taken from the index segments, a thousand packs a request: they were found to say the same.
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, stream};

use super::trailer::{Trailer, read_trailer};
use crate::commit::Repository;
use crate::error::Result;
use crate::id::ChunkId;
use crate::index::IndexSegment;
use crate::keys::Keys;
use crate::ledger::PackSet;
use crate::pack::{ChunkAt, PackId, PackSummary};
use crate::storage::Storage;

/// Trailers read side by side, of packs that no segment tells of.
const SIDE_BY_SIDE: usize = 4;

/// Something that a manifest says lies in a pack.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) at: ChunkAt,
    /// A chunk of its own; else bytes of the frame.
    pub(super) chunk: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The pack cannot be asked: that was found already.
    Unknown,
    Absent,
    Frame,
    Chunk(ChunkId),
}

#[derive(Debug)]
pub(super) struct Trailers {
    storage: Arc<dyn Storage>,
    keys: Keys,
    /// For all trailers kept together.
    max: usize,
    kept: HashMap<PackId, Trailer>,
    order: VecDeque<PackId>,
    cost: usize,
    /// Kept once, and no more.
    gave_up: bool,
    /// Packs that have none.
    lost: PackSet,
    /// Of which no segment says what their trailer says.
    alone: PackSet,
    segments: Vec<IndexSegment>,
    segment_bytes: u64,
    /// Which segment tells of which packs, by the first of a run: the last one's counter, and the segment.
    runs: BTreeMap<PackId, (u32, usize)>,
    again: u64,
}

impl Trailers {
    pub(super) fn new(repository: &Repository, max: usize) -> Self {
        Self {
            storage: repository.storage().clone(),
            keys: repository.keys().clone(),
            max,
            kept: HashMap::new(),
            order: VecDeque::new(),
            cost: 0,
            gave_up: false,
            lost: PackSet::new(),
            alone: PackSet::new(),
            segments: Vec::new(),
            segment_bytes: 0,
            runs: BTreeMap::new(),
            again: 0,
        }
    }

    /// A segment of that many bytes tells of those packs.
    pub(super) fn indexed(&mut self, segment: IndexSegment, bytes: u64, packs: impl Iterator<Item = PackId>) {
        let number = self.segments.len();
        self.segments.push(segment);
        self.segment_bytes += bytes;
        for pack in packs {
            let before = self.runs.range_mut(..=pack).next_back().filter(|(first, (last, of))| {
                let one = (first.transaction, first.writer) == (pack.transaction, pack.writer);
                one && *of == number && last.checked_add(1) == Some(pack.counter)
            });
            match before {
                Some((_, (last, _))) => *last = pack.counter,
                None => drop(self.runs.insert(pack, (pack.counter, number))),
            }
        }
    }

    /// What the pack's own look has shown. `alone`: its segment says something else, or there is none.
    pub(super) fn seen(&mut self, pack: PackId, trailer: Option<Trailer>, alone: bool) {
        if alone {
            self.alone.insert(pack);
        }
        match trailer {
            Some(trailer) => self.keep(pack, trailer),
            None => drop(self.lost.insert(pack)),
        }
    }

    fn keep(&mut self, pack: PackId, trailer: Trailer) {
        self.cost += trailer.cost();
        match self.kept.insert(pack, trailer) {
            Some(before) => self.cost -= before.cost(),
            None => self.order.push_back(pack),
        }
        while self.cost > self.max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.cost -= self.kept.remove(&oldest).map_or(0, |trailer| trailer.cost());
            self.gave_up = true;
        }
    }

    /// Segments, and their bytes, that are read again for each window of the manifests, at most; none where all is kept.
    pub(super) fn to_read_again(&self) -> (u64, u64) {
        if self.gave_up { (self.segments.len() as u64, self.segment_bytes) } else { (0, 0) }
    }

    /// Segments that were read again.
    pub(super) fn again(&self) -> u64 {
        self.again
    }

    /// In the order of the questions. Reads each segment that is needed once, one at a time.
    pub(super) async fn answer(&mut self, asks: &[Ask]) -> Vec<Answer> {
        let mut answers = vec![Answer::Unknown; asks.len()];
        let mut order: Vec<u32> = (0..asks.len() as u32).collect();
        order.sort_unstable_by_key(|n| asks[*n as usize].at.frame.pack);
        let (mut by_segment, mut alone) = (BTreeMap::<usize, Vec<Group>>::new(), Vec::new());
        for group in groups(asks, &order) {
            let Group { pack, within } = &group;
            if let Some(trailer) = self.kept.get(pack) {
                tell(trailer, asks, &order[within.clone()], &mut answers);
            } else if !self.lost.contains(pack) {
                match self.segment_of(pack) {
                    Some(segment) => by_segment.entry(segment).or_default().push(group),
                    None => alone.push(group),
                }
            }
        }
        for (segment, mut wanted) in by_segment {
            for summary in self.segment(segment).await {
                let Ok(found) = wanted.binary_search_by_key(&summary.pack, |group| group.pack) else {
                    continue;
                };
                let trailer = Trailer::of(&summary);
                tell(&trailer, asks, &order[wanted.remove(found).within], &mut answers);
                self.keep(summary.pack, trailer);
            }
            alone.append(&mut wanted); // the segment has gone meanwhile
        }
        let (storage, keys) = (self.storage.clone(), self.keys.clone());
        let reads = stream::iter(alone).map(|group| {
            let (storage, keys) = (storage.clone(), keys.clone());
            Box::pin(async move { (own(&*storage, &keys, group.pack).await, group) })
        });
        let mut reads = reads.buffer_unordered(SIDE_BY_SIDE);
        while let Some((trailer, Group { pack, within })) = reads.next().await {
            if let Ok(trailer) = trailer {
                tell(&trailer, asks, &order[within], &mut answers);
                self.keep(pack, trailer);
            }
        }
        answers
    }

    fn segment_of(&self, pack: &PackId) -> Option<usize> {
        let (first, (last, segment)) = self.runs.range(..=pack).next_back()?;
        let one = (first.transaction, first.writer) == (pack.transaction, pack.writer);
        (one && pack.counter <= *last && !self.alone.contains(pack)).then_some(*segment)
    }

    async fn segment(&mut self, number: usize) -> Vec<PackSummary> {
        let Some(segment) = self.segments.get(number) else { return Vec::new() };
        self.again += 1;
        let key = segment.key();
        let read = async { IndexSegment::open(&self.keys, &key, &self.storage.get(&key, None).await?) };
        read.await.unwrap_or_default()
    }
}

async fn own(storage: &dyn Storage, keys: &Keys, pack: PackId) -> Result<Trailer> {
    let size = storage.size(&pack.key()).await?;
    read_trailer(storage, keys, pack, size).await.map(|(summary, _)| Trailer::of(&summary))
}

/// Questions about one pack, where they lie in their order.
struct Group {
    pack: PackId,
    within: Range<usize>,
}

fn groups(asks: &[Ask], order: &[u32]) -> Vec<Group> {
    let pack = |n: &u32| asks[*n as usize].at.frame.pack;
    let mut at = 0;
    let groups = order.chunk_by(|a, b| pack(a) == pack(b)).map(|some| {
        let within = at..at + some.len();
        at = within.end;
        Group { pack: pack(&some[0]), within }
    });
    groups.collect()
}

fn tell(trailer: &Trailer, asks: &[Ask], some: &[u32], answers: &mut [Answer]) {
    for n in some {
        let Ask { at, chunk } = &asks[*n as usize];
        answers[*n as usize] = match chunk {
            true => trailer.chunk(&at.frame, at.start, at.len).map_or(Answer::Absent, Answer::Chunk),
            false if trailer.has_frame(&at.frame) => Answer::Frame,
            false => Answer::Absent,
        };
    }
}
