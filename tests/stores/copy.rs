//! A repository with key epochs, copied between object stores, and what opens it put back from there.
use std::sync::Arc;

use palinurus_repository::copy::copy;
use palinurus_repository::id::TransactionId;
use palinurus_repository::ledger::Purpose;
use palinurus_repository::repair::{put_back, put_back_base};
use palinurus_repository::storage::{self, list_all};
use palinurus_repository::verify::check;
use palinurus_repository::{Epoch, ErrorKind, KeyFile, Repository, Storage, SystemClock, SystemEntropy};
use palinurus_tests::store::Server;

const EPOCH: Epoch = Epoch(1);

async fn names(storage: &dyn Storage) -> Vec<String> {
    let all = list_all(storage, "").await.unwrap().into_iter().map(|object| object.key);
    all.filter(|key| !key.starts_with("ckpt/")).collect()
}

async fn between(from: &str, to: &str) {
    let (from, to) = (storage::open(from).unwrap(), storage::open(to).unwrap());
    let entropy = SystemEntropy::new();
    let keys = [(); 2].map(|()| KeyFile::generate(&entropy).unwrap());
    let made = Repository::create(from.clone(), &keys[0], &entropy, Arc::new(SystemClock)).await.unwrap();
    made.lead(EPOCH, "c1").await.unwrap();
    made.add_key(&keys[1], "second", &entropy).await.unwrap();
    for n in 0..3 {
        made.begin_key_epoch(&keys, None, &[], &entropy).await.unwrap();
        made.begin(EPOCH, TransactionId([n; 16]), Purpose::Pin).await.unwrap();
    }
    let copied = copy(&made, &to, &|_| {}).await.unwrap();
    assert_eq!(copied.damaged, []);
    let there = Repository::open(to.clone(), &keys[1..]).await.unwrap();
    assert_eq!(there.head().await, made.head().await);
    assert_eq!(list_all(&*to, "ckpt/").await.unwrap().len(), 1);
    let whole = names(&*from).await;
    assert_eq!(names(&*to).await, whole);

    let lost: Vec<String> = whole.iter().filter(|name| name.starts_with("masters/")).cloned().collect();
    assert_eq!(lost.len(), 2);
    from.delete(&lost).await.unwrap();
    assert_eq!(Repository::open(from.clone(), &keys).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(put_back_base(&from, &there, true).await.unwrap().len(), 1);
    let back = Repository::open(from.clone(), &keys[1..]).await.unwrap();
    let report = check(&back, false, &|_| {}).await.unwrap();
    assert_eq!(put_back(&back, &to, &report, true, &|_, _| {}).await.unwrap().objects.len(), 1);
    assert_eq!(names(&*from).await, whole);
    assert_eq!(check(&back, false, &|_| {}).await.unwrap().damages, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_epochs_are_copied_and_mended_between_stores() {
    let server = Server::weed().await;
    between(&server.url("from"), &server.url("to")).await;
    let directory = tempfile::tempdir().unwrap();
    let folder = format!("file://{}", directory.path().display());
    between(&server.url("other"), &folder).await;
}
