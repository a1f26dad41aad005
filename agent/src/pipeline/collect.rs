//! Brings what the workers did into order again and writes the draft.
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use palinurus_repository::keys::FileHasher;
use palinurus_repository::{Error, Keys, Result};

use super::draft::{Draft, DraftContent, DraftWriter};
use super::feed::Written;
use super::spool;
use super::unit::{Batch, Done, Order, Outcome, Part};
use crate::progress::Counters;
use crate::source::SourceKind;
use crate::warning::Warnings;

/// What the next phase must know of the draft.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// Chunks that another node uploads.
    pub(crate) borrowed: u64,
    /// Files to be read again.
    pub(crate) torn: u64,
    pub(crate) warnings: Warnings,
}

pub(crate) struct Collector {
    pub(crate) keys: Keys,
    pub(crate) written: Arc<Written>,
    pub(crate) progress: Arc<Counters>,
    /// The draft in two files, because the list is begun in its middle: entries from there on, then the rest.
    pub(crate) tail: Option<DraftWriter>,
    pub(crate) head: DraftWriter,
    pub(crate) head_begins: Order,
    pub(crate) next: Order,
    ready: Ready,
    pub(crate) parts: HashMap<Order, Vec<Option<Part>>>,
    pub(crate) collected: Collected,
}

/// What is done of the entries from the next one on, by their distance from it: a draft, or that there is none. The feeder's
/// window bounds it.
#[derive(Debug, Default)]
struct Ready(VecDeque<Option<Option<Draft>>>);

impl Ready {
    /// Whether this is the first word on that entry.
    fn put(&mut self, next: Order, order: Order, draft: Option<Draft>) -> bool {
        if self.holds(next, order) {
            return false;
        }
        let at = (order - next) as usize;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at] = Some(draft);
        true
    }

    fn holds(&self, next: Order, order: Order) -> bool {
        order.checked_sub(next).is_none_or(|at| self.0.get(at as usize).is_some_and(Option::is_some))
    }

    fn pop(&mut self) -> Option<Option<Draft>> {
        let draft = self.0.front_mut()?.take()?;
        self.0.pop_front();
        Some(draft)
    }
}

impl Collector {
    pub(crate) fn new(
        keys: Keys,
        drafts: &Path,
        written: Arc<Written>,
        progress: Arc<Counters>,
        head_begins: Order,
    ) -> Result<Self> {
        Ok(Self {
            keys,
            written,
            progress,
            tail: Some(DraftWriter::create(drafts.join(spool::DRAFT_TAIL))?),
            head: DraftWriter::create(drafts.join(spool::DRAFT_HEAD))?,
            head_begins,
            next: 0,
            ready: Ready::default(),
            parts: HashMap::new(),
            collected: Collected::default(),
        })
    }

    pub(crate) fn run(mut self, done: &Receiver<Batch>) -> Result<Collected> {
        for batch in done {
            for Done { order, outcome } in batch {
                self.take(order, outcome)?;
            }
            self.write_ready()?;
        }
        if !self.ready.0.is_empty() || !self.parts.is_empty() {
            return Err(Error::internal("the draft has gaps"));
        }
        if let Some(tail) = self.tail.take() {
            tail.finish()?;
        }
        self.head.finish()?;
        Ok(self.collected)
    }

    fn take(&mut self, order: Order, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Whole(draft) => {
                self.ready.put(self.next, order, Some(draft));
            }
            Outcome::Dropped { path, why } => {
                // Several parts of one file may say so; one warning is enough.
                self.parts.remove(&order);
                if self.ready.put(self.next, order, None)
                    && let Some(why) = why
                {
                    self.collected.warnings.push(&path, why);
                }
            }
            Outcome::Noted { path, what } => self.collected.warnings.push(&path, what),
            Outcome::Part(part) => self.part(order, part)?,
        }
        Ok(())
    }

    fn part(&mut self, order: Order, part: Part) -> Result<()> {
        // A part of a file that was dropped comes too late.
        if self.ready.holds(self.next, order) {
            return Ok(());
        }
        let count = part.file.parts as usize;
        let parts =
            self.parts.entry(order).or_insert_with(|| std::iter::repeat_with(|| None).take(count).collect());
        let index = part.part as usize;
        parts[index] = Some(part);
        if parts.iter().all(Option::is_some) {
            let parts = self.parts.remove(&order).into_iter().flatten().flatten().collect();
            let draft = self.join(parts)?;
            self.ready.put(self.next, order, Some(draft));
        }
        Ok(())
    }

    fn join(&self, parts: Vec<Part>) -> Result<Draft> {
        let first = parts.first().ok_or_else(|| Error::internal("a file of no parts"))?;
        let file = first.file.clone();
        let torn = parts.iter().any(|part| part.torn);
        let mut hasher = FileHasher::new(&self.keys, file.size);
        let (mut pieces, mut maps) = (Vec::new(), Vec::new());
        for part in parts {
            part.ids.iter().for_each(|id| hasher.push(id));
            pieces.extend(part.pieces);
            maps.extend(part.map);
        }
        let page_size = file.class.page_size(file.size);
        let content = DraftContent { size: file.size, id: hasher.finish(), pieces, page_size, maps };
        Ok(Draft { source: file.entry.clone(), content: (!torn).then_some(content) })
    }

    fn write_ready(&mut self) -> Result<()> {
        let before = self.next;
        while let Some(draft) = self.ready.pop() {
            if self.next == self.head_begins
                && let Some(tail) = self.tail.take()
            {
                tail.finish()?;
            }
            if let Some(draft) = draft {
                if matches!(draft.source.kind, SourceKind::File { .. }) {
                    self.progress.files_done.fetch_add(1, Ordering::Relaxed);
                }
                self.collected.borrowed += draft.borrowed().count() as u64;
                self.collected.torn += u64::from(draft.must_be_read_again());
                self.tail.as_mut().unwrap_or(&mut self.head).push(&draft)?;
            }
            self.next += 1;
        }
        if self.next != before {
            self.written.advance(self.next);
        }
        Ok(())
    }
}
