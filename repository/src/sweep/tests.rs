//! A sweep that dies between any two of its steps, and what it costs.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::entropy::SeededEntropy;
use crate::error::Error;
use crate::keyfile::KeyFile;
use crate::ledger::Purpose;
use crate::ledger::fixture::{commit, node, pack, txn};
use crate::retention::{Candidate, Policy, chores, decide, freed};
use crate::storage::front::Front;
use crate::storage::{Counted, MemoryStorage, Storage, list_all};

const E: Epoch = Epoch(1);

/// A store whose user dies after so many changes.
#[derive(Debug)]
struct Mortal {
    inner: Arc<dyn Storage>,
    left: AtomicI64,
}

impl Mortal {
    fn change(&self) -> Result<()> {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            left if left > 0 => Ok(()),
            _ => Err(Error::internal("dead")),
        }
    }
}

#[async_trait]
impl Front for Mortal {
    fn behind(&self) -> &dyn Storage {
        &*self.inner
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.change()?;
        self.inner.put_new(key, body).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.change()?;
        self.inner.put(key, body).await
    }

    /// One by one, so that it may die between two.
    async fn delete(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            self.change()?;
            self.inner.delete(std::slice::from_ref(key)).await?;
        }
        Ok(())
    }
}

fn key() -> KeyFile {
    KeyFile::generate(&SeededEntropy::new(1)).unwrap()
}

async fn open(storage: Arc<dyn Storage>) -> Repository {
    let clock = Arc::new(ManualClock::at(Timestamp(50_000)));
    Repository::open(storage, &[key()]).await.unwrap().with_clock(clock)
}

/// Of `n` backups, each with so many packs of its own and the first pack of the one before it.
async fn written(storage: &Arc<dyn Storage>, n: u32, packs: u32) -> Repository {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000)));
    let repository =
        Repository::create(storage.clone(), &key(), &SeededEntropy::new(2), clock).await.unwrap();
    repository.lead(E, "c1").await.unwrap();
    for n in 1..=n {
        repository.begin(E, txn(n), Purpose::Backup).await.unwrap();
        let mut of: Vec<(u32, u32)> = (0..packs).map(|counter| (n, counter)).collect();
        for (transaction, counter) in &of {
            let key = pack(*transaction, *counter).key();
            storage.put_new(&key, Bytes::from_static(&[0; 100])).await.unwrap();
        }
        storage.put_new(&node(n, "n1").manifest.key(0), Bytes::from_static(b"manifest")).await.unwrap();
        of.extend((n > 1).then(|| (n - 1, 0)));
        repository.append(E, commit(n, &of)).await.unwrap();
    }
    repository
}

async fn objects(storage: &Arc<dyn Storage>) -> Vec<String> {
    list_all(&**storage, "t/").await.unwrap().into_iter().map(|object| object.key).collect()
}

/// What an operation of the coordinator does, step by step.
async fn run(repository: &Repository, policy: &Policy) -> Result<()> {
    repository.refresh().await?;
    let backups = repository.backups().await;
    let candidates: Vec<_> = backups.iter().map(|backup| Candidate::of(backup, repository.now())).collect();
    for verdict in decide(&candidates, policy).iter().filter(|verdict| !verdict.keeps()) {
        repository.forget(E, verdict.backup).await?;
    }
    sweep(repository, E).await.map(drop)
}

#[tokio::test]
async fn dead_after_any_step_the_next_run_comes_to_the_same_end() {
    let policy = Policy { last: 2, ..Policy::default() };
    let mut ends: Vec<Vec<String>> = Vec::new();
    for steps in 0.. {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let repository = written(&storage, 5, 3).await;
        // Somebody's leftovers.
        repository.begin(E, txn(9), Purpose::Backup).await.unwrap();
        storage.put_new(&pack(9, 0).key(), Bytes::from_static(b"left")).await.unwrap();
        repository.abort(E, txn(9)).await.unwrap();
        drop(repository);

        let mortal = Arc::new(Mortal { inner: storage.clone(), left: AtomicI64::new(steps) });
        let died = run(&open(mortal).await, &policy).await.is_err();
        let live = open(storage.clone()).await;
        for backup in live.backups().await {
            for pack in backup.packs.iter() {
                storage.size(&pack.key()).await.unwrap();
            }
            storage.size(&backup.nodes[0].manifest.key(0)).await.unwrap();
        }
        run(&live, &policy).await.unwrap();
        assert_eq!(live.backups().await.iter().map(|backup| backup.id).collect::<Vec<_>>(), [txn(4), txn(5)]);
        assert!(chores(&live).await.unwrap().is_empty());
        assert!(live.void_records().await.is_empty());
        ends.push(objects(&storage).await);
        if !died {
            assert!(steps > 12, "few steps to die after: {steps}");
            break;
        }
    }
    assert!(ends.windows(2).all(|pair| pair[0] == pair[1]));
    // Packs of 4 and 5, the first of 3, two manifests.
    assert_eq!(ends[0].len(), 3 + 3 + 1 + 2);
}

#[tokio::test]
async fn what_becomes_free_is_known_before_and_true_after() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let repository = written(&storage, 4, 3).await;
    let forget = [txn(1), txn(2)].into();
    let before = freed(&repository, &forget).await.unwrap();
    assert_eq!(
        (before.packs, before.bytes, before.waiting),
        (5, 500, 0),
        "the third still uses one of the second"
    );
    for backup in &forget {
        repository.forget(E, *backup).await.unwrap();
    }
    let chores = chores(&repository).await.unwrap();
    assert_eq!((chores.packs, chores.leftovers.objects), (5, 2), "and their two manifests");
    let swept = sweep(&repository, E).await.unwrap();
    assert_eq!((swept.packs, swept.deleted.objects, swept.deleted.bytes), (5, 7, 500 + 2 * 8));
}

#[tokio::test]
async fn it_gives_way_and_goes_on() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let repository = written(&storage, 3, 2).await;
    repository.forget(E, txn(1)).await.unwrap();
    let swept = sweep_until(&repository, E, &|| true).await.unwrap();
    assert!(swept.gave_way && swept.deleted.objects == 0 && swept.packs == 1, "{swept:?}");
    let swept = sweep(&repository, E).await.unwrap();
    assert!(!swept.gave_way && swept.deleted.objects == 2, "{swept:?}");
}

#[tokio::test]
async fn a_pinned_backup_outlives_any_policy() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let repository = written(&storage, 4, 1).await;
    repository.pin(E, txn(1), "release").await.unwrap();
    repository.hold(E, txn(2), Timestamp(90_000), "case").await.unwrap();
    let repository = open(storage.clone()).await;
    let policy = Policy { last: 1, ..Policy::default() };
    run(&repository, &policy).await.unwrap();
    let left: Vec<_> = repository.backups().await.iter().map(|backup| backup.id).collect();
    assert_eq!(left, [txn(1), txn(2), txn(4)]);
    repository.unpin(E, txn(1)).await.unwrap();
    repository.unhold(E, txn(2)).await.unwrap();
    run(&repository, &policy).await.unwrap();
    assert_eq!(repository.backups().await.len(), 1);
}

/// `cargo test -p palinurus-repository --lib sweep::tests::measure -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "a measurement")]
async fn measure_a_million_chunks() {
    // 32 chunks of 1 MiB a pack: 31,250 packs in 250 backups, every second one of which is forgotten.
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    drop(written(&storage, 250, 125).await);
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let counted = Arc::new(Counted::new(storage.clone()));
    let before = resident();
    let began = std::time::Instant::now();
    let repository = open(counted.clone()).await;
    println!("open: {:?}, {:?}", began.elapsed(), counted.requests());
    for n in (1..=250).step_by(2) {
        repository.forget(E, txn(n)).await.unwrap();
    }
    let (began, asked) = (std::time::Instant::now(), counted.requests());
    let chores = chores(&repository).await.unwrap();
    println!("look: {:?}, {:?}, {chores:?}", began.elapsed(), counted.requests().since(&asked));
    let (began, asked) = (std::time::Instant::now(), counted.requests());
    let swept = sweep(&repository, E).await.unwrap();
    println!("sweep: {:?}, {:?}, {swept:?}", began.elapsed(), counted.requests().since(&asked));
    println!("resident: {before} KiB before, {} KiB after", resident());
}
