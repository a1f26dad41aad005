//! Chosen tables of ClickHouse, restored into a server in use: beside what is there, or under another name.
use palinurus_proto::v1::{self, OperationState, task_result};
use palinurus_tests::World;
use palinurus_tests::clickhouse::{ClickHouse, Version};
use palinurus_tests::world::wait_async;

use crate::clickhouse::{fill, held_back, replicas, seen, world};

/// What an operation's restore of its only node did.
fn restored(operation: &v1::Operation) -> v1::RestoreResult {
    let results = operation.tasks.iter().filter_map(|task| task.result.as_ref()?.result.as_ref());
    let restored = results.filter_map(|result| match result {
        task_result::Result::Restore(restored) => Some(restored.clone()),
        _ => None,
    });
    restored.last().expect("the restore has a result")
}

async fn chosen(world: &World, tables: &[&str], renames: &[&str]) -> v1::Operation {
    let operation = world.start_chosen(tables, renames).await;
    world.ended(&operation.id).await
}

#[track_caller]
fn good(operation: &v1::Operation) {
    assert_eq!(operation.state(), OperationState::Succeeded, "{:?}", operation.failure);
}

/// It is refused for this reason, which the hint may hold.
async fn refused(world: &World, tables: &[&str], renames: &[&str], words: &str) {
    let failure = chosen(world, tables, renames).await.failure.expect("it is refused");
    let told = format!("{} {}", failure.message, failure.hint);
    assert!(told.contains(words), "{told}");
}

fn leftovers(server: &ClickHouse) -> Vec<String> {
    let names = std::fs::read_dir(&server.data).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| name.starts_with("palinurus")).collect()
}

async fn beside_living_ones(version: Version) {
    let (mut world, server) = world(version).await;
    fill(&server);
    let before = seen(&server);
    world.start().await;
    world.backup().await;

    // What is there stays, newer rows and all; what was dropped comes back.
    server.sql("INSERT INTO d.zz VALUES (7777, 7)");
    let living = server.sql("SELECT count(), sum(a) FROM d.zz");
    for table in ["`odd db'é`.`t \"x\\`\\ny`", "d.mv", "d.Log"] {
        server.sql(format!("DROP TABLE {table}"));
    }
    let plan = world.run(&["restore", "plan", "--tables", "d.Log"]).await.expect(0).json();
    assert_eq!(plan["tables"][0], "d.Log", "{plan}");
    let some = ["restore", "apply", "--yes", "--tables", "`odd db'é`.*, d.mv"];
    world.run(&some).await.expect(0);
    let log = chosen(&world, &["d.Log"], &[]).await;
    good(&log);
    assert_eq!(restored(&log).files, 2, "the list of what there is, and the rows");
    assert_eq!(server.sql("SELECT count(), sum(a) FROM d.zz"), living);
    let after = seen(&server);
    for at in (0..before.len()).filter(|at| ![2, 3].contains(at)) {
        assert_eq!(after[at], before[at]);
    }
    server.sql("INSERT INTO d.zz VALUES (8888, 8)");
    assert_eq!(server.sql("SELECT count() FROM d.mv WHERE a = 8888"), "1", "the view sees what comes in");

    // All of a database beside itself, as another one.
    good(&chosen(&world, &["d.*"], &["d=e"]).await);
    for (table, at) in
        [("empty", 1), ("zz FINAL", 2), ("a", 3), ("mv", 4), ("Log", 5), ("TinyLog", 6), ("Memory", 7)]
    {
        let sql = match at {
            1 => format!("SELECT count() FROM e.{table}"),
            2 => format!("SELECT count(), sum(a), sum(v) FROM e.{table}"),
            3 | 4 => format!("SELECT count(), sum(a) FROM e.{table}"),
            _ => format!("SELECT count(), sum(a), sum(cityHash64(b)) FROM e.{table}"),
        };
        assert_eq!(server.sql(sql), before[at], "{table}");
    }
    server.sql("INSERT INTO e.zz VALUES (9999, 9)");
    for (database, rows) in [("d", "0"), ("e", "1")] {
        for table in ["zz", "a", "mv"] {
            let sql = format!("SELECT count() FROM {database}.{table} WHERE a = 9999");
            assert_eq!(server.sql(sql), rows, "{database}.{table}");
        }
    }

    // Nothing is made when something stands against it.
    server.sql("DROP TABLE d.a");
    server.sql("DROP TABLE d.aa");
    let tables = server.sql("SELECT count() FROM system.tables");
    refused(&world, &["d.zz", "d.aa"], &[], "already: d.zz").await;
    refused(&world, &["d.nothing"], &[], "d.empty, ").await;
    refused(&world, &["x.*"], &[], "d.*").await;
    refused(&world, &["d.a"], &[], "d.a needs d.aa").await;
    assert_eq!(server.sql("SELECT count() FROM system.tables"), tables);
    assert_eq!(leftovers(&server), Vec::<String>::new());
    good(&chosen(&world, &["d.a*"], &[]).await);
    assert_eq!(server.sql("SELECT count() FROM d.a WHERE a = 8888"), "1");
    world.nothing_left_behind("n1").await;
    world.backup().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_18_come_back_beside_living_ones() {
    beside_living_ones(Version::Old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_26_come_back_beside_living_ones() {
    beside_living_ones(Version::New).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_stopped_goes_on_and_keeps_no_other_from_its_work() {
    let (mut world, mut server) = world(Version::Old).await;
    server.sql("CREATE DATABASE d");
    // Of so many parts that what is to be stopped has not ended when it is looked at.
    server.sql("CREATE TABLE d.t (a UInt64) ENGINE = MergeTree PARTITION BY a % 1000 ORDER BY a");
    server.sql("INSERT INTO d.t SELECT number FROM numbers(5000)");
    server.sql("CREATE TABLE d.log (a UInt64) ENGINE = Log");
    server.sql("INSERT INTO d.log SELECT number FROM numbers(10)");
    world.start().await;
    world.backup().await;
    let attached = "SELECT count() FROM system.parts WHERE active AND database = 'd' AND table = 'u'";
    let left = "SELECT 1000 - count() FROM system.parts WHERE active AND database = 'd' AND table = 'u'";
    let so_far = |server: &ClickHouse, parts: u64| server.sql(attached).parse::<u64>().unwrap() >= parts;
    // One that was over before the server died is followed by another.
    loop {
        let operation = world.start_chosen(&["d.t"], &["d.t=d.u"]).await;
        if !held_back(&mut world, &operation, || so_far(&server, 20), || server.sql(left)).await {
            world.ended(&operation.id).await;
            server.sql("DROP TABLE d.u");
            continue;
        }
        server.kill();
        world.agent("n1").resume();
        let ended = world.ended(&operation.id).await;
        assert_eq!(ended.failure.unwrap().kind, "unavailable");
        break;
    }
    server.start().await;
    // Meanwhile.
    good(&chosen(&world, &["d.log"], &["d=e"]).await);
    assert_eq!(server.sql("SELECT count() FROM e.log"), "10");
    let operation = world.start_chosen(&["d.t"], &["d.t=d.u"]).await;
    wait_async("it has come so far", async || so_far(&server, 60).then_some(())).await;
    world.kill_agent("n1");
    world.start_agent("n1");
    good(&world.ended(&operation.id).await);
    assert_eq!(server.sql("SELECT count(), sum(a) FROM d.u"), server.sql("SELECT count(), sum(a) FROM d.t"));
    assert_eq!(leftovers(&server), Vec::<String>::new());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replicated_table_of_another_name_has_replicas_of_its_own() {
    let (mut world, servers, _keeper) = replicas(Version::Old).await;
    let table = |name: &str, path: &str| {
        format!(
            "CREATE TABLE d.{name} (a UInt64) \
             ENGINE = ReplicatedMergeTree('/clickhouse/tables/{{shard}}/{path}', '{{replica}}') ORDER BY a"
        )
    };
    for server in &servers {
        server.sql("CREATE DATABASE d");
        server.sql(table("r", "r"));
        server.sql(table("fixed", "all"));
    }
    servers[0].sql("INSERT INTO d.r SELECT number FROM numbers(1000)");
    servers[1].sql("SYSTEM SYNC REPLICA d.r");
    world.start().await;
    world.backup().await;
    refused(&world, &["d.fixed"], &["d.fixed=d.other"], "/clickhouse/tables/{shard}/all").await;
    good(&chosen(&world, &["d.r"], &["d.r=d.r2"]).await);
    servers[0].sql("INSERT INTO d.r2 VALUES (7777)");
    servers[1].sql("SYSTEM SYNC REPLICA d.r2");
    for server in &servers {
        assert_eq!(server.sql("SELECT count() FROM d.r"), "1000");
        assert_eq!(server.sql("SELECT count() FROM d.r2"), "1001");
        assert_eq!(server.sql("SELECT total_replicas FROM system.replicas WHERE table = 'r2'"), "2");
    }
    world.stop().await;
}
