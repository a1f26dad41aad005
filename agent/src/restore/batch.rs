//! A stretch of the manifest on its way: its files, the frames they need, and what is to be done when all of its
//! bytes have arrived. Small enough to hold a few at a time, large enough to read in long runs.
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use palinurus_repository::fetch::{self, FetchRange, Limits};
use palinurus_repository::pack::FrameAt;
use tokio::sync::OwnedSemaphorePermit;

use super::Context;
use super::epilogue::Epilogue;
use super::file::FileTask;
use super::paged::Map;

/// Beyond one of these a batch is closed. Every file of several frames may be open at once, in all batches.
const FILES_MAX: usize = 4096;
const OPEN_MAX: usize = 128;
const USES_MAX: usize = 16_384;
const MAP_BYTES_MAX: usize = 4 << 20;
/// Reads are short enough that a dozen of them ahead fit a small memory.
const LIMITS: Limits = Limits { gap: 1 << 20, read: 4 << 20 };

/// Some bytes of a frame and the place in a file where they belong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) file: u32,
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) at: u64,
    pub(super) proof: How,
}

/// How the bytes are proven.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// The file is this one chunk.
    Whole,
    /// The chunk with this number of the file.
    Chunk(u64),
    /// Pages, from this one on in the map with this index.
    Pages { map: u32, first: u32 },
}

/// A batch in the making.
#[derive(Debug, Default)]
pub(super) struct Draft {
    files: Vec<Arc<FileTask>>,
    uses: Vec<(FrameAt, Use)>,
    /// Files without a byte of data.
    bare: Vec<u32>,
    maps: Vec<Map>,
    map_bytes: usize,
    open: usize,
    pub(super) epilogue: Epilogue,
}

impl Draft {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.epilogue.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.files.len() + self.epilogue.len() >= FILES_MAX
            || self.uses.len() >= USES_MAX
            || self.map_bytes >= MAP_BYTES_MAX
            || self.open >= OPEN_MAX
    }

    /// `open`: it may be open until the batch is done.
    pub(super) fn file(&mut self, task: Arc<FileTask>, open: bool) -> u32 {
        self.open += usize::from(open);
        self.files.push(task);
        (self.files.len() - 1) as u32
    }

    pub(super) fn bare(&mut self, task: Arc<FileTask>) {
        let file = self.file(task, false);
        self.bare.push(file);
    }

    pub(super) fn map(&mut self, map: Map) -> u32 {
        self.map_bytes += map.len();
        self.maps.push(map);
        (self.maps.len() - 1) as u32
    }

    pub(super) fn push(&mut self, frame: FrameAt, use_: Use) {
        self.uses.push((frame, use_));
    }

    /// The reads in the order in which the files need them, so that files end soon after they begin.
    pub(super) fn finish(self, number: u64, permit: OwnedSemaphorePermit) -> Batch {
        let mut uses = self.uses;
        let mut first_use = HashMap::new();
        for (index, (frame, _)) in uses.iter().enumerate() {
            first_use.entry(key(frame)).or_insert(index);
        }
        uses.sort_by_key(|(frame, use_)| (key(frame), use_.start, use_.len));
        let ranges = fetch::plan(uses.iter().map(|(frame, _)| *frame), LIMITS);
        let mut rest = 0;
        let mut reads: Vec<Read> = ranges
            .into_iter()
            .map(|range| {
                let frames = range.frames.iter().map(|frame| {
                    let len = uses[rest..].iter().take_while(|(other, _)| other == frame).count();
                    rest += len;
                    rest - len..rest
                });
                let frames: Vec<_> = frames.collect();
                Read { range, frames }
            })
            .collect();
        reads.sort_by_key(|read| {
            read.range.frames.iter().filter_map(|frame| first_use.get(&key(frame))).min().copied()
        });
        let jobs = reads.len() + usize::from(!self.bare.is_empty());
        Batch {
            number,
            files: self.files,
            uses: uses.into_iter().map(|(_, use_)| use_).collect(),
            reads,
            bare: self.bare,
            maps: self.maps,
            epilogue: self.epilogue,
            left: AtomicUsize::new(jobs.max(1)),
            _permit: permit,
        }
    }
}

/// The order that [`fetch::plan`] gives frames in, so that both go through them side by side.
fn key(frame: &FrameAt) -> (palinurus_repository::pack::PackId, u32, u32, u32, u32, u8) {
    (frame.pack, frame.offset, frame.ordinal, frame.stored, frame.plain, frame.codec as u8)
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) files: Vec<Arc<FileTask>>,
    pub(super) uses: Vec<Use>,
    pub(super) reads: Vec<Read>,
    pub(super) bare: Vec<u32>,
    pub(super) maps: Vec<Map>,
    pub(super) epilogue: Epilogue,
    left: AtomicUsize,
    _permit: OwnedSemaphorePermit,
}

/// One request and what it is for.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) range: FetchRange,
    /// For each frame of the range, its uses.
    pub(super) frames: Vec<std::ops::Range<usize>>,
}

impl Batch {
    /// A batch without bytes is done at once.
    pub(super) fn has_jobs(&self) -> bool {
        !self.reads.is_empty() || !self.bare.is_empty()
    }

    /// One job less; the last one hands the batch to its end.
    pub(super) fn job_done(self: &Arc<Self>, context: &Context) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            context.sequence.arrived(self.clone(), context);
        }
    }
}
