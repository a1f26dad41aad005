//! What the open transaction's nodes have stored. Packs come in no order of their chunks: they are collected in memory,
//! written as a sorted run once they are many, and runs are merged when they are many. Each has its filter.
//!
//! What is in memory only is lost with the process: agents tell it again, or its packs' trailers are read.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use palinurus_repository::ledger::PackSet;
use palinurus_repository::pack::{PackId, PackSummary};
use palinurus_repository::{ChunkId, Error, Result, TransactionId};
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::filter::Filter;
use super::merge::Merge;
use super::runs::{PACKS, RUNS, Run, clear, name, open_transactions, put_run, tables};
use super::{BATCH, Entry, Id, Index, PLACE_LEN, Place, TRANSACTIONS, failed, lock, parse, place};

/// So many of one size are merged.
const FAN: usize = 8;
/// In memory, of an entry that is not on disk yet, with the table's own room.
const ENTRY_MEMORY: usize = 200;

#[derive(Default)]
pub(super) struct Open {
    transaction: Option<TransactionId>,
    recent: Batch,
    /// On its way into a run.
    frozen: Option<Arc<Batch>>,
    /// The oldest first: none was merged less often than the next.
    runs: Vec<Run>,
}

#[derive(Default)]
struct Batch {
    places: HashMap<[u8; ChunkId::LEN], [u8; PLACE_LEN]>,
    packs: BTreeSet<PackId>,
}

impl Open {
    pub(super) fn is_of(&self, transaction: TransactionId) -> bool {
        self.transaction == Some(transaction)
    }

    /// The file is closed.
    pub(super) fn close(&mut self) {
        self.runs = Vec::new();
    }

    /// What the file holds of the transaction that memory is about.
    pub(super) fn load(&mut self, database: &Database) -> Result<(), redb::Error> {
        let read = database.begin_read()?;
        let open = open_transactions(&read.open_table(TRANSACTIONS)?)?;
        let of_file = open.first().map(|id| TransactionId(*id));
        self.runs = Vec::new();
        self.transaction = self.transaction.or(of_file);
        if of_file.is_none() || of_file != self.transaction {
            return Ok(());
        }
        for run in read.open_table(RUNS)?.iter()? {
            let (number, about) = run?;
            let (merges, entries) = about.value();
            self.runs.push(Run { number: number.value(), merges, entries, filter: None });
        }
        Ok(())
    }

    /// How many runs, how often the oldest was merged, and the bytes of all filters.
    #[cfg(test)]
    pub(super) fn shape(&self) -> (usize, u32, usize) {
        let filters = self.runs.iter().filter_map(|run| run.filter.as_ref()).map(Filter::bytes).sum();
        (self.runs.len(), self.runs.first().map_or(0, |run| run.merges), filters)
    }

    /// For a run beside the first `others`.
    fn filter_beside(&self, others: usize, entries: usize, room: usize) -> Option<Filter> {
        let taken: usize =
            self.runs[..others].iter().filter_map(|run| run.filter.as_ref()).map(Filter::bytes).sum();
        (taken + Filter::bytes_for(entries) <= room).then(|| Filter::new(entries))
    }

    pub(super) fn look<'a>(&'a self, read: &'a ReadTransaction) -> Look<'a> {
        Look { open: self, read, tables: self.runs.iter().map(|_| None).collect() }
    }
}

/// One question's way through it.
pub(super) struct Look<'a> {
    open: &'a Open,
    read: &'a ReadTransaction,
    tables: Vec<Option<ReadOnlyTable<Id, Place>>>,
}

impl Look<'_> {
    pub(super) fn find(&mut self, id: &[u8; ChunkId::LEN]) -> Result<Option<[u8; PLACE_LEN]>, redb::Error> {
        let Open { recent, frozen, runs, .. } = self.open;
        let batches = [Some(recent), frozen.as_deref()];
        if let Some(at) = batches.into_iter().flatten().find_map(|batch| batch.places.get(id)) {
            return Ok(Some(*at));
        }
        for (run, table) in runs.iter().zip(&mut self.tables).rev() {
            if run.filter.as_ref().is_some_and(|filter| !filter.may_hold(id)) {
                continue;
            }
            let table = match table {
                Some(table) => table,
                None => table.insert(self.read.open_table(TableDefinition::new(&name(run.number)))?),
            };
            if let Some(at) = table.get(id)? {
                return Ok(Some(*at.value()));
            }
        }
        Ok(None)
    }
}

impl Index {
    /// What is stored from here on is this transaction's: what another one has left goes.
    pub(crate) fn begin(&self, transaction: TransactionId) -> Result<()> {
        let database = self.database()?;
        let _one = lock(&self.writing);
        let write = || -> Result<_, redb::Error> {
            let write = database.begin_write()?;
            {
                let mut transactions = write.open_table(TRANSACTIONS)?;
                let open = open_transactions(&transactions)?;
                if open == [transaction.0] && self.read().open.is_of(transaction) {
                    return Ok(());
                }
                for id in open {
                    transactions.remove(&id)?;
                }
                transactions.insert(&transaction.0, false)?;
            }
            self.commit_open(write, Open { transaction: Some(transaction), ..Open::default() })
        };
        write().map_err(failed)
    }

    /// Without what was open so far. `writing` is held.
    pub(super) fn commit_open(&self, write: WriteTransaction, open: Open) -> Result<(), redb::Error> {
        clear(&write)?;
        // In memory first: nobody looks for runs that the file has no more, nor waits for its disk.
        let former = std::mem::replace(&mut self.write().open, open);
        write.commit().inspect_err(|_| self.write().open = former)?;
        Ok(())
    }

    /// A pack of the open transaction is durable. `gate` is passed right before it becomes visible.
    pub(crate) fn stored<G>(&self, pack: &PackSummary, gate: impl FnOnce() -> G) -> Result<G> {
        // Twice: while it is written, the next ones come in.
        let most = (self.cache)() / 8 / ENTRY_MEMORY;
        if self.read().open.recent.places.len() > most {
            self.flush(most)?;
        }
        let places: Vec<Entry> = pack.chunks().map(|(id, at)| (id.0, place(&at))).collect();
        let passed = gate();
        let mut memory = self.write();
        if !memory.open.is_of(pack.pack.transaction) {
            return Err(Error::conflict(format!("{} is not of the open transaction", pack.pack)));
        }
        memory.open.recent.places.extend(places);
        memory.open.recent.packs.insert(pack.pack);
        Ok(passed)
    }

    /// Those of the open transaction's packs that it has not taken in.
    pub(crate) fn lacks(&self, packs: Vec<PackId>) -> Result<Vec<PackId>> {
        let database = self.database()?;
        let look = || -> Result<_, redb::Error> {
            let memory = self.read();
            let known = database.begin_read()?.open_table(PACKS)?;
            let Open { recent, frozen, .. } = &memory.open;
            let mut lacking = Vec::new();
            for pack in packs {
                let is_in_memory = recent.packs.contains(&pack)
                    || frozen.as_ref().is_some_and(|batch| batch.packs.contains(&pack));
                if !is_in_memory && known.get(pack.key().as_str())?.is_none() {
                    lacking.push(pack);
                }
            }
            Ok(lacking)
        };
        look().map_err(failed)
    }

    /// Makes a run of what is in memory, if that is so much.
    pub(super) fn flush(&self, least: usize) -> Result<()> {
        if self.read().open.recent.places.len() < least {
            return Ok(());
        }
        let database = self.database()?;
        let _one = lock(&self.writing);
        let frozen = {
            let mut memory = self.write();
            // Another one may have done it meanwhile.
            if memory.open.recent.places.len() < least {
                return Ok(());
            }
            let frozen = Arc::new(std::mem::take(&mut memory.open.recent));
            memory.open.frozen = Some(frozen.clone());
            frozen
        };
        let written = self.write_run(&database, &frozen);
        if written.is_err() {
            let mut memory = self.write();
            if memory.open.frozen.take().is_some() {
                let Batch { places, packs } = &*frozen;
                let recent = &mut memory.open.recent;
                places.iter().for_each(|(id, at)| _ = recent.places.entry(*id).or_insert(*at));
                recent.packs.extend(packs);
            }
        }
        written.and_then(|()| self.merge(&database)).map_err(failed)
    }

    fn write_run(&self, database: &Database, batch: &Batch) -> Result<(), redb::Error> {
        let mut entries: Vec<Entry> = batch.places.iter().map(|(id, at)| (*id, *at)).collect();
        entries.sort_unstable_by_key(|(id, _)| *id);
        let mut write = database.begin_write()?;
        write.set_durability(Durability::None)?;
        let filter = {
            let open = &self.read().open;
            open.filter_beside(open.runs.len(), entries.len(), self.filter_room())
        };
        let run = put_run(&write, 0, filter, entries.into_iter().map(Ok))?;
        {
            let mut packs = write.open_table(PACKS)?;
            for pack in &batch.packs {
                packs.insert(pack.key().as_str(), ())?;
            }
            // A file that was made anew since does not know it.
            if let Some(pack) = batch.packs.first() {
                write.open_table(TRANSACTIONS)?.insert(&pack.transaction.0, false)?;
            }
        }
        let mut memory = self.write();
        write.commit()?;
        memory.open.frozen = None;
        memory.open.runs.push(run);
        Ok(())
    }

    fn merge(&self, database: &Database) -> Result<(), redb::Error> {
        loop {
            let (numbers, merges, filter) = {
                let open = &self.read().open;
                let Some(from) = open.runs.len().checked_sub(FAN) else { return Ok(()) };
                let some = &open.runs[from..];
                if some.iter().any(|run| run.merges != some[0].merges) {
                    return Ok(());
                }
                let entries: u64 = some.iter().map(|run| run.entries).sum();
                let numbers: Vec<u64> = some.iter().map(|run| run.number).collect();
                (numbers, some[0].merges + 1, open.filter_beside(from, entries as usize, self.filter_room()))
            };
            let mut merge = Merge::new(&tables(&database.begin_read()?, &numbers)?)?;
            let mut write = database.begin_write()?;
            write.set_durability(Durability::None)?;
            let run = put_run(&write, merges, filter, std::iter::from_fn(|| merge.next().transpose()))?;
            drop(merge);
            {
                let mut runs = write.open_table(RUNS)?;
                for number in &numbers {
                    runs.remove(number)?;
                    write.delete_table(TableDefinition::<Id, Place>::new(&name(*number)))?;
                }
            }
            let mut memory = self.write();
            write.commit()?;
            let from = memory.open.runs.len() - numbers.len();
            memory.open.runs.truncate(from);
            memory.open.runs.push(run);
            drop(memory);
            // Only now are the pages of what was merged free.
            database.begin_write()?.commit()?;
        }
    }

    /// Takes what the transaction has stored, and committed, over into `CHUNKS`, if that is all of `packs`: then no index
    /// segment need be read. Otherwise nothing is done.
    pub(crate) fn fold_open(
        &self,
        transaction: TransactionId,
        packs: &PackSet,
        usable: impl Fn(&PackId) -> bool,
    ) -> Result<bool> {
        if !self.read().open.is_of(transaction) || !self.lacks(packs.iter().collect())?.is_empty() {
            return Ok(false);
        }
        if !self.read().open.runs.is_empty() {
            self.flush(1)?;
        }
        let database = self.database()?;
        let _one = lock(&self.writing);
        let (mut recent, numbers): (Vec<Entry>, Vec<u64>) = {
            let open = &self.read().open;
            if !open.is_of(transaction) {
                return Ok(false);
            }
            let recent = open.recent.places.iter().map(|(id, at)| (*id, *at));
            (recent.collect(), open.runs.iter().map(|run| run.number).collect())
        };
        let is_usable = |(_, at): &Entry| parse(at).is_some_and(|at| usable(&at.frame.pack));
        let mut fold = || -> Result<_, redb::Error> {
            let mut merge = Merge::new(&tables(&database.begin_read()?, &numbers)?)?;
            let mut entries = Vec::new();
            while let Some(entry) = merge.next()? {
                entries.extend(Some(entry).filter(is_usable));
                if entries.len() >= BATCH {
                    self.commit_entries(&database, &entries)?;
                    entries.clear();
                }
            }
            self.commit_entries(&database, &entries)?;
            recent.retain(is_usable);
            recent.sort_unstable_by_key(|(id, _)| *id);
            recent.chunks(BATCH).try_for_each(|entries| self.commit_entries(&database, entries))
        };
        fold().map(|()| true).map_err(failed)
    }
}
