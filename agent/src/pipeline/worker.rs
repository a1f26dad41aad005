//! A worker thread: takes units, reads them, and hands on the pieces once their places are known.
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TryRecvError};

use palinurus_repository::pack::FRAME_MAX;
use palinurus_repository::{Error, Result};

use super::draft::{Draft, DraftContent};
use super::fetch::ChunkFetch;
use super::frames::{Frames, Places};
use super::pages::{BaseUnit, read_unit};
use super::read::{Fault, Reading, Slot, chunk_ids, pieces, read_range};
use super::stop::{Stop, stopped};
use super::unit::{BasePart, Batch, Done, Opened, Outcome, Part, Shared, Unit, cut, file_of};
use super::units::Units;
use crate::progress::Counters;
use crate::source::{Class, SourceEntry, Tree};

/// Units read whose chunks wait for their places.
const UNSETTLED: usize = 64;

pub(crate) struct Worker {
    pub(crate) units: Arc<Units>,
    pub(crate) done: SyncSender<Batch>,
    pub(crate) frames: Frames,
    pub(crate) fetch: ChunkFetch,
    pub(crate) tree: Arc<Tree>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) progress: Arc<Counters>,
    pub(crate) unsettled: VecDeque<Unsettled>,
}

/// A unit that was read.
pub(crate) struct Unsettled {
    places: Rc<RefCell<Places>>,
    what: Read,
}

enum Read {
    Small(Vec<SmallFile>),
    Part { file: Arc<Shared>, part: u32, slots: Vec<Slot>, map: Option<usize>, torn: bool },
}

struct SmallFile {
    order: u64,
    entry: SourceEntry,
    /// Index of its one chunk; none of an empty file.
    chunk: Option<usize>,
    len: u32,
    torn: bool,
}

impl Worker {
    pub(crate) fn run(mut self) -> Result<()> {
        while let Some(unit) = self.next()? {
            self.stop.check()?;
            match unit {
                Unit::Small(files) => self.small(files)?,
                Unit::Range { file, part, range } => {
                    let read = |worker: &mut Self, places: &_, opened: &Opened| {
                        let cut = cut(file.class, file.size);
                        let reading = read_range(
                            &mut worker.frames,
                            places,
                            &opened.file,
                            range,
                            cut,
                            opened.sparse(),
                        )?;
                        Ok((reading, None))
                    };
                    self.part(&file, part, read)?;
                }
                Unit::Pages { file, part, range, base } => {
                    let Some(page_size) = file.class.page_size(file.size) else {
                        return Err(Error::internal("pages of a file that has none"));
                    };
                    let base = base.and_then(|base| self.base_unit(base));
                    let read = |worker: &mut Self, places: &_, opened: &Opened| {
                        let (frames, tree, done) = (&mut worker.frames, &worker.tree, &worker.done);
                        let mut look = |offset: u64, bytes: &mut [u8]| {
                            let notes = tree.judge(&file.entry, &opened.file, offset, bytes)?;
                            note(done, file.order, &file.entry.path, notes)
                        };
                        let base = base.as_ref();
                        let (reading, map) = read_unit(
                            frames,
                            places,
                            opened.file.file()?,
                            range,
                            page_size,
                            base,
                            &mut look,
                        )?;
                        Ok((reading, Some(map)))
                    };
                    self.part(&file, part, read)?;
                }
            }
            self.deliver(UNSETTLED)?;
        }
        self.frames.finish()?;
        self.deliver(0)
    }

    /// Before it waits for work it finishes what it has, so that nobody waits for it.
    fn next(&mut self) -> Result<Option<Unit>> {
        match self.units.at_once() {
            Ok(unit) => return Ok(Some(unit)),
            Err(TryRecvError::Disconnected) => return Ok(None),
            Err(TryRecvError::Empty) => {}
        }
        self.frames.drain()?;
        self.deliver(0)?;
        Ok(self.units.next())
    }

    /// One frame of small files.
    fn small(&mut self, files: Vec<(u64, SourceEntry)>) -> Result<()> {
        let places = Rc::new(RefCell::new(Places::default()));
        self.tree.ahead(files.iter().map(|(_, entry)| entry));
        let mut buffer = self.frames.buffer();
        let mut filled = 0;
        let mut lengths = Vec::with_capacity(files.len());
        let mut read = Vec::with_capacity(files.len());
        for (order, entry) in files {
            match self.small_file(order, &entry, &mut buffer[filled..]) {
                Ok((len, torn)) => {
                    let chunk = (len > 0).then(|| {
                        lengths.push(len as u32);
                        lengths.len() - 1
                    });
                    filled += len;
                    read.push(SmallFile { order, entry, chunk, len: len as u32, torn });
                }
                Err(Fault::File(e)) => self.drop_file(order, &entry, &e)?,
                Err(Fault::Run(e)) => return Err(e),
            }
        }
        self.progress.bytes_read.fetch_add(filled as u64, Ordering::Relaxed);
        self.progress.bytes_done.fetch_add(filled as u64, Ordering::Relaxed);
        if lengths.is_empty() {
            self.frames.reuse(buffer);
        } else {
            self.frames.push(&places, buffer, lengths)?;
        }
        self.unsettled.push_back(Unsettled { places, what: Read::Small(read) });
        Ok(())
    }

    /// The file's length and whether it changed. The units are cut so that the listed sizes fit a frame.
    fn small_file(&self, order: u64, entry: &SourceEntry, room: &mut [u8]) -> Result<(usize, bool), Fault> {
        let Some((size, class)) = file_of(entry) else {
            return Err(Fault::File(io::Error::from(io::ErrorKind::InvalidInput)));
        };
        let opened = Opened::open(&self.tree, entry)?;
        let want = usize::try_from(size).unwrap_or(FRAME_MAX).min(room.len());
        let mut len = self.frames.disk.fill(&opened.file, &mut room[..want], 0)?;
        let notes = self.tree.judge(entry, &opened.file, 0, &mut room[..len])?;
        note(&self.done, order, &entry.path, notes)?;
        if matches!(class, Class::Logged(_)) {
            // What it has lost is zeros, as in a large one.
            room[len..want].fill(0);
            len = want;
        }
        Ok((len, len as u64 != size || opened.changed(entry, size, class)?))
    }

    fn part(
        &mut self,
        file: &Arc<Shared>,
        part: u32,
        read: impl FnOnce(&mut Self, &Rc<RefCell<Places>>, &Opened) -> Result<(Reading, Option<usize>), Fault>,
    ) -> Result<()> {
        let places = Rc::new(RefCell::new(Places::default()));
        let tree = self.tree.clone();
        let result = match file.open(&tree) {
            Ok(opened) => read(self, &places, opened).and_then(|(reading, map)| {
                let short = reading.short && !matches!(file.class, Class::Logged(_));
                Ok((file.part_was_read(opened)? | short, reading, map))
            }),
            Err(e) => Err(Fault::File(e)),
        };
        match result {
            Ok((torn, reading, map)) => {
                self.progress.bytes_read.fetch_add(reading.bytes_read, Ordering::Relaxed);
                let what = Read::Part { file: file.clone(), part, slots: reading.slots, map, torn };
                self.unsettled.push_back(Unsettled { places, what });
                Ok(())
            }
            // What was pushed of it already is stored and unused: a later sweep finds no one who refers to it.
            Err(Fault::File(e)) => self.drop_file(file.order, &file.entry, &e),
            Err(Fault::Run(e)) => Err(e),
        }
    }

    fn base_unit(&mut self, base: BasePart) -> Option<BaseUnit> {
        match self.fetch.chunk(&base.map) {
            Ok(map) => Some(BaseUnit { pieces: base.pieces, map, map_at: base.map }),
            Err(e) => {
                tracing::warn!(error = %e.chain(), "a page map of the base backup cannot be read: sending the unit whole");
                None
            }
        }
    }

    /// Hands on what is settled, oldest first; asks for the rest when more than `left` are waiting.
    fn deliver(&mut self, left: usize) -> Result<()> {
        if self.unsettled.len() > left {
            self.frames.drain()?;
        }
        while self.unsettled.front().is_some_and(|unit| unit.places.borrow().is_settled()) {
            let Some(unit) = self.unsettled.pop_front() else { break };
            let places = unit.places.borrow();
            match unit.what {
                Read::Small(files) => {
                    let done = files.into_iter().map(|file| self.small_done(file, &places));
                    self.send(done.collect::<Result<_>>()?)?;
                }
                Read::Part { file, part, slots, map, torn } => {
                    let pieces = pieces(&slots, &places)?;
                    let bytes = pieces.iter().map(super::draft::DraftPiece::len).sum();
                    self.progress.bytes_done.fetch_add(bytes, Ordering::Relaxed);
                    let (ids, map) = match map {
                        None => (chunk_ids(&slots, &places), None),
                        Some(index) => (vec![places.ids[index]], places.refs[index]),
                    };
                    let order = file.order;
                    let outcome = Outcome::Part(Part { file, part, pieces, ids, map, torn });
                    self.send(vec![Done { order, outcome }])?;
                }
            }
        }
        Ok(())
    }

    fn small_done(&self, file: SmallFile, places: &Places) -> Result<Done> {
        let SmallFile { order, entry, chunk, len, torn } = file;
        let slot = chunk.map(|index| Slot::Chunk { index, start: 0, len });
        let id = self.frames.keys.file_id(u64::from(len), chunk.map(|index| places.ids[index]));
        let content = DraftContent {
            size: u64::from(len),
            id,
            pieces: pieces(slot.as_slice(), places)?,
            page_size: None,
            maps: Vec::new(),
        };
        let content = (!torn).then_some(content);
        Ok(Done { order, outcome: Outcome::Whole(Draft { source: entry, content }) })
    }

    fn drop_file(&self, order: u64, entry: &SourceEntry, error: &io::Error) -> Result<()> {
        let why = self.tree.unread(entry, error)?;
        self.send(vec![Done { order, outcome: Outcome::Dropped { path: entry.path.clone(), why } }])
    }

    fn send(&self, done: Batch) -> Result<()> {
        self.done.send(done).map_err(|_| stopped())
    }
}

fn note(done: &SyncSender<Batch>, order: u64, path: &[u8], notes: Vec<String>) -> Result<()> {
    if notes.is_empty() {
        return Ok(());
    }
    let noted = |what| Done { order, outcome: Outcome::Noted { path: path.to_vec(), what } };
    done.send(notes.into_iter().map(noted).collect()).map_err(|_| stopped())
}
