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

struct Measured {
    took: Duration,
    /// Bytes that are new in it.
    new: u64,
    /// Written by it.
    objects: usize,
    requests: v1::Requests,
}

async fn measured(world: &World) -> Measured {
    let (began, before) = (Instant::now(), files_below(world.repository()).len());
    let operation = world.backup().await;
    let took = began.elapsed();
    let nodes = world.backups().await.pop().unwrap().nodes;
    Measured {
        took,
        new: nodes.iter().map(|node: &v1::BackupNode| node.bytes_new).sum(),
        objects: files_below(world.repository()).len() - before,
        requests: operation.progress.unwrap().requests.unwrap(),
    }
}

/// Of the node's agent: those that write, and those that read.
fn requests(of: &v1::Requests) -> (u64, u64) {
    (of.puts + of.deletes, of.gets + of.sizes + of.lists)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_parts_come_back_and_only_new_ones_are_uploaded() {
    let parts: u64 = std::env::var("TEST_PARTS").map_or(1000, |text| text.parse().unwrap());
    let (mut world, mut server) = world(Version::Old).await;
    server.sql("CREATE DATABASE d");
    server.sql("CREATE TABLE d.t (a UInt64, s String) ENGINE = MergeTree PARTITION BY a ORDER BY a");
    insert(&server, 0, parts);
    world.start().await;
    let cold = measured(&world).await;
    insert(&server, parts, parts / 100);
    let warm = measured(&world).await;
    let seen = server.sql(SEEN);
    let began = Instant::now();
    restored_afresh(&world, &mut server).await;
    let back = began.elapsed();
    assert_eq!(server.sql(SEEN), seen);
    let times = |took: Duration| took.as_secs_f64() / cold.took.as_secs_f64();
    let (written, read) = requests(&cold.requests);
    println!(
        "{parts} parts in {:.1} s: {} objects, {written} requests to write and {read} to read",
        cold.took.as_secs_f64(),
        cold.objects,
    );
    let (written, read) = requests(&warm.requests);
    println!(
        "1% new: {:.2} of the time, {:.3} of the bytes, {} objects, {written} requests to write and {read} to read; \
         restored: {:.2} of the time",
        times(warm.took),
        warm.new as f64 / cold.new as f64,
        warm.objects,
        times(back),
    );
    // Facts and the manifest are new each time.
    assert!(warm.new * 10 < cold.new, "{} of {}", warm.new, cold.new);
    assert!(warm.objects <= 10 && cold.objects <= 20, "{} and {} objects", warm.objects, cold.objects);
    // However many parts there are.
    for requests in [requests(&cold.requests), requests(&warm.requests)] {
        assert!(requests.0 <= 20 && requests.1 <= 20, "{requests:?} requests");
    }
    world.stop().await;
}

/// Their parts have no count of rows, and other names.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_the_old_kind_are_counted_and_come_back() {
    const SEEN: &str = "SELECT count(), sum(cityHash64(day, a)) FROM";
    let (mut world, mut server) = world(Version::Old).await;
    server.sql("CREATE DATABASE d");
    for (table, engine) in [("t", "MergeTree(day, a, 8192)"), ("r", "ReplacingMergeTree(day, a, 8192)")] {
        server.sql(format!("CREATE TABLE d.{table} (day Date, a UInt64) ENGINE = {engine}"));
        let rows = "toDate('2026-01-01') + number % 90, number FROM numbers(1000)";
        server.sql(format!("INSERT INTO d.{table} SELECT {rows}"));
        server.sql(format!("INSERT INTO d.{table} SELECT {rows}"));
    }
    world.start().await;
    let operation = world.backup().await;
    assert_eq!(operation.state(), v1::OperationState::Succeeded, "{:?}", operation.warnings);
    world.run(&["drill", "start"]).await.expect(0);
    let seen = ["t", "r FINAL"].map(|table| server.sql(format!("{SEEN} d.{table}")));
    restored_afresh(&world, &mut server).await;
    assert_eq!(["t", "r FINAL"].map(|table| server.sql(format!("{SEEN} d.{table}"))), seen);
    // A restore holds what it has attached against that count.
    server.sql("DROP TABLE d.t");
    world.run(&["restore", "apply", "--tables", "d.t", "--yes"]).await.expect(0);
    assert_eq!(server.sql(format!("{SEEN} d.t")), seen[0]);
    world.stop().await;
}
