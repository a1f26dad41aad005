//! The page maps of one file: read in the order of the manifest, a few at a time. Together they prove the file's
//! id, and each proves the pages of its unit.
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use futures::{StreamExt, stream};
use palinurus_repository::fetch::{self, Limits};
use palinurus_repository::keys::FileHasher;
use palinurus_repository::manifest::entry::PageMaps;
use palinurus_repository::pack::{ChunkAt, FrameReader};
use palinurus_repository::page::{self, ENTRY};
use palinurus_repository::{Error, FileId, Keys, Result};

use super::Context;
use super::fault::Fault;
use super::queue::get;

/// Maps read at once: 4 MiB at most.
const AHEAD: usize = 32;
const REQUESTS: usize = 8;

/// What the pages of one unit must be.
#[derive(Clone, Debug)]
pub(super) struct Map {
    page_size: u32,
    entries: Arc<Vec<u8>>,
}

impl Map {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first of `bytes`, pages from number `first` of the unit on, that is not what the map says.
    pub(super) fn differs(&self, keys: &Keys, first: u32, bytes: &[u8]) -> Option<u32> {
        (first..)
            .zip(bytes.chunks(self.page_size as usize))
            .find(|(page, bytes)| !self.is(keys, *page, bytes))
            .map(|(page, _)| page)
    }

    pub(super) fn is(&self, keys: &Keys, page: u32, bytes: &[u8]) -> bool {
        let at = page as usize * ENTRY;
        self.entries.get(at..at + ENTRY) == Some(&page::entry(keys, bytes))
    }
}

#[derive(Debug)]
pub(super) struct Paged {
    pub(super) page_size: u32,
    pub(super) unit: u64,
    /// Not read yet.
    ahead: VecDeque<ChunkAt>,
    /// Read, with the numbers of their units.
    at_hand: VecDeque<(u64, Map)>,
    next: u64,
    hasher: FileHasher,
}

impl Paged {
    pub(super) fn new(keys: &Keys, size: u64, pages: &PageMaps) -> Self {
        Self {
            page_size: pages.page_size,
            unit: pages.unit(),
            ahead: VecDeque::new(),
            at_hand: VecDeque::new(),
            next: 0,
            hasher: FileHasher::new(keys, size),
        }
    }

    /// The maps of the next slice.
    pub(super) fn extend(&mut self, maps: &[ChunkAt]) {
        self.ahead.extend(maps);
    }

    /// The map of a unit; units are asked for in order.
    pub(super) fn map(
        &mut self,
        context: &Context,
        opener: &mut FrameReader,
        unit: u64,
    ) -> Result<Map, Fault> {
        loop {
            while self.at_hand.pop_front_if(|(at, _)| *at < unit).is_some() {}
            match self.at_hand.front() {
                Some((at, map)) if *at == unit => return Ok(map.clone()),
                Some(_) => return Err(missing(unit)),
                None if self.ahead.is_empty() => return Err(missing(unit)),
                None => self.read(context, opener)?,
            }
        }
    }

    /// The id that the maps make, once all have been read.
    pub(super) fn finish(mut self, context: &Context, opener: &mut FrameReader) -> Result<FileId, Fault> {
        while !self.ahead.is_empty() {
            self.at_hand.clear();
            self.read(context, opener)?;
        }
        Ok(self.hasher.finish())
    }

    fn read(&mut self, context: &Context, opener: &mut FrameReader) -> Result<(), Fault> {
        let count = self.ahead.len().min(AHEAD);
        let wanted: Vec<ChunkAt> = self.ahead.drain(..count).collect();
        for chunk in read_chunks(context, opener, &wanted)? {
            self.hasher.push(&context.keys.chunk_id(&chunk));
            self.at_hand.push_back((self.next, Map { page_size: self.page_size, entries: Arc::new(chunk) }));
            self.next += 1;
        }
        Ok(())
    }
}

fn missing(unit: u64) -> Fault {
    Fault::File(Error::corrupt(format!("the map of unit {unit} of its pages is missing")))
}

/// The bytes of some chunks, in order.
fn read_chunks(
    context: &Context,
    opener: &mut FrameReader,
    wanted: &[ChunkAt],
) -> Result<Vec<Vec<u8>>, Fault> {
    let limits = Limits { gap: 64 << 10, ..Limits::default() };
    let ranges = fetch::plan(wanted.iter().map(|chunk| chunk.frame), limits);
    let mut chunks: Vec<Vec<u8>> = vec![Vec::new(); wanted.len()];
    let mut reads = stream::iter(ranges)
        .map(|range| async move { (get(context, &range.pack.key(), range.range.clone()).await, range) })
        .buffered(REQUESTS);
    let mut plain = Vec::new();
    while let Some((bytes, range)) = context.handle.block_on(reads.next()) {
        let mut bytes = BytesMut::from(bytes.map_err(Fault::reading)?);
        for frame in &range.frames {
            let Some(stored) = bytes.get_mut(range.within(frame)) else {
                return Err(Fault::File(Error::corrupt(format!("{} ends too soon", range.pack))));
            };
            opener.open(frame, stored, &mut plain).map_err(Fault::reading)?;
            for (chunk, at) in chunks.iter_mut().zip(wanted).filter(|(_, at)| at.frame == *frame) {
                let bytes = plain.get(at.start as usize..at.start as usize + at.len as usize);
                *chunk = bytes
                    .ok_or_else(|| Fault::File(Error::corrupt("a chunk lies outside its frame")))?
                    .to_vec();
            }
        }
    }
    Ok(chunks)
}
