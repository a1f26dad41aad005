use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use tokio::sync::Mutex;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::entropy::SeededEntropy;
use crate::ledger::Ledger;
use crate::storage::{MemoryStorage, Object, Storage};

pub(in crate::commit) fn key(seed: u64) -> KeyFile {
    KeyFile::generate(&SeededEntropy::new(seed)).unwrap()
}

pub(in crate::commit) async fn created(seed: u64) -> (Arc<dyn Storage>, Repository) {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let clock = Arc::new(ManualClock::at(Timestamp(5_000)));
    let repository = Repository::create(storage.clone(), &key(seed), &SeededEntropy::new(99), clock).await;
    (storage, repository.unwrap())
}

pub(in crate::commit) async fn open(storage: &Arc<dyn Storage>, seeds: &[u64]) -> Result<Repository> {
    let keys: Vec<KeyFile> = seeds.iter().map(|seed| key(*seed)).collect();
    Repository::open(storage.clone(), &keys).await
}

pub(in crate::commit) fn chance() -> SeededEntropy {
    SeededEntropy::new(7)
}

#[tokio::test]
async fn keys_are_added_and_removed() {
    let (storage, first) = created(1).await;
    first.add_key(&key(2), "", &chance()).await.unwrap();
    first.add_key(&key(2), "", &chance()).await.unwrap();
    let second = open(&storage, &[2]).await.unwrap();
    assert_eq!((second.opened_by(), second.key_ids().await.unwrap().len()), (key(2).id, 2));
    assert_eq!(second.remove_key(key(3).id).await.unwrap_err().kind(), ErrorKind::NotFound);
    let error = first.remove_key(key(1).id).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.what().contains("used to open"), "{error:?}");

    second.remove_key(key(1).id).await.unwrap();
    assert_eq!(open(&storage, &[1]).await.unwrap_err().kind(), ErrorKind::Denied);
    let error = second.remove_key(key(2).id).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.what().contains("the last key"), "{error:?}");
    // Which is still open, and goes on.
    first.refresh().await.unwrap();

    let mut imposter = key(5);
    imposter.id = key(2).id;
    let error = second.add_key(&imposter, "", &chance()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.what().contains("does not open it"), "{error:?}");
    open(&storage, &[2]).await.unwrap();
}

#[tokio::test]
async fn keys_are_listed_with_what_is_known_of_them() {
    let (storage, repository) = created(1).await;
    repository.add_key(&key(2), "safe in Bern", &chance()).await.unwrap();
    repository.add_key(&key(3), "", &chance()).await.unwrap();
    storage.delete(&[label_object(key(3).id)]).await.unwrap();
    let listed = repository.wrapped_keys(&[key(9), key(2)]).await.unwrap();
    assert_eq!(listed.len(), 3);
    let of = |seed| listed.iter().find(|wrapped| wrapped.id == key(seed).id).unwrap();
    let label = |text: &str| Some(Label { text: text.into(), added: Timestamp(5_000) });
    assert_eq!((&of(1).label, &of(2).label, &of(3).label), (&label(""), &label("safe in Bern"), &None));
    assert!(of(2).opens_with(&key(2)) && !of(1).opens_with(&key(1)), "only those that were given");
    assert!(listed.iter().all(|wrapped| wrapped.damage.is_none()));

    // Neither a damaged label nor a damaged wrapper keeps the others from being listed.
    storage.put(&label_object(key(2).id), Bytes::from_static(b"?")).await.unwrap();
    storage.put(&label_object(key(1).id), Bytes::from(vec![0; 9000])).await.unwrap();
    storage.put(&key_object(key(3).id), Bytes::from_static(b"?")).await.unwrap();
    let listed = repository.wrapped_keys(&[key(2), key(3)]).await.unwrap();
    let of = |seed| listed.iter().find(|wrapped| wrapped.id == key(seed).id).unwrap();
    assert_eq!((&of(1).label, &of(2).label), (&None, &None));
    assert!(of(3).damage.is_some() && !of(3).opens_with(&key(3)) && of(2).opens_with(&key(2)));
    // And it can be taken away and put back.
    repository.remove_key(key(3).id).await.unwrap();
    repository.add_key(&key(3), "again", &chance()).await.unwrap();
    open(&storage, &[3]).await.unwrap();
}

#[tokio::test]
async fn a_rotated_key_opens_nothing_and_only_wrappers_change() {
    let (storage, repository) = created(1).await;
    let untouched = async || {
        let all = storage.list("", None, 100).await.unwrap();
        all.into_iter()
            .filter(|object| !["keys/", "labels/", "ledger/"].iter().any(|own| object.key.starts_with(own)))
            .collect::<Vec<_>>()
    };
    let before = untouched().await;
    repository.rotate_key(&key(2), "second", true, &chance()).await.unwrap();
    open(&storage, &[1]).await.unwrap();
    open(&storage, &[2]).await.unwrap();
    repository.rotate_key(&key(2), "", false, &chance()).await.unwrap();
    let renewed = open(&storage, &[2]).await.unwrap();
    assert_eq!(open(&storage, &[1]).await.unwrap_err().kind(), ErrorKind::Denied);
    let listed = renewed.wrapped_keys(&[]).await.unwrap();
    assert_eq!((listed.len(), listed[0].label.as_ref().unwrap().text.as_str()), (1, "second"));
    assert_eq!(storage.list("labels/", None, 9).await.unwrap().len(), 1);
    assert_eq!(untouched().await, before);
    let error = renewed.rotate_key(&key(2), "", false, &chance()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "the same again");
}

#[tokio::test]
async fn of_two_that_remove_each_others_key_one_is_refused() {
    let (storage, first) = created(1).await;
    first.add_key(&key(2), "", &chance()).await.unwrap();
    let second = open(&storage, &[2]).await.unwrap();
    // The first dies when it has said so.
    first.say(key(2).id, key(1).id, true).await.unwrap();
    let error = second.remove_key(key(1).id).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.what().contains("somebody else"), "{error:?}");
    let listed = first.wrapped_keys(&[]).await.unwrap();
    let of = |seed| listed.iter().find(|wrapped| wrapped.id == key(seed).id).unwrap();
    assert!(of(1).damage.is_none() && of(2).damage.as_ref().unwrap().what().contains("remove it again"));
    first.begin_key_epoch(&[key(1), key(2)], None, &[], &chance()).await.unwrap_err();
    first.remove_key(key(2).id).await.unwrap();
    assert_eq!(first.key_ids().await.unwrap(), [key(1).id]);
    // And back: it may remove again.
    first.add_key(&key(2), "", &chance()).await.unwrap();
    open(&storage, &[2]).await.unwrap().remove_key(key(1).id).await.unwrap();
}

/// Wherever both die, and whoever was first: a key is left.
#[tokio::test]
async fn two_that_remove_each_others_key_and_die_leave_one() {
    let dying = async |storage: &Arc<dyn Storage>, seed, at: usize, carried_out| {
        let repository = open(storage, &[seed]).await.unwrap();
        let calls = AtomicUsize::new(0);
        let crash = Arc::new(Crash { inner: storage.clone(), calls, at: at + 4, carried_out });
        let ledger = Ledger::open(crash.clone(), repository.keys()).await.unwrap();
        Repository { storage: crash, ledger: Mutex::new(ledger), ..repository }
    };
    let mut refused = 0;
    for (one, two) in (0..24usize).flat_map(|one| (0..24usize).map(move |two| (one, two))) {
        let (storage, first) = created(1).await;
        first.add_key(&key(2), "", &chance()).await.unwrap();
        // Both look before either acts.
        let first = dying(&storage, 1, one, true).await;
        let second = dying(&storage, 2, two, one % 2 == 0).await;
        let (a, b) = tokio::join!(first.remove_key(key(2).id), second.remove_key(key(1).id));
        assert!(a.is_err() || b.is_err());
        refused += usize::from([a, b].iter().flatten().count() == 0);
        let left = [open(&storage, &[1]).await.is_ok(), open(&storage, &[2]).await.is_ok()];
        assert!(left[0] || left[1], "calls {one} and {two}");
    }
    assert!(refused > 0);
}

/// Stops for ever at one call, which may or may not be carried out.
#[derive(Debug)]
pub(in crate::commit) struct Crash {
    pub(in crate::commit) inner: Arc<dyn Storage>,
    pub(in crate::commit) calls: AtomicUsize,
    pub(in crate::commit) at: usize,
    pub(in crate::commit) carried_out: bool,
}

impl Crash {
    fn alive(&self) -> (bool, bool) {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        (call < self.at || (call == self.at && self.carried_out), call < self.at)
    }
}

macro_rules! or_crash {
    ($self:ident, $call:expr) => {{
        // Whoever goes on beside it comes in between.
        tokio::task::yield_now().await;
        let (reaches, answers) = $self.alive();
        let result = if reaches { $call.await } else { Err(Error::unavailable("crashed")) };
        if answers { result } else { Err(Error::unavailable("crashed")) }
    }};
}

#[async_trait::async_trait]
impl Storage for Crash {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        or_crash!(self, self.inner.put_new(key, body))
    }
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        or_crash!(self, self.inner.put(key, body))
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        or_crash!(self, self.inner.get(key, range))
    }
    async fn size(&self, key: &str) -> Result<u64> {
        or_crash!(self, self.inner.size(key))
    }
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        or_crash!(self, self.inner.list(prefix, after, limit))
    }
    async fn delete(&self, keys: &[String]) -> Result<()> {
        or_crash!(self, self.inner.delete(keys))
    }
}

#[tokio::test]
async fn a_rotation_that_dies_anywhere_leaves_a_key_that_works_and_can_be_done_again() {
    let mut survived = false;
    for (at, carried_out) in (0..).flat_map(|at| [(at, false), (at, true)]) {
        let (storage, repository) = created(1).await;
        let crash = Crash { inner: storage.clone(), calls: AtomicUsize::new(0), at, carried_out };
        let crashing = Repository { storage: Arc::new(crash), ..repository };
        let died = crashing.rotate_key(&key(2), "new", false, &chance()).await;
        let opens = (open(&storage, &[1]).await.is_ok(), open(&storage, &[2]).await.is_ok());
        assert!(opens.0 || opens.1, "at call {at}, carried out: {carried_out}");
        // As the command does it: with the old key as long as that opens.
        let again = open(&storage, &[1, 2]).await.unwrap();
        if again.opened_by() == key(1).id {
            again.rotate_key(&key(2), "new", false, &chance()).await.unwrap();
        }
        let keys = open(&storage, &[2]).await.unwrap().key_ids().await.unwrap();
        assert_eq!(keys, [key(2).id], "at call {at}");
        if died.is_ok() && !carried_out {
            survived = at > 8;
            break;
        }
    }
    assert!(survived, "the crashes went through the whole of it");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever was added, removed and damaged: a set of keys opens exactly when it holds one of the wrapped ones.
    #[test]
    fn any_set_of_keys_opens_exactly_with_a_valid_one(
        steps in vec((0u64..5, any::<bool>()), 0..12),
        damaged in btree_set(0u64..5, 0..2),
        given in vec(0u64..7, 0..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (storage, _) = created(0).await;
            let mut valid = std::collections::BTreeSet::from([0]);
            for (seed, add) in steps {
                let by: Vec<u64> = valid.iter().copied().collect();
                let repository = open(&storage, &by).await.unwrap();
                if add {
                    repository.add_key(&key(seed), "", &chance()).await.unwrap();
                    valid.insert(seed);
                } else if repository.remove_key(key(seed).id).await.is_ok() {
                    assert!(valid.remove(&seed));
                } else {
                    assert!(!valid.contains(&seed) || repository.opened_by() == key(seed).id);
                }
                assert!(!valid.is_empty());
            }
            for seed in damaged {
                if valid.remove(&seed) {
                    storage.put(&key_object(key(seed).id), Bytes::from_static(b"rot")).await.unwrap();
                }
            }
            let opened = open(&storage, &given).await;
            let fits = given.iter().any(|seed| valid.contains(seed));
            assert_eq!(opened.is_ok(), fits, "{given:?} of {valid:?}: {:?}", opened.err());
        });
    }
}
