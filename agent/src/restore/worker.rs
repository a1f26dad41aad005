//! Opens frames, proves what is in them and writes it where it belongs. One thread each; all that it holds is a
//! frame's worth of buffers.
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use palinurus_repository::pack::{FrameAt, FrameReader};
use palinurus_repository::{ChunkId, Error, ErrorKind, Result};

use super::Context;
use super::batch::{Batch, How, Use};
use super::queue::{Job, Jobs, get};
use super::report::{Report, cancelled};
use crate::pace::ThreadTime;

pub(super) struct Worker {
    context: Arc<Context>,
    opener: FrameReader,
    plain: Vec<u8>,
    time: ThreadTime,
}

/// A thread that panics must not leave the others waiting for it.
struct Alarm<'a>(&'a Report);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::internal("a restore thread panicked"));
        }
    }
}

impl Worker {
    pub(super) fn new(context: Arc<Context>) -> Result<Self> {
        let opener = FrameReader::new(&context.keys)?;
        Ok(Self { context, opener, plain: Vec::new(), time: ThreadTime::default() })
    }

    pub(super) fn run(mut self, jobs: &Jobs) {
        let context = self.context.clone();
        let _alarm = Alarm(&context.report);
        while let Some(job) = jobs.next() {
            if context.report.is_stopped() {
                continue;
            }
            match job {
                Job::Read { batch, read, bytes, permit } => {
                    self.read(&batch, read, bytes);
                    drop(permit);
                    batch.job_done(&context);
                }
                Job::Bare(batch) => {
                    for file in &batch.bare {
                        if context.report.is_stopped() {
                            break;
                        }
                        batch.files[*file as usize].whole(&context, None);
                    }
                    batch.job_done(&context);
                }
                Job::Compare(compare) => compare.run(&context, &mut self.plain),
            }
            // Ends only when the restore is stopped, which the next job sees.
            let _ = self.wait();
        }
    }

    /// For its share of the processors.
    fn wait(&mut self) -> Result<()> {
        let report = &self.context.report;
        let wanted = || if report.is_stopped() { Err(cancelled()) } else { Ok(()) };
        self.context.pacer.hold_for_work(&mut self.time, wanted)
    }

    fn read(&mut self, batch: &Batch, read: usize, bytes: Result<Bytes>) {
        let read = &batch.reads[read];
        let pairs = || read.range.frames.iter().zip(&read.frames);
        match bytes {
            Ok(bytes) => {
                let mut bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                for (frame, uses) in pairs() {
                    if self.context.report.is_stopped() {
                        return;
                    }
                    match bytes.get_mut(read.range.within(frame)) {
                        Some(stored) => self.frame(batch, frame, uses.clone(), stored),
                        None => self.lost(batch, uses.clone(), &format!("{} ends too soon", frame.pack)),
                    }
                }
            }
            // The object ends before the range does, but perhaps not before all of its frames.
            Err(e) if e.kind() == ErrorKind::Corrupt && read.range.frames.len() > 1 => {
                for (frame, uses) in pairs() {
                    let key = frame.pack.key();
                    match self.context.handle.block_on(get(&self.context, &key, frame.range())) {
                        Ok(bytes) => self.frame(batch, frame, uses.clone(), &mut BytesMut::from(bytes)),
                        Err(e) => self.unread(batch, uses.clone(), e),
                    }
                }
            }
            Err(e) => pairs()
                .for_each(|(_, uses)| self.unread(batch, uses.clone(), Error::new(e.kind(), e.chain()))),
        }
    }

    fn unread(&self, batch: &Batch, uses: Range<usize>, error: Error) {
        match error.kind() {
            ErrorKind::Corrupt | ErrorKind::NotFound => self.lost(batch, uses, &error.chain()),
            _ => self.context.report.fail(error),
        }
    }

    fn lost(&self, batch: &Batch, uses: Range<usize>, why: &str) {
        for use_ in &batch.uses[uses] {
            let file = &batch.files[use_.file as usize];
            match use_.proof {
                How::Whole => self.context.report.damage(&file.path, Error::corrupt(why)),
                _ => file.lost(&self.context, u64::from(use_.len), Error::corrupt(why)),
            }
        }
    }

    fn frame(&mut self, batch: &Batch, frame: &FrameAt, uses: Range<usize>, stored: &mut [u8]) {
        if stored.len() != frame.stored as usize {
            return self.lost(batch, uses, &format!("{} ends too soon", frame.pack));
        }
        match self.opener.open(frame, stored, &mut self.plain) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Corrupt => return self.lost(batch, uses, &e.chain()),
            Err(e) => return self.context.report.fail(e),
        }
        let mut last: Option<(Range<usize>, ChunkId)> = None;
        for index in uses {
            let use_ = &batch.uses[index];
            let range = use_.start as usize..use_.start as usize + use_.len as usize;
            let Some(bytes) = self.plain.get(range.clone()) else {
                self.lost(batch, index..index + 1, "a chunk lies outside its frame");
                continue;
            };
            let mut id = || match &last {
                Some((known, id)) if *known == range => *id,
                _ => {
                    let id = self.context.keys.chunk_id(bytes);
                    last = Some((range.clone(), id));
                    id
                }
            };
            let file = &batch.files[use_.file as usize];
            match use_.proof {
                How::Whole => file.whole(&self.context, Some((use_.at, bytes, id()))),
                How::Chunk(number) => file.piece(&self.context, use_.at, bytes, Some((number, id()))),
                How::Pages { map, first } => self.pages(batch, use_, bytes, (map, first)),
            }
        }
    }

    fn pages(&self, batch: &Batch, use_: &Use, bytes: &[u8], (map, first): (u32, u32)) {
        let file = &batch.files[use_.file as usize];
        match batch.maps[map as usize].differs(&self.context.keys, first, bytes) {
            None => file.piece(&self.context, use_.at, bytes, None),
            Some(page) => {
                let what = format!("page {page} of the unit at byte {} is not what was backed up", use_.at);
                file.lost(&self.context, u64::from(use_.len), Error::corrupt(what));
            }
        }
    }
}
