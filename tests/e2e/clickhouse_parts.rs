//! Many small parts: what is frozen, uploaded and given back grows with what is new, and not with what is there.
//!
//! `TEST_PARTS=10000 TEST_MINUTES=20 cargo test --workspace --test e2e thousands_of_parts -- --nocapture` measures: nextest would
//! end it after twelve minutes.
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_tests::World;
use palinurus_tests::clickhouse::{ClickHouse, Version};
use palinurus_tests::world::files_below;
use tokio::time::Instant;

use crate::clickhouse::{restored_afresh, world};

const SEEN: &str = "SELECT count(), sum(cityHash64(a, s)) FROM d.t";

/// So many parts of a row, from this one on: one a partition, and none of them is merged with another.
fn insert(server: &ClickHouse, from: u64, parts: u64) {
    for first in (from..from + parts).step_by(500) {
        let count = 500.min(from + parts - first);
        server.sql(format!(
            "INSERT INTO d.t SELECT number + {first}, toString(rand64()) FROM numbers({count})"
        ));
    }
}

/// A backup, how long it took, what is new in it, and how many objects it wrote.
async fn measured(world: &World) -> (Duration, u64, usize) {
    let (began, before) = (Instant::now(), files_below(world.repository()).len());
    world.backup().await;
    let took = began.elapsed();
    let nodes = world.backups().await.pop().unwrap().nodes;
    let new = nodes.iter().map(|node: &v1::BackupNode| node.bytes_new).sum();
    (took, new, files_below(world.repository()).len() - before)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_parts_come_back_and_only_new_ones_are_uploaded() {
    let parts: u64 = std::env::var("TEST_PARTS").map_or(1000, |text| text.parse().unwrap());
    let (mut world, mut server) = world(Version::Old).await;
    server.sql("CREATE DATABASE d");
    server.sql("CREATE TABLE d.t (a UInt64, s String) ENGINE = MergeTree PARTITION BY a ORDER BY a");
    insert(&server, 0, parts);
    world.start().await;
    let (cold, all, objects) = measured(&world).await;
    insert(&server, parts, parts / 100);
    let (warm, new, more) = measured(&world).await;
    let seen = server.sql(SEEN);
    let began = Instant::now();
    restored_afresh(&world, &mut server).await;
    let back = began.elapsed();
    assert_eq!(server.sql(SEEN), seen);
    let times = |took: Duration| took.as_secs_f64() / cold.as_secs_f64();
    println!(
        "{parts} parts in {:.1} s: {objects} objects; 1% new: {:.2} of the time, {:.3} of the bytes, {more} objects; \
         restored: {:.2} of the time",
        cold.as_secs_f64(),
        times(warm),
        new as f64 / all as f64,
        times(back),
    );
    // Facts and the manifest are new each time.
    assert!(new * 10 < all && more <= 10 && objects <= 20, "{new} of {all}, {more} and {objects} objects");
    world.stop().await;
}
