//! Logs in a repository as a whole: what a sweep deletes of them, and what a copy has.
#![allow(clippy::unwrap_used, clippy::panic)]
use std::sync::Arc;

use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::log::{At, Lineage, LogReader, LogStore, Piece, Section, Trail, seal};
use palinurus_repository::storage::{MemoryStorage, Storage, list_all};
use palinurus_repository::{Epoch, KeyFile, LineageId, Repository, SystemClock, copy, sweep};

const E: Epoch = Epoch(1);

fn bytes(from: u64, to: u64) -> Vec<u8> {
    (from..to).map(|at| (at % 251) as u8).collect()
}

async fn put(store: &LogStore, lineage: LineageId, epoch: u32, from: u64, to: u64, whole: bool) {
    let piece = Piece { lineage, epoch, from, to, whole };
    let object = seal(store.keys(), None, &piece, &Trail::default(), &bytes(from, to), 1).unwrap();
    store.put(&piece, None, object).await.unwrap();
}

async fn names(storage: &Arc<dyn Storage>) -> Vec<String> {
    let listed = list_all(&**storage, "l/").await.unwrap();
    listed.into_iter().map(|object| object.key.split_once('/').unwrap().1[33..].to_owned()).collect()
}

#[tokio::test]
async fn a_sweep_takes_what_does_not_count_and_a_copy_has_the_rest() {
    let entropy = SeededEntropy::new(3);
    let key = KeyFile::generate(&entropy).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let repository =
        Repository::create(storage.clone(), &key, &entropy, Arc::new(SystemClock)).await.unwrap();
    repository.lead(E, "c1").await.unwrap();
    let new = Lineage {
        id: LineageId([0; 16]),
        parent: None,
        from: 0,
        kind: "postgresql".to_owned(),
        identity: vec![1; 9],
        segment: 64,
        grants: Vec::new(),
        floor: 0,
        number: 0,
    };
    let id = repository.add_lineage(E, new, &entropy).await.unwrap().id;
    repository.grant_log(E, id, "n1", 0).await.unwrap();
    repository.grant_log(E, id, "n2", 300).await.unwrap();
    let logs = repository.logs();
    for (from, to) in [(0, 50), (50, 100), (100, 150), (150, 220), (220, 310), (310, 400)] {
        put(&logs, id, 1, from, to, false).await;
    }
    put(&logs, id, 1, 100, 200, true).await;
    put(&logs, id, 2, 290, 450, false).await;
    // Of a grant that this reader of the ledger has not heard of.
    put(&logs, id, 3, 450, 460, false).await;
    logs.put_history(&repository.lineage(id).await.unwrap(), b"none").await.unwrap();
    repository.raise_floor(E, At { lineage: id, position: 60 }).await.unwrap();

    let leftovers = sweep::leftovers(&repository).await.unwrap();
    let swept = sweep::sweep(&repository, E).await.unwrap();
    assert_eq!((leftovers.objects, swept.deleted.objects), (3, 3), "below the floor, in a whole, too late");
    let kept = [
        "0000000001/0000000000000032-0000000000000064",
        "0000000001/0000000000000096-00000000000000dc",
        "0000000001/00000000000000dc-0000000000000136",
        "0000000002/0000000000000122-00000000000001c2",
        "0000000003/00000000000001c2-00000000000001cc",
        "history",
        "whole/0000000001/0000000000000064-00000000000000c8",
    ];
    assert_eq!(names(&storage).await, kept);
    assert_eq!(sweep::sweep(&repository, E).await.unwrap().deleted.objects, 0);

    let to: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let copied = copy::copy(&repository, &to, &|_| ()).await.unwrap();
    assert_eq!(copied.damaged_count, 0, "{copied:?}");
    let there = names(&to).await;
    assert!(there.len() == kept.len() - 1 && !there[3].starts_with("0000000003"), "{there:?}");
    let copy = Repository::open(to.clone(), &[key]).await.unwrap();
    let lineage = Lineage::clone(&*copy.lineage(id).await.unwrap());
    let chain = vec![Section { lineage: lineage.clone(), to: None }];
    let mut reader = LogReader::open(copy.logs(), chain, 60).await.unwrap();
    assert_eq!(reader.end_from(60), 450);
    assert_eq!(reader.read(60..450).await.unwrap(), bytes(60, 450));
    assert_eq!(copy.logs().history(&lineage).await.unwrap().unwrap(), b"none");

    // What is damaged is not copied, and is told.
    let name = list_all(&*storage, "l/").await.unwrap().remove(1).key;
    let mut damaged = storage.get(&name, None).await.unwrap().to_vec();
    damaged[40] ^= 1;
    storage.put(&name, damaged.into()).await.unwrap();
    let fresh: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let copied = copy::copy(&repository, &fresh, &|_| ()).await.unwrap();
    assert_eq!(copied.damaged[0].0, name);
}

#[tokio::test]
async fn the_account_of_a_history_that_is_over_goes_and_no_other() {
    let entropy = SeededEntropy::new(4);
    let key = KeyFile::generate(&entropy).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let repository =
        Repository::create(storage.clone(), &key, &entropy, Arc::new(SystemClock)).await.unwrap();
    repository.lead(E, "c1").await.unwrap();
    let mut ids: Vec<LineageId> = Vec::new();
    for (from, identity) in [(0, 1), (100, 2), (200, 3)] {
        let new = Lineage {
            id: LineageId([0; 16]),
            parent: ids.last().copied(),
            from,
            kind: "postgresql".to_owned(),
            identity: vec![identity; 9],
            segment: 64,
            grants: Vec::new(),
            floor: 0,
            number: 0,
        };
        let id = repository.add_lineage(E, new, &entropy).await.unwrap().id;
        repository.grant_log(E, id, "n1", from).await.unwrap();
        put(&repository.logs(), id, 1, from, from + 110, false).await;
        repository.logs().put_history(&repository.lineage(id).await.unwrap(), b"none").await.unwrap();
        ids.push(id);
    }
    let histories = async || {
        sweep::sweep(&repository, E).await.unwrap();
        let all = list_all(&*storage, "l/").await.unwrap();
        let there = |id: &LineageId| all.iter().any(|it| it.key == format!("l/{id}/history"));
        ids.iter().map(there).collect::<Vec<_>>()
    };
    let raise = async |of: usize, position| {
        repository.raise_floor(E, At { lineage: ids[of], position }).await.unwrap();
    };
    assert_eq!(histories().await, [true; 3]);
    raise(0, 100).await;
    assert_eq!(histories().await, [true; 3], "a piece goes beyond where the next begins");
    raise(0, 110).await;
    assert_eq!(histories().await, [false, true, true]);
    raise(1, 150).await;
    raise(2, 310).await;
    assert_eq!(
        histories().await,
        [false, true, true],
        "what is written still, and what has no other behind it"
    );
}
