use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::commit::access::key_object;
use crate::commit::operators::tests::{Crash, chance, created, key, open};
use crate::entropy::SeededEntropy;
use crate::error::ErrorKind;
use crate::id::{Epoch, WriterId};
use crate::index::IndexSegment;
use crate::keys::Keys;
use crate::ledger::{Ledger, Purpose, Record};
use crate::manifest::entry::{Entry, Kind, Meta};
use crate::manifest::{ManifestReader, ManifestRef, ManifestWriter};
use crate::pack::{PackId, PackWriter};
use crate::storage::Storage;
use crate::verify::{check, read_trailer};
use crate::{Repository, Timestamp};

const E: Epoch = Epoch(0);

fn txn(n: u8) -> TransactionId {
    TransactionId([n; 16])
}

async fn begin(repository: &Repository, n: u8) {
    repository.begin(E, txn(n), Purpose::Backup).await.unwrap();
}

/// Draws by chance of its own: a second drawing is another.
async fn rotate(repository: &Repository, stay: &[u64], drop: &[u64], seed: u64) -> Result<Begun> {
    let stay: Vec<KeyFile> = stay.iter().map(|seed| key(*seed)).collect();
    let drop: Vec<KeyId> = drop.iter().map(|seed| key(*seed).id).collect();
    repository.begin_key_epoch(&stay, None, &drop, &SeededEntropy::new(seed)).await
}

/// What a transaction writes: a pack, an index segment, a manifest.
struct Written {
    pack: PackId,
    size: u64,
    segment: (String, Bytes),
    manifest: ManifestRef,
}

async fn write(repository: &Repository, n: u8) -> Written {
    write_as(repository, n, 1).await
}

async fn write_as(repository: &Repository, n: u8, by: u8) -> Written {
    let (keys, storage) = (repository.keys(), repository.storage());
    let writer = WriterId([by; 8]);
    let mut pack =
        PackWriter::new(keys, &keys.transaction(txn(n)).unwrap(), writer, 0, 1, Vec::new()).unwrap();
    pack.append(b"what is secret", vec![(keys.chunk_id(b"what is secret"), 14)]).unwrap();
    let sealed = pack.finish().unwrap();
    let summary = sealed.summary.clone();
    storage.put_new(&summary.pack.key(), Bytes::copy_from_slice(&sealed.buffer[..sealed.len])).await.unwrap();
    let segment = IndexSegment::seal(keys, txn(n), writer, 0, std::slice::from_ref(&summary)).unwrap();
    let mut manifest = ManifestWriter::new(keys, txn(n), "n1", writer, Timestamp(1)).unwrap();
    manifest.push(&Entry { path: b".".to_vec(), meta: Meta::default(), kind: Kind::Directory }).unwrap();
    let manifest = manifest.finish(Vec::new()).unwrap();
    for (name, part) in manifest.parts {
        storage.put_new(&name, part).await.unwrap();
    }
    Written { pack: summary.pack, size: summary.size, segment, manifest: manifest.reference }
}

/// All of it, or nothing of it.
async fn opens(keys: &Keys, storage: &Arc<dyn Storage>, written: &Written) -> bool {
    let pack = read_trailer(&**storage, keys, written.pack, written.size).await.is_ok();
    let segment = IndexSegment::open(keys, &written.segment.0, &written.segment.1).is_ok();
    let manifest = ManifestReader::open(storage.clone(), keys, &written.manifest).await.is_ok();
    assert!(pack == segment && segment == manifest, "{pack} {segment} {manifest}");
    pack
}

#[tokio::test]
async fn what_begins_later_opens_with_the_fresh_master_only() {
    let (storage, repository) = created(1).await;
    repository.add_key(&key(2), "", &chance()).await.unwrap();
    let wrapper = storage.get(&key_object(key(1).id), None).await.unwrap();
    begin(&repository, 1).await;
    let before = write(&repository, 1).await;
    let old = repository.root.clone();
    let begun = rotate(&repository, &[2], &[1], 50).await.unwrap();
    assert_eq!(
        (begun.epoch.number, begun.fresh, begun.left_out, begun.open),
        (1, true, vec![], vec![txn(1)])
    );
    begin(&repository, 2).await;
    let after = write(&repository, 2).await;
    // Begun before: sealed as before, whenever.
    let tail = write_as(&repository, 1, 2).await;
    repository.abort(E, txn(1)).await.unwrap();

    let new = open(&storage, &[2]).await.unwrap();
    for written in [&before, &after, &tail] {
        assert!(opens(new.keys(), &storage, written).await);
    }
    assert_eq!(
        new.keys().chunk_id(b"x"),
        Keys::derive(&old, new.id()).unwrap().chunk_id(b"x"),
        "dedupe goes on"
    );

    // Who kept the root: reads the past, and nothing else.
    let thief = Keys::derive(&old, new.id()).unwrap();
    assert!(opens(&thief, &storage, &before).await && opens(&thief, &storage, &tail).await);
    assert!(!opens(&thief, &storage, &after).await);
    let (last, link) = new.head().await.unwrap();
    let record = storage.get(&format!("ledger/{last:020}"), None).await.unwrap();
    assert_eq!(Record::open(&thief, last, None, &record).unwrap_err().kind(), ErrorKind::Corrupt);
    let error = Ledger::open(storage.clone(), &thief).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
    // Nor with the old wrapper back in its place.
    assert_eq!(open(&storage, &[1]).await.unwrap_err().kind(), ErrorKind::Denied);
    storage.put(&key_object(key(1).id), wrapper).await.unwrap();
    let error = open(&storage, &[1]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.what().contains("key epoch 1"), "{error:?}");
    // And appends nothing that is taken for a record.
    let body = Body::Abort { transaction: txn(2) };
    let forged = Record { epoch: E, at: Timestamp(1), writer: "thief".to_owned(), body };
    let object = forged.seal(&thief, last + 1, Some(&link)).unwrap();
    storage.put_new(&format!("ledger/{:020}", last + 1), object).await.unwrap();
    assert_eq!(new.refresh().await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(new.read(|state| state.open_transactions().contains_key(&txn(2))).await);
}

#[tokio::test]
async fn who_runs_goes_on_and_who_is_cut_off_is_told() {
    let (storage, running) = created(1).await;
    running.add_key(&key(2), "", &chance()).await.unwrap();
    let cut_off = open(&storage, &[2]).await.unwrap();
    let operator = open(&storage, &[1]).await.unwrap();
    rotate(&operator, &[1], &[2], 50).await.unwrap();
    begin(&running, 1).await;
    write(&running, 1).await;
    let error = cut_off.begin(E, txn(2), Purpose::Backup).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.hint().unwrap().contains("keys add"), "{error:?}");
    // An agent: told of the epoch with its task.
    let sealed = running.read(|state| state.sealed([txn(1), txn(9)])).await;
    assert_eq!((sealed.len(), &sealed[0].transactions), (1, &vec![txn(1)]));
    let agent = Repository::unlock(&*storage, &[key(1)]).await.unwrap();
    agent.learn(&*storage, &sealed).await.unwrap();
    let written = write_as(&running, 1, 2).await;
    assert!(opens(&agent, &storage, &written).await);
    let late = cut_off.keys().learn(&*storage, &sealed).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Denied);
    assert!(!opens(cut_off.keys(), &storage, &written).await, "never sealed or opened under the old one");
}

#[tokio::test]
async fn every_key_is_given_or_dropped() {
    let (storage, repository) = created(1).await;
    repository.add_key(&key(2), "", &chance()).await.unwrap();
    let error = rotate(&repository, &[1], &[], 50).await.unwrap_err();
    assert!(
        error.what().contains(&key(2).id.to_string()) && error.hint().unwrap().contains("--drop"),
        "{error:?}"
    );
    rotate(&repository, &[1, 2], &[2], 50).await.unwrap_err();
    rotate(&repository, &[], &[1, 2], 50).await.unwrap_err();
    rotate(&repository, &[1, 2, 3], &[], 50).await.unwrap_err();
    assert_eq!(repository.read(|state| state.key_epoch()).await, None);
    assert!(storage.list(masters::PREFIX, None, 9).await.unwrap().is_empty());
    // Nor is a new key added then.
    let error = repository.begin_key_epoch(&[key(1)], Some((&key(3), "new")), &[], &chance()).await;
    assert!(error.is_err() && repository.key_ids().await.unwrap().len() == 2);
    // The imposter has the id, and not the key.
    let imposter = KeyFile { id: key(2).id, ..key(7) };
    let stay = [key(1), imposter];
    repository.begin_key_epoch(&stay, None, &[], &chance()).await.unwrap_err();
    assert_eq!(repository.read(|state| state.key_epoch()).await, None);
}

#[tokio::test]
async fn keys_come_and_go_in_a_later_epoch() {
    let (storage, repository) = created(1).await;
    rotate(&repository, &[1], &[], 50).await.unwrap();
    begin(&repository, 1).await;
    rotate(&repository, &[1], &[], 51).await.unwrap();
    begin(&repository, 2).await;
    repository.add_key(&key(2), "", &chance()).await.unwrap();
    let second = open(&storage, &[2]).await.unwrap();
    for n in [1, 2] {
        assert!(opens(second.keys(), &storage, &write(&repository, n).await).await);
    }
    assert!(second.wrapped_keys(&[key(2)]).await.unwrap().iter().all(|wrapped| wrapped.damage.is_none()));
    second.remove_key(key(1).id).await.unwrap();
    let left = storage.list(masters::PREFIX, None, 9).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    // Whose masters are gone is told, and comes back by being added again.
    storage.delete(&[left[0].key.clone()]).await.unwrap();
    let listed = second.wrapped_keys(&[key(2)]).await.unwrap();
    assert!(listed[0].damage.as_ref().is_some_and(|why| why.what().contains("key epoch 2")), "{listed:?}");
    assert_eq!(open(&storage, &[2]).await.unwrap_err().kind(), ErrorKind::Denied);
    second.add_key(&key(2), "", &chance()).await.unwrap();
    open(&storage, &[2]).await.unwrap();
}

#[tokio::test]
async fn a_key_is_replaced_and_a_master_drawn_at_once() {
    let (storage, repository) = created(1).await;
    let begun =
        repository.begin_key_epoch(&[], Some((&key(2), "new")), &[key(1).id], &chance()).await.unwrap();
    assert_eq!((begun.epoch.number, repository.key_ids().await.unwrap()), (1, vec![key(2).id]));
    let listed = open(&storage, &[2]).await.unwrap().wrapped_keys(&[]).await.unwrap();
    assert_eq!(listed[0].label.as_ref().unwrap().text, "new");
}

#[tokio::test]
async fn masters_that_are_damaged_are_found() {
    let (storage, repository) = created(1).await;
    repository.add_key(&key(2), "", &chance()).await.unwrap();
    rotate(&repository, &[1, 2], &[], 50).await.unwrap();
    assert_eq!(check(&repository, false, &|_| {}).await.unwrap().damages, []);
    let objects = storage.list(masters::PREFIX, None, 9).await.unwrap();
    storage.put(&objects[0].key, Bytes::from_static(b"rot")).await.unwrap();
    let damages = check(&repository, false, &|_| {}).await.unwrap().damages;
    assert!(damages.len() == 1 && damages[0].object == objects[0].key, "{damages:?}");
    open(&storage, &[1, 2]).await.unwrap();
}

#[tokio::test]
async fn of_two_that_draw_at_once_one_wins_and_nobody_is_locked_out() {
    let (storage, first) = created(1).await;
    first.add_key(&key(2), "", &chance()).await.unwrap();
    let second = open(&storage, &[2]).await.unwrap();
    let stay = [key(1), key(2)];
    let lost = second.seal_fresh(&stay, &SeededEntropy::new(61)).await.unwrap();
    let won = rotate(&first, &[1, 2], &[], 60).await.unwrap();
    let error = second.append_key_epoch(lost, &stay).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    for seed in [1, 2] {
        let repository = open(&storage, &[seed]).await.unwrap();
        assert_eq!(repository.read(|state| state.key_epoch()).await, Some(won.epoch));
    }
    assert_eq!(storage.list(masters::PREFIX, None, 9).await.unwrap().len(), 2, "the other draw's are gone");
}

#[tokio::test]
async fn whenever_it_dies_the_old_state_or_the_new_is_left_and_it_is_done_again() {
    let mut began = [false, false];
    for (at, carried_out) in (0..80).flat_map(|at| [(at, false), (at, true)]) {
        let (storage, repository) = created(1).await;
        repository.add_key(&key(2), "", &chance()).await.unwrap();
        repository.add_key(&key(3), "", &chance()).await.unwrap();
        let crash = Arc::new(Crash { inner: storage.clone(), calls: AtomicUsize::new(0), at, carried_out });
        // Opened before it is counted.
        let dying = open(&storage, &[1]).await.unwrap();
        let ledger = Ledger::open(crash.clone(), dying.keys()).await;
        let Ok(ledger) = ledger else { continue };
        let dying = Repository { storage: crash, ledger: tokio::sync::Mutex::new(ledger), ..dying };
        let died = rotate(&dying, &[1, 2], &[3], 70).await;
        let now = open(&storage, &[2]).await.unwrap();
        let reached = now.read(|state| state.key_epoch()).await.is_some();
        began[usize::from(reached)] = true;
        open(&storage, &[1]).await.unwrap();
        assert_eq!(open(&storage, &[3]).await.is_ok(), !reached, "at call {at}");
        // Once more.
        let again = rotate(&now, &[1, 2], &[3], 71).await.unwrap();
        assert_eq!(again.epoch.number, 1, "at call {at}: {died:?}");
        assert_eq!(now.key_ids().await.unwrap().len(), 2);
        assert_eq!(storage.list(masters::PREFIX, None, 9).await.unwrap().len(), 2, "at call {at}");
        begin(&now, 1).await;
        for seed in [1, 2] {
            assert!(
                open(&storage, &[seed]).await.unwrap().read(|state| !state.sealed([txn(1)]).is_empty()).await
            );
        }
        if died.is_ok() && !carried_out {
            assert!(began == [true, true] && at > 10);
            return;
        }
    }
    panic!("it never came to its end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever begins, ends and rotates in whichever process: a transaction is of the epoch in which it began, for
    /// everybody, and its objects open under that master and no other.
    #[test]
    fn a_transaction_stays_in_its_epoch(steps in vec((0u8..4, any::<bool>()), 1..10)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (storage, first) = created(1).await;
            let both = [first, open(&storage, &[1]).await.unwrap()];
            let (mut epoch, mut began, mut written) = (0, Vec::new(), Vec::new());
            for (n, (step, by)) in (1u8..).zip(steps) {
                let repository = &both[usize::from(by)];
                match step {
                    0 => {
                        epoch = rotate(repository, &[1], &[], u64::from(n)).await.unwrap().epoch.number;
                    }
                    1 if !began.is_empty() => {
                        let (id, _) = began[usize::from(n) % began.len()];
                        let _ = repository.abort(E, txn(id)).await;
                    }
                    _ => {
                        begin(repository, n).await;
                        began.push((n, epoch));
                        written.push((epoch, write(repository, n).await));
                    }
                }
            }
            let fresh = open(&storage, &[1]).await.unwrap();
            let draws = fresh.read(|state| state.draws().to_vec()).await;
            for (n, epoch) in began {
                let sealed = fresh.read(|state| state.sealed([txn(n)])).await;
                assert_eq!(sealed.first().map_or(0, |sealed| sealed.epoch.number), epoch);
            }
            let root = Keys::derive(&fresh.root, fresh.id()).unwrap();
            for (epoch, written) in &written {
                assert!(opens(fresh.keys(), &storage, written).await);
                assert_eq!(opens(&root, &storage, written).await, *epoch == 0);
            }
            assert_eq!(draws.len() as u32, epoch);
            let history = crate::ledger::history(&*storage, fresh.keys()).await.unwrap();
            assert_eq!(Some(history.len() as u64 - 1), fresh.head().await.map(|(last, _)| last));
        });
    }
}
