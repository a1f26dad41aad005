use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::storage::MemoryStorage;
use palinurus_repository::{KeyFile, SystemClock};

use super::*;

fn opening(node: &str) -> Opening {
    let open = v1::LogOpen {
        node: node.to_owned(),
        kind: "postgresql".to_owned(),
        identity: vec![1; 9].into(),
        position: 100,
        segment: 16,
        ..Default::default()
    };
    Opening::of(&open, 1).unwrap()
}

async fn desk() -> Desk {
    let entropy = SeededEntropy::new(1);
    let key = KeyFile::generate(&entropy).unwrap();
    let storage = Arc::new(MemoryStorage::default());
    let repository = Repository::create(storage, &key, &entropy, Arc::new(SystemClock)).await.unwrap();
    repository.lead(Epoch(1), "c1").await.unwrap();
    Desk::new(Arc::new(repository), Epoch(1), Arc::new(entropy), Timestamp(1))
}

#[tokio::test]
async fn how_far_one_history_is_stored_is_not_said_of_the_next() {
    let desk = desk().await;
    let granted = desk.open(&opening("n1")).await.unwrap();
    let stored = v1::LogStatus { stored: 7, ..Default::default() };
    let (first, again, other) = (desk.begins(), desk.begins(), desk.begins());
    desk.writes(first, &opening("n1"), &granted, Timestamp(1));
    desk.tells(first, "n1", stored.clone(), Timestamp(2));
    desk.writes(again, &opening("n1"), &granted, Timestamp(3));
    assert_eq!(desk.writer().unwrap().status, Some(stored));
    let lineage = Arc::new(Lineage { id: LineageId([9; 16]), ..(*granted.lineage).clone() });
    let granted = Granted { lineage, ..granted };
    desk.writes(other, &opening("n1"), &granted, Timestamp(4));
    assert_eq!(desk.writer().unwrap().status, None);
}

#[tokio::test]
async fn an_old_connection_that_ends_is_not_the_end_of_its_successor() {
    let desk = desk().await;
    let granted = desk.open(&opening("n1")).await.unwrap();
    let (old, new) = (desk.begins(), desk.begins());
    desk.writes(old, &opening("n1"), &granted, Timestamp(1));
    desk.writes(new, &opening("n1"), &granted, Timestamp(2));
    desk.tells(old, "n1", v1::LogStatus { stored: 7, ..Default::default() }, Timestamp(3));
    desk.ends(old, "n1", Timestamp(3));
    let view = desk.writer().unwrap();
    assert!(view.streaming && view.status.is_none());
    assert_eq!(desk.written(), BTreeSet::from([granted.lineage.id]));
    desk.ends(new, "n1", Timestamp(4));
    assert!(desk.written().is_empty() && !desk.writer().unwrap().streaming);
}

#[tokio::test]
async fn until_when_a_log_was_stored_is_known_whatever_its_streams_do() {
    let desk = desk().await;
    let granted = desk.open(&opening("n1")).await.unwrap();
    let good = || (desk.archive(None).whole, desk.archive(None).good.0);
    let status = |stored, server_end, stored_ms| v1::LogStatus {
        stored,
        server_end,
        stored_ms,
        server_ms: 900_000,
        ..Default::default()
    };
    assert_eq!(good(), (false, 1));
    let first = desk.begins();
    desk.writes(first, &opening("n1"), &granted, Timestamp(10));
    // Nothing is stored yet, and so it is not known since when.
    desk.tells(first, "n1", status(0, 7, 0), Timestamp(1_000_000));
    assert_eq!(good(), (false, 1));
    desk.tells(first, "n1", status(7, 7, 900_000), Timestamp(1_000_100));
    assert_eq!(good(), (true, 1_000_100));
    // It was well all the time until it was told otherwise.
    desk.tells(first, "n1", status(7, 9, 880_000), Timestamp(2_000_000));
    assert_eq!(good(), (false, 2_000_000));
    desk.tells(first, "n1", status(9, 9, 900_000), Timestamp(2_000_100));
    desk.ends(first, "n1", Timestamp(3_000_000));
    assert_eq!(good(), (false, 3_000_000));
    // Streams that come and go are no progress.
    let next = desk.begins();
    desk.writes(next, &opening("n1"), &granted, Timestamp(4_000_000));
    assert_eq!(good(), (false, 3_000_000));
    let failure = Some(v1::Failure::default());
    desk.tells(next, "n1", v1::LogStatus { failure, ..status(9, 9, 900_000) }, Timestamp(5_000_000));
    assert_eq!(good(), (false, 3_000_000), "the end that it knows may be an old one");
    let wanted = |newest| desk.archive(newest).wanted.map(|(since, _)| since.0);
    desk.wants("a hole", Timestamp(6_000_000));
    desk.wants("another", Timestamp(7_000_000));
    assert_eq!(wanted(Some(Timestamp(5_000_000))), Some(6_000_000));
    assert_eq!((wanted(Some(Timestamp(6_500_000))), wanted(None)), (None, None), "it came");
}

#[tokio::test]
async fn whoever_listens_hears_of_what_matters() {
    use futures::FutureExt;
    let desk = desk().await;
    let granted = desk.open(&opening("n1")).await.unwrap();
    let heard = || desk.changed().now_or_never().is_some();
    assert!(!heard());
    let stream = desk.begins();
    desk.writes(stream, &opening("n1"), &granted, Timestamp(1));
    assert!(heard() && !heard());
    let told = |failure: Option<v1::Failure>, stored_ms| {
        let status = v1::LogStatus {
            stored: 7,
            server_end: 8,
            stored_ms,
            server_ms: 500_000,
            failure,
            ..Default::default()
        };
        desk.tells(stream, "n1", status, Timestamp(600_000));
        heard()
    };
    assert!(told(None, 499_000), "the first");
    assert!(!told(None, 498_000), "on its way");
    assert!(told(None, 400_000), "far behind");
    assert!(told(Some(v1::Failure::default()), 400_000) && !told(Some(v1::Failure::default()), 400_000));
    assert!(told(None, 499_999));
    desk.unopened("n2", Some(&v1::Failure::default()));
    assert!(heard());
    desk.unopened("n2", Some(&v1::Failure::default()));
    assert!(!heard());
    desk.ends(stream, "n1", Timestamp(2));
    assert!(heard());
}
