use bytes::Bytes;

use super::access::key_object;
use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::entropy::SeededEntropy;
use crate::error::ErrorKind;
use crate::id::WriterId;
use crate::ledger::fixture::{Fault, Faulty};
use crate::manifest::entry::{Content, Entry, Kind, Meta, Piece};
use crate::manifest::{ManifestRef, ManifestWriter};
use crate::pack::{ChunkAt, Codec, FrameAt, PackId};
use crate::storage::front::Front;
use crate::storage::{MemoryStorage, list_all};
use crate::sweep::{Deleted, condemn, delete_leftovers, sweep};

const E: Epoch = Epoch(1);

fn key(seed: u64) -> KeyFile {
    KeyFile::generate(&SeededEntropy::new(seed)).unwrap()
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::default())
}

async fn create_in(storage: Arc<dyn Storage>, seed: u64) -> Result<Repository> {
    let clock = Arc::new(ManualClock::at(Timestamp(5_000)));
    Repository::create(storage, &key(seed), &SeededEntropy::new(100 + seed), clock).await
}

async fn led(storage: &Arc<dyn Storage>) -> Repository {
    let repository = create_in(storage.clone(), 1).await.unwrap();
    repository.lead(E, "c1").await.unwrap();
    repository
}

async fn reopen(storage: &Arc<dyn Storage>) -> Repository {
    Repository::open(storage.clone(), &[key(1)]).await.unwrap()
}

fn txn(n: u8) -> TransactionId {
    TransactionId([n; 16])
}

fn pack(n: u8, counter: u32) -> PackId {
    PackId { transaction: txn(n), writer: WriterId([n; 8]), counter }
}

fn set(packs: &[PackId]) -> PackSet {
    packs.iter().copied().collect()
}

/// Puts packs (their content does not matter here), an index segment, and a manifest that names `uses`.
async fn upload(repository: &Repository, n: u8, own: u32, uses: &[PackId]) -> NodeCommit {
    for counter in 0..own {
        repository.storage().put_new(&pack(n, counter).key(), Bytes::from(vec![n; 1000])).await.unwrap();
    }
    let segment = format!("t/{}/x/{}-00000000", txn(n), WriterId([n; 8]));
    repository.storage().put_new(&segment, Bytes::from_static(b"index")).await.unwrap();
    manifest(repository, n, "n1", uses).await
}

async fn manifest(repository: &Repository, n: u8, node: &str, uses: &[PackId]) -> NodeCommit {
    let keys = repository.keys();
    let mut writer = ManifestWriter::new(keys, txn(n), node, WriterId([n; 8]), Timestamp(1)).unwrap();
    let root = Entry { path: b".".to_vec(), meta: Meta::default(), kind: Kind::Directory };
    writer.push(&root).unwrap();
    let pieces: Vec<_> = uses
        .iter()
        .map(|pack| {
            let frame =
                FrameAt { pack: *pack, ordinal: 0, offset: 8, stored: 26, plain: 10, codec: Codec::Raw };
            Piece::Data(ChunkAt { frame, start: 0, len: 10 })
        })
        .collect();
    let content = Content { size: 10 * pieces.len() as u64, id: keys.file_id(0, []), pieces, pages: None };
    writer.push(&Entry { path: b"f".to_vec(), meta: Meta::default(), kind: Kind::File(content) }).unwrap();
    let finished = writer.finish(Vec::new()).unwrap();
    for (key, part) in finished.parts {
        repository.storage().put_new(&key, part).await.unwrap();
    }
    commit_of(node, finished.reference)
}

fn commit_of(node: &str, manifest: ManifestRef) -> NodeCommit {
    let node = node.to_owned();
    NodeCommit {
        node,
        manifest,
        files: 1,
        bytes: 2,
        bytes_read: 3,
        bytes_new: 4,
        bytes_stored: 5,
        warnings: 0,
        unchanged: false,
        log: None,
        cut: None,
    }
}

async fn backup(repository: &Repository, n: u8, own: u32, foreign: &[PackId]) -> Arc<BackupRecord> {
    repository.begin(E, txn(n), Purpose::Backup).await.unwrap();
    let mut uses: Vec<_> = (0..own).map(|counter| pack(n, counter)).collect();
    uses.extend_from_slice(foreign);
    let node = upload(repository, n, own, &uses).await;
    repository.commit(E, txn(n), vec![node], Vec::new(), set(&uses)).await.unwrap()
}

async fn objects(repository: &Repository, prefix: &str) -> Vec<String> {
    let objects = list_all(&**repository.storage(), prefix).await.unwrap();
    objects.into_iter().map(|object| object.key).collect()
}

fn refused<T: fmt::Debug>(result: Result<T>) -> ErrorKind {
    let error = result.unwrap_err();
    assert!(error.what() == error.what().trim() && !error.what().is_empty());
    error.kind()
}

#[tokio::test]
async fn created_opened_and_read_by_another() {
    let storage = memory();
    let repository = led(&storage).await;
    assert!(repository.backups().await.is_empty());
    assert_eq!(refused(repository.find_backup("latest").await), ErrorKind::NotFound);
    let record = backup(&repository, 0x11, 2, &[]).await;
    backup(&repository, 0x12, 0, &[pack(0x11, 0)]).await;
    assert_eq!((record.started, record.committed), (Timestamp(5_000), Timestamp(5_000)));

    let other = reopen(&storage).await;
    assert_eq!(other.id(), repository.id());
    assert_eq!(other.backups().await, repository.backups().await);
    assert_eq!(other.backups().await[0], record);
    assert_eq!(other.find_backup("latest").await.unwrap().id, txn(0x12));
    assert_eq!(other.find_backup("1111").await.unwrap().id, txn(0x11));
    assert_eq!(other.find_backup(&txn(0x12).to_string().to_uppercase()).await.unwrap().id, txn(0x12));
    assert_eq!(refused(other.find_backup("1").await), ErrorKind::Invalid, "ambiguous");
    for none in ["2", "", "lates", "zz"] {
        assert_eq!(refused(other.find_backup(none).await), ErrorKind::NotFound, "{none:?}");
    }
    assert_eq!(other.head().await, repository.head().await);
    assert!(other.void_records().await.is_empty());
    assert!(objects(&other, "probe").await.is_empty());
}

#[tokio::test]
async fn a_repository_is_never_made_over_another() {
    let storage = memory();
    led(&storage).await;
    let before = list_all(&*storage, "").await.unwrap();
    for seed in [1, 2] {
        assert_eq!(refused(create_in(storage.clone(), seed).await), ErrorKind::Conflict);
    }
    assert_eq!(list_all(&*storage, "").await.unwrap(), before, "and nothing was touched");
    // Without its header, the ledger still says that somebody lives here.
    storage.delete(&["repo".to_owned()]).await.unwrap();
    assert_eq!(refused(create_in(storage.clone(), 2).await), ErrorKind::Conflict);
    assert_eq!(list_all(&*storage, "keys/").await.unwrap().len(), 1, "the refused key is not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_creators_one_wins_and_its_repository_opens() {
    for round in 0..20 {
        let storage = memory();
        // Also the same key twice.
        let tasks: Vec<_> =
            [1, 2, 3, 1].map(|seed| tokio::spawn(create_in(storage.clone(), seed))).into_iter().collect();
        let mut winners = Vec::new();
        for (seed, task) in [1, 2, 3, 1].into_iter().zip(tasks) {
            match task.await.unwrap() {
                Ok(repository) => winners.push((seed, repository.id())),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "round {round}: {e:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let opened = Repository::open(storage, &[key(winners[0].0)]).await.unwrap();
        assert_eq!(opened.id(), winners[0].1);
        assert_eq!(opened.key_ids().await.unwrap(), [key(winners[0].0).id], "losers leave no key");
    }
}

#[tokio::test]
async fn a_creation_that_died_is_taken_up() {
    let storage = memory();
    let half = Faulty::new(storage.clone(), "repo", &[Fault::Lost]);
    assert_eq!(refused(create_in(half, 1).await), ErrorKind::Unavailable);
    assert_eq!(refused(Repository::open(storage.clone(), &[key(1)]).await), ErrorKind::NotFound);
    // By another key, whose holder knows nothing of the first.
    let other = create_in(storage.clone(), 2).await.unwrap();
    assert_eq!(refused(Repository::open(storage.clone(), &[key(1)]).await), ErrorKind::Denied);
    drop(other);

    let storage = memory();
    let half = Faulty::new(storage.clone(), "repo", &[Fault::Lost]);
    create_in(half, 1).await.unwrap_err();
    create_in(storage.clone(), 1).await.unwrap();
    reopen(&storage).await;
}

/// A store that ignores the condition.
#[derive(Debug)]
struct Careless(MemoryStorage);

#[async_trait::async_trait]
impl Front for Careless {
    fn behind(&self) -> &dyn Storage {
        &self.0
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.0.put(key, body).await
    }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let storage: Arc<dyn Storage> = Arc::new(Careless(MemoryStorage::default()));
    let error = create_in(storage.clone(), 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.what().contains("created twice") && error.hint().unwrap().contains("conditional"));
    assert!(list_all(&*storage, "").await.unwrap().is_empty());
}

#[tokio::test]
async fn wrong_and_missing_keys_are_told_plainly() {
    let storage = memory();
    assert_eq!(refused(Repository::open(storage.clone(), &[key(1)]).await), ErrorKind::NotFound);
    led(&storage).await;
    let error = Repository::open(storage.clone(), &[key(2), key(3)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    for id in [key(1).id, key(2).id, key(3).id] {
        assert!(error.what().contains(&id.to_string()), "{error:?}");
    }
    assert!(error.hint().is_some());
    let plainly = format!(
        "none of the 2 keys given ({}, {}) opens this repository: it is wrapped for key {}",
        key(2).id.min(key(3).id),
        key(2).id.max(key(3).id),
        key(1).id
    );
    assert_eq!(error.what(), plainly);
    let error = Repository::open(storage.clone(), &[]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.what().contains("no key was given"));
    Repository::open(storage.clone(), &[key(2), key(1)]).await.unwrap();
    // A file with the right id and another key in it.
    let mut text = Vec::new();
    let directory = tempfile::tempdir().unwrap();
    for seed in [1, 2] {
        let path = directory.path().join(format!("{seed}"));
        key(seed).write(&path).unwrap();
        text.push(std::fs::read_to_string(path).unwrap());
    }
    let fields: Vec<_> = text.iter().map(|line| line.split(' ').collect::<Vec<_>>()).collect();
    let path = directory.path().join("mixed");
    std::fs::write(&path, format!("{} {} {}", fields[0][0], fields[0][1], fields[1][2])).unwrap();
    let (mixed, _) = KeyFile::read(&path).unwrap();
    assert_eq!(refused(Repository::open(storage.clone(), &[mixed]).await), ErrorKind::Denied);
    storage.delete(&[key_object(key(1).id)]).await.unwrap();
    let error = Repository::open(storage, &[key(1)]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.what().contains("for no key any more"));
}

#[tokio::test]
async fn every_flipped_byte_of_a_small_object_is_noticed() {
    let storage = memory();
    let repository = led(&storage).await;
    backup(&repository, 1, 1, &[]).await;
    let mut small = objects(&repository, "ledger/").await;
    small.extend(["repo".to_owned(), key_object(key(1).id)]);
    for object in small {
        let good = storage.get(&object, None).await.unwrap();
        for i in 0..good.len() {
            let mut bad = good.to_vec();
            bad[i] ^= 0x40;
            storage.put(&object, Bytes::from(bad)).await.unwrap();
            let error = Repository::open(storage.clone(), &[key(1)]).await.unwrap_err();
            let plain_version = object == "repo" && i == 8; // says of itself that it is newer
            let want = if plain_version { ErrorKind::Invalid } else { ErrorKind::Corrupt };
            assert_eq!(error.kind(), want, "{object} byte {i}: {error:?}");
        }
        for length in [0, 1, 7, good.len() - 1] {
            storage.put(&object, good.slice(..length)).await.unwrap();
            let error = Repository::open(storage.clone(), &[key(1)]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{object} cut at {length}");
        }
        storage.put(&object, good).await.unwrap();
    }
    reopen(&storage).await;
}

/// A header that is whole but was made by somebody without the root key.
#[tokio::test]
async fn a_forged_header_is_noticed() {
    let storage = memory();
    let repository = led(&storage).await;
    let other = Keys::derive(&RootKey::generate(&SeededEntropy::new(9)).unwrap(), repository.id()).unwrap();
    storage.put("repo", header::seal(&other).unwrap()).await.unwrap();
    let error = Repository::open(storage, &[key(1)]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.what().contains("changed"), "{error:?}");
}

#[tokio::test]
async fn a_partial_backup_says_so_to_whoever_opens_the_repository() {
    let storage = memory();
    let repository = led(&storage).await;
    repository.begin(E, txn(1), Purpose::Backup).await.unwrap();
    let nodes = vec![upload(&repository, 1, 1, &[pack(1, 0)]).await];
    let missing = MissingNode {
        node: "n3".to_owned(),
        reason: "lost".to_owned(),
        files: 1204,
        bytes: 5 << 30,
        paths: vec![b"base/16384/2619".to_vec()],
    };
    let uses = set(&[pack(1, 0)]);
    let commit = async |missing: Vec<MissingNode>| {
        repository.commit(E, txn(1), nodes.clone(), missing, uses.clone()).await
    };
    for _ in 0..2 {
        let backup = commit(vec![missing.clone()]).await.unwrap();
        assert_eq!(backup.missing, std::slice::from_ref(&missing));
    }
    assert_eq!(refused(commit(Vec::new()).await), ErrorKind::Conflict, "committed as partial, not as whole");
    backup(&repository, 2, 1, &[]).await;

    let reader = Repository::open(storage, &[key(1)]).await.unwrap();
    let backups = reader.backups().await;
    assert_eq!(backups[0].missing, [missing]);
    assert_eq!(backups[1].missing, []);
}

#[tokio::test]
async fn a_commit_needs_every_manifest_in_full() {
    let storage = memory();
    let repository = led(&storage).await;
    repository.begin(E, txn(1), Purpose::Backup).await.unwrap();
    let one = upload(&repository, 1, 1, &[pack(1, 0)]).await;
    let two = manifest(&repository, 1, "n2", &[pack(1, 0)]).await;
    let nodes = vec![one, two];
    let uses = set(&[pack(1, 0)]);
    let commit = || repository.commit(E, txn(1), nodes.clone(), Vec::new(), uses.clone());

    let object = nodes[1].manifest.key(0);
    let good = storage.get(&object, None).await.unwrap();
    storage.delete(std::slice::from_ref(&object)).await.unwrap();
    let error = commit().await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Corrupt && error.what().contains("n2") && error.what().contains(&object)
    );
    storage.put(&object, good.slice(1..)).await.unwrap();
    assert_eq!(refused(commit().await), ErrorKind::Corrupt, "too short");
    let mut flipped = good.to_vec();
    let last = flipped.len() - 30;
    flipped[last] ^= 1;
    storage.put(&object, Bytes::from(flipped)).await.unwrap();
    assert_eq!(refused(commit().await), ErrorKind::Corrupt, "damaged footer");
    storage.put(&object, good).await.unwrap();

    let error = repository.commit(E, txn(1), nodes.clone(), Vec::new(), PackSet::new()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.what().contains(&pack(1, 0).key()), "{error:?}");
    storage.delete(&[pack(1, 0).key()]).await.unwrap();
    let error = commit().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.what().contains(&pack(1, 0).key()), "{error:?}");
    storage.put_new(&pack(1, 0).key(), Bytes::from_static(b"found")).await.unwrap();
    assert!(repository.backups().await.is_empty(), "until now there is no backup");
    commit().await.unwrap();
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_asked_again() {
    for fault in [Fault::Unanswered, Fault::Lost] {
        let inner = memory();
        drop(led(&inner).await);
        let faulty = Faulty::new(inner.clone(), "ledger/", &[]);
        let repository = Repository::open(faulty.clone(), &[key(1)]).await.unwrap();
        repository.begin(E, txn(1), Purpose::Backup).await.unwrap();
        repository.begin(E, txn(1), Purpose::Backup).await.unwrap();
        let node = upload(&repository, 1, 1, &[pack(1, 0)]).await;
        faulty.script.lock().unwrap().push_back(fault);
        let commit = |repository: Arc<Repository>| {
            let node = node.clone();
            async move { repository.commit(E, txn(1), vec![node], Vec::new(), set(&[pack(1, 0)])).await }
        };
        let repository = Arc::new(repository);
        let first = commit(repository.clone()).await.unwrap();
        let again = commit(repository.clone()).await.unwrap();
        // Also by the coordinator that takes over.
        let other = Arc::new(reopen(&inner).await);
        other.lead(Epoch(2), "c2").await.unwrap();
        let later =
            other.commit(Epoch(2), txn(1), vec![node.clone()], Vec::new(), set(&[pack(1, 0)])).await.unwrap();
        assert_eq!((&first, &first), (&again, &later));
        assert_eq!(other.backups().await.len(), 1);
        let changed = vec![NodeCommit { files: 99, ..node.clone() }];
        assert_eq!(
            refused(other.commit(Epoch(2), txn(1), changed, Vec::new(), set(&[pack(1, 0)])).await),
            ErrorKind::Conflict
        );
    }
}

#[tokio::test]
async fn a_stale_leader_neither_commits_nor_sweeps() {
    let storage = memory();
    let old = led(&storage).await;
    backup(&old, 1, 2, &[]).await;
    old.begin(E, txn(2), Purpose::Backup).await.unwrap();
    let node = upload(&old, 2, 1, &[pack(2, 0)]).await;

    let new = reopen(&storage).await;
    new.lead(Epoch(2), "c2").await.unwrap();
    new.lead(Epoch(2), "c2").await.unwrap();
    let records = objects(&new, "ledger/").await;
    assert_eq!(
        refused(old.commit(E, txn(2), vec![node.clone()], Vec::new(), set(&[pack(2, 0)])).await),
        ErrorKind::Fenced
    );
    assert_eq!(refused(old.forget(E, txn(1)).await), ErrorKind::Fenced);
    assert_eq!(refused(old.begin(E, txn(3), Purpose::Backup).await), ErrorKind::Fenced);
    assert_eq!(refused(old.abort(E, txn(2)).await), ErrorKind::Fenced);
    assert_eq!(refused(old.lead(E, "c1").await), ErrorKind::Fenced);
    new.forget(Epoch(2), txn(1)).await.unwrap();
    assert_eq!(refused(sweep(&old, E).await), ErrorKind::Fenced);
    assert_eq!(objects(&new, "ledger/").await.len(), records.len() + 1, "only the new leader's FORGET");
    // What the old one began, the new one may finish.
    new.commit(Epoch(2), txn(2), vec![node], Vec::new(), set(&[pack(2, 0)])).await.unwrap();
}

#[tokio::test]
async fn after_an_abort_no_commit() {
    let storage = memory();
    let repository = led(&storage).await;
    repository.begin(E, txn(1), Purpose::Backup).await.unwrap();
    let node = upload(&repository, 1, 1, &[pack(1, 0)]).await;
    repository.abort(E, txn(1)).await.unwrap();
    repository.abort(E, txn(1)).await.unwrap();
    assert_eq!(
        refused(repository.commit(E, txn(1), vec![node], Vec::new(), set(&[pack(1, 0)])).await),
        ErrorKind::Conflict
    );
    assert_eq!(refused(repository.begin(E, txn(1), Purpose::Backup).await), ErrorKind::Conflict);
    assert_eq!(refused(repository.abort(E, txn(9)).await), ErrorKind::NotFound);
    backup(&repository, 2, 1, &[]).await;
    assert_eq!(refused(repository.abort(E, txn(2)).await), ErrorKind::Conflict, "it is committed");
    assert_eq!(refused(repository.forget(E, txn(1)).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_sweep_takes_leftovers_and_keeps_what_is_live() {
    let storage = memory();
    let repository = led(&storage).await;
    backup(&repository, 1, 3, &[]).await;
    backup(&repository, 2, 1, &[pack(1, 1)]).await;
    // A transaction that was given up, and one that still runs.
    for n in [3, 4] {
        repository.begin(E, txn(n), Purpose::Backup).await.unwrap();
        upload(&repository, n, 2, &[pack(n, 0)]).await;
    }
    repository.abort(E, txn(3)).await.unwrap();
    // Packs that a backup wrote and did not need in the end, and what was never begun.
    storage.put_new(&pack(2, 9).key(), Bytes::from(vec![0; 100])).await.unwrap();
    storage.put_new(&pack(8, 0).key(), Bytes::from_static(b"stranger")).await.unwrap();
    storage.put_new(&format!("t/{}/future/thing", txn(1)), Bytes::from_static(b"?")).await.unwrap();
    let before = objects(&repository, "").await;

    let report = sweep(&repository, E).await.unwrap();
    assert_eq!((report.condemned, report.packs, report.waiting), (0, 0, 0));
    assert_eq!(
        report.deleted.objects,
        2 + 1 + 1 + 1,
        "two packs, index and manifest of 3, the spare pack of 2"
    );
    let after = objects(&repository, "").await;
    let gone: Vec<_> = before.iter().filter(|key| !after.contains(key)).collect();
    assert!(
        gone.iter().all(|key| key.contains(&txn(3).to_string()) || **key == pack(2, 9).key()),
        "{gone:?}"
    );

    // 1 is forgotten while 4 runs: condemned, but not swept yet, and its manifest stays as well.
    repository.forget(E, txn(1)).await.unwrap();
    let report = sweep(&repository, E).await.unwrap();
    assert_eq!((report.condemned, report.packs, report.waiting, report.waits_for), (2, 0, 2, vec![txn(4)]));
    assert_eq!(report.deleted, Deleted::default());
    repository.abort(E, txn(4)).await.unwrap();
    let report = sweep(&repository, E).await.unwrap();
    assert_eq!((report.condemned, report.packs, report.waiting), (0, 2, 0));
    assert_eq!(report.deleted.objects, 2 + 1 + 4, "two packs and the manifest of 1, all of 4");
    let left = objects(&repository, "t/").await;
    for key in [pack(1, 1).key(), pack(2, 0).key(), pack(8, 0).key(), format!("t/{}/future/thing", txn(1))] {
        assert!(left.contains(&key), "{key}");
    }
    assert!(!left.contains(&pack(1, 0).key()));
    for backup in repository.backups().await {
        for pack in backup.packs.iter() {
            assert!(left.contains(&pack.key()));
        }
    }
    assert_eq!(
        sweep(&repository, E).await.unwrap(),
        crate::sweep::Swept::default(),
        "again, there is nothing to do"
    );

    // The last backup goes, and with it everything but history and strangers.
    repository.forget(E, txn(2)).await.unwrap();
    sweep(&repository, E).await.unwrap();
    let left = objects(&repository, "t/").await;
    assert_eq!(left, [format!("t/{}/future/thing", txn(1)), pack(8, 0).key()]);
}

#[tokio::test]
async fn swept_packs_are_not_committed_and_late_puts_are_swept_again() {
    let storage = memory();
    let repository = led(&storage).await;
    backup(&repository, 1, 1, &[]).await;
    repository.forget(E, txn(1)).await.unwrap();
    sweep(&repository, E).await.unwrap();
    // An agent with an old index.
    repository.begin(E, txn(2), Purpose::Backup).await.unwrap();
    let node = upload(&repository, 2, 0, &[pack(1, 0)]).await;
    let error = repository.commit(E, txn(2), vec![node], Vec::new(), set(&[pack(1, 0)])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error.what().contains("swept") && error.what().contains(&pack(1, 0).key()) && error.hint().is_some()
    );
    repository.abort(E, txn(2)).await.unwrap();
    // A zombie of the forgotten backup puts what it had in hand.
    storage.put_new(&pack(1, 5).key(), Bytes::from_static(b"late")).await.unwrap();
    storage.put_new(&pack(1, 0).key(), Bytes::from_static(b"late")).await.unwrap();
    // Anybody may delete: one that reads only, with an old view of the ledger.
    delete_leftovers(&reopen(&storage).await).await.unwrap();
    assert!(objects(&repository, "t/").await.is_empty());
}

#[tokio::test]
async fn an_unchanged_node_keeps_its_old_manifest_alive() {
    let storage = memory();
    let repository = led(&storage).await;
    let first = backup(&repository, 1, 1, &[]).await;
    repository.begin(E, txn(2), Purpose::Backup).await.unwrap();
    // Forgotten between the decision and the commit, and swept by somebody eager.
    repository.forget(E, txn(1)).await.unwrap();
    sweep(&repository, E).await.unwrap();
    let unchanged = NodeCommit { unchanged: true, ..first.nodes[0].clone() };
    let second =
        repository.commit(E, txn(2), vec![unchanged], Vec::new(), first.packs.clone()).await.unwrap();
    sweep(&repository, E).await.unwrap();
    sweep(&repository, E).await.unwrap();
    assert_eq!(storage.size(&second.nodes[0].manifest.key(0)).await.unwrap(), second.nodes[0].manifest.size);
    storage.size(&pack(1, 0).key()).await.unwrap();
    repository.forget(E, txn(2)).await.unwrap();
    sweep(&repository, E).await.unwrap();
    assert!(objects(&repository, "t/").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sweeping_beside_running_backups_loses_nothing() {
    let storage = memory();
    let repository = Arc::new(led(&storage).await);
    backup(&repository, 1, 4, &[]).await;
    let writer = tokio::spawn({
        let repository = repository.clone();
        async move {
            for n in 2..30u8 {
                let reuse: Vec<_> = repository
                    .read(|state| {
                        state.committed().iter().filter(|pack| state.usable(pack)).take(2).collect()
                    })
                    .await;
                repository.begin(E, txn(n), Purpose::Backup).await.unwrap();
                // Asked again after BEGIN, as the rule says.
                let reuse: Vec<_> = repository
                    .read(|state| reuse.into_iter().filter(|pack| state.usable(pack)).collect())
                    .await;
                let mut uses = vec![pack(n, 0)];
                uses.extend(reuse);
                let node = upload(&repository, n, 1, &uses).await;
                repository.commit(E, txn(n), vec![node], Vec::new(), set(&uses)).await.unwrap();
                let oldest = repository.backups().await[0].id;
                repository.forget(E, oldest).await.unwrap();
            }
        }
    });
    let sweeper = Arc::new(reopen(&storage).await);
    while !writer.is_finished() {
        condemn(&sweeper, E).await.unwrap();
        sweep(&sweeper, E).await.unwrap();
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    sweep(&sweeper, E).await.unwrap();
    assert!(sweeper.void_records().await.is_empty());
    let left = objects(&sweeper, "t/").await;
    let live = sweeper.backups().await;
    assert_eq!(live.len(), 1);
    for backup in live {
        assert!(backup.packs.iter().all(|pack| left.contains(&pack.key())));
        assert!(left.contains(&backup.nodes[0].manifest.key(0)));
    }
    let packs = left.iter().filter(|key| PackId::from_key(key).is_ok()).count() as u64;
    assert_eq!(packs, sweeper.read(|state| state.committed().len()).await);
}
