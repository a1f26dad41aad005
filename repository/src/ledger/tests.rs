use crate::log::{At, Span};
use std::collections::BTreeSet;

use super::fixture::*;
use super::*;
use crate::id::{Epoch, RepositoryId};
use crate::keys::RootKey;
use crate::storage::{Counted, MemoryStorage};

fn store() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::default())
}

async fn open(storage: &Arc<dyn Storage>) -> Ledger {
    Ledger::open(storage.clone(), &keys()).await.unwrap()
}

/// One of each kind.
fn history() -> Vec<Record> {
    let rewritten = Rewritten { backup: txn(2), nodes: vec![node(3, "n1")], packs: packs(&[(3, 0)]) };
    [
        leader("c1"),
        begin(1),
        commit(1, &[(1, 0), (1, 1)]),
        begin(2),
        commit(2, &[(2, 0), (1, 1)]),
        forget(1),
        condemn(&[(1, 0)]),
        sweep(&[(1, 0)]),
        begin_as(3, Purpose::Rewrite),
        Body::Rewrite { transaction: txn(3), backups: vec![rewritten] },
        begin_as(4, Purpose::Pin),
        abort(4),
        begin(5),
        commit_without(5, &[(5, 0)], &["n2", "n3"]),
        pin(2, "release"),
        Body::Unpin { backup: txn(2) },
        hold(5, 9_000),
        Body::Unhold { backup: txn(5) },
        pin(5, ""),
        drill(5, "n1", &[]),
        drill(5, "n1", &["a page"]),
        hold(2, 8_000),
        lineage(1, None, 5),
        lineage(2, Some(1), 9),
        Body::Grant { lineage: line(2), epoch: 3, node: "n1".to_owned(), from: 10 },
        Body::Begin {
            transaction: txn(6),
            purpose: Purpose::Pin,
            log: Some(At { lineage: line(2), position: 30 }),
        },
        Body::Floor(At { lineage: line(2), position: 20 }),
        abort(6),
        begin(7),
        commit_with_log(7, Span { lineage: line(2), start: 40, stop: 50 }),
    ]
    .into_iter()
    .map(|body| record(1, body))
    .collect()
}

async fn write_history(storage: &Arc<dyn Storage>) {
    let mut ledger = open(storage).await;
    for (number, record) in (0..).zip(history()) {
        assert_eq!(ledger.append(record).await.unwrap(), number);
    }
}

#[tokio::test]
async fn the_history_is_every_record_in_order() {
    let storage = store();
    write_history(&storage).await;
    assert_eq!(super::history(&*storage, &keys()).await.unwrap(), history());
    storage.delete(&[record::key(3)]).await.unwrap();
    assert_eq!(super::history(&*storage, &keys()).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

fn error(result: Result<Ledger>) -> Error {
    result.unwrap_err()
}

#[test]
fn every_kind_goes_there_and_back() {
    let keys = keys();
    let previous = [5; 32];
    for (number, record) in (0..).zip(history()) {
        let object = record.seal(&keys, number, Some(&previous)).unwrap();
        assert_eq!(Record::open(&keys, number, Some(&previous), &object).unwrap(), record);
        assert_eq!(record.seal(&keys, number, Some(&previous)).unwrap(), object, "sealing is repeatable");
        assert!(Record::open(&keys, number + 1, Some(&previous), &object).is_err(), "it cannot be moved");
        assert!(Record::open(&keys, number, None, &object).is_err(), "it names the one before");
    }
}

/// Who does not know that a node can be missing would show the backup as whole; everything else stays readable.
#[test]
fn only_a_partial_commit_asks_more_of_its_reader() {
    let level = |body: Body| {
        let keys = keys();
        let object = record(1, body).seal(&keys, 3, None).unwrap();
        let salt = object[8..24].try_into().unwrap();
        let mut sealed = object[24..].to_vec();
        let aad = [&[1; 16][..], &3u64.to_le_bytes(), &object[..24]].concat();
        let plain = keys.ledger_aead(3, &salt).unwrap().open(0, &aad, &mut sealed).unwrap().to_vec();
        assert_eq!(plain[0], 0x08, "field 1, which older readers look at");
        plain[1]
    };
    assert_eq!(level(commit(1, &[])), 1);
    assert_eq!(level(begin(1)), 1);
    assert_eq!(level(commit_without(1, &[], &["n2"])), 2);
}

/// The loser of a race has shown its record to the store: no key may have sealed two of them with one nonce.
#[test]
fn rivals_for_one_place_use_different_keys() {
    let keys = keys();
    let one = record(1, begin(1)).seal(&keys, 7, None).unwrap();
    let two = record(1, begin(2)).seal(&keys, 7, None).unwrap();
    assert_eq!(one.len(), two.len());
    assert_ne!(one[8..24], two[8..24], "the salt");
    // Under one key stream, equal plain bytes would be equal sealed bytes: the prefix of both records is the same.
    assert_ne!(one[24..28], two[24..28]);
}

#[tokio::test]
async fn what_one_appends_the_other_reads() {
    let storage = store();
    write_history(&storage).await;
    let mut ledger = open(&storage).await;
    assert_eq!(ledger.next(), history().len() as u64);
    let state = ledger.state();
    assert_eq!(state.leader(), (Epoch(1), "c1"));
    assert_eq!(state.backups().map(|backup| backup.id).collect::<Vec<_>>(), [txn(2), txn(5), txn(7)]);
    assert_eq!(state.backup(txn(5)).unwrap().missing, [absent("n2"), absent("n3")]);
    assert_eq!(state.backup(txn(2)).unwrap().packs, packs(&[(3, 0)]), "rewritten");
    assert_eq!(*state.swept(), packs(&[(1, 0)]));
    assert_eq!(state.backup(txn(7)).unwrap().nodes[0].log.unwrap().stop, 50);
    assert!(state.open_transactions().is_empty());
    let log = state.lineage(line(2)).unwrap();
    assert_eq!((log.parent, log.floor, log.grants[0].epoch), (Some(line(1)), 20, 3));
    assert!(ledger.voids().is_empty());

    let mut other = open(&storage).await;
    other.append(record(1, begin(9))).await.unwrap();
    assert!(ledger.state().open_transactions().is_empty());
    ledger.refresh().await.unwrap();
    assert_eq!(ledger.state().open_transactions().keys().copied().collect::<Vec<_>>(), [txn(9)]);
    assert_eq!(ledger.head(), other.head());
}

#[tokio::test]
async fn a_refresh_reads_only_what_is_new() {
    let storage = store();
    write_history(&storage).await;
    let counted = Arc::new(Counted::new(storage.clone()));
    let mut ledger = Ledger::open(counted.clone(), &keys()).await.unwrap();
    let before = counted.requests();
    ledger.refresh().await.unwrap();
    let asked = counted.requests().since(&before);
    assert_eq!((asked.lists, asked.gets), (1, 0));
    let mut other = open(&storage).await;
    for n in 10..13 {
        other.append(record(1, begin(n))).await.unwrap();
    }
    let before = counted.requests();
    ledger.refresh().await.unwrap();
    let asked = counted.requests().since(&before);
    assert_eq!((asked.lists, asked.gets), (1, 3));
}

#[tokio::test]
async fn long_ledgers_are_read_in_pages() {
    let storage = store();
    let keys = keys();
    let mut link = None;
    for n in 0..2 * PAGE as u64 {
        let object = record(0, begin(n as u32)).seal(&keys, n, link.as_ref()).unwrap();
        link = Some(record::link(&object));
        storage.put_new(&record::key(n), object).await.unwrap();
    }
    let mut ledger = open(&storage).await;
    assert_eq!(ledger.state().open_transactions().len(), 2 * PAGE);
    ledger.refresh().await.unwrap();
    storage.delete(&[record::key(1500)]).await.unwrap();
    assert!(error(Ledger::open(storage, &keys).await).what().contains("record 1500 is missing"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_writers_all_get_in_once() {
    let storage = store();
    let tasks: Vec<_> = (0..8)
        .map(|writer| {
            let storage = storage.clone();
            tokio::spawn(async move {
                let mut ledger = open(&storage).await;
                let mut numbers = Vec::new();
                for n in 0..10 {
                    numbers.push(ledger.append(record(0, begin(writer * 100 + n))).await.unwrap());
                }
                numbers
            })
        })
        .collect();
    let mut all = BTreeSet::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    assert!(all.iter().copied().eq(0..80));
    let ledger = open(&storage).await;
    assert_eq!(ledger.state().open_transactions().len(), 80);
    assert!(ledger.voids().is_empty());
}

#[tokio::test]
async fn the_rules_are_asked_again_after_a_lost_race() {
    let storage = store();
    let mut one = open(&storage).await;
    let mut two = open(&storage).await;
    one.append(record(0, begin(1))).await.unwrap();
    two.refresh().await.unwrap();
    one.append(record(0, abort(1))).await.unwrap();
    // `two` still holds the state in which the transaction is open.
    assert!(two.state().check(&record(0, commit(1, &[]))).is_ok());
    let refused = two.append(record(0, commit(1, &[]))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert_eq!(two.next(), 2);
}

#[tokio::test]
async fn a_lost_put_is_tried_again_and_a_lost_answer_found_out() {
    for script in [&[Fault::Lost][..], &[Fault::Unanswered], &[Fault::Lost, Fault::Lost, Fault::Unanswered]] {
        let inner = store();
        let mut ledger = open(&(Faulty::new(inner.clone(), "ledger/", script) as Arc<dyn Storage>)).await;
        assert_eq!(ledger.append(record(0, begin(1))).await.unwrap(), 0, "{script:?}");
        assert_eq!(ledger.append(record(0, begin(2))).await.unwrap(), 1);
        assert_eq!(open(&inner).await.next(), 2, "{script:?}");
    }
    let inner = store();
    let mut ledger =
        open(&(Faulty::new(inner.clone(), "ledger/", &[Fault::Lost; 9]) as Arc<dyn Storage>)).await;
    assert_eq!(ledger.append(record(0, begin(1))).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(open(&inner).await.next(), 0);
}

#[tokio::test]
async fn missing_records_are_noticed() {
    for gone in 0..history().len() as u64 - 1 {
        let storage = store();
        write_history(&storage).await;
        let mut running = open(&storage).await;
        storage.delete(&[record::key(gone)]).await.unwrap();
        let error = error(Ledger::open(storage.clone(), &keys()).await);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.what().contains(&format!("record {gone} is missing")), "{error:?}");
        assert!(error.hint().is_some());
        // Who has read it goes on: the record before the next is all it needs.
        running.refresh().await.unwrap();
    }
}

#[tokio::test]
async fn a_rollback_is_noticed_by_who_was_there() {
    let storage = store();
    write_history(&storage).await;
    let mut running = open(&storage).await;
    let (last, _) = running.head().unwrap();
    storage.delete(&[record::key(last)]).await.unwrap();
    assert_eq!(running.refresh().await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(running.append(record(1, begin(50))).await.unwrap_err().kind(), ErrorKind::Corrupt);
    for n in 0..last {
        storage.delete(&[record::key(n)]).await.unwrap();
    }
    assert_eq!(running.refresh().await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_replaced_record_breaks_the_chain() {
    let storage = store();
    write_history(&storage).await;
    let keys = keys();
    let first = storage.get(&record::key(0), None).await.unwrap();
    // Sealed with the right key: somebody's other history.
    let other = record(1, begin(77)).seal(&keys, 1, Some(&record::link(&first))).unwrap();
    storage.put(&record::key(1), other).await.unwrap();
    let error = error(Ledger::open(storage, &keys).await);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.what().contains("record 2 does not follow"), "{error:?}");
}

#[tokio::test]
async fn damaged_moved_and_foreign_records_are_noticed() {
    let storage = store();
    write_history(&storage).await;
    let keys = keys();
    let corrupt = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert!(error.what().contains("ledger record 2"), "{error:?}");
    };
    let good = storage.get(&record::key(2), None).await.unwrap();
    let check = async |object: Bytes| {
        storage.put(&record::key(2), object).await.unwrap();
        Ledger::open(storage.clone(), &keys).await.unwrap_err()
    };
    for i in 0..good.len() {
        let mut flipped = good.to_vec();
        flipped[i] ^= 0x20;
        corrupt(check(Bytes::from(flipped)).await);
    }
    for end in [0, 1, 8, 23, 24, 40, good.len() - 1] {
        corrupt(check(good.slice(..end)).await);
    }
    corrupt(check(storage.get(&record::key(3), None).await.unwrap()).await);
    let elsewhere = Keys::derive(
        &RootKey::generate(&crate::entropy::SeededEntropy::new(1)).unwrap(),
        RepositoryId([2; 16]),
    );
    let link = record::link(&storage.get(&record::key(1), None).await.unwrap());
    corrupt(check(history()[2].seal(&elsewhere.unwrap(), 2, Some(&link)).unwrap()).await);
    storage.put(&record::key(2), good).await.unwrap();
    Ledger::open(storage.clone(), &keys).await.unwrap();
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_refused_with_a_hint() {
    let keys = keys();
    // Field 1 (level), then a body of an unknown tag; and a higher level.
    for plain in [&[0x08, 1, 0xfa, 0x06, 1, 0][..], &[0x08, 99, 0x82, 0x01, 0]] {
        let storage = store();
        let object = Record::seal_plain(&keys, 0, plain.to_vec()).unwrap();
        storage.put_new(&record::key(0), object.clone()).await.unwrap();
        let error = error(Ledger::open(storage, &keys).await);
        assert!(error.hint().unwrap().contains("newer palinurus"), "{error:?}");
        let storage = store();
        let mut format = object.to_vec();
        format[5] = 2;
        storage.put_new(&record::key(0), Bytes::from(format)).await.unwrap();
        assert!(self::error(Ledger::open(storage, &keys).await).hint().unwrap().contains("newer palinurus"));
    }
}

#[tokio::test]
async fn strangers_in_the_ledger_folder_are_ignored() {
    let storage = store();
    for name in
        ["ledger/00000000000000000000.bak", "ledger/1", "ledger/readme", "ledger/x/00000000000000000000"]
    {
        storage.put_new(name, Bytes::from_static(b"?")).await.unwrap();
    }
    write_history(&storage).await;
    open(&storage).await.refresh().await.unwrap();
}

#[tokio::test]
async fn a_record_against_the_rules_is_void() {
    let storage = store();
    write_history(&storage).await;
    let mut ledger = open(&storage).await;
    ledger.append(record(2, leader("c2"))).await.unwrap();
    ledger.append(record(2, begin(20))).await.unwrap();
    // A writer that does not ask: it has lost its epoch, or sweeps what is live.
    for body in [record(1, commit(20, &[])), record(2, sweep(&[(3, 0)])), record(1, forget(2))] {
        let (last, link) = ledger.head().unwrap();
        let object = body.seal(&keys(), last + 1, Some(&link)).unwrap();
        storage.put_new(&record::key(last + 1), object).await.unwrap();
        ledger.refresh().await.unwrap();
        assert_eq!(ledger.next(), last + 2);
    }
    let first = history().len() as u64 + 2;
    assert_eq!(ledger.voids(), [first, first + 1, first + 2]);
    assert!(ledger.state().backup(txn(20)).is_none());
    assert!(ledger.state().backup(txn(2)).is_some());
    assert!(ledger.state().usable(&pack(3, 0)));
    ledger.append(record(2, commit(20, &[(3, 0)]))).await.unwrap();
}
