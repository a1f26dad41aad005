//! Which chunk lies where, for one repository: a cache on disk of its index segments, so that memory does not grow
//! with the data. It may be lost at any time, and says of itself which transactions it has taken in.
//!
//! It answers with places that were true once. Whether a place may still be used is the ledger's to say: entries of
//! swept packs stay until [`Index::retain`] takes them out.
//!
//! The file is open, and its cache takes memory, only while an operation works with it: a coordinator has as many of
//! these as it has services, and most of them rest.
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use palinurus_repository::pack::{ChunkAt, Codec, FrameAt, PackId, PackSummary};
use palinurus_repository::{ChunkId, Error, RepositoryId, Result, TransactionId, WriterId};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

const PLACE_LEN: usize = 53;
type Id = &'static [u8; ChunkId::LEN];
type Place = &'static [u8; PLACE_LEN];

/// Of committed transactions.
const CHUNKS: TableDefinition<'_, Id, Place> = TableDefinition::new("chunks");
/// Of packs that the open transaction's nodes have stored.
const OPEN: TableDefinition<'_, Id, Place> = TableDefinition::new("open");
/// The packs that `OPEN` is made of.
const PACKS: TableDefinition<'_, &str, ()> = TableDefinition::new("packs");
/// Which transaction `OPEN` is about; which are in `CHUNKS` as a whole.
const TRANSACTIONS: TableDefinition<'_, &[u8; TransactionId::LEN], bool> =
    TableDefinition::new("transactions");
const REPOSITORY: TableDefinition<'_, (), &[u8; RepositoryId::LEN]> = TableDefinition::new("repository");

/// Entries written in one redb transaction: what it holds in memory until it commits.
const BATCH: usize = 100_000;
/// Commits of the open transaction that may be lost together. Agents tell again, so losing them costs nothing.
const UNSYNCED: u32 = 64;

pub(crate) struct Index {
    path: PathBuf,
    repository: RepositoryId,
    database: Mutex<Option<Arc<Database>>>,
    /// In bytes, of the next time that it is opened.
    cache: Box<dyn Fn() -> usize + Send + Sync>,
    unsynced: std::sync::atomic::AtomicU32,
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

fn open(path: &Path, repository: RepositoryId, cache: usize) -> Result<Database> {
    // redb may panic on a file that was changed behind its back.
    let opened = std::panic::catch_unwind(|| try_open(path, repository, cache));
    match opened {
        Ok(Ok(Some(database))) => return Ok(database),
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => {
            return Err(Error::conflict(format!("{} is in use", path.display())));
        }
        Ok(Ok(None)) => {
            tracing::warn!(path = %path.display(), "the chunk index is another repository's: made anew")
        }
        Ok(Err(e)) => {
            tracing::warn!(path = %path.display(), error = %e, "the chunk index is damaged: made anew")
        }
        Err(_) => tracing::warn!(path = %path.display(), "the chunk index is damaged: made anew"),
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("remove {}", path.display()), e));
        }
        _ => {}
    }
    match try_open(path, repository, cache) {
        Ok(Some(database)) => Ok(database),
        Ok(None) => Err(Error::internal("a new chunk index belongs to another repository")),
        Err(e) => Err(failed(e)),
    }
}

/// `None` when the file is another repository's.
fn try_open(path: &Path, repository: RepositoryId, cache: usize) -> Result<Option<Database>, redb::Error> {
    let database = Database::builder().set_cache_size(cache).create(path)?;
    let transaction = database.begin_write()?;
    {
        transaction.open_table(CHUNKS)?;
        transaction.open_table(OPEN)?;
        transaction.open_table(PACKS)?;
        transaction.open_table(TRANSACTIONS)?;
        let mut owner = transaction.open_table(REPOSITORY)?;
        let found = owner.get(())?.map(|found| *found.value());
        match found {
            Some(found) if found != repository.0 => return Ok(None),
            Some(_) => {}
            None => drop(owner.insert((), &repository.0)?),
        }
    }
    transaction.commit()?;
    Ok(Some(database))
}

impl Index {
    /// Opens or makes the cache. A file that is damaged, or of another repository, is replaced by an empty one.
    /// Blocks, as all of this does.
    pub(crate) fn open(
        path: &Path,
        repository: RepositoryId,
        cache: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Result<Self> {
        let database = Mutex::default();
        let index =
            Self { path: path.to_owned(), repository, database, cache: Box::new(cache), unsynced: 0.into() };
        index.database()?;
        Ok(index)
    }

    /// Gives its memory back until it is asked again.
    pub(crate) fn rest(&self) {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever still looks into it keeps it open, and redb would not open it beside.
        if database.as_ref().is_some_and(|database| Arc::strong_count(database) == 1) {
            *database = None;
        }
    }

    fn database(&self) -> Result<Arc<Database>> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*database {
            return Ok(database.clone());
        }
        let opened = Arc::new(open(&self.path, self.repository, (self.cache)())?);
        *database = Some(opened.clone());
        Ok(opened)
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
        let mut entries: Vec<([u8; 32], [u8; PLACE_LEN])> = Vec::new();
        for pack in packs {
            entries.extend(pack.chunks().map(|(id, at)| (id.0, place(&at))));
            if entries.len() >= BATCH {
                self.insert(CHUNKS, None, std::mem::take(&mut entries), Durability::None, || ())?;
            }
        }
        self.insert(CHUNKS, None, entries, Durability::None, || ())
    }

    pub(crate) fn fold_done(&self, transaction: TransactionId) -> Result<()> {
        let database = self.database()?;
        let write = || -> Result<_, redb::Error> {
            let write = database.begin_write()?;
            write.open_table(TRANSACTIONS)?.insert(&transaction.0, true)?;
            write.commit()?;
            Ok(())
        };
        write().map_err(failed)
    }

    /// Makes `OPEN` the table of this transaction: what another one left in it goes.
    pub(crate) fn begin(&self, transaction: TransactionId) -> Result<()> {
        let database = self.database()?;
        let write = || -> Result<_, redb::Error> {
            let write = database.begin_write()?;
            {
                let mut transactions = write.open_table(TRANSACTIONS)?;
                let open = open_transactions(&transactions)?;
                if open == [transaction.0] {
                    return Ok(());
                }
                for id in open {
                    transactions.remove(&id)?;
                }
                transactions.insert(&transaction.0, false)?;
                write.delete_table(OPEN)?;
                write.open_table(OPEN)?;
                write.delete_table(PACKS)?;
                write.open_table(PACKS)?;
            }
            write.commit()?;
            Ok(())
        };
        write().map_err(failed)
    }

    /// A pack of the open transaction is durable. `gate` is passed right before it becomes visible.
    pub(crate) fn stored<G>(&self, pack: &PackSummary, gate: impl FnOnce() -> G) -> Result<G> {
        let entries = pack.chunks().map(|(id, at)| (id.0, place(&at))).collect();
        let count = self.unsynced.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let durability =
            if count % UNSYNCED == UNSYNCED - 1 { Durability::Immediate } else { Durability::None };
        self.insert(OPEN, Some(pack.pack), entries, durability, gate)
    }

    /// Those of the open transaction's packs that it has not taken in.
    pub(crate) fn lacks(&self, packs: Vec<PackId>) -> Result<Vec<PackId>> {
        let database = self.database()?;
        let look = || -> Result<_, redb::Error> {
            let known = database.begin_read()?.open_table(PACKS)?;
            let mut lacking = Vec::new();
            for pack in packs {
                if known.get(pack.key().as_str())?.is_none() {
                    lacking.push(pack);
                }
            }
            Ok(lacking)
        };
        look().map_err(failed)
    }

    fn insert<G>(
        &self,
        table: TableDefinition<'_, Id, Place>,
        pack: Option<PackId>,
        mut entries: Vec<([u8; 32], [u8; PLACE_LEN])>,
        durability: Durability,
        gate: impl FnOnce() -> G,
    ) -> Result<G> {
        // In the tree's own order, each page is touched once.
        entries.sort_unstable();
        let database = self.database()?;
        let write = || -> Result<_, redb::Error> {
            let mut write = database.begin_write()?;
            write.set_durability(durability)?;
            {
                let mut table = write.open_table(table)?;
                for (id, at) in &entries {
                    table.insert(id, at)?;
                }
                if let Some(pack) = pack {
                    write.open_table(PACKS)?.insert(pack.key().as_str(), ())?;
                }
            }
            let passed = gate();
            write.commit()?;
            Ok(passed)
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
            let read = database.begin_read()?;
            let (open, chunks) = (read.open_table(OPEN)?, read.open_table(CHUNKS)?);
            // A first backup asks only for what is new: the way down an empty tree is still a way.
            let (any_open, any_chunks) = (!open.is_empty()?, !chunks.is_empty()?);
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                let mut at = None;
                if any_open {
                    at = open.get(&id.0)?.and_then(|at| parse(at.value()));
                }
                if any_chunks && at.is_none() {
                    let committed = chunks.get(&id.0)?.and_then(|at| parse(at.value()));
                    at = committed.filter(|at| usable(&at.frame.pack));
                }
                found.push(at);
            }
            Ok(found)
        };
        look().map_err(failed)
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

fn open_transactions(
    table: &impl ReadableTable<&'static [u8; TransactionId::LEN], bool>,
) -> Result<Vec<[u8; TransactionId::LEN]>, redb::Error> {
    let mut open = Vec::new();
    for entry in table.iter()? {
        let (id, whole) = entry?;
        if !whole.value() {
            open.push(*id.value());
        }
    }
    Ok(open)
}

/// transaction 16 | writer 8 | counter, ordinal, offset, stored, plain, start, len: u32 each | codec 1
fn place(at: &ChunkAt) -> [u8; PLACE_LEN] {
    let FrameAt { pack, ordinal, offset, stored, plain, codec } = at.frame;
    let mut bytes = [0; PLACE_LEN];
    bytes[..16].copy_from_slice(pack.transaction.as_bytes());
    bytes[16..24].copy_from_slice(pack.writer.as_bytes());
    for (i, value) in [pack.counter, ordinal, offset, stored, plain, at.start, at.len].into_iter().enumerate()
    {
        bytes[24 + 4 * i..28 + 4 * i].copy_from_slice(&value.to_le_bytes());
    }
    bytes[52] = codec as u8;
    bytes
}

/// `None` for what no version of ours writes: then the chunk is stored again.
fn parse(bytes: &[u8; PLACE_LEN]) -> Option<ChunkAt> {
    let number = |i: usize| {
        let at = 24 + 4 * i;
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let pack = PackId {
        transaction: TransactionId::from_slice(&bytes[..16]).ok()?,
        writer: WriterId::from_slice(&bytes[16..24]).ok()?,
        counter: number(0),
    };
    let codec = Codec::from_u32(u32::from(bytes[52])).ok()?;
    let frame =
        FrameAt { pack, ordinal: number(1), offset: number(2), stored: number(3), plain: number(4), codec };
    let at = ChunkAt { frame, start: number(5), len: number(6) };
    at.check().ok().map(|()| at)
}

#[cfg(test)]
pub(crate) mod tests {
    use palinurus_repository::pack::{FrameSummary, HEADER_LEN};

    use super::*;

    const REPOSITORY: RepositoryId = RepositoryId([1; 16]);

    pub(crate) fn chunk(n: u32) -> ChunkId {
        let mut id = [0; 32];
        // Spread as real ids are: the top bytes decide where in the tree an id lies.
        id[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
        id[4..8].copy_from_slice(&n.to_be_bytes());
        ChunkId(id)
    }

    /// A pack of the transaction that holds those chunks, 4 KiB each.
    pub(crate) fn pack(transaction: u8, counter: u32, chunks: std::ops::Range<u32>) -> PackSummary {
        let pack =
            PackId { transaction: TransactionId([transaction; 16]), writer: WriterId([9; 8]), counter };
        let mut offset = HEADER_LEN as u32;
        let mut frames = Vec::new();
        let ids: Vec<ChunkId> = chunks.map(chunk).collect();
        for ids in ids.chunks(256) {
            let plain = 4096 * ids.len() as u32;
            let chunks = ids.iter().map(|id| (*id, 4096)).collect();
            frames.push(FrameSummary { offset, stored: plain / 2 + 16, plain, codec: Codec::Zstd, chunks });
            offset += plain / 2 + 16;
        }
        PackSummary { pack, size: u64::from(offset) + 100, frames }
    }

    #[test]
    fn places_come_back_as_they_were() {
        for (_, at) in pack(3, 7, 0..600).chunks() {
            assert_eq!(parse(&place(&at)), Some(at));
        }
        assert_eq!(parse(&[0xff; PLACE_LEN]), None);
    }

    #[test]
    fn open_committed_and_swept() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(&directory.path().join("index"), REPOSITORY, || 4 << 20).unwrap();
        let (old, new) = (pack(1, 0, 0..1000), pack(2, 0, 1000..1500));
        index.fold(std::slice::from_ref(&old)).unwrap();
        index.fold_done(old.pack.transaction).unwrap();
        assert_eq!(index.folded().unwrap(), BTreeSet::from([old.pack.transaction]));

        index.begin(new.pack.transaction).unwrap();
        assert_eq!(index.lacks(vec![new.pack]).unwrap(), [new.pack]);
        index.stored(&new, || ()).unwrap();
        index.begin(new.pack.transaction).unwrap();
        assert_eq!(index.lacks(vec![new.pack]).unwrap(), []);
        let places = |usable: bool| index.find(&[chunk(5), chunk(1200), chunk(9999)], |_| usable).unwrap();
        let packs = |usable| places(usable).iter().map(|at| at.map(|at| at.frame.pack)).collect::<Vec<_>>();
        assert_eq!(packs(true), [Some(old.pack), Some(new.pack), None]);
        assert_eq!(
            packs(false),
            [None, Some(new.pack), None],
            "what is stored in this transaction needs no commit"
        );
        for (id, at) in new.chunks() {
            assert_eq!(index.find(&[id], |_| true).unwrap(), [Some(at)]);
        }

        index.begin(TransactionId([3; 16])).unwrap();
        assert_eq!(index.lacks(vec![new.pack]).unwrap(), [new.pack]);
        assert_eq!(packs(true), [Some(old.pack), None, None], "what another transaction stored is its own");
        assert_eq!(index.folded().unwrap().len(), 1);
        index.rest();
        assert!(index.database.lock().unwrap().is_none());
        assert_eq!(
            packs(true),
            [Some(old.pack), None, None],
            "what was committed is there again when it is asked for"
        );
        index.retain(|pack| *pack != old.pack).unwrap();
        assert_eq!(packs(true), [None, None, None]);
        let asking = index.database().unwrap();
        index.rest();
        assert!(index.database.lock().unwrap().is_some(), "who still asks is not cut short");
        drop(asking);
    }

    #[test]
    fn a_damaged_or_foreign_file_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let index = Index::open(&path, REPOSITORY, || 4 << 20).unwrap();
        index.fold_done(TransactionId([1; 16])).unwrap();
        assert_eq!(
            Index::open(&path, REPOSITORY, || 4 << 20).unwrap_err().kind(),
            palinurus_repository::ErrorKind::Conflict
        );
        drop(index);
        assert_eq!(Index::open(&path, REPOSITORY, || 4 << 20).unwrap().folded().unwrap().len(), 1);
        let foreign = Index::open(&path, RepositoryId([2; 16]), || 4 << 20).unwrap();
        assert!(foreign.folded().unwrap().is_empty());
        drop(foreign);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[..4096].fill(0x5a);
        std::fs::write(&path, bytes).unwrap();
        assert!(Index::open(&path, REPOSITORY, || 4 << 20).unwrap().folded().unwrap().is_empty());
    }
}
