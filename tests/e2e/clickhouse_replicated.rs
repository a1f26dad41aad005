//! A database of engine Replicated: its log in ZooKeeper is the test's, and what other nodes would make by it too.
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use palinurus_proto::v1::{self, OperationState};
use palinurus_tests::World;
use palinurus_tests::clickhouse::{ClickHouse, Cluster, Replicated, Version, ZooKeeper};

const RUN: &str = "/dbs/d/replicas/s|n1/log_ptr";

/// As a server makes them: this node has run so much of the log.
fn write_log(keeper: &ZooKeeper, run: &str) {
    keeper.create(&[
        ("/dbs/d", ""),
        ("/dbs/d/max_log_ptr", "7"),
        ("/dbs/d/replicas", ""),
        ("/dbs/d/replicas/s|n1", "host:9000:uuid"),
        (RUN, run),
    ]);
}

fn remove_log(keeper: &ZooKeeper) {
    for path in [RUN, "/dbs/d/replicas/s|n1", "/dbs/d/replicas", "/dbs/d/max_log_ptr", "/dbs/d"] {
        keeper.delete(path);
    }
}

fn seen(server: &ClickHouse) -> Vec<String> {
    let of = |table: &&str| server.sql(format!("SELECT '{table}', count(), sum(a) FROM d.{table}"));
    ["t", "log", "m", "v", "late"].iter().map(of).collect()
}

async fn restored(world: &World) -> v1::Operation {
    world.seen_empty("n1").await;
    let operation = world.start_restore("n1", false).await;
    world.ended(&operation.id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replicated_databases_tables_are_backed_up_when_its_log_is_run_and_come_back_beside_other_nodes() {
    let Cluster { mut world, mut servers, keeper, .. } = Cluster::start(Version::New, &[("n1", "s")]).await;
    let (server, keeper) = (Arc::new(servers.remove("n1").unwrap()), Arc::new(keeper));
    for sql in [
        "CREATE DATABASE d",
        "CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE d.log (a UInt64) ENGINE = Log",
        "CREATE TABLE d.gone (a UInt64) ENGINE = MergeTree ORDER BY a",
        "CREATE MATERIALIZED VIEW d.m ENGINE = MergeTree ORDER BY a AS SELECT a FROM d.t",
        "CREATE VIEW d.v AS SELECT a FROM d.t WHERE a > 7",
        "INSERT INTO d.t SELECT number FROM numbers(100)",
        "INSERT INTO d.log SELECT number FROM numbers(9)",
    ] {
        server.sql(sql);
    }
    let uuid = server.sql("SELECT toString(uuid) FROM system.databases WHERE name = 'd'");
    let statement = format!(
        "ATTACH DATABASE _ UUID '{uuid}'\nENGINE = Replicated('/dbs/{{database}}', '{{shard}}', '{{replica}}')\n"
    );
    fs::write(server.data.join("metadata/d.sql"), statement).unwrap();
    keeper.create(&[("/dbs", "")]);
    write_log(&keeper, "6");
    // The one that has such databases does not read ZooKeeper.
    let mut reader = ClickHouse::create(Version::Old, &world.path("reader"), Some(("s", "r", keeper.port)));
    reader.start().await;
    let gate = Replicated::before(server.port, reader.port).await;
    let through =
        server.engine().replacen(&format!("port = {}\n", server.port), &format!("port = {}\n", gate.port), 1);

    // Another node has run what this one never comes to.
    let impatient = through.replacen("replica_timeout = \"60s\"", "replica_timeout = \"1s\"", 1);
    assert!(impatient != through && through != server.engine());
    world.engines.insert("n1".into(), impatient);
    world.start().await;
    let operation = world.start_backup().await;
    let failure = world.ended(&operation.id).await.failure.unwrap();
    assert!(failure.message.contains("database d lags on this node: it has run entry 6 of 7"), "{failure:?}");
    assert_eq!(failure.node, "n1");

    // Or does while it is waited for, and has a table more.
    world.stop_agent("n1").await;
    world.engines.insert("n1".into(), through);
    world.start_agent("n1");
    world.joined().await;
    let (asked, runs, log) = (AtomicU64::new(0), Arc::clone(&server), Arc::clone(&keeper));
    gate.on(move |sql| {
        if sql.contains("max_log_ptr") && asked.fetch_add(1, Ordering::SeqCst) == 1 {
            runs.sql("CREATE TABLE d.late (a UInt64) ENGINE = MergeTree ORDER BY a");
            runs.sql("INSERT INTO d.late SELECT number FROM numbers(5)");
            log.delete(RUN);
            log.create(&[(RUN, "7")]);
        }
        true
    });
    let ended = world.backup().await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.warnings);
    let before = seen(&server);
    let shown = server.sql(
        "SELECT name, replaceAll(create_table_query, '\\n', ' ') FROM system.tables WHERE database = 'd' \
         AND NOT startsWith(name, '.') SETTINGS show_table_uuid_in_table_create_query_if_not_nil = 1 FORMAT TSVRaw",
    );
    let made: BTreeMap<String, String> = shown
        .lines()
        .map(|line| line.split_once('\t').map(|(name, sql)| (name.to_owned(), sql.to_owned())).unwrap())
        .collect();
    assert_eq!(made.len(), 6, "{made:?}");
    assert!(made["t"].contains(" UUID '"), "{made:?}");

    // This node was replaced: the others use the database, and have dropped a table since.
    server.sql("DROP DATABASE d SYNC");
    let (node, others) = (Arc::clone(&server), made.clone());
    gate.on(move |sql| {
        if sql.starts_with("SYSTEM SYNC DATABASE REPLICA") {
            for name in ["t", "late", "log", "m", "v"] {
                drop(node.try_sql(&others[name]));
            }
        }
        true
    });
    gate.seen();
    let ended = restored(&world).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);
    assert_eq!(seen(&server), before);
    assert_eq!(server.sql("SELECT count() FROM system.tables WHERE database = 'd' AND name = 'gone'"), "0");
    for (_, sql) in gate.seen() {
        let makes = ["CREATE TABLE", "CREATE VIEW", "ATTACH MAT"].iter().any(|verb| sql.starts_with(verb));
        assert!(!makes && !sql.starts_with("TRUNCATE"), "{sql}");
    }

    // All nodes were lost, with ZooKeeper. Somebody has made another table there.
    server.sql("DROP DATABASE d SYNC");
    remove_log(&keeper);
    write_log(&keeper, "7");
    let node = Arc::clone(&server);
    gate.on(move |sql| {
        if sql.starts_with("SYSTEM SYNC DATABASE REPLICA") {
            drop(node.try_sql("CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a"));
        }
        true
    });
    let failure = restored(&world).await.failure.unwrap();
    assert!(failure.message.contains("table d.t is there already with another UUID"), "{failure:?}");
    server.sql("DROP TABLE d.t SYNC");
    // Another node's restore is a table ahead, and this one is stopped.
    let (node, ahead) = (Arc::clone(&server), made["t"].clone());
    gate.on(move |sql| {
        if sql.starts_with("SYSTEM SYNC DATABASE REPLICA") {
            drop(node.try_sql(&ahead));
        }
        !sql.starts_with("CREATE TABLE IF NOT EXISTS `d`.`gone`")
    });
    let failure = restored(&world).await.failure.unwrap();
    assert_eq!(failure.kind, "unavailable", "{failure:?}");
    // And has made two more when it goes on.
    server.sql(&made["gone"]);
    server.sql(&made["late"]);
    gate.on(|_| true);
    gate.seen();
    let ended = restored(&world).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);
    assert_eq!(seen(&server), before);
    assert_eq!(server.sql("SELECT count() FROM d.gone"), "0");
    let mut makes = Vec::new();
    for (line, sql) in gate.seen() {
        assert!(!sql.starts_with("TRUNCATE"), "{sql}");
        let Some((_, rest)) = sql.split_once(" IF NOT EXISTS `d`.`") else { continue };
        for name in ["allow_explicit_uuid=1", "allow_replicated_engine_arguments=1", "ddl_task_timeout=0"] {
            assert!(line.contains(name), "{line}");
        }
        makes.push(rest.split('`').next().unwrap().to_owned());
    }
    assert_eq!(makes, ["log", "v", "m"], "and nothing that is there");
    world.stop().await;
}
