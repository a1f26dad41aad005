use std::os::unix::fs::symlink;

use super::*;
use crate::error::ErrorKind;
use crate::storage::suite;

fn store(directory: &tempfile::TempDir) -> LocalStorage {
    LocalStorage::at(&directory.path().join("repository")).unwrap()
}

/// Every file and directory below the root, relative to it.
fn tree(storage: &LocalStorage) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![storage.root().to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
            found.push(entry.path().strip_prefix(storage.root()).unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    let storage = store(&directory);
    suite::run(Arc::new(storage.clone()), "local").await;
    assert_eq!(tree(&storage), ["suite-local", "tmp"], "neither temporary files nor empty directories stay");
    assert!(storage.0.directories.is_idle());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_creator_wins_across_processes() {
    let directory = tempfile::tempdir().unwrap();
    let stores: Vec<_> = (0..6).map(|_| store(&directory)).collect();
    for round in 0..20 {
        let tasks: Vec<_> = stores
            .iter()
            .cloned()
            .map(|storage| {
                tokio::spawn(async move {
                    let body = Bytes::from(storage.0.mark.clone());
                    storage.put_new(&format!("race/{round}"), body).await.is_ok()
                })
            })
            .collect();
        let mut won = Vec::new();
        for (task, storage) in tasks.into_iter().zip(&stores) {
            if task.await.unwrap() {
                won.push(storage.0.mark.clone());
            }
        }
        let kept = stores[0].get(&format!("race/{round}"), None).await.unwrap();
        assert_eq!(won, [String::from_utf8(kept.to_vec()).unwrap()]);
    }
}

#[tokio::test]
async fn nothing_is_created_before_the_first_put() {
    let directory = tempfile::tempdir().unwrap();
    let storage = store(&directory);
    assert_eq!(storage.get("repo", None).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(storage.list("", None, 10).await.unwrap(), []);
    assert_eq!(storage.tidy().await.unwrap(), 0);
    assert!(!storage.root().exists());
}

#[tokio::test]
async fn a_failed_put_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let storage = store(&directory);
    storage.put_new("file", Bytes::from_static(b"x")).await.unwrap();
    let error = storage.put_new("file/below", Bytes::from_static(b"y")).await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Conflict);
    // A name that is a directory's can be neither created nor replaced.
    storage.put_new("d/x", Bytes::from_static(b"x")).await.unwrap();
    storage.put_new("d", Bytes::from_static(b"y")).await.unwrap_err();
    storage.put("d", Bytes::from_static(b"y")).await.unwrap_err();
    assert_eq!(tree(&storage), ["d", "d/x", "file", "tmp"]);
}

#[tokio::test]
async fn only_abandoned_temporaries_are_tidied() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, other) = (store(&directory), store(&directory));
    ours.put_new("first", Bytes::new()).await.unwrap();
    let busy = ours.0.temporary("busy").unwrap();
    fs::write(storage_path(&ours, "tmp/1234-dead"), b"half an obj").unwrap();
    fs::write(storage_path(&ours, "tmp/1235-linked"), b"whole").unwrap();
    fs::hard_link(storage_path(&ours, "tmp/1235-linked"), storage_path(&ours, "second")).unwrap();
    // The first write of a process tidies by itself.
    other.put_new("third", Bytes::new()).await.unwrap();
    let left = tree(&other);
    assert_eq!(left.len(), 5, "first, second, third, tmp, and the busy one: {left:?}");
    assert_eq!(other.get("second", None).await.unwrap(), "whole");
    assert_eq!(other.tidy().await.unwrap(), 0);
    assert!(busy.path.exists());
    drop(busy);
    assert_eq!(tree(&other), ["first", "second", "third", "tmp"]);
}

fn storage_path(storage: &LocalStorage, name: &str) -> PathBuf {
    storage.root().join(name)
}

#[tokio::test]
async fn what_is_not_ours_is_not_listed() {
    let directory = tempfile::tempdir().unwrap();
    let storage = store(&directory);
    storage.put_new("a/b", Bytes::from_static(b"x")).await.unwrap();
    fs::write(storage_path(&storage, ".DS_Store"), b"").unwrap();
    fs::write(storage_path(&storage, "a/name with space"), b"").unwrap();
    fs::write(storage_path(&storage, "tmp/123"), b"").unwrap();
    fs::create_dir(storage_path(&storage, "lost+found")).unwrap();
    symlink("/etc/passwd", storage_path(&storage, "passwd")).unwrap();
    symlink("/", storage_path(&storage, "world")).unwrap();
    let listed: Vec<_> =
        storage.list("", None, 100).await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(listed, ["a/b"]);
}

#[tokio::test]
async fn a_directory_swept_away_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (store(&directory), store(&directory));
    one.put_new("t/x/p/0", Bytes::new()).await.unwrap();
    two.delete(&["t/x/p/0".to_owned()]).await.unwrap();
    assert_eq!(tree(&one), ["t", "tmp"]);
    one.put_new("t/x/p/1", Bytes::new()).await.unwrap();
    assert_eq!(one.list("", None, 9).await.unwrap().len(), 1);
}

#[test]
fn urls() {
    for good in ["/srv/x", "///srv/x", "//srv/x"] {
        let opened = LocalStorage::open(good);
        assert_eq!(opened.is_ok(), good != "//srv/x", "{good}: a host is not a path");
    }
    assert_eq!(LocalStorage::open("relative").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(crate::storage::open("gopher://x").unwrap_err().kind(), ErrorKind::Invalid);
}
