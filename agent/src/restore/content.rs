//! From a file's pieces to the frames that hold them: what is to be fetched, and where in the file it goes.
use std::fs::File;
use std::sync::Arc;

use palinurus_repository::manifest::entry::{Content, Entry, Piece};
use palinurus_repository::pack::ChunkAt;
use palinurus_repository::{Error, Result};
use rustix::fs::OFlags;

use super::batch::{How, Use};
use super::delta::{self, Compare, Wave};
use super::fault::Fault;
use super::file::FileTask;
use super::metadata::Origin;
use super::paged::{Map, Paged};
use super::planner::Planner;

/// Pieces of a file compared at once.
const WAVE: usize = 256;

/// A file whose pieces are being planned; it may lie in many blocks.
#[derive(Debug)]
pub(super) struct Plan {
    task: Arc<FileTask>,
    /// Where in the file the next piece goes.
    at: u64,
    /// The number of the next chunk.
    number: u64,
    paged: Option<Paged>,
    /// Open when its pages are compared before anything is fetched.
    found: Option<Arc<File>>,
    /// Its index in the draft with this number.
    placed: Option<(u64, u32)>,
    /// The index of a unit's map in the draft with this number.
    mapped: Option<(u64, u64, u32)>,
}

/// Bytes of a frame on their way into the file.
#[derive(Debug)]
struct Part {
    chunk: ChunkAt,
    at: u64,
    number: u64,
    /// Of a paged file: the unit, its map, and the first page's number in it.
    pages: Option<(u64, Map, u32)>,
}

impl Plan {
    /// There is a file whose pages may be kept, and it can be read and written.
    pub(super) fn is_found(&self) -> bool {
        self.found.is_some()
    }
}

impl Planner {
    /// A file that lies in this block alone and is one chunk or none: made, written and closed in one go.
    pub(super) fn plan_small(&mut self, entry: &Entry, content: &Content) -> bool {
        let mut data = None;
        let mut at = 0;
        for piece in &content.pieces {
            match piece {
                Piece::Data(_) if data.is_some() => return false,
                Piece::Data(chunk) => data = Some((at, *chunk)),
                Piece::Hole(_) => {}
            }
            at += piece.len();
        }
        if content.pages.is_some() && content.size > 0 {
            return false;
        }
        let task = Arc::new(FileTask::new(entry.path.clone(), entry.meta.clone(), content, Origin::Made));
        match data {
            None => self.draft.bare(task),
            Some((at, chunk)) => {
                let file = self.draft.file(task, false);
                self.draft.push(
                    chunk.frame,
                    Use { file, start: chunk.start, len: chunk.len, at, proof: How::Whole },
                );
            }
        }
        true
    }

    /// Begins any other file. `origin` says whether there is one whose pages may be kept.
    pub(super) fn begin(&mut self, entry: &Entry, content: &Content, origin: Origin) -> Plan {
        let mut found = None;
        if origin == Origin::Found {
            let opened = delta::open(&self.context, &entry.path, OFlags::RDWR);
            found = opened.and_then(|(file, _)| file.set_len(content.size).map(|()| Arc::new(file))).ok();
        }
        let origin = if found.is_some() { Origin::Found } else { Origin::Made };
        let task = Arc::new(FileTask::new(entry.path.clone(), entry.meta.clone(), content, origin));
        let paged = content.pages.as_ref().map(|pages| Paged::new(&self.context.keys, content.size, pages));
        Plan { task, at: 0, number: 0, paged, found, placed: None, mapped: None }
    }

    /// Plans the pieces of one block. The last slice ends the plan.
    pub(super) fn slice(&mut self, mut plan: Plan, content: &Content, last: bool) -> Result<Option<Plan>> {
        if let (Some(paged), Some(pages)) = (&mut plan.paged, &content.pages) {
            paged.extend(&pages.maps);
        }
        let mut parts = Vec::new();
        for piece in &content.pieces {
            let start = plan.at;
            plan.at += piece.len();
            match piece {
                Piece::Hole(len) => self.hole(&plan, start, *len)?,
                Piece::Data(chunk) => match self.parts(&mut plan, *chunk, start, &mut parts) {
                    Ok(()) => {}
                    Err(Fault::Run(error)) => return Err(error),
                    Err(Fault::File(error)) => {
                        plan.task.lost(&self.context, piece.len(), error);
                        parts.retain(|part: &Part| part.at < start);
                    }
                },
            }
            if parts.len() >= WAVE {
                self.place(&mut plan, std::mem::take(&mut parts))?;
            }
        }
        self.place(&mut plan, parts)?;
        if !last {
            return Ok(Some(plan));
        }
        if let Some(paged) = plan.paged.take() {
            match paged.finish(&self.context, &mut self.opener) {
                Ok(id) if id == content.id => {}
                Ok(_) => plan.task.condemn(Error::corrupt("its page maps are not those of the backup")),
                Err(Fault::File(error)) => plan.task.condemn(error),
                Err(Fault::Run(error)) => return Err(error),
            }
        }
        plan.task.planned(&self.context);
        Ok(None)
    }

    fn hole(&mut self, plan: &Plan, start: u64, len: u64) -> Result<()> {
        let cleared = plan.found.as_ref().map_or(Ok(()), |file| delta::clear(file, start..start + len));
        match cleared.map_err(|e| Fault::io("clear a hole in", &plan.task.path, e)) {
            Ok(()) => plan.task.skip(&self.context, len),
            Err(Fault::File(error)) => plan.task.lost(&self.context, len, error),
            Err(Fault::Run(error)) => return Err(error),
        }
        Ok(())
    }

    /// One part of a file that is not paged; else one for each unit that the piece touches.
    fn parts(
        &mut self,
        plan: &mut Plan,
        chunk: ChunkAt,
        start: u64,
        parts: &mut Vec<Part>,
    ) -> Result<(), Fault> {
        let number = plan.number;
        plan.number += 1;
        let Some(paged) = &mut plan.paged else {
            parts.push(Part { chunk, at: start, number, pages: None });
            return Ok(());
        };
        let page = u64::from(paged.page_size);
        let end = start + u64::from(chunk.len);
        if !start.is_multiple_of(page) || !(end.is_multiple_of(page) || end == plan.task.size) {
            return Err(Fault::File(Error::corrupt(format!(
                "the piece at byte {start} is not made of whole pages"
            ))));
        }
        let mut at = start;
        while at < end {
            let unit = at / paged.unit;
            let len = (end - at).min((unit + 1) * paged.unit - at) as u32;
            let map = paged.map(&self.context, &mut self.opener, unit)?;
            let chunk = ChunkAt { frame: chunk.frame, start: chunk.start + (at - start) as u32, len };
            let first = ((at % paged.unit) / page) as u32;
            parts.push(Part { chunk, at, number, pages: Some((unit, map, first)) });
            at += u64::from(len);
        }
        Ok(())
    }

    /// Puts parts into the draft: all of them, or of a file that was found what differs.
    fn place(&mut self, plan: &mut Plan, parts: Vec<Part>) -> Result<()> {
        let Some(file) = plan.found.clone() else {
            return parts.into_iter().try_for_each(|part| self.push(plan, part));
        };
        let mut wave = Wave::new(parts.len());
        let page = plan.paged.as_ref().map_or(1, |paged| paged.page_size);
        for part in &parts {
            let Some((_, map, first)) = &part.pages else { continue };
            let bytes = part.at..part.at + u64::from(part.chunk.len);
            wave.ask(&self.context, &self.queue, |number, answer| Compare::Pages {
                number,
                file: file.clone(),
                bytes,
                first: *first,
                page,
                map: map.clone(),
                answer,
            })?;
        }
        for (part, differing) in parts.into_iter().zip(wave.finish()?) {
            // What cannot be read is written anew.
            let whole = part.at..part.at + u64::from(part.chunk.len);
            let ranges = differing.unwrap_or_else(|_| std::iter::once(whole).collect());
            let differs: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            for range in ranges {
                let shift = (range.start - part.at) as u32;
                let chunk = ChunkAt {
                    frame: part.chunk.frame,
                    start: part.chunk.start + shift,
                    len: (range.end - range.start) as u32,
                };
                let pages = part.pages.clone().map(|(unit, map, first)| (unit, map, first + shift / page));
                self.push(plan, Part { chunk, at: range.start, number: part.number, pages })?;
            }
            plan.task.skip(&self.context, u64::from(part.chunk.len) - differs);
        }
        Ok(())
    }

    fn push(&mut self, plan: &mut Plan, part: Part) -> Result<()> {
        if self.draft.is_full() {
            self.flush()?;
        }
        let draft = self.drafts;
        let file = match plan.placed {
            Some((known, file)) if known == draft => file,
            _ => self.draft.file(plan.task.clone(), true),
        };
        plan.placed = Some((draft, file));
        let proof = match part.pages {
            None => How::Chunk(part.number),
            Some((unit, map, first)) => {
                let index = match plan.mapped {
                    Some((known, of, index)) if (known, of) == (draft, unit) => index,
                    _ => self.draft.map(map),
                };
                plan.mapped = Some((draft, unit, index));
                How::Pages { map: index, first }
            }
        };
        let Part { chunk, at, .. } = part;
        self.draft.push(chunk.frame, Use { file, start: chunk.start, len: chunk.len, at, proof });
        Ok(())
    }
}
