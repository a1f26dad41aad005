//! A PostgreSQL server's WAL, stored as it is written, and restores that stop at any moment in it.
use std::fs;

use palinurus_proto::v1::{self, OperationState, log_target::Target};
use palinurus_tests::World;
use palinurus_tests::postgres::Postgres;
use palinurus_tests::world::{SERVICE, wait, wait_async};

/// A service of one node, whose server's log is stored.
async fn world(settings: &[&str]) -> (World, Postgres) {
    let mut world = World::new(&["n1"]);
    world.kind = "postgresql".into();
    let mut server = Postgres::create(&world.data("n1"));
    server.start(settings).await;
    world.engine = format!("host = {:?}\narchive = true\n", server.socket);
    world.start().await;
    (world, server)
}

async fn logs(world: &World) -> v1::Logs {
    let request = v1::ShowLogsRequest { service: SERVICE.into() };
    world.client().await.show_logs(request).await.unwrap().into_inner()
}

fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

fn timeline(identity: &[u8]) -> u32 {
    u32::from_be_bytes(identity[8..].try_into().unwrap())
}

/// All that the server has written is stored; on which lineage.
async fn stored(world: &World, server: &Postgres) -> Vec<u8> {
    let end = lsn(&server.sql("select pg_current_wal_flush_lsn()"));
    let now: u32 = server.sql("select timeline_id from pg_control_checkpoint()").parse().unwrap();
    wait_async("the log is stored", async || {
        let logs = logs(world).await;
        let writer = logs.writer?;
        let own = logs.lineages.iter().filter_map(|view| view.lineage.as_ref());
        let own = own.into_iter().find(|lineage| lineage.id == writer.lineage)?;
        let stored = writer.status.as_ref()?.stored >= end && timeline(&own.identity) >= now;
        stored.then(|| writer.lineage.to_vec())
    })
    .await
}

/// Every new history has a backup begun by itself.
async fn quiet(world: &World) {
    wait_async("nothing runs", async || {
        let request = v1::ListOperationsRequest { service: SERVICE.into(), running: true };
        let running = world.client().await.list_operations(request).await.ok()?.into_inner().operations;
        running.is_empty().then_some(())
    })
    .await;
}

/// A backup from which a recovery may begin.
async fn backup(world: &World) {
    quiet(world).await;
    if logs(world).await.windows.is_empty() {
        world.backup().await;
    }
    wait_async("the backup leads along the log", async || {
        (!logs(world).await.windows.is_empty()).then_some(())
    })
    .await;
}

async fn restore(world: &World, server: &mut Postgres, target: Target, lineage: &[u8]) {
    quiet(world).await;
    server.stop().await;
    let aside = world.move_data("n1");
    fs::remove_dir_all(aside).unwrap();
    world.seen_empty("n1").await;
    let lineage = lineage.iter().map(|byte| format!("{byte:02x}")).collect();
    let request = v1::RestoreRequest {
        service: SERVICE.into(),
        backup: "latest".into(),
        nodes: vec!["n1".into()],
        delta: false,
        target: Some(v1::LogTarget { target: Some(target.clone()), lineage }),
    };
    let operation = world.client().await.apply_restore(request).await.unwrap().into_inner();
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{target:?}: {:?}", ended.failure);
    server.start(&["track_commit_timestamp=on"]).await;
    wait("the server is promoted", || {
        (server.try_sql("select pg_is_in_recovery()").ok()? == "f").then_some(())
    })
    .await;
}

/// A row, and where and when its transaction was committed.
fn insert(server: &Postgres, id: u32) -> (u64, i64) {
    server.sql(&format!("insert into t values ({id})"));
    let at = lsn(&server.sql("select pg_current_wal_insert_lsn()"));
    let time = server.sql(&format!(
        "select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint from t where id = {id}"
    ));
    (at, time.parse().unwrap())
}

const IDS: &str = "select string_agg(id::text, ' ' order by id) from t";

fn ids(to: u32) -> String {
    (1..=to).map(|id| id.to_string()).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_behind_a_backup_comes_back_and_nothing_after_it() {
    let (mut world, mut server) = world(&["track_commit_timestamp=on"]).await;
    server.sql("create table t (id int primary key)");
    let first = stored(&world, &server).await;
    backup(&world).await;
    let mut places = Vec::new();
    for id in 1..=12 {
        places.push(insert(&server, id));
        if id == 6 {
            server.sql("select pg_create_restore_point('six')");
            server.sql("select pg_switch_wal()");
        }
    }
    server.sql("drop table t");
    assert_eq!(stored(&world, &server).await, first);

    // After the fourth commit, and before the fifth.
    restore(&world, &mut server, Target::Position(places[3].0), &first).await;
    assert_eq!(server.sql(IDS), ids(4));
    server.sql("insert into t values (1000)");
    let second = stored(&world, &server).await;
    assert_ne!(second, first);

    // A second restore after a first, on the history that the first one left.
    restore(&world, &mut server, Target::Name("six".into()), &first).await;
    assert_eq!(server.sql(IDS), ids(6));
    let third = stored(&world, &server).await;
    assert!(third != first && third != second);

    // By time: just before the drop, at a commit, and between two.
    for (time, to) in [(places[11].1, 12), (places[8].1, 9), (places[8].1 - 1, 8)] {
        restore(&world, &mut server, Target::TimeUs(time), &first).await;
        assert_eq!(server.sql(IDS), ids(to), "{time}");
        stored(&world, &server).await;
    }

    // What was written after a restore is on its own history, to its very end.
    restore(&world, &mut server, Target::Latest(true), &second).await;
    assert_eq!(server.sql(IDS), format!("{} 1000", ids(4)));
    stored(&world, &server).await;
    restore(&world, &mut server, Target::Immediate(true), &first).await;
    assert_eq!(server.sql("select count(*) from t"), "0");
    stored(&world, &server).await;

    let lineages = logs(&world).await.lineages;
    let mut timelines: Vec<u32> =
        lineages.iter().map(|view| timeline(&view.lineage.as_ref().unwrap().identity)).collect();
    timelines.sort_unstable();
    assert_eq!(timelines, (1..=8).collect::<Vec<_>>(), "no two restores share a timeline");
    world.nothing_left_behind("n1").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_goes_on_without_a_gap() {
    let (mut world, server) = world(&[]).await;
    server.sql("create table t (id int primary key)");
    let lineage = stored(&world, &server).await;
    for round in 0..3 {
        for id in 0..10 {
            server.sql(&format!("insert into t values ({})", round * 10 + id));
        }
        // In the middle of a piece, or of its put.
        world.kill_agent("n1");
        world.start_agent("n1");
    }
    assert_eq!(stored(&world, &server).await, lineage);
    let logs = logs(&world).await;
    assert_eq!((logs.lineages.len(), logs.lineages[0].stretches.len()), (1, 1), "{logs:?}");
    assert!(logs.writer.unwrap().gaps.is_empty());
    assert!(
        logs.lineages[0].lineage.as_ref().unwrap().grants.len() > 1,
        "each process has a grant of its own"
    );
    quiet(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_dropped_under_the_agent_is_a_gap_that_is_told() {
    let (mut world, server) = world(&[]).await;
    server.sql("create table t (id int)");
    stored(&world, &server).await;
    backup(&world).await;
    let before = world.backups().await.len();
    world.kill_agent("n1");
    wait("the slot is free", || {
        server.try_sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like 'palinurus_s_%'").ok()?;
        (server.sql("select count(*) from pg_replication_slots") == "0").then_some(())
    })
    .await;
    for id in 0..3 {
        server.sql(&format!("insert into t values ({id})"));
        server.sql("select pg_switch_wal()");
        server.sql("checkpoint");
    }
    world.start_agent("n1");
    stored(&world, &server).await;
    let logs = logs(&world).await;
    assert_eq!(logs.lineages[0].stretches.len(), 2, "{logs:?}");
    assert_eq!(logs.writer.unwrap().gaps.len(), 1);
    // And a full backup is begun by itself.
    wait_async("a backup behind the gap", async || (world.backups().await.len() > before).then_some(()))
        .await;
    quiet(&world).await;
    world.stop().await;
}
