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
    Desk::new(Arc::new(repository), Epoch(1), Arc::new(entropy))
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
    desk.ends(old, "n1");
    let view = desk.writer().unwrap();
    assert!(view.streaming && view.status.is_none());
    assert_eq!(desk.written(), BTreeSet::from([granted.lineage.id]));
    desk.ends(new, "n1");
    assert!(desk.written().is_empty() && !desk.writer().unwrap().streaming);
}
