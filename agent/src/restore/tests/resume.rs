//! Restores that were stopped, and restores over what is there already.
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_repository::storage::{MemoryStorage, Object, Storage};
use palinurus_repository::{Error, ErrorKind, Result};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::super::{Settle, run};
use super::forest::{change, grow};
use super::view::*;
use super::world::*;

/// Ends well until so many reads were made; then it cancels, or fails.
#[derive(Debug)]
struct Stopping {
    inner: Arc<MemoryStorage>,
    left: AtomicI64,
    cancel: Option<CancellationToken>,
}

#[async_trait]
impl Storage for Stopping {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        if self.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            match &self.cancel {
                Some(cancel) => cancel.cancel(),
                None => return Err(Error::unavailable("the store is away")),
            }
        }
        self.inner.get(key, range).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.inner.size(key).await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.inner.put_new(key, body).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.inner.put(key, body).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.inner.delete(keys).await
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn stopped_anywhere_and_continued_is_the_same_as_never_stopped(seed: u64, cancelled: bool) {
        let mut world = World::new(seed);
        world.frames_in_pack = 1;
        let tree = grow(&Dice::new(seed));
        let manifest = world.backup(&tree);
        let target = scratch();
        let mut done = false;
        for reads in 2..200 {
            let cancel = CancellationToken::new();
            let storage = Stopping {
                inner: world.storage.clone(),
                left: AtomicI64::new(reads),
                cancel: cancelled.then(|| cancel.clone()),
            };
            let mut request = world.request(&manifest, target.path());
            request.storage = Arc::new(storage);
            match runtime().block_on(run(request, cancel)) {
                Ok(_) => {
                    done = true;
                    break;
                }
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::Unavailable, "{:?}", error);
                    prop_assert!(crate::restore::target::is_empty(target.path()).unwrap());
                }
            }
        }
        prop_assert!(done);
        assert_same(&look(target.path()), &expected(&tree));
    }

    #[test]
    fn a_delta_over_any_tree_makes_it_the_backup(seed: u64) {
        let mut world = World::new(seed);
        let rng = Dice::new(seed);
        let old = grow(&rng);
        let new = change(&rng, &old);
        let (first, second) = (world.backup(&old), world.backup(&new));
        let target = scratch();
        world.restore(&first, target.path()).unwrap();
        let mut request = world.request(&second, target.path());
        request.delta = true;
        restore(request.clone()).unwrap();
        assert_same(&look(target.path()), &expected(&new));
        // Once more there is nothing to write.
        let hard_links = new.iter().any(|(.., node)| matches!(node, Node::Hardlink(_)));
        let again = restore(request).unwrap();
        prop_assert!(hard_links || again.bytes_written == 0, "{:?}", again);
        assert_same(&look(target.path()), &expected(&new));
    }
}

#[test]
fn a_restore_of_another_backup_does_not_continue_this_one() {
    let mut world = World::new(1);
    let (one, two) = (world.backup(&tree([("a", file("1"))])), world.backup(&tree([("a", file("2"))])));
    let target = scratch();
    let mut request = world.request(&one, target.path());
    request.storage =
        Arc::new(Stopping { inner: world.storage.clone(), left: AtomicI64::new(1), cancel: None });
    assert_eq!(restore(request).unwrap_err().kind(), ErrorKind::Unavailable);
    std::fs::write(target.path().join("a"), b"half").unwrap();
    let error = world.restore(&two, target.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.what().contains("another restore"), "{error:?}");
    world.restore(&one, target.path()).unwrap();
    assert_same(&look(target.path()), &expected(&tree([("a", file("1"))])));
}

#[test]
fn only_changed_pages_are_fetched_and_written() {
    let mut world = World::new(2);
    let rng = Dice::new(2);
    let bytes = rng.bytes(8192 * 500);
    let paged =
        |bytes: &[u8]| Node::File { segments: vec![Segment::Data(bytes.to_vec())], paged: Some(8192) };
    let wanted = tree([("data", paged(&bytes))]);
    let manifest = world.backup(&wanted);
    let target = scratch();
    let mut old = bytes.clone();
    [3usize, 4, 77, 499].iter().for_each(|page| old[page * 8192 + 5] ^= 1);
    for length in [old.len(), old.len() - 8192 * 2, old.len() + 100_000] {
        let mut file = old.clone();
        file.resize(length, 9);
        std::fs::write(target.path().join("data"), &file).unwrap();
        let mut request = world.request(&manifest, target.path());
        request.delta = true;
        let result = restore(request).unwrap();
        assert_same(&look(target.path()), &expected(&wanted));
        assert!(result.bytes_written <= 8192 * 6, "{result:?}");
        assert!(result.bytes_fetched < 8192 * 100, "{result:?}");
    }
}

#[test]
fn cancelled_before_it_begins() {
    let mut world = World::new(3);
    let manifest = world.backup(&tree([("a", file("1"))]));
    let dir = scratch();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let request = world.request(&manifest, &dir.path().join("target"));
    let error = runtime().block_on(run(request, cancel)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Broken off, or not, when all but the keystone is there.
#[derive(Debug)]
struct Settling {
    target: PathBuf,
    breaks: bool,
}

#[async_trait]
impl Settle for Settling {
    async fn settle(&self) -> Result<()> {
        assert!(self.target.join("base").exists() && !self.target.join("global/pg_control").exists());
        std::fs::write(self.target.join("recovery.signal"), b"").unwrap();
        if self.breaks { Err(Error::unavailable("broken off")) } else { Ok(()) }
    }
}

#[test]
fn nothing_can_be_started_before_its_recovery_is_prepared() {
    let mut world = World::new(4);
    let manifest = world.backup(&tree([("base", file("1")), ("global/pg_control", file("2"))]));
    let target = scratch();
    for breaks in [true, false] {
        let mut request = world.request(&manifest, target.path());
        request.settle = Some(Arc::new(Settling { target: target.path().to_owned(), breaks }));
        assert_eq!(restore(request).is_err(), breaks);
        assert_eq!(target.path().join("global/pg_control").exists(), !breaks);
        assert_eq!(target.path().join(crate::restore::UNFINISHED).exists(), breaks);
    }
    assert!(target.path().join("recovery.signal").exists());
}
