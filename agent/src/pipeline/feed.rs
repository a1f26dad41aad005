//! Walks the source list beside the base backup, hands on what has not changed, and cuts the rest into units.
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use palinurus_repository::Result;
use palinurus_repository::chunk::SMALL;
use palinurus_repository::manifest::entry::Entry;
use palinurus_repository::pack::FRAME_MAX;
use palinurus_repository::page::check_page_size;

use super::base::{Base, if_readable};
use super::draft::{Draft, DraftContent};
use super::pages::{cut_pieces, unit_len};
use super::stop::{Stop, stopped};
use super::unit::{BasePart, Batch, Done, Order, Outcome, RANGE, Shared, Unit, file_of};
use crate::progress::Counters;
use crate::source::{Class, SourceEntry, SourceListReader};

/// How far the list may be ahead of the draft. Bounds what waits to be written in order.
pub(super) const WINDOW: u64 = 16_384;
/// Files in one frame, and entries that may pass while it fills.
const GROUP: usize = 1024;
/// Entries that need no reading, handed on together.
const WHOLE: usize = 256;

/// How far the draft is.
#[derive(Debug, Default)]
pub(crate) struct Written {
    orders: Mutex<u64>,
    moved: Condvar,
}

impl Written {
    pub(crate) fn advance(&self, to: u64) {
        *self.orders.lock().unwrap_or_else(PoisonError::into_inner) = to;
        self.moved.notify_all();
    }

    fn may_go(&self, order: Order) -> bool {
        order < *self.orders.lock().unwrap_or_else(PoisonError::into_inner) + WINDOW
    }

    fn wait_for(&self, order: Order, stop: &Stop) -> Result<()> {
        let mut written = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        while order >= *written + WINDOW {
            stop.check()?;
            let waited = self.moved.wait_timeout(written, Duration::from_millis(100));
            written = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

pub(crate) struct Feeder {
    pub(crate) list: SourceListReader,
    pub(crate) base: Option<Base>,
    pub(crate) units: SyncSender<Unit>,
    pub(crate) done: SyncSender<Batch>,
    pub(crate) whole: Batch,
    pub(crate) written: Arc<Written>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) progress: Arc<Counters>,
    pub(crate) empty_id: palinurus_repository::FileId,
    pub(crate) group: Group,
}

/// Small files on their way into one frame.
#[derive(Debug, Default)]
pub(crate) struct Group {
    files: Vec<(Order, SourceEntry)>,
    bytes: u64,
    first: Order,
}

impl Feeder {
    /// Feeds the entries of each range of the list, in that order.
    pub(crate) fn run(mut self, ranges: [Range<u64>; 2]) -> Result<()> {
        let mut order = 0;
        for range in ranges {
            self.list.seek_to_entry(range.start)?;
            let mut first = true;
            for _ in range {
                let Some(entry) = self.list.next_entry()? else { break };
                if std::mem::take(&mut first)
                    && let Some(base) = &mut self.base
                    && if_readable(base.seek(&entry.path))?.is_none()
                {
                    self.base = None;
                }
                if !self.group.files.is_empty() && order - self.group.first >= GROUP as u64 {
                    self.send_group()?;
                }
                if !self.written.may_go(order) {
                    // What is kept back here would be waited for.
                    self.send_whole()?;
                    self.written.wait_for(order, &self.stop)?;
                }
                self.stop.check()?;
                self.entry(order, entry)?;
                order += 1;
            }
        }
        self.send_whole()?;
        self.send_group()
    }

    fn entry(&mut self, order: Order, source: SourceEntry) -> Result<()> {
        let Some((size, class)) = file_of(&source) else {
            return self.whole(order, Draft { source, content: None });
        };
        let base = match &mut self.base {
            Some(base) => if_readable(base.entry(&source.path))?,
            None => None,
        };
        if base.is_none() {
            self.base = None;
        }
        let base = base.flatten();
        if let (Some(reader), Some(entry)) = (&self.base, &base)
            && let Some(content) = reader.unchanged(&source, entry)
        {
            let content = content.clone();
            self.progress.bytes_done.fetch_add(size, Ordering::Relaxed);
            return self.whole(order, Draft::kept(source, content));
        }
        match class.page_size(size) {
            Some(page_size) => {
                check_page_size(page_size)?;
                self.pages(order, source, class, page_size, base)
            }
            _ if size == 0 => {
                let id = self.empty_id;
                let content =
                    DraftContent { size: 0, id, pieces: Vec::new(), page_size: None, maps: Vec::new() };
                self.whole(order, Draft { source, content: Some(content) })
            }
            _ if size < SMALL => self.small(order, source, size),
            _ => {
                let parts = size.div_ceil(RANGE) as u32;
                let file = Shared::new(order, source, size, class, parts);
                for part in 0..parts {
                    let start = u64::from(part) * RANGE;
                    let range = start..(start + RANGE).min(size);
                    self.unit(Unit::Range { file: file.clone(), part, range })?;
                }
                Ok(())
            }
        }
    }

    fn small(&mut self, order: Order, source: SourceEntry, size: u64) -> Result<()> {
        if self.group.bytes + size > FRAME_MAX as u64 || self.group.files.len() >= GROUP {
            self.send_group()?;
        }
        if self.group.files.is_empty() {
            self.group.first = order;
        }
        self.group.bytes += size;
        self.group.files.push((order, source));
        Ok(())
    }

    fn pages(
        &mut self,
        order: Order,
        source: SourceEntry,
        class: Class,
        page_size: u32,
        base: Option<Entry>,
    ) -> Result<()> {
        let Some((size, _)) = file_of(&source) else { return Ok(()) };
        let unit = unit_len(page_size);
        let parts = size.div_ceil(unit) as u32;
        let base = base.as_ref().and_then(Entry::content);
        let maps =
            base.and_then(|content| content.pages.as_ref()).filter(|pages| pages.page_size == page_size);
        let file = Shared::new(order, source, size, class, parts);
        for part in 0..parts {
            let start = u64::from(part) * unit;
            let range = start..(start + unit).min(size);
            let map = maps.and_then(|pages| pages.maps.get(part as usize));
            let base = base
                .zip(map)
                .map(|(content, map)| BasePart { pieces: cut_pieces(content, &range), map: *map })
                .filter(|part| self.is_whole(part));
            self.unit(Unit::Pages { file: file.clone(), part, range, base })?;
        }
        Ok(())
    }

    /// A unit of which something is damaged is sent whole.
    fn is_whole(&self, part: &BasePart) -> bool {
        let pieces = part.pieces.iter().map(|(_, piece)| piece);
        self.base.as_ref().is_none_or(|base| base.is_whole(pieces, [&part.map]))
    }

    fn send_group(&mut self) -> Result<()> {
        let group = std::mem::take(&mut self.group);
        if group.files.is_empty() { Ok(()) } else { self.unit(Unit::Small(group.files)) }
    }

    fn unit(&self, unit: Unit) -> Result<()> {
        self.units.send(unit).map_err(|_| stopped())
    }

    fn whole(&mut self, order: Order, draft: Draft) -> Result<()> {
        self.whole.push(Done { order, outcome: Outcome::Whole(draft) });
        if self.whole.len() >= WHOLE { self.send_whole() } else { Ok(()) }
    }

    fn send_whole(&mut self) -> Result<()> {
        let whole = std::mem::take(&mut self.whole);
        if whole.is_empty() { Ok(()) } else { self.done.send(whole).map_err(|_| stopped()) }
    }
}
