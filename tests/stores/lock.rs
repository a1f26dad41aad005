//! A bucket that keeps every object for a day, whatever is asked of it.
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use palinurus_proto::v1::OperationState;
use palinurus_repository::clock::{Clock, ManualClock};
use palinurus_repository::storage::{self, delete_unlocked};
use palinurus_repository::{SystemClock, SystemEntropy};
use palinurus_tests::World;
use palinurus_tests::seeded::Random;
use palinurus_tests::store::Server;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_objects_are_left_until_their_time() {
    for server in [Server::weed().await, Server::moto().await] {
        let url = format!("{}&checksum=crc32c", server.locked_url("lock"));
        let clock = Arc::new(ManualClock::at(SystemClock.now()));
        let storage = storage::open_with(&url, clock.clone(), Arc::new(SystemEntropy::new())).unwrap();
        let keys = ["t/a".to_owned(), "t/absent".to_owned(), "t/b".to_owned()];
        for key in [&keys[0], &keys[2]] {
            storage.put_new(key, Bytes::from_static(b"kept")).await.unwrap();
        }
        let locked = delete_unlocked(&*storage, keys.to_vec()).await.unwrap();
        assert_eq!(locked.iter().map(|each| each.key.as_str()).collect::<Vec<_>>(), ["t/a", "t/b"]);
        let until = locked[0].until.expect("a day's retention");
        let ahead = until.since(clock.now());
        assert!(ahead > 23 * HOUR && ahead < 25 * HOUR, "{ahead:?}");
        assert_eq!(storage.get("t/a", None).await.unwrap(), "kept");
        clock.advance(25 * HOUR);
        assert_eq!(delete_unlocked(&*storage, keys.to_vec()).await.unwrap(), []);
        assert_eq!(storage.list("t/", None, 10).await.unwrap(), []);

        // Elsewhere, one more request finds that nothing is locked.
        let free = storage::open(&server.url("free")).unwrap();
        free.put_new("t/a", Bytes::new()).await.unwrap();
        let before = free.sent().unwrap();
        assert_eq!(delete_unlocked(&*free, keys.to_vec()).await.unwrap(), []);
        let asked = free.sent().unwrap().since(&before);
        assert_eq!((asked.sizes, asked.deletes), (1, 1));
        assert_eq!(free.list("t/", None, 10).await.unwrap(), []);
    }
}

/// Nothing that a fleet does needs more than such a bucket allows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_lives_with_object_lock() {
    let server = Server::weed().await;
    let mut world = World::new(&["n1"]);
    let mut random = Random::new(31);
    world.keep_repository_at(format!("{}&checksum=crc32c", server.locked_url("fleet")));
    fs::write(world.data("n1").join("data"), random.bytes(1 << 20)).unwrap();
    world.start().await;
    let first = world.backup().await.backup.unwrap().backup_id;
    fs::write(world.data("n1").join("data"), random.bytes(1 << 20)).unwrap();
    world.backup().await;
    let deleted = world.run(&["backup", "delete", "--yes", &first]).await.expect(0).json();
    assert_eq!(deleted["state"], "succeeded");
    assert_eq!(deleted["locked"]["objects"], 3, "a pack, its index, a manifest: {deleted}");
    assert!(deleted["locked"]["until"].is_string(), "{deleted}");
    let operation = world.operation(deleted["id"].as_str().unwrap()).await;
    assert_eq!(operation.state(), OperationState::Succeeded);
    assert_eq!(operation.delete.unwrap().objects_deleted, 0);
    assert_eq!(world.backups().await.len(), 1);
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
    let want = world.move_data("n1");
    world.restore("n1", false).await;
    palinurus_tests::compare::assert_equal(&want, &world.data("n1"), &[]);
    world.stop().await;
}
