//! What every storage must do; each runs this in its tests. It panics at the first thing that is not so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions, run by tests only")]
use std::sync::Arc;

use bytes::Bytes;

use super::{Storage, list_all};
use crate::error::{ErrorKind, Result};

/// How a store sorts its listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `a-b` before `a/x`, as bytes go.
    Names,
    /// `a/x` before `a-b`: directories are entries of their own.
    Parts,
}

/// Runs on a store whose `suite-<name>/` is empty; leaves it empty.
pub async fn run(storage: Arc<dyn Storage>, name: &str) {
    run_sorted(storage, name, Order::Names).await;
}

pub async fn run_sorted(storage: Arc<dyn Storage>, name: &str, order: Order) {
    let base = format!("suite-{name}");
    absent(&*storage, &base).await;
    create_is_exclusive(storage.clone(), &base).await;
    replace(&*storage, &base).await;
    ranges(&*storage, &base).await;
    listing(&*storage, &base, order).await;
    names(&*storage, &base).await;
    deleting(&*storage, &base).await;
    large(&*storage, &base).await;
    together(storage.clone(), &base).await;
    let left = list_all(&*storage, &format!("{base}/")).await.unwrap();
    assert!(left.is_empty(), "left over: {left:?}");
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

async fn keys(storage: &dyn Storage, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    storage.list(prefix, after, limit).await.unwrap().into_iter().map(|object| object.key).collect()
}

async fn absent(storage: &dyn Storage, base: &str) {
    let key = format!("{base}/absent/x");
    assert_eq!(kind(storage.get(&key, None).await), ErrorKind::NotFound);
    assert_eq!(kind(storage.get(&key, Some(0..1)).await), ErrorKind::NotFound);
    assert_eq!(kind(storage.size(&key).await), ErrorKind::NotFound);
    assert_eq!(keys(storage, &key, None, 10).await, [""; 0]);
    storage.delete(&[key]).await.unwrap();
}

/// Of many creators at once exactly one wins, and what it wrote stays.
async fn create_is_exclusive(storage: Arc<dyn Storage>, base: &str) {
    for round in 0..8 {
        let key = format!("{base}/race/{round}");
        let bodies: Vec<Bytes> =
            (0..16u8).map(|task| Bytes::from(vec![task; 10_000 + usize::from(task)])).collect();
        let tasks: Vec<_> = bodies
            .iter()
            .cloned()
            .map(|body| {
                let (storage, key) = (storage.clone(), key.clone());
                tokio::spawn(async move { storage.put_new(&key, body).await })
            })
            .collect();
        let mut winners = Vec::new();
        for (task, handle) in tasks.into_iter().enumerate() {
            match handle.await.unwrap() {
                Ok(()) => winners.push(task),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(storage.get(&key, None).await.unwrap(), bodies[winners[0]]);
        assert_eq!(kind(storage.put_new(&key, Bytes::from_static(b"late")).await), ErrorKind::Conflict);
        assert_eq!(storage.get(&key, None).await.unwrap(), bodies[winners[0]]);
        storage.delete(&[key]).await.unwrap();
    }
}

async fn replace(storage: &dyn Storage, base: &str) {
    let key = format!("{base}/replaced");
    storage.put(&key, Bytes::from_static(b"first")).await.unwrap();
    storage.put(&key, Bytes::from_static(b"2")).await.unwrap();
    assert_eq!(storage.get(&key, None).await.unwrap(), "2");
    assert_eq!(storage.size(&key).await.unwrap(), 1);
    assert_eq!(kind(storage.put_new(&key, Bytes::new()).await), ErrorKind::Conflict);
    storage.delete(&[key]).await.unwrap();
}

async fn ranges(storage: &dyn Storage, base: &str) {
    let key = format!("{base}/ranges");
    storage.put_new(&key, Bytes::from_static(b"0123456789")).await.unwrap();
    for (range, want) in
        [(0..10, "0123456789"), (0..1, "0"), (9..10, "9"), (3..7, "3456"), (4..4, ""), (10..10, "")]
    {
        assert_eq!(storage.get(&key, Some(range.clone())).await.unwrap(), want, "{range:?}");
    }
    for beyond in [0..11, 9..11, 10..11, 11..12, 5..u64::MAX] {
        assert_eq!(kind(storage.get(&key, Some(beyond.clone())).await), ErrorKind::Corrupt, "{beyond:?}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
    let backwards = 7..3;
    assert_eq!(kind(storage.get(&key, Some(backwards)).await), ErrorKind::Invalid);
    storage.delete(std::slice::from_ref(&key)).await.unwrap();
    storage.put_new(&key, Bytes::new()).await.unwrap();
    assert_eq!(storage.get(&key, None).await.unwrap(), "");
    assert_eq!(storage.get(&key, Some(0..0)).await.unwrap(), "");
    assert_eq!(storage.size(&key).await.unwrap(), 0);
    storage.delete(&[key]).await.unwrap();
}

async fn listing(storage: &dyn Storage, base: &str, order: Order) {
    // Chosen so that whole names sort otherwise than part by part: '-' and '.' come before '/'.
    let differs = |name: &str| name.contains(['-', '.']);
    let mut all: Vec<String> =
        ["a", "b-c", "b.c", "b/x", "b/y/z", "b0", "bb/0", "bb/1", "B", "c/d/e/f", "c/d/e-f", "c/d/e.f"]
            .iter()
            .filter(|name| order == Order::Names || !differs(name))
            .map(|name| format!("{base}/list/{name}"))
            .collect();
    for (i, key) in all.iter().enumerate() {
        storage.put_new(key, Bytes::from(vec![0; i])).await.unwrap();
    }
    let sizes: Vec<_> = all.iter().cloned().zip(0u64..).collect();
    all.sort();
    let root = format!("{base}/list/");
    assert_eq!(keys(storage, &root, None, 100).await, all);
    for object in storage.list(&root, None, 100).await.unwrap() {
        assert!(sizes.contains(&(object.key.clone(), object.size)), "{object:?}");
    }
    for limit in 1..=all.len() {
        let mut paged: Vec<String> = Vec::new();
        loop {
            let page = keys(storage, &root, paged.last().map(String::as_str), limit).await;
            assert!(page.len() <= limit);
            let end = page.len() < limit;
            paged.extend(page);
            if end {
                break;
            }
        }
        assert_eq!(paged, all, "pages of {limit}");
    }
    assert_eq!(keys(storage, &root, None, 0).await, [""; 0]);
    for prefix in ["b", "b/", "b/y", "bb/", "c/d/e", "c/d/e/", "x", "b/x", "b-", "c/d/e/f/g"] {
        let prefix = format!("{root}{prefix}");
        let want: Vec<_> = all.iter().filter(|key| key.starts_with(&prefix)).cloned().collect();
        assert_eq!(keys(storage, &prefix, None, 100).await, want, "{prefix}");
        for after in ["", "a", "b", "b.", "b/", "b/x", "b/x0", "b/y/zz", "b0", "c/d/e.f", "zzz"] {
            let is_directory = all.iter().any(|key| key.starts_with(&format!("{root}{after}/")));
            if order == Order::Parts && (differs(after) || is_directory) {
                continue;
            }
            let after = format!("{root}{after}");
            let want: Vec<_> = want.iter().filter(|key| **key > after).cloned().collect();
            assert_eq!(keys(storage, &prefix, Some(&after), 100).await, want, "{prefix} after {after}");
        }
    }
    assert_eq!(list_all(storage, &root).await.unwrap().len(), all.len());
    storage.delete(&all).await.unwrap();
}

/// A name that could leave the repository, or mean two things, is refused everywhere.
async fn names(storage: &dyn Storage, base: &str) {
    let long = "x".repeat(256);
    for bad in [
        "",
        "/",
        "/etc/passwd",
        "..",
        "a/..",
        "../a",
        "a/../b",
        "./a",
        "a//b",
        "a/",
        "a b",
        "a\0b",
        "a\\b",
        "é",
        ".hidden",
        "a/.hidden",
        "-a",
        "a\n",
        "tmp/x",
        "tmp",
        &long,
    ] {
        assert_eq!(kind(storage.put_new(bad, Bytes::new()).await), ErrorKind::Invalid, "{bad:?}");
        assert_eq!(kind(storage.put(bad, Bytes::new()).await), ErrorKind::Invalid, "{bad:?}");
        assert_eq!(kind(storage.get(bad, None).await), ErrorKind::Invalid, "{bad:?}");
        assert_eq!(kind(storage.size(bad).await), ErrorKind::Invalid, "{bad:?}");
        assert_eq!(kind(storage.delete(&[bad.to_owned()]).await), ErrorKind::Invalid, "{bad:?}");
    }
    for bad in ["/", "..", "../", "a/../", "a//", ".", "/etc"] {
        assert_eq!(kind(storage.list(bad, None, 1).await), ErrorKind::Invalid, "{bad:?}");
    }
    for good in ["x.tmp", "Node_1-a..b", "tmp"] {
        let key = format!("{base}/{good}");
        storage.put_new(&key, Bytes::from_static(b"ok")).await.unwrap();
        assert_eq!(storage.get(&key, None).await.unwrap(), "ok");
        storage.delete(&[key]).await.unwrap();
    }
    // A part of a name is not an object.
    let key = format!("{base}/deep/er");
    storage.put_new(&key, Bytes::new()).await.unwrap();
    assert_eq!(kind(storage.get(&format!("{base}/deep"), None).await), ErrorKind::NotFound);
    assert_eq!(kind(storage.size(&format!("{base}/deep"),).await), ErrorKind::NotFound);
    assert_eq!(kind(storage.get(&format!("{key}/below"), None).await), ErrorKind::NotFound);
    storage.delete(&[format!("{key}/below"), key]).await.unwrap();
}

async fn deleting(storage: &dyn Storage, base: &str) {
    let keys: Vec<_> = (0..5).map(|i| format!("{base}/delete/{i}")).collect();
    for key in &keys[..4] {
        storage.put_new(key, Bytes::from_static(b"x")).await.unwrap();
    }
    storage.delete(&[keys[1].clone(), keys[4].clone(), keys[3].clone()]).await.unwrap();
    assert_eq!(
        self::keys(storage, &format!("{base}/delete/"), None, 10).await,
        [keys[0].clone(), keys[2].clone()]
    );
    storage.delete(&keys).await.unwrap();
    storage.delete(&keys).await.unwrap();
    storage.delete(&[]).await.unwrap();
    // An empty place can be filled again.
    storage.put_new(&keys[0], Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(storage.get(&keys[0], None).await.unwrap(), "y");
    storage.delete(&keys).await.unwrap();
}

async fn large(storage: &dyn Storage, base: &str) {
    let key = format!("{base}/large");
    let body: Bytes =
        (0..40u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>().into();
    storage.put_new(&key, body.clone()).await.unwrap();
    assert_eq!(storage.size(&key).await.unwrap(), body.len() as u64);
    assert!(storage.get(&key, None).await.unwrap() == body);
    let (start, end) = (12_345_678, 34_567_890);
    assert!(storage.get(&key, Some(start as u64..end as u64)).await.unwrap() == body[start..end]);
    storage.delete(&[key]).await.unwrap();
}

/// Many writers into one place, while others list and delete there.
async fn together(storage: Arc<dyn Storage>, base: &str) {
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (storage, base) = (storage.clone(), base.to_owned());
            tokio::spawn(async move {
                for i in 0..20 {
                    let key = format!("{base}/together/{task}/{i:03}");
                    storage.put_new(&key, Bytes::from(key.clone())).await.unwrap();
                    let seen = keys(&*storage, &format!("{base}/together/{task}/"), None, 100).await;
                    assert_eq!(seen, std::slice::from_ref(&key), "own writes are seen, own deletes too");
                    assert_eq!(storage.get(&key, None).await.unwrap(), key);
                    storage.delete(&[key]).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}
