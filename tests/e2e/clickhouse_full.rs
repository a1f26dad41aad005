//! A disk of ClickHouse's that is full: what was begun is undone or goes on, and the reason is said.
use std::fs;

use palinurus_tests::World;
use palinurus_tests::clickhouse::{ClickHouse, Version};
use palinurus_tests::tmpfs::Tmpfs;

use crate::clickhouse::in_world;
use crate::full_disk::says_full;

const HASH: &str = "SELECT count(), sum(cityHash64(a, s)) FROM d.t";
const MANY: u64 = 100_000;

/// Forty parts of half a megabyte that does not get smaller, on a disk of its own.
async fn world(disk: u64) -> Option<(World, ClickHouse, Tmpfs)> {
    let world = World::new(&["n1"]);
    let small = Tmpfs::mount(&world.data("n1"), disk)?;
    let (world, server) = in_world(world, Version::Old).await;
    server.sql("CREATE DATABASE d");
    server.sql("CREATE TABLE d.t (a UInt64, s UInt64) ENGINE = MergeTree PARTITION BY a % 40 ORDER BY a");
    server.sql("INSERT INTO d.t SELECT number, rand64() FROM numbers(1000000)");
    Some((world, server, small))
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_room_to_freeze() {
    let Some((mut world, server, small)) = world(200).await else { return };
    world.start().await;
    // Some of the links fit.
    let used = rustix::fs::statvfs(&server.data).unwrap();
    small.resize(200, used.f_files - used.f_ffree + 100);
    let operation = world.start_backup().await;
    says_full(&world.ended(&operation.id).await);
    assert_eq!(server.frozen(), Vec::<String>::new());
    world.nothing_left_behind("n1").await;
    assert_eq!(server.sql("SELECT count() FROM d.t"), "1000000");
    small.resize(200, MANY);
    world.backup().await;
    assert_eq!(server.frozen(), Vec::<String>::new());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_room_to_restore_and_once_there_is_it_goes_on() {
    let Some((mut world, mut server, small)) = world(200).await else { return };
    let before = server.sql(HASH);
    world.start().await;
    world.backup().await;
    server.sql("DROP TABLE d.t");
    server.sql("DROP DATABASE d");
    server.stop().await;
    for path in fs::read_dir(&server.data).unwrap().map(|entry| entry.unwrap().path()) {
        let remove = if path.is_dir() { fs::remove_dir_all } else { fs::remove_file };
        remove(path).unwrap();
    }
    server.start().await;
    small.resize(10, MANY);
    world.seen_empty("n1").await;
    let operation = world.start_restore("n1", false).await;
    says_full(&world.ended(&operation.id).await);
    small.resize(200, MANY);
    world.restore("n1", false).await;
    assert_eq!(server.sql(HASH), before);
    assert!(!server.data.join("palinurus-restore").exists());
    world.stop().await;
}
