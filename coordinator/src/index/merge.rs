//! Sorted runs, read as one.
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use redb::{Range, ReadOnlyTable};

use super::{Entry, Id, PLACE_LEN, Place};

/// The entries of all runs in the order of their ids; of one id, that of the latest run.
pub(super) struct Merge {
    runs: Vec<Range<'static, Id, Place>>,
    /// The next id of each run; the latest run has the greatest number.
    heads: BinaryHeap<(Reverse<[u8; 32]>, usize, [u8; PLACE_LEN])>,
    last: Option<[u8; 32]>,
}

impl Merge {
    /// `tables` are the runs, the oldest first.
    pub(super) fn new(tables: &[ReadOnlyTable<Id, Place>]) -> Result<Self, redb::Error> {
        let mut runs = Vec::new();
        for table in tables {
            runs.push(table.range::<Id>(..)?);
        }
        let mut merge = Self { heads: BinaryHeap::with_capacity(runs.len()), runs, last: None };
        for run in 0..merge.runs.len() {
            merge.advance(run)?;
        }
        Ok(merge)
    }

    fn advance(&mut self, run: usize) -> Result<(), redb::Error> {
        if let Some(entry) = self.runs[run].next() {
            let (id, at) = entry?;
            self.heads.push((Reverse(*id.value()), run, *at.value()));
        }
        Ok(())
    }

    pub(super) fn next(&mut self) -> Result<Option<Entry>, redb::Error> {
        while let Some((Reverse(id), run, at)) = self.heads.pop() {
            self.advance(run)?;
            if self.last.replace(id) != Some(id) {
                return Ok(Some((id, at)));
            }
        }
        Ok(None)
    }
}
