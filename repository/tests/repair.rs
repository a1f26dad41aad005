//! A copy equals its source, and what is damaged is mended from it, from later backups, and from what still opens.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use palinurus_repository::clock::{ManualClock, Timestamp};
use palinurus_repository::copy::{Copied, copy};
use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::ledger::{Purpose, State};
use palinurus_repository::manifest::entry::Kind;
use palinurus_repository::pack::PackId;
use palinurus_repository::quarantine::mark_found;
use palinurus_repository::repair::{put_back, put_back_base, put_back_ledger, rewrite};
use palinurus_repository::storage::{Counted, LocalStorage, MemoryStorage, list_all};
use palinurus_repository::sweep::sweep;
use palinurus_repository::verify::{Report, check};
use palinurus_repository::{BackupId, ErrorKind, KeyFile, Repository, Storage, TransactionId, WriterId};

mod backup;

use backup::{EPOCH, Known, begin, restore, tree};

struct World {
    repository: Repository,
    key: KeyFile,
    known: Known,
}

/// Two backups of n1 and n2, which share nothing.
async fn world() -> World {
    let entropy = SeededEntropy::new(21);
    let key = KeyFile::generate(&entropy).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let repository =
        Repository::create(Arc::new(MemoryStorage::default()), &key, &entropy, clock).await.unwrap();
    repository.lead(EPOCH, "c1").await.unwrap();
    let mut world = World { repository, key, known: Known::new() };
    world.backup(1, 0).await;
    world.backup(2, 1).await;
    world
}

/// The same with a key epoch between the two, and two operator keys.
async fn rotated() -> World {
    rotated_at(empty()).await
}

async fn rotated_at(storage: Arc<dyn Storage>) -> World {
    let entropy = SeededEntropy::new(22);
    let key = KeyFile::generate(&entropy).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let repository = Repository::create(storage, &key, &entropy, clock).await.unwrap();
    repository.lead(EPOCH, "c1").await.unwrap();
    let mut world = World { repository, key, known: Known::new() };
    world.repository.add_key(&second(), "in the safe", &entropy).await.unwrap();
    world.backup(1, 0).await;
    let stay = [world.key.clone(), second()];
    world.repository.begin_key_epoch(&stay, None, &[], &entropy).await.unwrap();
    world.backup(2, 1).await;
    world
}

fn second() -> KeyFile {
    KeyFile::generate(&SeededEntropy::new(23)).unwrap()
}

impl World {
    async fn backup(&mut self, id: u8, age: u64) {
        let state = self.repository.read(Clone::clone).await;
        self.known.retain(|_, at| state.usable(&at.frame.pack));
        let mut writing = begin(&self.repository, id, &mut self.known, 1 << 20).await;
        let one = writing.node("n1", WriterId([id; 8]), &tree(age)).await;
        writing.commit(vec![one]).await;
    }

    fn storage(&self) -> Arc<dyn Storage> {
        self.repository.storage().clone()
    }

    async fn check(&self) -> Report {
        check(&self.repository, true, &|_| {}).await.unwrap()
    }

    async fn objects(&self) -> BTreeMap<String, Bytes> {
        all(&*self.storage()).await
    }
}

async fn all(storage: &dyn Storage) -> BTreeMap<String, Bytes> {
    let mut all = BTreeMap::new();
    for object in list_all(storage, "").await.unwrap() {
        all.insert(object.key.clone(), storage.get(&object.key, None).await.unwrap());
    }
    all
}

fn empty() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::default())
}

async fn copied(world: &World, to: &Arc<dyn Storage>) -> Copied {
    copy(&world.repository, to, &|_| {}).await.unwrap()
}

async fn flip(storage: &dyn Storage, key: &str) {
    let mut bytes = storage.get(key, None).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    storage.delete(&[key.to_owned()]).await.unwrap();
    storage.put_new(key, bytes.into()).await.unwrap();
}

type Restored = BTreeMap<(BackupId, Vec<u8>), Vec<u8>>;

async fn spoiled(world: &World) -> Vec<BackupId> {
    let list = |state: &State| -> Vec<BackupId> {
        let backups = state.backups().filter(|backup| state.is_spoiled(backup));
        backups.map(|backup| backup.id).collect()
    };
    world.repository.read(list).await
}

/// But checkpoints, which anybody may delete.
fn kept(objects: BTreeMap<String, Bytes>) -> BTreeMap<String, Bytes> {
    objects.into_iter().filter(|(key, _)| !key.starts_with("ckpt/")).collect()
}

/// What each path of each backup holds.
async fn restored(repository: &Repository) -> Restored {
    let mut all = Restored::new();
    for backup in repository.backups().await {
        for (entry, bytes) in restore(repository, &backup.nodes[0]).await {
            if matches!(entry.kind, Kind::File(_)) {
                all.insert((backup.id, entry.path), bytes);
            }
        }
    }
    all
}

async fn packs(world: &World) -> Vec<String> {
    world.objects().await.into_keys().filter(|key| PackId::from_key(key).is_ok()).collect()
}

#[tokio::test]
async fn a_copy_equals_its_source_and_the_next_one_brings_only_what_is_new() {
    for mut world in [world().await, rotated().await] {
        copies(&mut world).await;
    }
}

async fn copies(world: &mut World) {
    let to = empty();
    let first = copied(world, &to).await;
    assert_eq!((first.backups, first.damaged_count, first.objects_there), (2, 0, 0));
    assert_eq!(kept(all(&*to).await), kept(world.objects().await));
    let again = copied(world, &to).await;
    assert_eq!((again.objects, again.records, again.objects_there), (0, 0, first.objects));
    world.backup(3, 2).await;
    world.repository.forget(EPOCH, TransactionId([1; 16])).await.unwrap();
    let third = copied(world, &to).await;
    assert!(third.objects > 0 && third.objects < first.objects, "{third:?}");
    let there = Repository::open(to.clone(), std::slice::from_ref(&world.key)).await.unwrap();
    assert_eq!(there.head().await, world.repository.head().await);
    assert_eq!(restored(&there).await, restored(&world.repository).await);
    assert_eq!(check(&there, true, &|_| {}).await.unwrap().damages, []);
}

#[tokio::test]
async fn somebody_elses_place_and_a_copy_that_was_written_to_are_refused() {
    let (world, other) = (world().await, world().await);
    let entropy = SeededEntropy::new(99);
    let key = KeyFile::generate(&entropy).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp(1)));
    let foreign = Repository::create(empty(), &key, &entropy, clock).await.unwrap();
    let refused = copy(&world.repository, foreign.storage(), &|_| {}).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let to = empty();
    to.put_new("something", Bytes::from_static(b"else")).await.unwrap();
    assert_eq!(copy(&world.repository, &to, &|_| {}).await.unwrap_err().kind(), ErrorKind::Conflict);

    // The same repository with one more record in the copy, or another one: two histories.
    let to = empty();
    copied(&other, &to).await;
    let led = Repository::open(to.clone(), std::slice::from_ref(&other.key)).await.unwrap();
    led.begin(EPOCH, TransactionId([9; 16]), Purpose::Pin).await.unwrap();
    let refused = copy(&other.repository, &to, &|_| {}).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Conflict && refused.what().contains("no copy"), "{refused:?}");
    other.repository.begin(EPOCH, TransactionId([8; 16]), Purpose::Pin).await.unwrap();
    assert_eq!(copy(&other.repository, &to, &|_| {}).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn damage_is_not_copied_and_is_named() {
    let world = world().await;
    let pack = packs(&world).await.remove(0);
    flip(&*world.storage(), &pack).await;
    let to = empty();
    let report = copied(&world, &to).await;
    assert_eq!(
        report.damaged.iter().map(|(object, _)| object.clone()).collect::<Vec<_>>(),
        std::slice::from_ref(&pack)
    );
    assert!(to.size(&pack).await.is_err());
    world.storage().delete(std::slice::from_ref(&pack)).await.unwrap();
    let report = copied(&world, &to).await;
    assert_eq!((report.damaged_count, &report.damaged[0].0), (1, &pack));
}

#[tokio::test]
async fn every_object_is_put_back_from_a_copy_byte_for_byte() {
    for world in [world().await, rotated().await] {
        puts_back(&world).await;
    }
}

async fn puts_back(world: &World) {
    let to = empty();
    copied(world, &to).await;
    let whole = world.objects().await;
    for (key, body) in &whole {
        if key.starts_with("labels/") || key.starts_with("ckpt/") {
            continue;
        }
        for missing in [false, true] {
            if missing {
                world.storage().delete(std::slice::from_ref(key)).await.unwrap();
            } else {
                flip(&*world.storage(), key).await;
            }
            if key.starts_with("ledger/") {
                let there = Repository::open(to.clone(), std::slice::from_ref(&world.key)).await.unwrap();
                let planned = put_back_ledger(&*world.storage(), &there, false).await.unwrap();
                assert_ne!(
                    world.storage().get(key, None).await.ok().as_ref(),
                    Some(body),
                    "a plan does nothing"
                );
                assert_eq!(put_back_ledger(&*world.storage(), &there, true).await.unwrap(), planned);
            } else {
                let report = world.check().await;
                let done = put_back(&world.repository, &to, &report, true, &|_, _| {}).await.unwrap();
                assert_eq!(done.left, [], "{key}");
                assert!(done.objects.contains(key), "{key}: {done:?}");
            }
            assert_eq!(world.objects().await, whole, "{key}");
        }
    }
    assert_eq!(world.check().await.damages, []);
}

#[tokio::test]
async fn a_copy_that_is_damaged_itself_puts_nothing_back() {
    let world = world().await;
    let to = empty();
    copied(&world, &to).await;
    let pack = packs(&world).await.remove(0);
    for storage in [world.storage(), to.clone()] {
        flip(&*storage, &pack).await;
    }
    let before = world.objects().await;
    let report = world.check().await;
    let done = put_back(&world.repository, &to, &report, true, &|_, _| {}).await.unwrap();
    assert_eq!((done.objects.len(), done.left.len()), (0, 1));
    assert_eq!(world.objects().await, before);
}

#[tokio::test]
async fn two_histories_of_a_ledger_are_not_mixed() {
    let world = world().await;
    let to = empty();
    copied(&world, &to).await;
    world.repository.begin(EPOCH, TransactionId([8; 16]), Purpose::Pin).await.unwrap();
    let led = Repository::open(to.clone(), std::slice::from_ref(&world.key)).await.unwrap();
    led.begin(EPOCH, TransactionId([9; 16]), Purpose::Pin).await.unwrap();
    let before = world.objects().await;
    let refused = put_back_ledger(&*world.storage(), &led, true).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert_eq!(world.objects().await, before);
}

/// Of every pack in turn: the ledger is told, the next backup stores its chunks anew, and the older ones are rewritten.
#[tokio::test]
async fn older_backups_are_mended_from_a_later_one_and_from_what_still_opens() {
    let count = packs(&world().await).await.len();
    for at in 0..count {
        let mut world = world().await;
        let before = restored(&world.repository).await;
        let pack = packs(&world).await.remove(at);
        flip(&*world.storage(), &pack).await;
        assert!(mark_found(&world.repository, EPOCH, &world.check().await).await.unwrap());
        assert!(!mark_found(&world.repository, EPOCH, &world.check().await).await.unwrap(), "once");
        let hurt = spoiled(&world).await;
        assert!(!hurt.is_empty(), "{pack}");

        // Both states that there were, so that somebody has every chunk.
        world.backup(3, 0).await;
        world.backup(4, 1).await;
        assert_eq!(spoiled(&world).await, hurt, "the new ones build on nothing damaged");

        let entropy = SeededEntropy::new(at as u64);
        let done = rewrite(&world.repository, EPOCH, &entropy).await.unwrap();
        assert_eq!((done.chunks_lost, done.spoiled, done.backups), (0, 0, hurt.len() as u64), "{pack}");
        let after = restored(&world.repository).await;
        assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)), "{pack}");
        let report = world.check().await;
        assert_eq!(report.damages, [], "{pack}");
        // Nobody needs the damaged one any more.
        sweep(&world.repository, EPOCH).await.unwrap();
        assert!(world.storage().size(&pack).await.is_err());
        assert!(world.repository.read(|state| state.damaged().is_empty()).await);
        let nothing = rewrite(&world.repository, EPOCH, &entropy).await.unwrap();
        assert_eq!((nothing.backups, nothing.manifests), (0, 0));
    }
}

/// Nobody has the chunks any more: what is lost stays lost, and the rest of its pack does not go with it.
#[tokio::test]
async fn what_still_opens_is_salvaged_and_what_does_not_stays_spoiled() {
    let world = world().await;
    // The first pack has two frames: its last byte but the trailer's is the second one's.
    let pack = packs(&world).await.remove(0);
    let mut bytes = world.storage().get(&pack, None).await.unwrap().to_vec();
    bytes[100] ^= 1;
    world.storage().delete(std::slice::from_ref(&pack)).await.unwrap();
    world.storage().put_new(&pack, bytes.into()).await.unwrap();
    let report = world.check().await;
    assert!(report.damages[0].file_count > 0 && report.damages[0].files[0].node == "n1", "{report:?}");
    mark_found(&world.repository, EPOCH, &report).await.unwrap();
    let done = rewrite(&world.repository, EPOCH, &SeededEntropy::new(1)).await.unwrap();
    assert!(done.chunks > 0 && done.chunks_lost > 0 && done.spoiled > 0, "{done:?}");
    let after = world.check().await;
    assert_eq!(after.damages.iter().map(|damage| &damage.object).collect::<Vec<_>>(), [&pack]);
    assert_eq!(after.damages[0].file_count, report.damages[0].file_count, "no more and no fewer files");
}

#[tokio::test]
async fn what_was_put_back_is_whole_again_for_the_ledger_too() {
    let mut world = world().await;
    let to = empty();
    copied(&world, &to).await;
    let pack = packs(&world).await.remove(0);
    flip(&*world.storage(), &pack).await;
    let report = world.check().await;
    mark_found(&world.repository, EPOCH, &report).await.unwrap();
    put_back(&world.repository, &to, &report, true, &|_, _| {}).await.unwrap();
    // Any check looks at what is known to be damaged, also one that reads no other data.
    let report = check(&world.repository, false, &|_| {}).await.unwrap();
    assert_eq!((report.damages.len(), report.whole.packs.len()), (0, 1));
    assert!(mark_found(&world.repository, EPOCH, &report).await.unwrap());
    assert!(world.repository.read(|state| state.damaged().is_empty()).await);
    world.backup(3, 0).await;
}

#[tokio::test]
async fn a_commit_that_builds_on_known_damage_is_refused() {
    let mut world = world().await;
    let stale = world.known.clone();
    let pack = packs(&world).await.remove(0);
    flip(&*world.storage(), &pack).await;
    mark_found(&world.repository, EPOCH, &world.check().await).await.unwrap();
    world.known = stale;
    let mut writing = begin(&world.repository, 3, &mut world.known, 1 << 20).await;
    let (node, used) = writing.node("n1", WriterId([3; 8]), &tree(0)).await;
    let refused = world
        .repository
        .commit(EPOCH, TransactionId([3; 16]), vec![node], Vec::new(), used)
        .await
        .unwrap_err();
    assert!(refused.kind() == ErrorKind::Conflict && refused.what().contains("damaged"), "{refused:?}");
}

/// What a damaged source has lost of its keys is not lost in the copy too, and comes back from there.
#[tokio::test]
async fn wrapped_keys_and_masters_are_not_lost_with_the_source() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to]: [Arc<dyn Storage>; 2] =
        directories.each_ref().map(|at| Arc::new(LocalStorage::at(at.path()).unwrap()) as Arc<dyn Storage>);
    let world = rotated_at(from.clone()).await;
    copied(&world, &to).await;
    let whole = kept(all(&*to).await);
    let masters: Vec<String> = whole.keys().filter(|key| key.starts_with("masters/")).cloned().collect();
    let of = |key: &KeyFile| {
        let masters = masters.iter().find(|object| object.ends_with(&key.id.to_string())).unwrap();
        (format!("keys/{}", key.id), masters.clone())
    };
    let (first, other) = (of(&world.key), of(&second()));
    assert_eq!(masters.len(), 2);

    // Of one key: the other still opens all.
    from.delete(std::slice::from_ref(&other.0)).await.unwrap();
    flip(&*from, &other.1).await;
    let again = copied(&world, &to).await;
    let named: Vec<&str> = again.damaged.iter().map(|(object, _)| &object[..]).collect();
    assert_eq!(named, [&other.1, &other.0]);
    assert_eq!(kept(all(&*to).await), whole, "the copy keeps what it has");
    let report = world.check().await;
    let found: Vec<_> = report.damages.iter().map(|damage| (&damage.object, damage.backups.len())).collect();
    assert_eq!(found, [(&other.0, 0), (&other.1, 0)]);
    put_back(&world.repository, &to, &report, true, &|_, _| {}).await.unwrap();
    assert_eq!(kept(world.objects().await), whole);
    assert_eq!(world.check().await.damages, []);

    // Of all keys: nobody gets past the key epoch, so every backup is lost with them.
    from.delete(&masters).await.unwrap();
    let report = world.check().await;
    assert!(report.damages.len() == 2 && report.damages.iter().all(|damage| damage.backups.len() == 2));
    let keys = [world.key.clone(), second()];
    let refused = Repository::open(from.clone(), &keys).await.unwrap_err();
    assert!(
        refused.kind() == ErrorKind::Denied && refused.what().contains("gone, for every key"),
        "{refused:?}"
    );
    let copy = Repository::open(to.clone(), std::slice::from_ref(&world.key)).await.unwrap();
    let planned = put_back_base(&from, &copy, false).await.unwrap();
    assert_eq!(planned, std::slice::from_ref(&first.1), "what this key needs");
    assert_eq!(put_back_base(&from, &copy, true).await.unwrap(), planned);
    let back = Repository::open(from.clone(), std::slice::from_ref(&world.key)).await.unwrap();
    let report = check(&back, false, &|_| {}).await.unwrap();
    put_back(&back, &to, &report, true, &|_, _| {}).await.unwrap();
    assert_eq!(kept(all(&*from).await), whole);
    // And everything that opens it.
    from.delete(&[first.0.clone(), first.1.clone(), other.0.clone(), other.1.clone()]).await.unwrap();
    put_back_base(&from, &copy, true).await.unwrap();
    assert_eq!(kept(all(&*from).await), whole);
}

#[tokio::test]
async fn a_key_that_was_removed_does_not_come_back_from_a_copy() {
    let world = rotated().await;
    let to = empty();
    copied(&world, &to).await;
    let both = Repository::open(to.clone(), &[second()]).await.unwrap();
    world.repository.remove_key(second().id).await.unwrap();
    let before = world.objects().await;
    let refused = put_back_base(&world.storage(), &both, true).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Denied && refused.what().contains("was removed"), "{refused:?}");
    // The others are lost with their masters: they come back, and it does not.
    world.storage().delete(&[format!("keys/{}", world.key.id)]).await.unwrap();
    put_back_base(&world.storage(), &both, true).await.unwrap();
    assert_eq!(world.objects().await, before);
    // Nor does it open the copy for longer than until the next one.
    assert_eq!(copied(&world, &to).await.damaged, []);
    assert_eq!(Repository::open(to, &[second()]).await.unwrap_err().kind(), ErrorKind::Denied);
}

/// A copy is opened in a disaster, and nobody appends to it: its checkpoint comes with the records.
#[tokio::test]
async fn a_copy_has_a_checkpoint_of_its_own_records() {
    let world = rotated().await;
    for n in 10..100 {
        world.repository.begin(EPOCH, TransactionId([n; 16]), Purpose::Pin).await.unwrap();
        world.repository.abort(EPOCH, TransactionId([n; 16])).await.unwrap();
    }
    let to = empty();
    for _ in 0..2 {
        copied(&world, &to).await;
        let checkpoints = list_all(&*to, "ckpt/").await.unwrap();
        assert_eq!(checkpoints.len(), 1);
        let counted = Arc::new(Counted::new(to.clone()));
        let there = Repository::open(counted.clone(), std::slice::from_ref(&world.key)).await.unwrap();
        assert_eq!(there.head().await, world.repository.head().await);
        assert!(counted.requests().gets < 80, "{:?}", counted.requests());
        for n in 100..200 {
            world.repository.begin(EPOCH, TransactionId([n; 16]), Purpose::Pin).await.ok();
        }
    }
}
