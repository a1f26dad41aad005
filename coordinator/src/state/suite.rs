//! What every implementation of [`State`] must do.
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use palinurus_repository::ErrorKind;

use super::{Change, Expect, State};

pub(crate) async fn run(state: Arc<dyn State>) {
    expectations_hold(&*state).await;
    lists_are_exact(&*state).await;
    followers_see_the_end(&*state).await;
    one_of_many_wins(state).await;
}

async fn expectations_hold(state: &dyn State) {
    assert_eq!(state.get("e/1").await.unwrap(), None);
    let conflict = |result: palinurus_repository::Result<u64>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Conflict);
    };
    conflict(state.put("e/1", Bytes::from_static(b"x"), Expect::At(1)).await);
    let first = state.put("e/1", Bytes::from_static(b"one"), Expect::Absent).await.unwrap();
    conflict(state.put("e/1", Bytes::from_static(b"x"), Expect::Absent).await);
    let second = state.put("e/1", Bytes::from_static(b"two"), Expect::At(first)).await.unwrap();
    assert!(second > first);
    conflict(state.put("e/1", Bytes::from_static(b"x"), Expect::At(first)).await);
    let record = state.get("e/1").await.unwrap().unwrap();
    assert_eq!((&record.value[..], record.revision), (&b"two"[..], second));

    assert_eq!(state.delete("e/1", Expect::At(first)).await.unwrap_err().kind(), ErrorKind::Conflict);
    state.delete("e/1", Expect::At(second)).await.unwrap();
    state.delete("e/1", Expect::Any).await.unwrap();
    assert_eq!(state.delete("e/1", Expect::At(second)).await.unwrap_err().kind(), ErrorKind::Conflict);
    // A record made again must not pass for the one that was read before.
    let third = state.put("e/1", Bytes::new(), Expect::Absent).await.unwrap();
    assert!(third > second);
}

async fn lists_are_exact(state: &dyn State) {
    for key in ["l/a", "l/b/1", "l/b/2", "l/b0", "l/c"] {
        state.put(key, Bytes::from(key.to_owned()), Expect::Any).await.unwrap();
    }
    let keys =
        |found: Vec<(String, super::Record)>| found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(state.list("l/b/").await.unwrap()), ["l/b/1", "l/b/2"]);
    assert_eq!(keys(state.list("l/").await.unwrap()), ["l/a", "l/b/1", "l/b/2", "l/b0", "l/c"]);
    assert!(state.list("l/none").await.unwrap().is_empty());
}

/// Whatever is told on the way, it adds up to what there is.
async fn followers_see_the_end(state: &dyn State) {
    state.put("f/a", Bytes::from_static(b"1"), Expect::Any).await.unwrap();
    let mut followed = state.follow("f/");
    let mut known = std::collections::BTreeMap::new();
    let mut at = 0;
    loop {
        match followed.next().await.unwrap() {
            Change::All(all) => known = all.into_iter().collect(),
            Change::Put(key, record) => drop(known.insert(key, record)),
            Change::Gone(key) => drop(known.remove(&key)),
            Change::Away(e) => panic!("{e:?}"),
        }
        let keys: Vec<&str> = known.keys().map(String::as_str).collect();
        match (at, keys.as_slice()) {
            (0, ["f/a"]) => {
                assert_eq!(known["f/a"].value, "1");
                state.put("elsewhere", Bytes::new(), Expect::Any).await.unwrap();
                state.put("f/b", Bytes::from_static(b"2"), Expect::Absent).await.unwrap();
                state.delete("f/a", Expect::Any).await.unwrap();
            }
            (1, ["f/b"]) => {
                let revision = known["f/b"].revision;
                state.put("f/b", Bytes::from_static(b"3"), Expect::At(revision)).await.unwrap();
            }
            (2, ["f/b"]) if known["f/b"].value == "3" => return,
            _ => continue,
        }
        at += 1;
    }
}

async fn one_of_many_wins(state: Arc<dyn State>) {
    let first = state.put("race", Bytes::new(), Expect::Absent).await.unwrap();
    let writers = (0..16u8).map(|i| {
        let state = state.clone();
        tokio::spawn(async move { state.put("race", Bytes::from(vec![i]), Expect::At(first)).await })
    });
    let mut won = Vec::new();
    for (i, writer) in writers.collect::<Vec<_>>().into_iter().enumerate() {
        match writer.await.unwrap() {
            Ok(_) => won.push(i),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(state.get("race").await.unwrap().unwrap().value[0] as usize, won[0]);
}
