//! Run to completion: a worker reads and hashes a frame, asks who uploads it, and while the answer travels goes
//! on with the next; then it compresses and seals what is its to upload, in place in the open pack.
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use palinurus_repository::pack::{ChunkAt, FRAME_MAX, FrameAt};
use palinurus_repository::{ChunkId, Error, Keys, Result};

use super::claims::{ASK_MAX, Answer, Claims, How, Verdict};
use super::disk::Disk;
use super::draft::Ref;
use super::packer::Packer;
use crate::pace::ThreadTime;
use crate::progress::Counters;

/// Frames in one question: few enough to stay in the cache, enough that questions cost nothing.
const ASK_FRAMES: usize = 4;
/// Questions under way. With the frames of one being filled this bounds a worker's buffers.
const ASKS: usize = 2;

/// Where the places of a unit's chunks go as they become known.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// By the order in which the chunks were pushed.
    pub(crate) refs: Vec<Option<Ref>>,
    pub(crate) ids: Vec<ChunkId>,
    outstanding: usize,
}

impl Places {
    pub(crate) fn is_settled(&self) -> bool {
        self.outstanding == 0
    }

    /// Adds a chunk whose place is known already.
    pub(crate) fn push_known(&mut self, id: ChunkId, at: Ref) -> usize {
        self.ids.push(id);
        self.refs.push(Some(at));
        self.refs.len() - 1
    }
}

#[derive(Debug)]
struct Frame {
    buffer: Vec<u8>,
    places: Rc<RefCell<Places>>,
    /// Index in `places`, start and length in the buffer.
    chunks: Vec<(usize, u32, u32)>,
}

#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) keys: Keys,
    pub(crate) disk: Arc<Disk>,
    claims: Claims,
    packer: Packer,
    progress: Arc<Counters>,
    how: How,
    time: ThreadTime,
    buffers: Vec<Vec<u8>>,
    filling: Vec<Frame>,
    asked: VecDeque<(Answer, Vec<Frame>)>,
}

impl Frames {
    pub(crate) fn new(
        keys: Keys,
        disk: Arc<Disk>,
        claims: Claims,
        packer: Packer,
        progress: Arc<Counters>,
        how: How,
    ) -> Self {
        Self {
            keys,
            disk,
            claims,
            packer,
            progress,
            how,
            time: ThreadTime::default(),
            buffers: Vec::new(),
            filling: Vec::new(),
            asked: VecDeque::new(),
        }
    }

    /// A buffer of [`FRAME_MAX`] bytes to fill and push.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_else(|| vec![0; FRAME_MAX])
    }

    pub(crate) fn reuse(&mut self, buffer: Vec<u8>) {
        self.buffers.push(buffer);
    }

    /// Takes a filled buffer whose chunks have the given lengths, in order from its start.
    pub(crate) fn push(
        &mut self,
        places: &Rc<RefCell<Places>>,
        buffer: Vec<u8>,
        lengths: impl IntoIterator<Item = u32>,
    ) -> Result<()> {
        let mut chunks = Vec::new();
        let mut start = 0u32;
        {
            let mut places = places.borrow_mut();
            for len in lengths {
                let bytes = &buffer[start as usize..(start + len) as usize];
                places.ids.push(self.keys.chunk_id(bytes));
                places.refs.push(None);
                places.outstanding += 1;
                chunks.push((places.refs.len() - 1, start, len));
                start += len;
            }
        }
        self.filling.push(Frame { buffer, places: places.clone(), chunks });
        let chunks: usize = self.filling.iter().map(|frame| frame.chunks.len()).sum();
        if self.filling.len() >= ASK_FRAMES || chunks >= ASK_MAX / 4 {
            self.ask()?;
        }
        while self.asked.len() > ASKS {
            self.settle_oldest()?;
        }
        Ok(())
    }

    /// Sends off what is being filled and waits for all answers.
    pub(crate) fn drain(&mut self) -> Result<()> {
        self.ask()?;
        while !self.asked.is_empty() {
            self.settle_oldest()?;
        }
        Ok(())
    }

    /// Also hands over the open pack.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.drain()?;
        self.packer.flush()
    }

    fn ask(&mut self) -> Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let frames = std::mem::take(&mut self.filling);
        let mut ids = Vec::new();
        for frame in &frames {
            let places = frame.places.borrow();
            ids.extend(frame.chunks.iter().map(|(index, ..)| places.ids[*index]));
        }
        let answer = self.claims.ask(ids, self.how)?;
        self.asked.push_back((answer, frames));
        Ok(())
    }

    fn settle_oldest(&mut self) -> Result<()> {
        let Some((answer, frames)) = self.asked.pop_front() else { return Ok(()) };
        let mut verdicts = answer.wait()?.into_iter();
        for frame in frames {
            let verdicts: Vec<Verdict> = verdicts.by_ref().take(frame.chunks.len()).collect();
            self.settle_frame(frame, &verdicts)?;
        }
        Ok(())
    }

    /// Seals the chunks that are ours, moved together where some are not, and notes every place.
    fn settle_frame(&mut self, mut frame: Frame, verdicts: &[Verdict]) -> Result<()> {
        if verdicts.len() != frame.chunks.len() {
            return Err(Error::internal("fewer verdicts than chunks"));
        }
        let mut places = frame.places.borrow_mut();
        let mut ours = Vec::new();
        let mut filled = 0u32;
        for ((index, start, len), verdict) in frame.chunks.iter().zip(verdicts) {
            let id = places.ids[*index];
            match verdict {
                Verdict::Stored(at) if at.len == *len => places.refs[*index] = Some(Ref::At(*at)),
                Verdict::Stored(at) => {
                    return Err(Error::corrupt(format!("{at:?} is not {len} bytes long as chunk {id} is")));
                }
                Verdict::Another => places.refs[*index] = Some(Ref::Borrowed(id)),
                Verdict::Yours => {
                    if filled != *start {
                        frame.buffer.copy_within(*start as usize..(start + len) as usize, filled as usize);
                    }
                    ours.push((*index, id, filled, *len));
                    filled += len;
                }
            }
        }
        if !ours.is_empty() {
            let chunks = ours.iter().map(|(_, id, _, len)| (*id, *len)).collect();
            let at: FrameAt = self.packer.append(&frame.buffer[..filled as usize], chunks)?;
            self.progress.bytes_new.fetch_add(u64::from(filled), Ordering::Relaxed);
            for (index, _, start, len) in ours {
                places.refs[index] = Some(Ref::At(ChunkAt { frame: at, start, len }));
            }
        }
        places.outstanding -= frame.chunks.len();
        drop(places);
        self.buffers.push(frame.buffer);
        let Disk { pacer, stop, .. } = &*self.disk;
        pacer.hold_for_work(&mut self.time, || stop.check())
    }
}
