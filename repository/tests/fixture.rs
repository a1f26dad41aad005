//! A repository as version 1 wrote it must be read by every later build; and one with a key epoch between its backups.
//!
//! `PALINURUS_WRITE_FIXTURE=key-epoch cargo test -p palinurus-repository --test fixture` writes that one anew into an
//! empty `testdata/key-epoch`: only for a new format version, in a directory of its own. Never change a committed one.
#![allow(clippy::unwrap_used, reason = "a test")]
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::clock::{ManualClock, Timestamp};
use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::storage::{LocalStorage, MemoryStorage};
use palinurus_repository::verify::check;
use palinurus_repository::{ErrorKind, KeyFile, Repository, Storage, TransactionId, WriterId};

mod backup;

use backup::{EPOCH, Known, Source, begin, bytes_of, restore, tree};

const STARTED: Timestamp = Timestamp(1_700_000_000_000);
const PAUSE: Duration = Duration::from_secs(3600);

const PLAIN: &str = "v1";
const KEY_EPOCH: &str = "key-epoch";

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// Three backups, the second of them forgotten: of each node, how often its tree was changed.
fn history() -> [(u8, Vec<(&'static str, u64)>); 3] {
    [(1, vec![("n1", 0), ("n2", 0)]), (2, vec![("n1", 1)]), (3, vec![("n1", 2), ("n2", 0)])]
}

async fn write(directory: &Path, name: &str) {
    let entropy = SeededEntropy::new(1);
    let key = KeyFile::generate(&entropy).unwrap();
    std::fs::create_dir_all(directory).unwrap();
    key.write(&directory.join("operator.key")).unwrap();
    let storage = Arc::new(LocalStorage::at(&directory.join("repository")).unwrap());
    let clock = ManualClock::at(STARTED);
    let repository = Repository::create(storage, &key, &entropy, Arc::new(clock.clone())).await.unwrap();
    repository.lead(EPOCH, "c1").await.unwrap();
    let mut known = Known::new();
    let mut replica = None;
    for (id, nodes) in history() {
        clock.advance(PAUSE);
        if name == KEY_EPOCH && id == 3 {
            repository.begin_key_epoch(std::slice::from_ref(&key), None, &[], &entropy).await.unwrap();
        }
        let mut writing = begin(&repository, id, &mut known, 700).await;
        let mut commits = Vec::new();
        for (number, (node, age)) in (1u8..).zip(nodes) {
            let writer = WriterId([16 * id + number; 8]);
            commits.push(match &replica {
                Some((commit, packs)) if node == "n2" => {
                    let mut commit: palinurus_repository::ledger::NodeCommit = Clone::clone(commit);
                    commit.unchanged = true;
                    (commit, Clone::clone(packs))
                }
                _ => writing.node(node, writer, &tree(age)).await,
            });
            if node == "n2" {
                replica = commits.last().cloned();
            }
        }
        clock.advance(PAUSE);
        writing.commit(commits).await;
    }
    repository
        .begin(EPOCH, TransactionId([4; 16]), palinurus_repository::ledger::Purpose::Backup)
        .await
        .unwrap();
    repository.abort(EPOCH, TransactionId([4; 16])).await.unwrap();
    repository.forget(EPOCH, TransactionId([2; 16])).await.unwrap();
    let swept = palinurus_repository::sweep::sweep(&repository, EPOCH).await.unwrap();
    assert_eq!((swept.condemned, swept.packs, swept.waiting), (1, 1, 0));
}

/// The committed files, in memory: a test changes nothing in the tree.
async fn load(directory: &Path) -> Arc<dyn Storage> {
    let storage = MemoryStorage::default();
    let root = directory.join("repository");
    let mut left = vec![root.clone()];
    while let Some(directory) = left.pop() {
        for found in std::fs::read_dir(&directory).unwrap() {
            let path = found.unwrap().path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let key = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            storage.put_new(&key, std::fs::read(&path).unwrap().into()).await.unwrap();
        }
    }
    Arc::new(storage)
}

async fn read(directory: &Path, name: &str) {
    let (key, _) = KeyFile::read(&directory.join("operator.key")).unwrap();
    let storage = load(directory).await;
    let stranger = KeyFile::generate(&SeededEntropy::new(2)).unwrap();
    assert_eq!(Repository::open(storage.clone(), &[stranger]).await.unwrap_err().kind(), ErrorKind::Denied);
    let repository = Repository::open(storage, &[key]).await.unwrap();

    let epoch = repository.read(|state| state.key_epoch()).await.map(|epoch| epoch.number);
    assert_eq!(epoch, (name == KEY_EPOCH).then_some(1));
    let report = check(&repository, true, &|_| {}).await.unwrap();
    assert_eq!(report.damages, []);
    assert_eq!((report.backups_checked, report.manifests_checked), (2, 3));

    let backups = repository.backups().await;
    let history: Vec<_> = history().into_iter().filter(|(id, _)| *id != 2).collect();
    assert_eq!(backups.len(), history.len());
    for (backup, (id, nodes)) in backups.iter().zip(history) {
        assert_eq!(backup.id, TransactionId([id; 16]));
        assert_eq!(backup.started, STARTED.plus(PAUSE * (2 * u32::from(id) - 1)));
        assert_eq!(backup.committed, STARTED.plus(PAUSE * (2 * u32::from(id))));
        assert_eq!(backup.nodes.len(), nodes.len());
        for (commit, (node, age)) in backup.nodes.iter().zip(nodes) {
            assert_eq!(commit.node, node);
            assert_eq!(commit.unchanged, id == 3 && node == "n2");
            compare(&restore(&repository, commit).await, &tree(age));
        }
    }
}

fn compare(restored: &[(palinurus_repository::manifest::entry::Entry, Vec<u8>)], sources: &[Source]) {
    use backup::What;
    use palinurus_repository::manifest::entry::Kind;
    assert_eq!(restored.len(), sources.len());
    for ((entry, bytes), source) in restored.iter().zip(sources) {
        let name = String::from_utf8_lossy(&source.path);
        assert_eq!(entry.path, source.path, "{name}");
        assert_eq!(entry.meta, source.meta, "{name}");
        assert!(*bytes == bytes_of(source), "{name}");
        let same = match (&entry.kind, &source.what) {
            (Kind::Directory, What::Directory) => true,
            (Kind::Symlink { target: a }, What::Symlink(b)) => a == b,
            (Kind::Hardlink { target: a }, What::Hardlink(b)) => a == b,
            (Kind::File(content), What::File(_)) => content.pages.is_none(),
            (Kind::File(content), What::Paged { page_size, .. }) => {
                content.pages.as_ref().is_some_and(|pages| pages.page_size == *page_size)
            }
            _ => false,
        };
        assert!(same, "{name}");
    }
}

#[tokio::test]
async fn the_committed_repositories_are_read() {
    for name in [PLAIN, KEY_EPOCH] {
        if std::env::var_os("PALINURUS_WRITE_FIXTURE").is_some_and(|wanted| wanted == name) {
            write(&testdata(name), name).await;
        }
        read(&testdata(name), name).await;
    }
}

#[tokio::test]
async fn what_is_written_today_is_read() {
    for name in [PLAIN, KEY_EPOCH] {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), name).await;
        read(directory.path(), name).await;
    }
}
