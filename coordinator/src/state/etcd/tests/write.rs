//! Writes whose answers are lost.
use bytes::Bytes;
use palinurus_repository::ErrorKind;
use tokio::time::Instant;

use super::*;
use crate::state::Expect;

/// Long enough to look while a try is under way and others are left, and short enough to wait for one to be given up.
const TRY: Duration = Duration::from_secs(4);

fn late(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig { timeout: TRY, ..config(etcd, LONG) }
}

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Sent to a member that stands still, and given up on: it lands when the member goes on, or is found not to have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lands_late_is_found() {
    let etcd = Etcd::start().await;
    let election = election(&late(&etcd), "c1").await;
    let lease = lead(&election).await;
    let state = lease.state.clone();
    let first = state.put("x", value("one"), Expect::Absent).await.unwrap();
    state.put("y", value("one"), Expect::Absent).await.unwrap();

    etcd.pause(0).await;
    let sent = Instant::now();
    let writing = {
        let state = state.clone();
        tokio::spawn(async move { state.put("x", value("two"), Expect::At(first)).await })
    };
    let deleting = {
        let state = state.clone();
        tokio::spawn(async move { state.delete("y", Expect::At(first + 1)).await })
    };
    // The first try is given up on, the next is under way.
    until("a try is late", || sent.elapsed() > TRY + TRY / 8).await;
    assert!(!writing.is_finished() && !deleting.is_finished());
    etcd.resume(0);
    let second = writing.await.unwrap().unwrap();
    deleting.await.unwrap().unwrap();
    let record = state.get("x").await.unwrap().unwrap();
    assert_eq!((record.value, record.revision), (value("two"), second));
    assert_eq!(state.get("y").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_answered_in_time_is_unknown_and_not_failed() {
    let etcd = Etcd::start().await;
    let election = election(&EtcdConfig { timeout: TRY / 2, ..config(&etcd, LONG) }, "c1").await;
    let lease = lead(&election).await;
    let first = lease.state.put("x", value("one"), Expect::Absent).await.unwrap();
    lease.state.put("any", value("one"), Expect::Any).await.unwrap();
    etcd.pause(0).await;
    let (guarded, any) = tokio::join!(
        lease.state.put("x", value("two"), Expect::At(first)),
        lease.state.put("any", value("stale"), Expect::Any),
    );
    let error = guarded.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.what().contains("may have been carried out"), "{error:?}");
    assert_eq!(any.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!lease.over.is_cancelled());
    etcd.resume(0);
    // The tries may still be under way: whenever they land, they undo nothing that is written from now on.
    let second = lease.state.put("x", value("three"), Expect::Any).await.unwrap();
    lease.state.put("any", value("two"), Expect::Any).await.unwrap();
    // On another connection: by then the member has taken in what was sent on the first.
    etcd.client().await.put("mark", "", None).await.unwrap();
    let record = lease.state.get("x").await.unwrap().unwrap();
    assert_eq!((record.value, record.revision), (value("three"), second));
    assert_eq!(lease.state.get("any").await.unwrap().unwrap().value, value("two"));
}

/// Its end is not known, and somebody has written since: the history says whose was whose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_first_is_told_from_history() {
    let etcd = Etcd::start().await;
    let election = election(&late(&etcd), "c1").await;
    let state = lead(&election).await;
    let first = state.state.put("x", value("one"), Expect::Absent).await.unwrap();
    etcd.pause(0).await;
    let sent = Instant::now();
    let writers = ["a", "b", "c", "d"].map(|text| {
        let state = state.state.clone();
        tokio::spawn(async move { (text, state.put("x", value(text), Expect::At(first)).await) })
    });
    until("a try is late", || sent.elapsed() > TRY + TRY / 8).await;
    etcd.resume(0);
    let mut won = Vec::new();
    for writer in writers {
        match writer.await.unwrap() {
            (text, Ok(_)) => won.push(text),
            (_, Err(e)) => assert_eq!(e.kind(), ErrorKind::Conflict, "{e:?}"),
        }
    }
    let record = state.state.get("x").await.unwrap().unwrap();
    assert_eq!(won, [std::str::from_utf8(&record.value).unwrap()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_that_are_small_enough() {
    let etcd = Etcd::start().await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let lease = lead(&election).await;
    let large = Bytes::from(vec![7; 700 << 10]);
    for i in 0..40 {
        lease.state.put(&format!("large/{i:03}"), large.clone(), Expect::Absent).await.unwrap();
    }
    let names: Vec<String> = (0..600).map(|i| format!("small/{i:03}")).collect();
    let mut admin = etcd.client().await;
    for some in names.chunks(100) {
        let puts: Vec<_> = some
            .iter()
            .map(|name| etcd_client::TxnOp::put(format!("palinurus/state/{name}"), "", None))
            .collect();
        admin.txn(etcd_client::Txn::new().and_then(puts)).await.unwrap();
    }
    let listed = election.reader().list("small/").await.unwrap();
    assert!(listed.iter().map(|(key, _)| key).eq(names.iter()));
    assert_eq!(election.reader().list("large/").await.unwrap().len(), 40);
    assert_eq!(election.reader().list("").await.unwrap().len(), 640);
}
