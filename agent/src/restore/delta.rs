//! Compares what the target has with what the backup says, so that only what differs is fetched and written.
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use palinurus_repository::keys::FileHasher;
use palinurus_repository::manifest::Block;
use palinurus_repository::manifest::entry::{Entry, Kind, Piece};
use palinurus_repository::pack::FRAME_MAX;
use palinurus_repository::{FileId, Keys, Result};
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, SeekFrom, fallocate, fchmod, fstat, seek};
use rustix::io::Errno;

use super::Context;
use super::metadata::Origin;
use super::paged::Map;
use super::queue::{Job, Queue};
use super::report::cancelled;
use crate::progress::Counters;

/// Entries that one job looks at.
const ENTRIES: usize = 64;

/// What stands under a file's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing, or nothing that is of use.
    #[default]
    Other,
    /// The very file; it has its attributes and is counted.
    Same,
    /// A file whose pages may be compared.
    Pages,
}

#[derive(Debug)]
pub(super) enum Compare {
    /// Which of these entries of the block stand already.
    Files { block: Arc<Block>, entries: Range<usize>, answer: SyncSender<(usize, Standing)> },
    /// Which pages of these bytes of the file differ.
    Pages {
        number: usize,
        file: Arc<File>,
        bytes: Range<u64>,
        first: u32,
        page: u32,
        map: Map,
        answer: SyncSender<Differing>,
    },
}

/// The pages to write, as ranges of the file, or why they are not known.
pub(super) type Differing = (usize, io::Result<Vec<Range<u64>>>);

impl Compare {
    pub(super) fn run(self, context: &Context, buffer: &mut Vec<u8>) {
        match self {
            Compare::Files { block, entries, answer } => {
                for at in entries {
                    if context.report.is_stopped() {
                        return;
                    }
                    let standing = standing(context, &block.entries[at], buffer);
                    if standing != Standing::Other && answer.send((at, standing)).is_err() {
                        return;
                    }
                }
            }
            Compare::Pages { number, file, bytes, first, page, map, answer } => {
                let found = differing(&context.keys, &file, bytes, first, page, &map, buffer);
                // Nobody waits for it only once the run is stopped.
                let _ = answer.send((number, found));
            }
        }
    }
}

/// Looks at the files of a block, side by side. Those that lie in several blocks are left to [`Likeness`].
pub(super) fn sift(context: &Context, queue: &Queue, block: &Arc<Block>) -> Result<Vec<Standing>> {
    let all = usize::from(block.continued_from_previous)..block.entries.len() - usize::from(block.continues);
    let (answer, answers) = sync_channel(block.entries.len());
    for start in all.clone().step_by(ENTRIES) {
        let entries = start..all.end.min(start + ENTRIES);
        if block.entries[entries.clone()].iter().any(|entry| entry.content().is_some()) {
            let compare = Compare::Files { block: block.clone(), entries, answer: answer.clone() };
            queue.job(context, Job::Compare(compare))?;
        }
    }
    drop(answer);
    let mut standing = vec![Standing::Other; block.entries.len()];
    answers.into_iter().for_each(|(at, found)| standing[at] = found);
    context.report.check()?;
    Ok(standing)
}

fn standing(context: &Context, entry: &Entry, buffer: &mut Vec<u8>) -> Standing {
    let Kind::File(content) = &entry.kind else { return Standing::Other };
    if !context.selection.wants(&entry.path) {
        return Standing::Other;
    }
    let Ok((file, size)) = open(context, &entry.path, OFlags::RDONLY) else { return Standing::Other };
    if content.pages.is_some() {
        return Standing::Pages;
    }
    if size != content.size {
        return Standing::Other;
    }
    let mut likeness = Likeness::new(&context.keys, content.size);
    match likeness.add(context, &file, &content.pieces, buffer) {
        Ok(true) if likeness.is(size, content.id) => keep(context, entry, &file),
        _ => return Standing::Other,
    }
    Standing::Same
}

/// The file is there already: it gets its attributes and is counted.
pub(super) fn keep(context: &Context, entry: &Entry, file: &File) {
    let size = entry.content().map_or(0, |content| content.size);
    context.attributes.give(file.as_fd(), &entry.path, &entry.meta, Origin::Found, &context.report);
    Counters::add(&context.report.progress.bytes_done, size);
    context.report.file_done(size);
}

/// A regular file that has no other name: another name may belong to somebody who wants the old content.
pub(super) fn open(context: &Context, path: &[u8], flags: OFlags) -> io::Result<(File, u64)> {
    let opened = context.target.beneath.open(path, flags | OFlags::NONBLOCK, Mode::empty());
    let fd = match opened {
        // Whoever is not root may read it at least, and gives it its own mode in the end.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && flags.contains(OFlags::RDWR) => {
            let (file, _) = open(context, path, OFlags::RDONLY)?;
            fchmod(&file, Mode::RUSR | Mode::WUSR)?;
            context.target.beneath.open(path, flags | OFlags::NONBLOCK, Mode::empty())?
        }
        opened => opened?,
    };
    let found = fstat(&fd)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || found.st_nlink != 1 {
        return Err(io::Error::other("not a file of one name"));
    }
    Ok((fd.into(), found.st_size as u64))
}

/// Whether a file is the one that was backed up, found out piece by piece.
#[derive(Debug)]
pub(super) struct Likeness {
    hasher: FileHasher,
    at: u64,
}

impl Likeness {
    pub(super) fn new(keys: &Keys, size: u64) -> Self {
        Self { hasher: FileHasher::new(keys, size), at: 0 }
    }

    /// False when the file has bytes where the backup has a hole.
    pub(super) fn add(
        &mut self,
        context: &Context,
        file: &File,
        pieces: &[Piece],
        buffer: &mut Vec<u8>,
    ) -> io::Result<bool> {
        buffer.resize(FRAME_MAX, 0);
        for piece in pieces {
            if context.report.is_stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let range = self.at..self.at + piece.len();
            match piece {
                Piece::Hole(_) if !is_zero(file, range.clone(), buffer)? => return Ok(false),
                Piece::Hole(_) => {}
                Piece::Data(at) => {
                    let bytes = &mut buffer[..at.len as usize];
                    file.read_exact_at(bytes, self.at)?;
                    self.hasher.push(&context.keys.chunk_id(bytes));
                }
            }
            self.at = range.end;
        }
        Ok(true)
    }

    /// Once all pieces were added.
    pub(super) fn is(&self, size: u64, id: FileId) -> bool {
        self.at == size && self.hasher.finish() == id
    }
}

/// The next byte from `at` on that may be no zero; `None` when there is none before `end`.
fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data.max(at)).filter(|data| *data < end)),
        Err(Errno::NXIO) => Ok(None),
        // The file system knows no holes.
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(Some(at).filter(|at| *at < end)),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn is_zero(file: &File, range: Range<u64>, buffer: &mut [u8]) -> io::Result<bool> {
    let mut from = range.start;
    while let Some(at) = next_data(file, from, range.end)? {
        let len = (range.end - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..len], at)?;
        if buffer[..len].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        from = at + len as u64;
    }
    Ok(true)
}

/// Makes a range of a file zeros.
pub(super) fn clear(file: &File, range: Range<u64>) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, range.start, range.end - range.start) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        punched => return Ok(punched?),
    }
    let zeros = vec![0; FRAME_MAX];
    let mut from = range.start;
    while let Some(at) = next_data(file, from, range.end)? {
        let len = (range.end - at).min(FRAME_MAX as u64);
        file.write_all_at(&zeros[..len as usize], at)?;
        from = at + len;
    }
    Ok(())
}

fn differing(
    keys: &Keys,
    file: &File,
    bytes: Range<u64>,
    first: u32,
    page: u32,
    map: &Map,
    buffer: &mut Vec<u8>,
) -> io::Result<Vec<Range<u64>>> {
    buffer.resize(FRAME_MAX, 0);
    let mut found: Vec<Range<u64>> = Vec::new();
    let (mut at, mut number) = (bytes.start, first);
    while at < bytes.end {
        let len = (bytes.end - at).min(FRAME_MAX as u64) as usize;
        file.read_exact_at(&mut buffer[..len], at)?;
        for part in buffer[..len].chunks(page as usize) {
            let end = at + part.len() as u64;
            if !map.is(keys, number, part) {
                match found.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => found.push(at..end),
                }
            }
            at = end;
            number += 1;
        }
    }
    Ok(found)
}

/// A wave of comparisons of pages, answered in any order.
#[derive(Debug)]
pub(super) struct Wave {
    answer: SyncSender<Differing>,
    answers: Receiver<Differing>,
    asked: usize,
}

impl Wave {
    pub(super) fn new(limit: usize) -> Self {
        let (answer, answers) = sync_channel(limit);
        Self { answer, answers, asked: 0 }
    }

    pub(super) fn ask(
        &mut self,
        context: &Context,
        queue: &Queue,
        compare: impl FnOnce(usize, SyncSender<Differing>) -> Compare,
    ) -> Result<()> {
        let compare = compare(self.asked, self.answer.clone());
        self.asked += 1;
        queue.job(context, Job::Compare(compare))
    }

    /// The answers in the order of the questions.
    pub(super) fn finish(self) -> Result<Vec<io::Result<Vec<Range<u64>>>>> {
        drop(self.answer);
        let mut found: Vec<_> = self.answers.into_iter().collect();
        if found.len() != self.asked {
            return Err(cancelled());
        }
        found.sort_by_key(|(number, _)| *number);
        Ok(found.into_iter().map(|(_, differing)| differing).collect())
    }
}
