//! Checkpoints of a ledger with key epochs, and those that somebody makes who has an earlier master only.
use super::*;
use crate::entropy::SeededEntropy;
use crate::epochs::Given;
use crate::error::ErrorKind;
use crate::id::{Epoch, RepositoryId};
use crate::keyfile::KeyFile;
use crate::keys::RootKey;
use crate::ledger::state::Folded;
use crate::masters::{self, Master};

const REPOSITORY: RepositoryId = RepositoryId([1; 16]);

fn operator(seed: u64) -> KeyFile {
    KeyFile::generate(&SeededEntropy::new(seed)).unwrap()
}

/// Of a process that holds these operator keys.
fn held(operators: &[u64]) -> Keys {
    let root = RootKey::generate(&SeededEntropy::new(1)).unwrap();
    let given = Given(operators.iter().map(|seed| operator(*seed)).collect());
    Keys::with_operators(&root, REPOSITORY, Arc::new(given)).unwrap()
}

async fn begin_epoch(storage: &Arc<dyn Storage>, ledger: &mut Ledger, operators: &[u64]) {
    let mut masters = ledger.keys.epochs().masters(ledger.state.draws()).unwrap();
    let fresh = Master::draw(&SeededEntropy::new(500 + ledger.next)).unwrap();
    masters.push(fresh.clone());
    for seed in operators {
        let (name, object) = masters::seal(&masters, &operator(*seed), REPOSITORY).unwrap();
        storage.put_new(&name, object).await.unwrap();
    }
    let epoch = KeyEpoch { number: masters.len() as u32, draw: fresh.draw };
    ledger.keys.hold(fresh).unwrap();
    ledger.append(record(1, Body::KeyEpoch(epoch))).await.unwrap();
}

/// With key epochs that begin at those records, for these operators.
async fn rotated(storage: &Arc<dyn Storage>, at: &[(u64, &[u64])], records: u64) -> Ledger {
    let mut ledger = Ledger::open(storage.clone(), &held(&[1])).await.unwrap();
    ledger.append(record(1, leader("c1"))).await.unwrap();
    let mut n = 1;
    for (at, operators) in at {
        n = write_on(&mut ledger, n, *at).await;
        begin_epoch(storage, &mut ledger, operators).await;
    }
    write_on(&mut ledger, n, records).await;
    ledger
}

/// As all records say.
async fn told(storage: &Arc<dyn Storage>, operators: &[u64]) -> (String, Keys) {
    let (ledger, read) = Ledger::examine(storage.clone(), &held(operators)).await;
    read.unwrap();
    (format!("{:?} {:?}", ledger.head(), ledger.state()), ledger.keys)
}

async fn opened(storage: &Arc<dyn Storage>, operators: &[u64]) -> String {
    let ledger = Ledger::open(storage.clone(), &held(operators)).await.unwrap();
    format!("{:?} {:?}", ledger.head(), ledger.state())
}

#[tokio::test]
async fn opening_costs_the_tail_across_key_epochs() {
    let storage = store();
    let ledger = rotated(&storage, &[(300, &[1, 2]), (600, &[1, 2])], 900).await;
    let (all, all_keys) = told(&storage, &[2]).await;
    let counted = Arc::new(Counted::new(storage.clone()));
    let keys = held(&[2]);
    let mut opened = Ledger::open(counted.clone(), &keys).await.unwrap();
    assert_eq!(format!("{:?} {:?}", opened.head(), opened.state()), all);
    let tail = ledger.next() - checkpoints(&storage).await.last().unwrap();
    let asked = counted.requests();
    // The tail; the checkpoint, the record before it, and the masters, whose size is asked first.
    assert!(tail < EVERY + 10 && asked.gets <= tail + 4, "{asked:?}, {tail} in the tail");
    // What the records say of the epochs of transactions is known, to whoever shares these keys.
    let transactions = ledger.state().all_sealed().into_iter().flat_map(|sealed| sealed.transactions);
    let transactions: Vec<_> = transactions.chain([txn(1)]).collect();
    assert!(transactions.len() > 40);
    for id in transactions {
        assert_eq!(keys.epochs().of(id), all_keys.epochs().of(id));
        keys.transaction(id).unwrap();
    }
    // Both go on.
    opened.append(record(1, begin(900_000))).await.unwrap();
    let mut ledger = ledger;
    ledger.refresh().await.unwrap();
    assert_eq!(ledger.head(), opened.head());
}

#[tokio::test]
async fn a_key_epoch_has_a_checkpoint_from_its_first_record_on() {
    let storage = store();
    let ledger = rotated(&storage, &[(300, &[1])], 0).await;
    assert_eq!(*checkpoints(&storage).await.last().unwrap(), ledger.next());
    let counted = Arc::new(Counted::new(storage.clone()));
    Ledger::open(counted.clone(), &held(&[1])).await.unwrap();
    assert!(counted.requests().gets < 10, "{:?}", counted.requests());
    assert_eq!(opened(&storage, &[1]).await, told(&storage, &[1]).await.0);
}

#[tokio::test]
async fn a_state_with_key_epochs_goes_there_and_back_at_every_record() {
    let storage = store();
    rotated(&storage, &[(20, &[1]), (60, &[1])], 120).await;
    let mut state = State::default();
    for (number, record) in (0..).zip(&super::super::super::history(&*storage, &held(&[1])).await.unwrap()) {
        state.apply(number, record).unwrap();
        let back = State::from_wire(state.to_wire()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{state:?}"), "after record {number}");
    }
}

#[tokio::test]
async fn without_a_master_the_checkpoint_says_no_more_than_the_records() {
    let storage = store();
    rotated(&storage, &[(150, &[1, 2]), (300, &[1])], 500).await;
    // Key 2 stayed behind in epoch 1.
    for operators in [&[2u64][..], &[3], &[]] {
        let (_, read) = Ledger::examine(storage.clone(), &held(operators)).await;
        let error = Ledger::open(storage.clone(), &held(operators)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(error.what(), read.unwrap_err().what());
    }
    assert_eq!(opened(&storage, &[2, 1]).await, told(&storage, &[1]).await.0);
}

/// A later list of masters stands for an earlier one: a checkpoint of the earlier epoch opens, and the records behind it.
#[tokio::test]
async fn a_list_of_a_later_epoch_opens_an_earlier_checkpoint() {
    let storage = store();
    let mut ledger = rotated(&storage, &[(100, &[1, 2])], 200).await;
    let epoch = ledger.state().key_epoch().unwrap();
    let kept = *checkpoints(&storage).await.last().unwrap();
    let object = storage.get(&key(kept), None).await.unwrap();
    begin_epoch(&storage, &mut ledger, &[1, 2]).await;
    storage.delete(&[masters::object(epoch, operator(2).id)]).await.unwrap();
    let (all, _) = told(&storage, &[2]).await;
    for next in checkpoints(&storage).await {
        storage.delete(&[key(next)]).await.unwrap();
    }
    storage.put_new(&key(kept), object).await.unwrap();
    assert_eq!(opened(&storage, &[2]).await, all);
}

/// Puts a checkpoint that stands behind `next` records and says what `forge` makes of them.
async fn plant(storage: &Arc<dyn Storage>, next: u64, keys: &Keys, state: State) {
    let last = storage.get(&record::key(next - 1), None).await.unwrap();
    let mut forged = Ledger::empty(storage.clone(), keys);
    (forged.next, forged.link, forged.state) = (next, Some(record::link(&last)), state);
    let object = sealed::seal(keys, &forged).unwrap().unwrap();
    storage.put(&key(next), object).await.unwrap();
}

/// What `n` records really come to, and the keys in the key epoch of that time.
async fn as_of(storage: &Arc<dyn Storage>, n: u64) -> (State, Keys) {
    let keys = held(&[1]);
    let records = super::super::super::history(&**storage, &keys).await.unwrap();
    let (mut state, mut now) = (State::default(), keys.clone());
    for (number, record) in (0..n).zip(&records) {
        state.apply(number, record).unwrap();
        super::super::super::follow(&mut now, &state, record).unwrap();
    }
    (state, now)
}

/// Somebody kept the masters of earlier epochs, and may write to the store: takes the checkpoints away and puts there
/// whatever those masters seal, for every record there is.
#[tokio::test]
async fn who_has_earlier_masters_only_is_not_believed() {
    let storage = store();
    let ledger = rotated(&storage, &[(100, &[1]), (120, &[1])], 160).await;
    let (all, _) = told(&storage, &[1]).await;
    let records = ledger.next();
    // In an older state one more transaction is open, or a leader of a high epoch makes all that follows void.
    let lies: [fn(&mut State); 3] = [
        |_| {},
        |state| {
            let open = record(state.leader().0.0, begin(700_000));
            state.apply(9, &open).unwrap();
        },
        |state| {
            let late = Record { epoch: Epoch(1 << 40), ..record(1, leader("thief")) };
            state.apply(9, &late).unwrap();
        },
    ];
    for number in [0, 1] {
        let in_force = if number == 0 { 90 } else { 110 };
        let (then, keys) = as_of(&storage, in_force).await;
        assert_eq!(then.key_epoch().map_or(0, |epoch| epoch.number), number);
        for lie in lies {
            for next in (1..=records).rev().step_by(7).chain([100, 101, 102, 120, 121, 122, records]) {
                for old in checkpoints(&storage).await {
                    storage.delete(&[key(old)]).await.unwrap();
                }
                let mut state = then.clone();
                lie(&mut state);
                plant(&storage, next, &keys, state).await;
                assert_eq!(opened(&storage, &[1]).await, all, "sealed in epoch {number} behind {next}");
            }
        }
    }
}

/// The seal fits, and what is sealed does not: made by somebody with a key, or by a program with a mistake.
#[tokio::test]
async fn what_contradicts_itself_is_passed_over() {
    let storage = store();
    let ledger = rotated(&storage, &[(100, &[1])], 160).await;
    let (all, keys) = told(&storage, &[1]).await;
    let records = ledger.next();
    let wire = |change: fn(&mut Folded)| {
        let mut wire = ledger.state().to_wire();
        change(&mut wire);
        State::from_wire(wire)
    };
    // Transactions of an epoch that never began; of half the transactions; a draw cut off.
    let refused: [fn(&mut Folded); 3] =
        [|wire| wire.closed_in[0] = 2, |wire| wire.closed_in.truncate(3), |wire| wire.draws.truncate(7)];
    for change in refused {
        assert_eq!(wire(change).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    // Of epoch 0; of one that was never drawn; of two.
    let changes: [fn(&mut Folded); 3] = [
        |wire| {
            wire.draws.clear();
            wire.closed_in.clear();
            wire.open.iter_mut().for_each(|open| open.key_epoch = 0);
        },
        |wire| wire.draws[3] ^= 1,
        |wire| wire.draws.extend([5; 8]),
    ];
    for change in changes {
        plant(&storage, records, &keys, wire(change).unwrap()).await;
        assert_eq!(opened(&storage, &[1]).await, all);
    }
    // The header names another epoch than that which sealed it.
    let good = {
        plant(&storage, records, &keys, ledger.state().clone()).await;
        storage.get(&key(records), None).await.unwrap()
    };
    for at in 28..40 {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        storage.put(&key(records), bad.into()).await.unwrap();
        assert_eq!(opened(&storage, &[1]).await, all, "byte {at}");
    }
}
