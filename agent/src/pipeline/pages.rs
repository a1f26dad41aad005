//! Reads one unit of a paged file: compares its pages with the map of the base backup, and sends the changed
//! pages together, the unchanged ones by reference.
//!
//! An extent most of whose pages changed is sent whole. When the frames that a unit refers to have grown to
//! more than half again its size, its thinnest extents are sent whole too ("rebase"), so that a restore never
//! reads more than about 1.5 times the file.
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::rc::Rc;

use palinurus_repository::chunk::EXTENT;
use palinurus_repository::manifest::entry::{Content, Piece};
use palinurus_repository::pack::{ChunkAt, FRAME_MAX};
use palinurus_repository::page::{ENTRY, UNIT_PAGES, entry};

use super::frames::{Frames, Places};
use super::read::{Fault, Reading, Slot, next_data};

/// What the base backup has of this unit.
#[derive(Debug)]
pub(crate) struct BaseUnit {
    /// With their offsets in the file, in order, cut to the unit.
    pub(crate) pieces: Vec<(u64, Piece)>,
    pub(crate) map: Vec<u8>,
    pub(crate) map_at: ChunkAt,
}

/// Bytes of a file that one map covers.
pub(crate) fn unit_len(page_size: u32) -> u64 {
    UNIT_PAGES as u64 * u64::from(page_size)
}

/// Cuts the pieces of the base's file to one unit.
pub(crate) fn cut_pieces(content: &Content, unit: &Range<u64>) -> Vec<(u64, Piece)> {
    let mut at = 0;
    let mut cut = Vec::new();
    for piece in &content.pieces {
        let range = at..at + piece.len();
        at = range.end;
        cut.extend(part_of(range.start, piece, unit));
        if range.end >= unit.end {
            break;
        }
    }
    cut
}

/// The part of a piece at `offset` that lies in `range`.
fn part_of(offset: u64, piece: &Piece, range: &Range<u64>) -> Option<(u64, Piece)> {
    let start = offset.max(range.start);
    let end = (offset + piece.len()).min(range.end);
    if start >= end {
        return None;
    }
    let part = match piece {
        Piece::Hole(_) => Piece::Hole(end - start),
        Piece::Data(at) => Piece::Data(ChunkAt {
            frame: at.frame,
            start: at.start + (start - offset) as u32,
            len: (end - start) as u32,
        }),
    };
    Some((start, part))
}

/// The slots of the unit, and the index of the chunk that is its map.
pub(crate) fn read_unit(
    frames: &mut Frames,
    places: &Rc<RefCell<Places>>,
    file: &File,
    unit: Range<u64>,
    page_size: u32,
    base: Option<&BaseUnit>,
    look: &mut Look<'_>,
) -> Result<(Reading, usize), Fault> {
    let rebase = base.map(|base| thin_extents(base, &unit)).unwrap_or_default();
    let mut pass = Pass {
        frames,
        places,
        file,
        page: page_size as usize,
        base,
        look,
        map: Vec::new(),
        reading: Reading::default(),
        overlay: None,
    };
    let mut at = unit.start;
    while at < unit.end {
        let end = (at + EXTENT as u64).min(unit.end);
        pass.extent(at..end, rebase.contains(&at))?;
        at = end;
    }
    pass.flush_overlay()?;
    pass.finish()
}

struct Pass<'a, 'b> {
    frames: &'a mut Frames,
    places: &'a Rc<RefCell<Places>>,
    file: &'a File,
    page: usize,
    base: Option<&'a BaseUnit>,
    look: &'a mut Look<'b>,
    map: Vec<u8>,
    reading: Reading,
    overlay: Option<Overlay>,
}

/// Looks at what was read, from an offset on; may put something better in its place.
pub(crate) type Look<'a> = dyn FnMut(u64, &mut [u8]) -> palinurus_repository::Result<()> + 'a;

/// Changed pages on their way into one frame, and the slots that wait for its index.
struct Overlay {
    buffer: Vec<u8>,
    filled: usize,
    slots: Vec<usize>,
}

impl Pass<'_, '_> {
    /// What the file has lost since it was listed is read as zeros, and `short` says so.
    fn extent(&mut self, extent: Range<u64>, rebase: bool) -> Result<(), Fault> {
        let want = (extent.end - extent.start) as usize;
        let mut buffer = self.frames.buffer();
        if next_data(self.file, extent.start, extent.end)?.is_empty() {
            buffer[..want].fill(0);
            self.map_pages(&buffer[..want]);
            self.frames.reuse(buffer);
            self.reading.slots.push(Slot::Hole(want as u64));
            return Ok(());
        }
        let read = self.frames.disk.fill(self.file, &mut buffer[..want], extent.start)?;
        self.reading.bytes_read += read as u64;
        if read < want {
            buffer[read..want].fill(0);
            self.reading.short = true;
        }
        (self.look)(extent.start, &mut buffer[..read])?;
        let first = self.map.len();
        self.map_pages(&buffer[..want]);
        let pages = (self.map.len() - first) / ENTRY;
        let changed: Vec<bool> = (0..pages).map(|page| self.changed(first + page * ENTRY)).collect();
        let count = changed.iter().filter(|changed| **changed).count();
        if rebase || count * 2 > pages {
            let index = self.places.borrow().refs.len();
            self.reading.slots.push(Slot::Chunk { index, start: 0, len: want as u32 });
            self.frames.push(self.places, buffer, [want as u32])?;
        } else {
            self.mixed(&extent, &buffer[..want], &changed)?;
            self.frames.reuse(buffer);
        }
        Ok(())
    }

    fn map_pages(&mut self, bytes: &[u8]) {
        for page in bytes.chunks(self.page) {
            self.map.extend_from_slice(&entry(&self.frames.keys, page));
        }
    }

    fn changed(&self, at: usize) -> bool {
        let Some(base) = self.base else { return true };
        base.map.get(at..at + ENTRY) != Some(&self.map[at..at + ENTRY])
    }

    /// Runs of unchanged pages by reference, runs of changed pages into the overlay.
    fn mixed(&mut self, extent: &Range<u64>, bytes: &[u8], changed: &[bool]) -> Result<(), Fault> {
        let mut page = 0;
        while page < changed.len() {
            let run = changed[page..].iter().take_while(|other| **other == changed[page]).count();
            let start = page * self.page;
            let end = ((page + run) * self.page).min(bytes.len());
            if changed[page] {
                self.overlay(&bytes[start..end])?;
            } else {
                self.keep(extent.start + start as u64..extent.start + end as u64);
            }
            page += run;
        }
        Ok(())
    }

    fn keep(&mut self, range: Range<u64>) {
        let Some(base) = self.base else { return };
        let first = base.pieces.partition_point(|(offset, piece)| offset + piece.len() <= range.start);
        for (offset, piece) in &base.pieces[first..] {
            let Some((_, part)) = part_of(*offset, piece, &range) else { break };
            match (self.reading.slots.last_mut(), part) {
                (Some(Slot::Kept(before)), part) if joins(before, &part) => extend(before, &part),
                (_, part) => self.reading.slots.push(Slot::Kept(part)),
            }
        }
    }

    fn overlay(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let mut overlay = match self.overlay.take() {
                Some(overlay) => overlay,
                None => Overlay { buffer: self.frames.buffer(), filled: 0, slots: Vec::new() },
            };
            // Only whole pages: room for less than one ends the frame.
            let room = (FRAME_MAX - overlay.filled) / self.page * self.page;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            bytes = later;
            overlay.buffer[overlay.filled..overlay.filled + now.len()].copy_from_slice(now);
            if !now.is_empty() {
                overlay.slots.push(self.reading.slots.len());
                let (start, len) = (overlay.filled as u32, now.len() as u32);
                self.reading.slots.push(Slot::Chunk { index: usize::MAX, start, len });
            }
            overlay.filled += now.len();
            self.overlay = Some(overlay);
            if !bytes.is_empty() {
                self.flush_overlay()?;
            }
        }
        Ok(())
    }

    fn flush_overlay(&mut self) -> Result<(), Fault> {
        let Some(overlay) = self.overlay.take() else { return Ok(()) };
        let known = self.places.borrow().refs.len();
        for slot in overlay.slots {
            if let Slot::Chunk { index, .. } = &mut self.reading.slots[slot] {
                *index = known;
            }
        }
        self.frames.push(self.places, overlay.buffer, [overlay.filled as u32])?;
        Ok(())
    }

    fn finish(self) -> Result<(Reading, usize), Fault> {
        let index = self.places.borrow().refs.len();
        if let Some(base) = self.base.filter(|base| base.map == self.map) {
            let id = self.frames.keys.chunk_id(&self.map);
            self.places.borrow_mut().push_known(id, super::draft::Ref::At(base.map_at));
        } else {
            let mut buffer = self.frames.buffer();
            buffer[..self.map.len()].copy_from_slice(&self.map);
            self.frames.push(self.places, buffer, [self.map.len() as u32])?;
        }
        Ok((self.reading, index))
    }
}

/// True where `next` goes on in the same frame where `before` ends.
fn joins(before: &Piece, next: &Piece) -> bool {
    match (before, next) {
        (Piece::Hole(_), Piece::Hole(_)) => true,
        (Piece::Data(a), Piece::Data(b)) => a.frame == b.frame && a.start + a.len == b.start,
        _ => false,
    }
}

fn extend(before: &mut Piece, next: &Piece) {
    match (before, next) {
        (Piece::Hole(a), Piece::Hole(b)) => *a += b,
        (Piece::Data(a), Piece::Data(b)) => a.len += b.len,
        _ => {}
    }
}

/// The extents to send whole so that the unit refers to little more than its size again.
fn thin_extents(base: &BaseUnit, unit: &Range<u64>) -> Vec<u64> {
    let size = unit.end - unit.start;
    let mut users: HashMap<_, usize> = HashMap::new();
    let mut extents: HashMap<u64, HashMap<_, u64>> = HashMap::new();
    for (offset, piece) in &base.pieces {
        let Piece::Data(at) = piece else { continue };
        let extent = offset - (offset - unit.start) % EXTENT as u64;
        let live = extents.entry(extent).or_default().entry(at.frame).or_insert(0);
        if *live == 0 {
            *users.entry(at.frame).or_insert(0) += 1;
        }
        *live += u64::from(at.len);
    }
    let mut referred: u64 = users.keys().map(|frame| u64::from(frame.plain)).sum();
    if referred <= size + size / 2 {
        return Vec::new();
    }
    // The live share of the frame that holds most of an extent: the lower, the more a rewrite frees.
    let mut order: Vec<(u64, u64)> = extents
        .iter()
        .map(|(extent, frames)| (frames.values().copied().max().unwrap_or(0), *extent))
        .collect();
    order.sort_unstable();
    let mut thin = Vec::new();
    for (_, extent) in order {
        if referred <= size + size / 4 {
            break;
        }
        thin.push(extent);
        referred += EXTENT as u64;
        for frame in extents[&extent].keys() {
            if let Some(left) = users.get_mut(frame) {
                *left -= 1;
                if *left == 0 {
                    referred -= u64::from(frame.plain);
                }
            }
        }
    }
    thin
}
