//! Whoever follows misses nothing, whatever becomes of the stream.
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::*;
use crate::state::{Change, Expect};

async fn next(followed: &mut BoxStream<'static, Change>) -> Change {
    within(WAIT, "a change", followed.next()).await.unwrap()
}

fn keys(change: &Change) -> Vec<&str> {
    let Change::All(all) = change else { panic!("{change:?}") };
    all.iter().map(|(key, _)| key.as_str()).collect()
}

fn put(change: Change) -> (String, u64) {
    let Change::Put(key, record) = change else { panic!("{change:?}") };
    (key, record.revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_broke_is_taken_up_where_it_ended() {
    let mut etcd = Etcd::start().await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let lease = lead(&election).await;
    let mut followed = lease.state.follow("f/");
    assert_eq!(keys(&next(&mut followed).await), Vec::<&str>::new());
    let first = lease.state.put("f/a", Bytes::new(), Expect::Any).await.unwrap();
    assert_eq!(put(next(&mut followed).await), ("f/a".to_owned(), first));
    etcd.restart(0).await;
    let second = lease.state.put("f/b", Bytes::new(), Expect::Any).await.unwrap();
    lease.state.put("elsewhere", Bytes::new(), Expect::Any).await.unwrap();
    lease.state.delete("f/a", Expect::Any).await.unwrap();
    let mut change = next(&mut followed).await;
    // What was told last may be told again.
    if matches!(&change, Change::Put(key, _) if key == "f/a") {
        change = next(&mut followed).await;
    }
    assert_eq!(put(change), ("f/b".to_owned(), second));
    let change = next(&mut followed).await;
    assert!(matches!(&change, Change::Gone(key) if key == "f/a"), "{change:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compacted_meanwhile_is_listed() {
    let mut etcd = Etcd::start().await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let mut followed = election.reader().follow("f/");
    assert_eq!(keys(&next(&mut followed).await), Vec::<&str>::new());
    let mut admin = etcd.client().await;
    admin.put("palinurus/state/f/a", "", None).await.unwrap();
    assert_eq!(put(next(&mut followed).await).0, "f/a");
    etcd.restart(0).await;
    let mut admin = etcd.client().await;
    admin.delete("palinurus/state/f/a", None).await.unwrap();
    let written = admin.put("palinurus/state/f/b", "", None).await.unwrap();
    admin.compact(written.header().unwrap().revision(), None).await.unwrap();
    assert_eq!(keys(&next(&mut followed).await), ["f/b"]);
    admin.put("palinurus/state/f/c", "", None).await.unwrap();
    assert_eq!(put(next(&mut followed).await).0, "f/c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn away_is_said_once_and_everything_when_it_is_back() {
    let mut etcd = Etcd::start().await;
    let election = election(&config(&etcd, LONG), "c1").await;
    etcd.client().await.put("palinurus/state/f/a", "", None).await.unwrap();
    let mut followed = election.reader().follow("f/");
    assert_eq!(keys(&next(&mut followed).await), ["f/a"]);
    etcd.kill(0);
    let change = next(&mut followed).await;
    assert!(matches!(change, Change::Away(_)), "{change:?}");
    let silent = tokio::time::timeout(LEASE, followed.next()).await;
    assert!(silent.is_err(), "{silent:?}");
    etcd.restart(0).await;
    assert_eq!(keys(&next(&mut followed).await), ["f/a"]);
}

/// Its own member dies: the others go on, and so does the follower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_member_takes_over_a_follower() {
    let mut etcd = Etcd::with(3, Setup::default()).await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let mut followed = election.reader().follow("f/");
    assert_eq!(keys(&next(&mut followed).await), Vec::<&str>::new());
    let lease = lead(&election).await;
    lease.state.put("f/a", Bytes::new(), Expect::Any).await.unwrap();
    assert_eq!(put(next(&mut followed).await).0, "f/a");
    etcd.kill(0);
    lease.state.put("f/b", Bytes::new(), Expect::Any).await.unwrap();
    loop {
        match next(&mut followed).await {
            Change::Put(key, _) if key == "f/a" => {}
            Change::Put(key, _) => break assert_eq!(key, "f/b"),
            other => panic!("{other:?}"),
        }
    }
}
