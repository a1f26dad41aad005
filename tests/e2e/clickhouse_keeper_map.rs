//! A `KeeperMap` table that is written while it is backed up.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use palinurus_proto::v1::OperationState;
use palinurus_tests::clickhouse::{Between, Cluster, Version};

const ROWS: &str = "SELECT k, v FROM d.shared ORDER BY k";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_change_while_they_are_read_are_read_again_and_what_is_kept_was_there() {
    let mut cluster = Cluster::start(Version::New, &[("n1", "s")]).await;
    let server = Arc::new(cluster.servers.remove("n1").unwrap());
    server.sql("CREATE DATABASE d");
    server.sql("CREATE TABLE d.shared (k UInt64, v String) ENGINE = KeeperMap('/shared') PRIMARY KEY k");
    server.sql("INSERT INTO d.shared SELECT number, 'first' FROM numbers(20)");

    // A writer that comes behind each reading for as often as it may: one row is another, and one is new.
    let (left, written) = (Arc::new(AtomicU64::new(0)), Arc::<AtomicU64>::default());
    let read: Arc<Mutex<Vec<String>>> = Arc::default();
    let (writer, may, done, then) =
        (Arc::clone(&server), Arc::clone(&left), Arc::clone(&written), Arc::clone(&read));
    let between = Between::before(server.port, "FROM `d`.`shared` ORDER BY tuple(*)", move || {
        then.lock().unwrap().push(writer.sql(ROWS));
        if may.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let n = done.fetch_add(1, Ordering::SeqCst) + 1;
            writer.sql(format!("INSERT INTO d.shared VALUES ({n}, 'w{n}'), ({}, 'w{n}')", 100 + n));
        }
    })
    .await;
    let engine = server.engine();
    let through =
        engine.replacen(&format!("port = {}\n", server.port), &format!("port = {}\n", between.port), 1);
    assert_ne!(through, engine);
    let mut world = cluster.world;
    world.engines.insert("n1".into(), through);
    world.start().await;

    // It comes to rest: the second and the third reading are the same.
    left.store(1, Ordering::SeqCst);
    let ended = world.backup().await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.warnings);
    let settled = std::mem::take(&mut *read.lock().unwrap());
    assert!(settled.len() == 3 && settled[0] != settled[1] && settled[1] == settled[2], "{settled:?}");

    // It does not: that is said, and the rows are those of the last reading.
    left.store(50, Ordering::SeqCst);
    let ended = world.backup().await;
    assert_eq!(ended.state(), OperationState::Warnings);
    let told = format!("{:?}", ended.warnings);
    assert!(told.contains("table d.shared changed while its rows were read"), "{told}");
    let moving = std::mem::take(&mut *read.lock().unwrap());
    assert_eq!((moving.len(), left.swap(0, Ordering::SeqCst)), (5, 45));
    assert_ne!(server.sql(ROWS), moving[4], "written since");

    server.sql("DROP DATABASE d SYNC");
    world.seen_empty("n1").await;
    world.restore("n1", false).await;
    assert_eq!(server.sql(ROWS), moving[4]);
    world.stop().await;
}
