use std::sync::Arc;

use super::super::fixture::*;
use super::super::*;
use super::*;
use crate::log::At;
use crate::storage::{Counted, MemoryStorage};

fn store() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::default())
}

async fn checkpoints(storage: &Arc<dyn Storage>) -> Vec<u64> {
    list_all(&**storage, PREFIX).await.unwrap().iter().filter_map(|object| number(&object.key)).collect()
}

mod epochs;

/// Rounds of a backup, a pin, and the end of an older backup, with something open and something condemned in between.
async fn write(storage: &Arc<dyn Storage>, records: u64) -> Ledger {
    let mut ledger = Ledger::open(storage.clone(), &keys()).await.unwrap();
    ledger.append(record(1, leader("c1"))).await.unwrap();
    write_on(&mut ledger, 1, records).await;
    ledger
}

/// From that round on; returns the next.
async fn write_on(ledger: &mut Ledger, from: u32, records: u64) -> u32 {
    let mut n = from;
    while ledger.next() < records {
        let mut round =
            vec![begin(n), commit_without(n, &[(n, 0), (n, 1)], &["n9"]), pin(n, "why"), hold(n, 500)];
        if n > from {
            let before = n - 1;
            round.extend([Body::Unpin { backup: txn(before) }, begin(100_000 + n), forget(before)]);
            round.extend([condemn(&[(before, 0), (before, 1)]), abort(100_000 + n), sweep(&[(before, 0)])]);
        }
        if n == 1 {
            round.push(lineage(1, None, 0));
        }
        let grant = Body::Grant { lineage: line(1), epoch: n, node: "n1".to_owned(), from: u64::from(n) };
        let floor = Body::Floor(At { lineage: line(1), position: u64::from(n) });
        round.extend([grant, floor, drill(n, "n1", &["why"])]);
        for body in round {
            ledger.append(record(1, body)).await.unwrap();
        }
        n += 1;
    }
    n
}

#[tokio::test]
async fn opening_costs_the_tail_and_gives_the_same_state() {
    let storage = store();
    let ledger = write(&storage, 3000).await;
    let last = ledger.next();
    let (full, read) = Ledger::examine(storage.clone(), &keys()).await;
    read.unwrap();
    let counted = Arc::new(Counted::new(storage.clone()));
    let opened = Ledger::open(counted.clone(), &keys()).await.unwrap();
    assert_eq!(format!("{:?}", opened.state()), format!("{:?}", full.state()));
    assert_eq!((opened.head(), opened.next()), (full.head(), last));
    let asked = counted.requests();
    let tail = last - checkpoints(&storage).await.last().unwrap();
    assert!(tail < EVERY + 10 && asked.lists == 2 && asked.gets == tail + 2, "{asked:?}, {tail} in the tail");
    assert_eq!(checkpoints(&storage).await.len(), 2, "older ones are taken away");
    // And it goes on from there, also for who was there before.
    let mut opened = opened;
    opened.append(record(1, begin(900_000))).await.unwrap();
    let mut ledger = ledger;
    ledger.refresh().await.unwrap();
    assert_eq!(ledger.head(), opened.head());
}

#[tokio::test]
async fn a_state_goes_there_and_back_at_every_record() {
    let storage = store();
    write(&storage, 120).await;
    let records = super::super::history(&*storage, &keys()).await.unwrap();
    let mut state = State::default();
    for (number, record) in (0..).zip(&records) {
        state.apply(number, record).unwrap();
        let back = State::from_wire(state.to_wire()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{state:?}"), "after record {number}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_passed_over() {
    let storage = store();
    let ledger = write(&storage, 1000).await;
    let all = checkpoints(&storage).await;
    let (older, newest) = (key(all[0]), key(all[1]));
    let good = storage.get(&newest, None).await.unwrap();
    let opened = async |storage: &Arc<dyn Storage>| {
        Ledger::open(storage.clone(), &keys()).await.map(|ledger| ledger.head())
    };
    let replace = async |object: Vec<u8>| {
        storage.delete(std::slice::from_ref(&newest)).await.unwrap();
        storage.put_new(&newest, object.into()).await.unwrap();
    };
    for at in [0, 5, 6, 10, 25, 200, good.len() - 1] {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        replace(bad).await;
        assert_eq!(opened(&storage).await.unwrap(), ledger.head(), "byte {at}");
    }
    // Another's place, and none at all.
    replace(storage.get(&older, None).await.unwrap().to_vec()).await;
    assert_eq!(opened(&storage).await.unwrap(), ledger.head());
    storage.delete(&[older, newest]).await.unwrap();
    assert_eq!(opened(&storage).await.unwrap(), ledger.head());
}

/// A ledger that was replaced under its checkpoint is noticed: the chain does not fit.
#[tokio::test]
async fn a_checkpoint_stands_for_its_own_records_only() {
    let (storage, other) = (store(), store());
    write(&storage, 600).await;
    let mut another = Ledger::open(other.clone(), &keys()).await.unwrap();
    another.append(record(1, leader("somebody"))).await.unwrap();
    for n in 1..600 {
        another.append(record(1, begin(n))).await.unwrap();
    }
    for checkpoint in checkpoints(&other).await {
        other.delete(&[key(checkpoint)]).await.unwrap();
    }
    for checkpoint in checkpoints(&storage).await {
        let object = storage.get(&key(checkpoint), None).await.unwrap();
        other.put_new(&key(checkpoint), object).await.unwrap();
    }
    let opened = Ledger::open(other.clone(), &keys()).await.unwrap();
    assert_eq!(opened.head(), another.head());
    assert_eq!(opened.state().open_transactions().len(), 599);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_costs_nobody_anything() {
    let inner = store();
    let faulty = Faulty::new(inner.clone(), PREFIX, &[Fault::Lost, Fault::Unanswered]);
    let storage: Arc<dyn Storage> = faulty;
    let ledger = write(&storage, 900).await;
    assert_eq!(Ledger::open(inner, &keys()).await.unwrap().head(), ledger.head());
}

/// `cargo test -p palinurus-repository checkpoint -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "a measurement")]
async fn measure_ten_thousand_records() {
    let storage = store();
    write(&storage, 10_000).await;
    for from_checkpoint in [false, true] {
        let counted = Arc::new(Counted::new(storage.clone()));
        let began = std::time::Instant::now();
        if from_checkpoint {
            Ledger::open(counted.clone(), &keys()).await.unwrap();
        } else {
            Ledger::examine(counted.clone(), &keys()).await.1.unwrap();
        }
        println!("checkpoint {from_checkpoint}: {:?}, {:?}", began.elapsed(), counted.requests());
    }
}
