use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use palinurus_repository::WriterId;
use palinurus_repository::ledger::PackSet;
use palinurus_repository::pack::{Codec, FrameSummary, HEADER_LEN};
use proptest::prelude::*;
use redb::backends::InMemoryBackend;

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
    let pack = PackId { transaction: TransactionId([transaction; 16]), writer: WriterId([9; 8]), counter };
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

/// What a coordinator does with it, in any order.
#[derive(Clone, Debug)]
enum Deed {
    Begin,
    /// A pack of so many chunks, from there on.
    Stored(u32, u32),
    /// The open transaction is committed; its segments are read if need be, or at any rate.
    Commit {
        segments: bool,
    },
    Rest,
    /// The process ends and another one opens the file.
    Killed,
    /// The pack is swept.
    Swept(prop::sample::Index),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => Just(Deed::Begin),
        20 => (0u32..2000, 1u32..150).prop_map(|(from, count)| Deed::Stored(from, count)),
        2 => any::<bool>().prop_map(|segments| Deed::Commit { segments }),
        1 => Just(Deed::Rest),
        1 => Just(Deed::Killed),
        1 => any::<prop::sample::Index>().prop_map(Deed::Swept),
    ]
}

/// Each transaction's packs, with what they hold.
#[derive(Default)]
struct Model {
    /// Of the open one, as far as the index has to know them.
    open: Vec<PackSummary>,
    committed: BTreeMap<PackId, PackSummary>,
    /// Of a chunk that several packs hold the index knows one place, and it may have been that one.
    swept: bool,
}

/// Any of the places that a pack has for it.
fn is_in<'a>(mut packs: impl Iterator<Item = &'a PackSummary>, id: ChunkId, at: Option<ChunkAt>) -> bool {
    match at {
        Some(at) => packs.any(|pack| pack.chunks().any(|(held, its)| held == id && its == at)),
        None => !packs.any(|pack| pack.chunks().any(|(held, _)| held == id)),
    }
}

impl Model {
    fn hold(&self, index: &Index) {
        let ids: Vec<ChunkId> = (0..2200).step_by(23).map(chunk).collect();
        for (id, at) in ids.iter().zip(index.find(&ids, |pack| self.committed.contains_key(pack)).unwrap()) {
            let of_open = self.open.iter();
            let known = match at {
                Some(_) => is_in(of_open.chain(self.committed.values()), *id, at),
                None => is_in(of_open, *id, at) && (self.swept || is_in(self.committed.values(), *id, at)),
            };
            assert!(known, "{id}: {at:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn it_knows_what_is_stored_and_nothing_else(deeds in prop::collection::vec(deed(), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        // Runs of a few hundred chunks, and filters for some of them.
        let open = || Index::open(&path, REPOSITORY, || 200 << 10).unwrap();
        let mut index = open();
        let (mut model, mut transaction, mut counter) = (Model::default(), 0, 0);
        for deed in deeds {
            match deed {
                Deed::Begin => {
                    transaction += 1;
                    index.begin(TransactionId([transaction; 16])).unwrap();
                    model.open = Vec::new();
                }
                Deed::Stored(..) | Deed::Commit { .. } if transaction == 0 => {}
                Deed::Stored(from, count) => {
                    counter += 1;
                    let pack = pack(transaction, counter, from..from + count);
                    index.stored(&pack, || ()).unwrap();
                    model.open.push(pack);
                }
                Deed::Commit { segments } => {
                    let id = TransactionId([transaction; 16]);
                    let packs: PackSet = model.open.iter().map(|pack| pack.pack).collect();
                    if segments || !index.fold_open(id, &packs, |_| true).unwrap() {
                        index.fold(&model.open).unwrap();
                    }
                    index.fold_done(id).unwrap();
                    assert!(index.folded().unwrap().contains(&id));
                    let late = index.stored(&pack(transaction, counter + 1, 0..9), || ()).unwrap_err();
                    assert_eq!(late.kind(), palinurus_repository::ErrorKind::Conflict);
                    model.committed.extend(model.open.drain(..).map(|pack| (pack.pack, pack)));
                    transaction += 1;
                    index.begin(TransactionId([transaction; 16])).unwrap();
                }
                Deed::Rest => index.rest(),
                Deed::Killed => {
                    drop(std::mem::replace(&mut index, Index::open(&directory.path().join("other"), REPOSITORY, || 1).unwrap()));
                    index = open();
                    // What agents would tell again.
                    let lost = index.lacks(model.open.iter().map(|pack| pack.pack).collect()).unwrap();
                    model.open.retain(|pack| !lost.contains(&pack.pack));
                }
                Deed::Swept(which) => {
                    let packs: Vec<PackId> = model.committed.keys().copied().collect();
                    if !packs.is_empty() {
                        model.committed.remove(which.get(&packs));
                        model.swept = true;
                        index.retain(|pack| model.committed.contains_key(pack)).unwrap();
                    }
                }
            }
            model.hold(&index);
        }
    }
}

#[test]
fn runs_are_merged_and_filters_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Index::open(&directory.path().join("index"), REPOSITORY, || 4 << 20).unwrap();
    let index = open();
    let id = TransactionId([1; 16]);
    index.begin(id).unwrap();
    let packs: Vec<PackSummary> = (0..100).map(|n| pack(1, n, n * 1000..(n + 1) * 1000)).collect();
    packs.iter().for_each(|pack| index.stored(pack, || ()).unwrap());
    let (runs, merges, filters) = index.read().open.shape();
    assert!(runs < 10 && merges > 0, "{runs} runs, merged {merges} times");
    assert!(filters > 0 && filters <= index.filter_room(), "{filters} bytes of filters");
    let ids: Vec<ChunkId> = (0..200_000).step_by(100).map(chunk).collect();
    let known = |index: &Index| index.find(&ids, |_| true).unwrap().iter().flatten().count();
    assert_eq!(known(&index), 1000);
    index.rest();
    assert_eq!(index.read().open.shape(), (0, 0, 0));
    assert_eq!(known(&index), 1000, "runs without filters");

    let own: PackSet = packs.iter().map(|pack| pack.pack).collect();
    let mut more = own.clone();
    more.insert(pack(1, 100, 0..1).pack);
    assert!(!index.fold_open(id, &more, |_| true).unwrap(), "a pack that it was not told of");
    assert!(!index.fold_open(TransactionId([2; 16]), &own, |_| true).unwrap());
    assert!(index.fold_open(id, &own, |pack| pack.counter > 0).unwrap());
    index.fold_done(id).unwrap();
    assert_eq!(index.read().open.shape(), (0, 0, 0));
    assert_eq!(known(&index), 990, "without the pack that may not be used");
    assert!(index.read().filter.is_none());
    (0..15).for_each(|_| assert_eq!(known(&index), 990));
    assert!(index.read().filter.is_some(), "so much was asked in vain that it pays");
    assert_eq!(known(&index), 990);
    index.begin(TransactionId([2; 16])).unwrap();
    index.fold(&[pack(2, 0, 150_000..150_001)]).unwrap();
    assert_eq!(known(&index), 991, "what comes in later is in the filter as well");
}

/// It says that it has begun, and waits to be let go.
type Wait = (SyncSender<()>, Receiver<()>);

/// Once it is given a wait, what has to be durable next does so.
#[derive(Debug, Default)]
struct SlowDisk {
    memory: InMemoryBackend,
    waits: Arc<Mutex<Option<Wait>>>,
}

impl redb::StorageBackend for SlowDisk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Some((begun, go)) = lock(&self.waits).take() {
            begun.send(()).unwrap();
            go.recv().unwrap();
        }
        self.memory.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }
}

#[test]
fn who_asks_does_not_wait_for_the_disk_of_who_begins_or_ends() {
    let disk = SlowDisk::default();
    let waits = disk.waits.clone();
    let database = Database::builder().create_with_backend(disk).unwrap();
    file::make_tables(&database, REPOSITORY).unwrap();
    let index = Index {
        path: PathBuf::new(),
        repository: REPOSITORY,
        database: Mutex::new(Some(Arc::new(database))),
        cache: Box::new(|| 4 << 20),
        writing: Mutex::default(),
        memory: RwLock::default(),
        misses: AtomicU64::default(),
    };
    let meanwhile = |deed: &(dyn Fn() -> Result<()> + Sync), want: [Option<PackId>; 2]| {
        let ((begun, has_begun), (let_go, go)) = (sync_channel(1), sync_channel(1));
        *lock(&waits) = Some((begun, go));
        std::thread::scope(|scope| {
            let deed = scope.spawn(deed);
            has_begun.recv().unwrap();
            let (answer, answered) = sync_channel(1);
            let index = &index;
            scope.spawn(move || answer.send(index.find(&[chunk(5), chunk(1200)], |_| true)));
            let found = answered.recv_timeout(Duration::from_secs(60));
            let_go.send(()).unwrap();
            deed.join().unwrap().unwrap();
            let found = found.expect("an answer while the disk is waited for").unwrap();
            assert_eq!(found.iter().map(|at| at.map(|at| at.frame.pack)).collect::<Vec<_>>(), want);
        });
    };
    let (one, two) = (pack(1, 0, 0..1000), pack(2, 0, 1000..1500));
    let [first, second, third] = [1, 2, 3].map(|n| TransactionId([n; 16]));
    index.begin(first).unwrap();
    index.stored(&one, || ()).unwrap();
    // In a run of the file's, which is not there any more once the deed is done.
    index.flush(1).unwrap();
    let own: PackSet = [one.pack].into_iter().collect();
    assert!(index.fold_open(first, &own, |_| true).unwrap());
    meanwhile(&|| index.fold_done(first), [Some(one.pack), None]);
    meanwhile(&|| index.begin(second), [Some(one.pack), None]);
    index.stored(&two, || ()).unwrap();
    index.flush(1).unwrap();
    assert_eq!(index.lacks(vec![two.pack]).unwrap(), []);
    meanwhile(&|| index.begin(third), [Some(one.pack), None]);
    assert_eq!(index.lacks(vec![two.pack]).unwrap(), [two.pack]);
}
