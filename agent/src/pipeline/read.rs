//! Reads a file's bytes into frames: in fixed extents, or cut by content; holes are found, not read.
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use palinurus_repository::chunk::{EXTENT, content_cut};
use palinurus_repository::manifest::entry::Piece;
use palinurus_repository::{ChunkId, Error};
use rustix::fs::SeekFrom;

use super::draft::{DraftPiece, Ref};
use super::frames::{Frames, Places};
use crate::source::Readable;

/// A piece of a file whose chunk may not have its place yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Hole(u64),
    /// `len` bytes at `start` of the chunk with this index in the unit's places.
    Chunk {
        index: usize,
        start: u32,
        len: u32,
    },
    /// Taken over from the base backup.
    Kept(Piece),
}

/// Why a unit could not be read: the file's fault ends the file, the run's fault ends the run.
#[derive(Debug)]
pub(crate) enum Fault {
    File(io::Error),
    Run(Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Run(error)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Fixed,
    Content,
}

/// What reading a range gave. `short`: the file ended before the range did.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) slots: Vec<Slot>,
    pub(crate) short: bool,
    pub(crate) bytes_read: u64,
}

pub(crate) fn read_range(
    frames: &mut Frames,
    places: &Rc<RefCell<Places>>,
    file: &Readable,
    range: Range<u64>,
    cut: Cut,
    sparse: bool,
) -> Result<Reading, Fault> {
    let mut reading = Reading::default();
    let mut at = range.start;
    while at < range.end {
        let data = match file {
            Readable::Here(file) if sparse => next_data(file, at, range.end)?,
            _ => at..range.end,
        };
        if data.start > at {
            reading.slots.push(Slot::Hole(data.start - at));
        }
        if data.is_empty() {
            break;
        }
        let end = read_data(frames, places, file, data.clone(), cut, &mut reading)?;
        at = data.end;
        if end < data.end {
            // Zeros stand for what the file has lost; the caller sees `short` and has it read again.
            reading.slots.push(Slot::Hole(range.end - end));
            reading.short = true;
            break;
        }
    }
    Ok(reading)
}

fn read_data(
    frames: &mut Frames,
    places: &Rc<RefCell<Places>>,
    file: &Readable,
    data: Range<u64>,
    cut: Cut,
    reading: &mut Reading,
) -> Result<u64, Fault> {
    let mut at = data.start;
    let mut buffer = frames.buffer();
    let mut carried = 0;
    while at < data.end {
        let want = usize::try_from(data.end - at).unwrap_or(EXTENT).min(EXTENT);
        let read = match frames.disk.fill(file, &mut buffer[carried..want], at + carried as u64) {
            Ok(read) => read,
            Err(e) => {
                frames.reuse(buffer);
                return Err(e);
            }
        };
        reading.bytes_read += read as u64;
        let filled = carried + read;
        if filled == 0 {
            break;
        }
        let len = match cut {
            Cut::Fixed => filled,
            Cut::Content => content_cut(&buffer[..filled]),
        };
        let mut next = frames.buffer();
        carried = filled - len;
        next[..carried].copy_from_slice(&buffer[len..filled]);
        let index = places.borrow().refs.len();
        frames.push(places, buffer, [len as u32])?;
        reading.slots.push(Slot::Chunk { index, start: 0, len: len as u32 });
        buffer = next;
        at += len as u64;
        if filled < want && carried == 0 {
            break;
        }
    }
    frames.reuse(buffer);
    Ok(at)
}

/// The next stretch of data at or after `at`; empty at `end` when only a hole is left. A file system that
/// knows no holes says that all is data.
pub(crate) fn next_data(file: &File, at: u64, end: u64) -> io::Result<Range<u64>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start.min(end),
        Err(rustix::io::Errno::NXIO) => end,
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => return Ok(at..end),
        Err(e) => return Err(e.into()),
    };
    if start >= end {
        return Ok(end..end);
    }
    match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(stop) => Ok(start..stop.min(end)),
        Err(_) => Ok(start..end),
    }
}

/// The pieces of a unit whose places are all known, and the ids of its chunks.
pub(crate) fn pieces(slots: &[Slot], places: &Places) -> Result<Vec<DraftPiece>, Error> {
    slots.iter().map(|slot| piece(slot, places)).collect()
}

fn piece(slot: &Slot, places: &Places) -> Result<DraftPiece, Error> {
    Ok(match slot {
        Slot::Hole(len) => DraftPiece::Hole(*len),
        Slot::Kept(Piece::Hole(len)) => DraftPiece::Hole(*len),
        Slot::Kept(Piece::Data(at)) => DraftPiece::Data { chunk: Ref::At(*at), start: 0, len: at.len },
        Slot::Chunk { index, start, len } => {
            let chunk = places.refs.get(*index).copied().flatten();
            let chunk = chunk.ok_or_else(|| Error::internal("a chunk has no place"))?;
            DraftPiece::Data { chunk, start: *start, len: *len }
        }
    })
}

/// The ids of the chunks in file order, for the file's id. Not for paged files.
pub(crate) fn chunk_ids(slots: &[Slot], places: &Places) -> Vec<ChunkId> {
    let chunk = |slot: &Slot| match slot {
        Slot::Chunk { index, .. } => places.ids.get(*index).copied(),
        _ => None,
    };
    slots.iter().filter_map(chunk).collect()
}
