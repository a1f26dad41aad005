//! Which chunk lies where, for one repository: a cache on disk of its index segments, so that memory does not grow
//! with the data. It may be lost at any time, and says of itself which transactions it has taken in.
//!
//! It answers with places that were true once. Whether a place may still be used is the ledger's to say: entries of
//! swept packs stay until [`Index::retain`] takes them out.
//!
//! What is committed lies in one tree. What the open transaction stores comes in no order, and a tree would be touched
//! all over for each pack: it is collected in memory and written in sorted runs ([`open`]), which the commit merges
//! into the tree. Filters in memory answer most questions about what is nowhere.
//!
//! The file is open, and its cache takes memory, only while an operation works with it: a coordinator has as many of
//! these as it has services, and most of them rest.
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use palinurus_repository::pack::{ChunkAt, PackId, PackSummary};
use palinurus_repository::{ChunkId, Error, RepositoryId, Result, TransactionId};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

mod file;
mod filter;
mod merge;
mod open;
mod place;
mod runs;

use filter::Filter;
use open::Open;
use place::{PLACE_LEN, parse, place};

type Id = &'static [u8; ChunkId::LEN];
type Place = &'static [u8; PLACE_LEN];
type Entry = ([u8; ChunkId::LEN], [u8; PLACE_LEN]);

/// Of committed transactions.
const CHUNKS: TableDefinition<'_, Id, Place> = TableDefinition::new("chunks");
/// Which transaction is open; which are in `CHUNKS` as a whole.
const TRANSACTIONS: TableDefinition<'_, &[u8; TransactionId::LEN], bool> =
    TableDefinition::new("transactions");

/// Entries written in one redb transaction: what it holds in memory until it commits.
const BATCH: usize = 100_000;
/// A filter is made once so many questions were asked in vain that one entry of the tree was read for each.
const MISSES_WORTH: u64 = 8;

pub(crate) struct Index {
    path: PathBuf,
    repository: RepositoryId,
    database: Mutex<Option<Arc<Database>>>,
    /// In bytes, of all that it may take now.
    cache: Box<dyn Fn() -> usize + Send + Sync>,
    /// Held by who changes what `Memory` says of the file; taken before `memory`.
    writing: Mutex<()>,
    memory: RwLock<Memory>,
    /// Questions about what is not in `CHUNKS`, while it has no filter.
    misses: AtomicU64,
}

/// Never behind the file: who looks holds it while he begins to read, and who commits changes both under it, or it
/// first. No one asks for the database while he holds it.
#[derive(Default)]
struct Memory {
    open: Open,
    /// Of all that is in `CHUNKS`.
    filter: Option<Filter>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Index(..)")
    }
}

/// A fault of the cache: it can always be made anew.
fn failed(error: impl Into<redb::Error>) -> Error {
    Error::unavailable("the chunk index").with_source(error.into())
}

impl Index {
    /// Opens or makes the cache. A file that is damaged, or of another repository, is replaced by an empty one.
    /// Blocks, as all of this does.
    pub(crate) fn open(
        path: &Path,
        repository: RepositoryId,
        cache: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Result<Self> {
        let index = Self {
            path: path.to_owned(),
            repository,
            database: Mutex::default(),
            cache: Box::new(cache),
            writing: Mutex::default(),
            memory: RwLock::default(),
            misses: AtomicU64::default(),
        };
        index.database()?;
        Ok(index)
    }

    /// Gives its memory back until it is asked again.
    pub(crate) fn rest(&self) {
        if let Err(e) = self.flush(1) {
            tracing::warn!(error = e.chain(), "what was stored last is not in the chunk index yet");
        }
        let mut database = lock(&self.database);
        // Whoever still looks into it keeps it open, and redb would not open it beside.
        if database.as_ref().is_some_and(|database| Arc::strong_count(database) == 1) {
            let mut memory = self.write();
            memory.filter = None;
            memory.open.close();
            *database = None;
        }
    }

    fn database(&self) -> Result<Arc<Database>> {
        let mut database = lock(&self.database);
        if let Some(database) = &*database {
            return Ok(database.clone());
        }
        let opened = Arc::new(file::open(&self.path, self.repository, (self.cache)() / 2)?);
        self.write().open.load(&opened).map_err(failed)?;
        *database = Some(opened.clone());
        Ok(opened)
    }

    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// In bytes: of the tree's filter, and of those of all runs together.
    fn filter_room(&self) -> usize {
        (self.cache)() / 8
    }

    /// The committed transactions that are in it as a whole.
    pub(crate) fn folded(&self) -> Result<BTreeSet<TransactionId>> {
        let database = self.database()?;
        let read = || -> Result<_, redb::Error> {
            let transactions = database.begin_read()?.open_table(TRANSACTIONS)?;
            let mut folded = BTreeSet::new();
            for entry in transactions.iter()? {
                let (id, whole) = entry?;
                if whole.value() {
                    folded.insert(TransactionId(*id.value()));
                }
            }
            Ok(folded)
        };
        read().map_err(failed)
    }

    /// Takes in packs of a committed transaction; [`Self::fold_done`] says when these were all.
    pub(crate) fn fold(&self, packs: &[PackSummary]) -> Result<()> {
        let database = self.database()?;
        let mut entries: Vec<Entry> = Vec::new();
        let insert = |entries: &mut Vec<Entry>| {
            // In the tree's own order, each page is touched once. Of one chunk's places, the last is as good as any.
            entries.sort_unstable();
            entries.dedup_by_key(|(id, _)| *id);
            self.commit_entries(&database, entries).map_err(failed)?;
            entries.clear();
            Ok(())
        };
        for pack in packs {
            entries.extend(pack.chunks().map(|(id, at)| (id.0, place(&at))));
            if entries.len() >= BATCH {
                insert(&mut entries)?;
            }
        }
        insert(&mut entries)
    }

    /// Into `CHUNKS`; sorted, each id once.
    fn commit_entries(&self, database: &Database, entries: &[Entry]) -> Result<(), redb::Error> {
        let Some((first, _)) = entries.first() else { return Ok(()) };
        let mut write = database.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut table = write.open_table(CHUNKS)?;
            let is_behind = table.last()?.is_none_or(|(last, _)| last.value() < first);
            if is_behind {
                append(&mut table, entries.iter().map(|entry| Ok(*entry)))?;
            } else {
                for (id, at) in entries {
                    table.insert(id, at)?;
                }
            }
        }
        let mut memory = self.write();
        if let Some(filter) = &mut memory.filter {
            entries.iter().for_each(|(id, _)| filter.insert(id));
        }
        memory.filter.take_if(|filter| filter.is_overfull());
        write.commit()?;
        Ok(())
    }

    /// All of the transaction is in `CHUNKS`. What it had stored while it was open is not needed any more.
    pub(crate) fn fold_done(&self, transaction: TransactionId) -> Result<()> {
        let database = self.database()?;
        let _one = lock(&self.writing);
        let was_open = self.read().open.is_of(transaction);
        let write = || -> Result<_, redb::Error> {
            let write = database.begin_write()?;
            write.open_table(TRANSACTIONS)?.insert(&transaction.0, true)?;
            if was_open {
                return self.commit_open(write, Open::default());
            }
            Ok(write.commit()?)
        };
        write().map_err(failed)
    }

    /// A place for each id: one stored by the open transaction, else the committed one that `usable` allows.
    pub(crate) fn find(
        &self,
        ids: &[ChunkId],
        usable: impl Fn(&PackId) -> bool,
    ) -> Result<Vec<Option<ChunkAt>>> {
        let database = self.database()?;
        let look = || -> Result<_, redb::Error> {
            let memory = self.read();
            let read = database.begin_read()?;
            let chunks = read.open_table(CHUNKS)?;
            let committed = chunks.len()?;
            let mut open = memory.open.look(&read);
            let mut found = Vec::with_capacity(ids.len());
            let mut misses = 0;
            for id in ids {
                let mut at = open.find(&id.0)?.and_then(|at| parse(&at));
                if at.is_none()
                    && committed > 0
                    && memory.filter.as_ref().is_none_or(|filter| filter.may_hold(&id.0))
                {
                    let there = chunks.get(&id.0)?;
                    misses += u64::from(there.is_none());
                    at = there.and_then(|at| parse(at.value())).filter(|at| usable(&at.frame.pack));
                }
                found.push(at);
            }
            let is_wanted = memory.filter.is_none() && misses > 0;
            drop(open);
            drop(memory);
            if is_wanted {
                misses += self.misses.fetch_add(misses, Ordering::Relaxed);
                if misses.saturating_mul(MISSES_WORTH) >= committed {
                    self.make_filter(&database)?;
                }
            }
            Ok(found)
        };
        look().map_err(failed)
    }

    /// Of what is in `CHUNKS`, unless that is too much.
    fn make_filter(&self, database: &Database) -> Result<(), redb::Error> {
        let mut memory = self.write();
        let chunks = database.begin_read()?.open_table(CHUNKS)?;
        let entries = chunks.len()? as usize;
        if memory.filter.is_some() || Filter::bytes_for(entries) > self.filter_room() {
            return Ok(());
        }
        let mut filter = Filter::new(entries);
        for entry in chunks.iter()? {
            filter.insert(entry?.0.value());
        }
        memory.filter = Some(filter);
        self.misses.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Drops what lies in packs that are gone.
    pub(crate) fn retain(&self, keep: impl Fn(&PackId) -> bool) -> Result<()> {
        let database = self.database()?;
        let write = || -> Result<_, redb::Error> {
            let write = database.begin_write()?;
            write.open_table(CHUNKS)?.retain(|_, at| parse(at).is_some_and(|at| keep(&at.frame.pack)))?;
            write.commit()?;
            Ok(())
        };
        write().map_err(failed)
    }
}

/// Behind all that the table holds, in the order of the ids: pages are filled one after the other, and touched once.
fn append(
    table: &mut redb::Table<'_, Id, Place>,
    entries: impl IntoIterator<Item = Result<Entry, redb::Error>>,
) -> Result<(), redb::Error> {
    let mut cursor = table.upper_bound_mut(Bound::<Id>::Unbounded)?;
    for entry in entries {
        let (id, at) = entry?;
        cursor.insert_before(&id, &at)?;
    }
    cursor.close()?;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
