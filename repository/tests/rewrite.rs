//! Packs that are partly used are rewritten: whatever happens on the way, every kept backup restores byte for byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_repository::entropy::{Entropy, SeededEntropy};
use palinurus_repository::ledger::{PackSet, Purpose};
use palinurus_repository::manifest::entry::Kind;
use palinurus_repository::pack::PackId;
use palinurus_repository::rewrite::{Limits, Moved, abandon, candidates, rewrite};
use palinurus_repository::storage::{MemoryStorage, Object, list_all};
use palinurus_repository::sweep::{delete_leftovers, sweep};
use palinurus_repository::verify::check;
use palinurus_repository::{
    BackupId, Epoch, Error, KeyFile, Repository, Result, Storage, TransactionId, WriterId,
};

mod backup;

use backup::{EPOCH, Known, Run, Source, What, begin, restore, source, tree};

const LIMITS: Limits = Limits { pack: Some(50), overall: 1, budget: 1 << 30 };

/// A store that goes away at its nth change: before it, or after it with the answer lost.
#[derive(Debug)]
struct Dying {
    inner: Arc<dyn Storage>,
    left: AtomicI64,
    answered: bool,
}

impl Dying {
    async fn change(&self, change: impl Future<Output = Result<()>> + Send) -> Result<()> {
        let gone = || Err(Error::unavailable("the store is gone"));
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            left if left > 0 => change.await,
            0 if !self.answered => {
                change.await?;
                gone()
            }
            _ => gone(),
        }
    }
}

#[async_trait]
impl Storage for Dying {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.change(self.inner.put_new(key, body)).await
    }
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.change(self.inner.put(key, body)).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }
    async fn size(&self, key: &str) -> Result<u64> {
        self.inner.size(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.inner.list(prefix, after, limit).await
    }
    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.change(self.inner.delete(keys)).await
    }
}

/// Of the small files every tenth never changes.
fn files(age: u64) -> Vec<Source> {
    let mut sources = tree(age);
    sources.push(source("z", What::Directory));
    for n in 0..40u64 {
        let mut bytes = vec![0; 5000];
        let seed = if n % 10 == 0 { n } else { n + 1000 * (age + 1) };
        let entropy: &dyn Entropy = &SeededEntropy::new(seed);
        entropy.fill(&mut bytes).unwrap();
        sources.push(source(format!("z/{n:02}"), What::File(vec![Run::Bytes(bytes)])));
    }
    sources
}

struct World {
    storage: Arc<dyn Storage>,
    key: KeyFile,
    known: Known,
}

impl World {
    /// Three backups, of which the first is forgotten: of what it wrote, little is used.
    async fn new() -> Self {
        let entropy = SeededEntropy::new(33);
        let key = KeyFile::generate(&entropy).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let clock = Arc::new(palinurus_repository::clock::ManualClock::at(palinurus_repository::Timestamp(
            1_700_000_000_000,
        )));
        Repository::create(storage.clone(), &key, &entropy, clock).await.unwrap();
        let mut world = Self { storage, key, known: Known::new() };
        let repository = world.open(&world.storage.clone(), EPOCH).await;
        for (id, age) in [(1, 0), (2, 1), (3, 2)] {
            world.backup(&repository, id, age).await;
        }
        repository.forget(EPOCH, id(1)).await.unwrap();
        sweep(&repository, EPOCH).await.unwrap();
        world
    }

    async fn open(&self, storage: &Arc<dyn Storage>, epoch: Epoch) -> Repository {
        let repository = Repository::open(storage.clone(), std::slice::from_ref(&self.key)).await.unwrap();
        repository.lead(epoch, &format!("c{}", epoch.0)).await.unwrap();
        repository
    }

    async fn backup(&mut self, repository: &Repository, n: u8, age: u64) {
        let state = repository.read(Clone::clone).await;
        self.known.retain(|_, at| state.usable(&at.frame.pack));
        let mut writing = begin(repository, n, &mut self.known, 1 << 20).await;
        let node = writing.node("n1", WriterId([n; 8]), &files(age)).await;
        writing.commit(vec![node]).await;
    }

    async fn copy(&self) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        for object in list_all(&*self.storage, "").await.unwrap() {
            let body = self.storage.get(&object.key, None).await.unwrap();
            storage.put_new(&object.key, body).await.unwrap();
        }
        Self { storage, key: self.key.clone(), known: self.known.clone() }
    }

    async fn packs(&self) -> BTreeMap<PackId, u64> {
        let objects = list_all(&*self.storage, "t/").await.unwrap();
        objects.iter().filter_map(|it| Some((PackId::from_key(&it.key).ok()?, it.size))).collect()
    }
}

fn id(n: u8) -> TransactionId {
    TransactionId([n; 16])
}

async fn run(repository: &Repository, epoch: Epoch, seed: u64, limits: &Limits) -> Result<Moved> {
    abandon(repository, epoch).await?;
    rewrite(repository, epoch, &SeededEntropy::new(seed), limits, &|| false).await
}

async fn restored(repository: &Repository) -> BTreeMap<(BackupId, Vec<u8>), Vec<u8>> {
    let mut all = BTreeMap::new();
    for backup in repository.backups().await {
        for (entry, bytes) in restore(repository, &backup.nodes[0]).await {
            if matches!(entry.kind, Kind::File(_)) {
                all.insert((backup.id, entry.path), bytes);
            }
        }
    }
    all
}

async fn sound(repository: &Repository) {
    let report = check(repository, true, &|_| {}).await.unwrap();
    assert_eq!(report.damages, []);
    assert_eq!(repository.void_records().await, [0u64; 0]);
}

#[tokio::test]
async fn what_is_wasted_becomes_free_as_predicted_and_once() {
    let mut world = World::new().await;
    let repository = world.open(&world.storage, EPOCH).await;
    let before = restored(&repository).await;
    let old = world.packs().await;
    let off = Limits { pack: None, ..LIMITS };
    assert_eq!(run(&repository, EPOCH, 1, &off).await.unwrap().packs, 0);
    let little = Limits { overall: 99, ..LIMITS };
    let done = run(&repository, EPOCH, 1, &little).await.unwrap();
    assert!(done.packs == 0 && done.wasted > 100_000, "not worth it overall: {done:?}");
    assert_eq!(world.packs().await, old);

    let done = run(&repository, EPOCH, 2, &LIMITS).await.unwrap();
    assert!(done.packs > 0 && done.backups == 2 && !done.unfinished, "{done:?}");
    let written: u64 =
        world.packs().await.iter().filter(|(it, _)| !old.contains_key(it)).map(|it| it.1).sum();
    assert!(written > 0 && written < done.bytes_moved + 4096, "{written} for {done:?}");
    let swept = sweep(&repository, EPOCH).await.unwrap();
    assert_eq!(swept.packs, done.packs);
    let now: u64 = world.packs().await.values().sum();
    assert_eq!(now, old.values().sum::<u64>() + written - done.bytes_freed);
    assert_eq!(restored(&repository).await, before);
    sound(&repository).await;

    let again = run(&repository, EPOCH, 3, &LIMITS).await.unwrap();
    assert_eq!((again.packs, again.wasted), (0, 0), "what was moved is used as a whole");
    assert!(again.measured > 0);
    // The next backup builds on what was rewritten, and a second round follows its own packs.
    world.backup(&repository, 4, 3).await;
    for gone in [2, 3] {
        repository.forget(EPOCH, id(gone)).await.unwrap();
    }
    sweep(&repository, EPOCH).await.unwrap();
    assert!(run(&repository, EPOCH, 4, &LIMITS).await.unwrap().packs > 0);
    sweep(&repository, EPOCH).await.unwrap();
    sound(&repository).await;
    assert!(restored(&repository).await.keys().all(|(backup, _)| *backup == id(4)));
}

#[tokio::test]
async fn it_may_die_at_every_change_of_the_store_and_is_done_again() {
    let whole = World::new().await;
    let before = whole.copy().await;
    let repository = whole.open(&whole.storage, EPOCH).await;
    let expected = restored(&repository).await;
    let (mut at, mut died) = (0, 0);
    loop {
        let mut finished = true;
        for answered in [true, false] {
            let world = before.copy().await;
            let dying =
                Arc::new(Dying { inner: world.storage.clone(), left: AtomicI64::new(i64::MAX), answered });
            let storage: Arc<dyn Storage> = dying.clone();
            let repository = world.open(&storage, EPOCH).await;
            dying.left.store(at, Ordering::Relaxed);
            let first = match run(&repository, EPOCH, 5, &LIMITS).await {
                Ok(_) => sweep(&repository, EPOCH).await.map(drop),
                Err(e) => Err(e),
            };
            finished &= first.is_ok();
            died += u32::from(first.is_err());

            // Anybody may delete at any time; then the next leader does it again.
            let next = world.open(&world.storage, Epoch(2)).await;
            delete_leftovers(&next).await.unwrap();
            assert_eq!(restored(&next).await, expected, "died at {at}");
            run(&next, Epoch(2), 6, &LIMITS).await.unwrap();
            sweep(&next, Epoch(2)).await.unwrap();
            assert_eq!(restored(&next).await, expected, "died at {at}, done again");
            sound(&next).await;
            let left = next.read(candidates).await;
            assert!(
                left.iter().all(|pack| pack.transaction != id(1) || !is_small(&world, &pack)),
                "{left:?}"
            );
            let packs = world.packs().await;
            let needed = next.read(|state| state.committed().clone()).await;
            assert_eq!(packs.keys().copied().collect::<PackSet>(), needed, "nothing is left behind");
        }
        if finished {
            break;
        }
        at += 1;
    }
    assert!(died > 10, "{died}");
}

/// The small files lie in the last pack of their transaction.
fn is_small(world: &World, pack: &PackId) -> bool {
    world.known.values().any(|at| at.frame.pack == *pack && at.len == 5000)
}

#[tokio::test]
async fn a_backup_that_began_before_commits_on_the_old_packs() {
    let mut world = World::new().await;
    let repository = world.open(&world.storage, EPOCH).await;
    let base = repository.backups().await.last().unwrap().clone();
    let mut writing = begin(&repository, 9, &mut world.known, 1 << 20).await;
    let (node, used) = writing.node("n1", WriterId([9; 8]), &files(2)).await;
    // Another one whose node has not changed: it names the manifest that is replaced meanwhile.
    repository.begin(EPOCH, id(8), Purpose::Backup).await.unwrap();
    let done = rewrite(&repository, EPOCH, &SeededEntropy::new(7), &LIMITS, &|| false).await.unwrap();
    assert!(done.packs > 0, "{done:?}");
    let swept = sweep(&repository, EPOCH).await.unwrap();
    assert!(swept.packs == 0 && swept.waiting > 0, "{swept:?}");
    repository.commit(EPOCH, id(8), base.nodes.clone(), Vec::new(), base.packs.clone()).await.unwrap();
    repository.commit(EPOCH, id(9), vec![node], Vec::new(), used).await.unwrap();
    sweep(&repository, EPOCH).await.unwrap();
    sound(&repository).await;
    let all = restored(&repository).await;
    for (path, bytes) in all.iter().filter(|((backup, _), _)| *backup == id(3)) {
        for other in [8, 9] {
            assert_eq!(all.get(&(id(other), path.1.clone())), Some(bytes));
        }
    }
}

#[tokio::test]
async fn it_gives_way_anywhere_and_keeps_to_its_budget() {
    let world = World::new().await;
    let repository = world.open(&world.storage, EPOCH).await;
    let before = restored(&repository).await;
    let mut asked = 0;
    loop {
        let count = AtomicU64::new(0);
        let give_way = || count.fetch_add(1, Ordering::Relaxed) >= asked;
        let done =
            rewrite(&repository, EPOCH, &SeededEntropy::new(100 + asked), &LIMITS, &give_way).await.unwrap();
        assert!(repository.read(|state| state.open_transactions().is_empty()).await, "nothing is left open");
        assert_eq!(restored(&repository).await, before);
        if !done.unfinished {
            assert!(done.packs > 0, "{done:?}");
            break;
        }
        asked += 1;
    }
    assert!(asked > 5, "{asked}");

    let world = World::new().await;
    let repository = world.open(&world.storage, EPOCH).await;
    let tight = Limits { budget: 1, ..LIMITS };
    let first = run(&repository, EPOCH, 1, &tight).await.unwrap();
    assert_eq!(first.packs, 1, "{first:?}");
    let mut left = first.unfinished;
    for seed in 2.. {
        if !left {
            break;
        }
        left = run(&repository, EPOCH, seed, &tight).await.unwrap().unfinished;
    }
    assert_eq!(run(&repository, EPOCH, 99, &LIMITS).await.unwrap().packs, 0, "all of it is done in the end");
    assert_eq!(restored(&repository).await, before);
}
