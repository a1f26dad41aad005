//! The pages of paged files, held against their page maps: what a restore does, before a restore is needed.
//!
//! Only those of each node's newest backup. Every backup names all of a file's pages, so to read each would be to read
//! the same frames once a backup; and an older one was the newest in its time.
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{Check, ReadData};
use crate::error::{Error, Result};
use crate::fetch::{self, FetchRange, Limits};
use crate::keys::Keys;
use crate::ledger::{PackSet, manifest_stem};
use crate::manifest::entry::{Content, Piece};
use crate::pack::{ChunkAt, FrameAt, FrameReader, PackId};
use crate::page::{self, ENTRY};

/// Frames asked for together. Held at once: some ranges of them, one open frame, and their maps.
const WAVE: usize = 64;
const SIDE_BY_SIDE: usize = 4;

/// Where one file stands.
pub(super) struct Pages {
    page_size: u32,
    unit: u64,
    size: u64,
    at: u64,
    /// From that of unit `next` on.
    ahead: VecDeque<ChunkAt>,
    next: u64,
    /// Of the unit before `next`; none where another day's share has it, or where it cannot be read.
    map: Option<Arc<Vec<u8>>>,
}

/// Pages that lie together in a frame.
struct Part {
    start: u32,
    len: u32,
    /// In the map.
    first: usize,
    /// In the file.
    at: u64,
    map: Arc<Vec<u8>>,
}

type Wave = HashMap<FrameAt, Vec<Part>>;

impl Pages {
    pub(super) fn of(content: &Content) -> Option<Self> {
        let pages = content.pages.as_ref()?;
        let (page_size, unit, size) = (pages.page_size, pages.unit(), content.size);
        Some(Self { page_size, unit, size, at: 0, ahead: VecDeque::new(), next: 0, map: None })
    }
}

impl Check<'_> {
    /// The manifests whose pages are looked at.
    pub(super) fn newest(&self) -> BTreeSet<String> {
        if self.read_data == ReadData::No {
            return BTreeSet::new();
        }
        let nodes = self.backups.iter().flat_map(|backup| &backup.nodes);
        let newest: BTreeMap<&str, String> =
            nodes.map(|node| (&node.node[..], manifest_stem(&node.manifest))).collect();
        newest.into_values().collect()
    }

    /// The next slice of a file. An error says which page is another one.
    pub(super) async fn pages(&mut self, content: &Content, pages: &mut Pages) -> Result<()> {
        pages.ahead.extend(content.pages.iter().flat_map(|pages| &pages.maps));
        let page = u64::from(pages.page_size);
        let mut wave = Wave::new();
        for piece in &content.pieces {
            let mut at = pages.at;
            pages.at = at.saturating_add(piece.len());
            let Piece::Data(chunk) = piece else { continue };
            let (start, end) = (at, pages.at);
            if !start.is_multiple_of(page) || !(end.is_multiple_of(page) || end == pages.size) {
                return Err(Error::corrupt(format!("the piece at byte {start} is not made of whole pages")));
            }
            while at < end {
                let unit = at / pages.unit;
                let upto = end.min((unit + 1).saturating_mul(pages.unit));
                if let Some(map) = self.map(pages, unit).await? {
                    wave.entry(chunk.frame).or_default().push(Part {
                        start: chunk.start.saturating_add((at - start) as u32),
                        len: (upto - at) as u32,
                        first: (at % pages.unit / page) as usize,
                        at,
                        map,
                    });
                }
                at = upto;
            }
            if wave.len() >= WAVE {
                self.compare(std::mem::take(&mut wave), pages.page_size).await?;
            }
        }
        self.compare(wave, pages.page_size).await
    }

    /// Units are asked for in order.
    async fn map(&mut self, pages: &mut Pages, unit: u64) -> Result<Option<Arc<Vec<u8>>>> {
        while pages.next <= unit {
            let Some(chunk) = pages.ahead.pop_front() else {
                return Err(Error::corrupt(format!("the map of unit {unit} of its pages is missing")));
            };
            pages.next += 1;
            pages.map = None;
            if pages.next > unit && self.read_data.wants(&chunk.frame.pack) {
                pages.map = self.read_map(chunk).await.map(Arc::new);
            }
        }
        Ok(pages.map.clone())
    }

    async fn read_map(&mut self, chunk: ChunkAt) -> Option<Vec<u8>> {
        let storage = self.repository.storage().clone();
        let range = fetch::plan([chunk.frame], Limits::default()).pop()?;
        let read = async {
            let mut stored = storage.get(&range.pack.key(), Some(range.range.clone())).await?.to_vec();
            let mut plain = Vec::new();
            FrameReader::new(self.repository.keys())?.open(&chunk.frame, &mut stored, &mut plain)?;
            let bytes = plain.get(chunk.start as usize..chunk.start as usize + chunk.len as usize);
            bytes.map(<[u8]>::to_vec).ok_or_else(|| Error::corrupt("a page map ends after its frame"))
        };
        let read = read.await;
        read.map_err(|error| self.lost(range.pack, &error)).ok()
    }

    async fn compare(&mut self, mut wave: Wave, page_size: u32) -> Result<()> {
        let storage = self.repository.storage().clone();
        let (keys, blocking) = (self.repository.keys().clone(), self.repository.blocking());
        let ranges = fetch::plan(wave.keys().copied(), Limits::default());
        let mut reads = stream::iter(ranges)
            .map(|range| {
                let storage = storage.clone();
                Box::pin(
                    async move { (storage.get(&range.pack.key(), Some(range.range.clone())).await, range) },
                )
            })
            .buffered(SIDE_BY_SIDE);
        while let Some((bytes, range)) = reads.next().await {
            let pack = range.pack;
            let parts = range.frames.iter().map(|frame| wave.remove(frame).unwrap_or_default()).collect();
            let keys = keys.clone();
            let opened = match bytes {
                Ok(bytes) => blocking.run(move || differs(&keys, page_size, &range, &bytes, parts)).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(None) => {}
                Ok(Some(at)) => {
                    let what = format!("the page at byte {at} is another one than its page map says");
                    return Err(Error::corrupt(what));
                }
                Err(error) => self.lost(pack, &error),
            }
        }
        Ok(())
    }

    /// A pack whose own look has found something needs no second word.
    fn lost(&mut self, pack: PackId, error: &Error) {
        if !self.bad.contains_key(&pack) {
            let mut one = PackSet::new();
            one.insert(pack);
            let users = self.users(&one);
            self.found.error(&pack.key(), error, users);
        }
    }
}

/// Where in its file the first page lies that its map does not know.
fn differs(
    keys: &Keys,
    page_size: u32,
    range: &FetchRange,
    bytes: &Bytes,
    parts: Vec<Vec<Part>>,
) -> Result<Option<u64>> {
    let mut reader = FrameReader::new(keys)?;
    let mut plain = Vec::new();
    for (frame, parts) in range.frames.iter().zip(parts) {
        let mut stored = bytes.get(range.within(frame)).unwrap_or_default().to_vec();
        reader.open(frame, &mut stored, &mut plain)?;
        for part in parts {
            let from = part.start as usize;
            let Some(held) = plain.get(from..from + part.len as usize) else { return Ok(Some(part.at)) };
            for (number, page) in held.chunks(page_size as usize).enumerate() {
                let entry = (part.first + number) * ENTRY;
                if part.map.get(entry..entry + ENTRY) != Some(&page::entry(keys, page)) {
                    return Ok(Some(part.at + number as u64 * u64::from(page_size)));
                }
            }
        }
    }
    Ok(None)
}
