//! One file on its way back. Its pieces come in any order from any thread; whoever brings the last one proves the
//! file, and removes it if it is not what was backed up.
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use palinurus_repository::keys::FileHasher;
use palinurus_repository::manifest::entry::{Content, Meta};
use palinurus_repository::{ChunkId, Error, FileId, Keys};
use rustix::fs::{Advice, AtFlags, Mode, OFlags, fadvise, unlinkat};
use rustix::io::Errno;

use super::beneath::Places;
use super::delta;
use super::fault::{Fault, shown};
use super::metadata::Origin;
use super::{Context, lock};
use crate::progress::Counters;

/// From here on the disk is told to begin at once: waiting for the last sync would leave it idle till then.
const HINTED: usize = 256 << 10;

/// What must be settled beside a file's bytes, so that none ends before all of it is planned.
const PLANNING: u64 = 1;

#[derive(Debug)]
pub(super) struct FileTask {
    pub(super) path: Vec<u8>,
    meta: Meta,
    pub(super) size: u64,
    id: FileId,
    pub(super) origin: Origin,
    /// Pages are proven one by one, and the file's id by whoever reads their maps.
    paged: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Option<Arc<File>>,
    /// Bytes that are neither written nor given up, and the planning.
    left: u64,
    proof: Option<Box<Proof>>,
    fault: Option<Error>,
}

/// Takes the ids of a file's chunks in any order. Holds those that came too early.
#[derive(Debug)]
pub(super) struct Proof {
    hasher: FileHasher,
    next: u64,
    early: VecDeque<Option<ChunkId>>,
}

impl Proof {
    pub(super) fn new(keys: &Keys, size: u64) -> Self {
        Self { hasher: FileHasher::new(keys, size), next: 0, early: VecDeque::new() }
    }

    pub(super) fn push(&mut self, index: u64, id: ChunkId) {
        let at = index.saturating_sub(self.next) as usize;
        if at >= self.early.len() {
            self.early.resize(at + 1, None);
        }
        self.early[at] = Some(id);
        while let Some(Some(id)) = self.early.front() {
            self.hasher.push(id);
            self.early.pop_front();
            self.next += 1;
        }
    }

    pub(super) fn finish(&self) -> FileId {
        self.hasher.finish()
    }
}

impl FileTask {
    /// `origin` says whether the file is made, or found and rewritten in part.
    pub(super) fn new(path: Vec<u8>, meta: Meta, content: &Content, origin: Origin) -> Self {
        Self {
            path,
            meta,
            size: content.size,
            id: content.id,
            origin,
            paged: content.pages.is_some(),
            state: Mutex::new(State { file: None, left: content.size + PLANNING, proof: None, fault: None }),
        }
    }

    /// A file of at most one chunk, in one go: `data` is the chunk's place in the file, its bytes and their id.
    pub(super) fn whole(&self, context: &Context, data: Option<(u64, &[u8], ChunkId)>) {
        if context.keys.file_id(self.size, data.map(|(_, _, id)| id)) != self.id {
            return context.report.damage(&self.path, not_what_was_backed_up());
        }
        let file = match self.open(context) {
            Ok(file) => file,
            Err(e) => return context.report.fault(&self.path, Fault::io("create", &self.path, e)),
        };
        let (at, bytes) = data.map_or((0, &[][..]), |(at, bytes, _)| (at, bytes));
        let to_the_end = at + bytes.len() as u64 == self.size;
        let sized = if to_the_end { Ok(()) } else { file.set_len(self.size) };
        match sized.and_then(|()| self.write(context, &file, bytes, at)) {
            Ok(()) => {
                Counters::add(&context.report.progress.bytes_done, self.size - bytes.len() as u64);
                self.done(context, &file);
            }
            Err(e) => self.undone(context, Fault::io("write", &self.path, e)),
        }
    }

    /// One piece. `id` is that of the `index`th chunk; pages are proven already and have none.
    pub(super) fn piece(&self, context: &Context, at: u64, bytes: &[u8], id: Option<(u64, ChunkId)>) {
        match self.write_piece(context, at, bytes) {
            Ok(()) => {}
            Err(Fault::Run(error)) => return context.report.fail(error),
            Err(Fault::File(error)) => return self.lost(context, bytes.len() as u64, error),
        }
        let mut state = lock(&self.state);
        if let Some((index, id)) = id {
            let proof = state.proof.get_or_insert_with(|| Box::new(Proof::new(&context.keys, self.size)));
            proof.push(index, id);
        }
        self.settle(context, state, bytes.len() as u64);
    }

    /// Bytes that need not be written: a hole, or pages that are there already.
    pub(super) fn skip(&self, context: &Context, len: u64) {
        if len > 0 {
            Counters::add(&context.report.progress.bytes_done, len);
            self.settle(context, lock(&self.state), len);
        }
    }

    /// All its pieces are on their way.
    pub(super) fn planned(&self, context: &Context) {
        self.settle(context, lock(&self.state), PLANNING);
    }

    /// Bytes that cannot be had, and why. The first reason is kept.
    pub(super) fn lost(&self, context: &Context, len: u64, error: Error) {
        let mut state = lock(&self.state);
        state.fault.get_or_insert(error);
        self.settle(context, state, len);
    }

    /// The file is not good, whatever its pieces say.
    pub(super) fn condemn(&self, error: Error) {
        lock(&self.state).fault.get_or_insert(error);
    }

    fn write_piece(&self, context: &Context, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        let file = {
            let mut state = lock(&self.state);
            if state.fault.is_some() {
                return Ok(());
            }
            match &state.file {
                Some(file) => file.clone(),
                None => state.file.insert(Arc::new(self.open_sized(context)?)).clone(),
            }
        };
        self.write(context, &file, bytes, at).map_err(|e| Fault::io("write", &self.path, e))
    }

    /// Takes `len` off what is left, and ends the file when that was the last of it.
    fn settle(&self, context: &Context, mut state: std::sync::MutexGuard<'_, State>, len: u64) {
        state.left = state.left.saturating_sub(len);
        if state.left > 0 {
            return;
        }
        let proven = match &state.proof {
            _ if self.paged => true,
            Some(proof) => proof.finish() == self.id,
            None => context.keys.file_id(self.size, []) == self.id,
        };
        if !proven {
            state.fault.get_or_insert_with(not_what_was_backed_up);
        }
        let (file, fault) = (state.file.take(), state.fault.take());
        drop(state);
        match (fault, file) {
            (Some(error), None) => context.report.damage(&self.path, error),
            (Some(error), Some(_)) => self.undone(context, Fault::File(error)),
            (None, Some(file)) => self.done(context, &file),
            // Nothing had to be written: all holes, or all there already.
            (None, None) => match self.open_sized(context) {
                Ok(file) => self.done(context, &file),
                Err(fault) => context.report.fault(&self.path, fault),
            },
        }
    }

    fn open(&self, context: &Context) -> io::Result<File> {
        if self.origin == Origin::Found {
            return Ok(delta::open(context, &self.path, OFlags::RDWR)?.0);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        Ok(File::from(context.target.beneath.open(&self.path, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// What a file has of holes it gets from its length; what it has of bytes is written over it.
    fn open_sized(&self, context: &Context) -> Result<File, Fault> {
        let file = self.open(context).map_err(|e| Fault::io("create", &self.path, e))?;
        if self.size > 0
            && let Err(e) = file.set_len(self.size)
        {
            self.remove(context);
            return Err(Fault::io("set the length of", &self.path, e));
        }
        Ok(file)
    }

    fn write(&self, context: &Context, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        file.write_all_at(bytes, at)?;
        context.report.written.fetch_add(bytes.len() as u64, Relaxed);
        Counters::add(&context.report.progress.bytes_done, bytes.len() as u64);
        if bytes.len() >= HINTED {
            // Only a hint: what it fails to begin, the last sync does.
            let _ = fadvise(file, at, NonZeroU64::new(bytes.len() as u64), Advice::DontNeed);
        }
        Ok(())
    }

    fn done(&self, context: &Context, file: &File) {
        context.attributes.give(file.as_fd(), &self.path, &self.meta, self.given(context), &context.report);
        context.report.file_done(self.size);
    }

    /// In a directory that was there, a new file may have inherited attributes.
    fn given(&self, context: &Context) -> Origin {
        if context.target.existing { Origin::Found } else { self.origin }
    }

    /// A file that is not proven does not stay under its name.
    fn undone(&self, context: &Context, fault: Fault) {
        self.remove(context);
        context.report.fault(&self.path, fault);
    }

    fn remove(&self, context: &Context) {
        let mut places = Places::default();
        let removed = places
            .find(&context.target.beneath, &self.path)
            .and_then(|(dir, name)| Ok(unlinkat(dir, name, AtFlags::empty())?));
        if let Err(e) = removed
            && Errno::from_io_error(&e) != Some(Errno::NOENT)
        {
            context.report.fail(Error::io(format!("remove {}, which is damaged,", shown(&self.path)), e));
        }
    }
}

fn not_what_was_backed_up() -> Error {
    Error::corrupt("its content is not what was backed up")
}
