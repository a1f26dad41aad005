//! ClickHouse, real servers: backed up while they work, restored into fresh ones, and asked for every row.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use palinurus_proto::v1::{self, OperationState};
use palinurus_tests::World;
use palinurus_tests::clickhouse::{ClickHouse, Cluster, Version, ZooKeeper};
use palinurus_tests::world::{wait, wait_async};

/// A service of one node with a server in its data directory.
pub(crate) async fn world(version: Version) -> (World, ClickHouse) {
    in_world(World::new(&["n1"]), version).await
}

pub(crate) async fn in_world(mut world: World, version: Version) -> (World, ClickHouse) {
    world.kind = "clickhouse".into();
    let mut server = ClickHouse::create(version, &world.path("n1"), None);
    server.start().await;
    world.engines.insert("n1".into(), server.engine());
    (world, server)
}

/// Restores into a fresh server where the old one was.
pub(crate) async fn restored_afresh(world: &World, server: &mut ClickHouse) {
    server.stop().await;
    world.move_data("n1");
    server.start().await;
    world.restore("n1", false).await;
}

const ODD: &str = "`odd db'é`.`t \"x\\`\\ny`";

pub(crate) fn fill(server: &ClickHouse) {
    server.sql("CREATE DATABASE `odd db'é`");
    server.sql(format!(
        "CREATE TABLE {ODD} (a UInt64, `b c` String) ENGINE = MergeTree PARTITION BY a % 3 ORDER BY a"
    ));
    for from in [0, 1000, 2000] {
        server.sql(format!("INSERT INTO {ODD} SELECT number + {from}, toString(number) FROM numbers(1000)"));
    }
    server.sql("CREATE DATABASE d");
    server.sql("CREATE TABLE d.empty (a UInt64) ENGINE = MergeTree ORDER BY a");
    // Made before what they look at by their names, so that no order of names is the right one.
    server.sql("CREATE TABLE d.zz (a UInt64, v UInt64) ENGINE = ReplacingMergeTree(v) ORDER BY a");
    server.sql("INSERT INTO d.zz SELECT number % 100, 1 FROM numbers(100)");
    server.sql("INSERT INTO d.zz SELECT number % 100, 2 FROM numbers(100)");
    server.sql("CREATE VIEW d.aa AS SELECT a, v FROM d.zz WHERE v > 0");
    server.sql("CREATE VIEW d.a AS SELECT a FROM d.aa");
    server.sql("CREATE MATERIALIZED VIEW d.mv ENGINE = MergeTree ORDER BY a AS SELECT a FROM d.zz");
    server.sql("INSERT INTO d.zz SELECT number + 100, 3 FROM numbers(50)");
    for engine in ["Log", "TinyLog", "Memory"] {
        server.sql(format!("CREATE TABLE d.{engine} (a Nullable(Int64), b String) ENGINE = {engine}"));
        server.sql(format!("INSERT INTO d.{engine} SELECT nullIf(number, 3), concat('\\t\\n', toString(number)) FROM numbers(9)"));
    }
}

/// Everything that a restore must bring back.
pub(crate) fn seen(server: &ClickHouse) -> Vec<String> {
    [
        format!("SELECT count(), sum(cityHash64(a, `b c`)) FROM {ODD}"),
        "SELECT count() FROM d.empty".into(),
        "SELECT count(), sum(a), sum(v) FROM d.zz FINAL".into(),
        "SELECT count(), sum(a) FROM d.a".into(),
        "SELECT count(), sum(a) FROM d.mv".into(),
        "SELECT count(), sum(a), sum(cityHash64(b)) FROM d.Log".into(),
        "SELECT count(), sum(a), sum(cityHash64(b)) FROM d.TinyLog".into(),
        "SELECT count(), sum(a), sum(cityHash64(b)) FROM d.Memory".into(),
        "SELECT database, name, engine FROM system.tables WHERE database != 'system' \
         AND lower(database) != 'information_schema' AND name NOT LIKE '.inner%' ORDER BY database, name"
            .into(),
    ]
    .iter()
    .map(|sql| server.sql(sql))
    .collect()
}

async fn comes_back(version: Version) {
    let (mut world, mut server) = world(version).await;
    fill(&server);
    if version == Version::New {
        server.sql("CREATE FUNCTION twice AS x -> x * 2");
        server.sql("CREATE NAMED COLLECTION far AS host = 'h', password = 'p\\'w'");
        server
            .sql("CREATE TABLE d.called (a UInt64, b UInt64 DEFAULT twice(a)) ENGINE = MergeTree ORDER BY a");
        server.sql("INSERT INTO d.called (a) VALUES (21)");
    }
    // A view is not given a second time what is inserted for a restore.
    server.sql("CREATE TABLE d.once (a UInt64) ENGINE = MergeTree ORDER BY a");
    server.sql("CREATE TABLE d.source (a UInt64) ENGINE = Log");
    server.sql("CREATE MATERIALIZED VIEW d.from_log TO d.once AS SELECT a FROM d.source");
    server.sql("INSERT INTO d.source VALUES (1), (2)");
    let before = seen(&server);
    world.start().await;
    let first = world.backup().await;
    assert_eq!(first.state(), OperationState::Succeeded, "{:?}", first.warnings);
    assert_eq!(server.frozen(), Vec::<String>::new());
    // What is not in it.
    server.sql("INSERT INTO d.zz VALUES (7777, 7)");
    server.sql("DROP TABLE d.empty");

    restored_afresh(&world, &mut server).await;
    assert_eq!(seen(&server), before);
    assert_eq!(server.sql("SELECT count() FROM d.once"), "2");
    if version == Version::New {
        assert_eq!(server.sql("SELECT twice(4), b FROM d.called"), "8\t42");
        assert_eq!(server.sql("SELECT name FROM system.named_collections"), "far");
        let statement = std::fs::read_to_string(server.data.join("named_collections/far.sql")).unwrap();
        assert!(statement.contains("p\\'w"), "{statement}");
    }
    server.sql("INSERT INTO d.zz VALUES (9999, 1)");
    assert_eq!(server.sql("SELECT count() FROM d.mv"), "51", "the view still sees what comes in");
    assert!(!server.data.join("palinurus-restore").exists());
    world.nothing_left_behind("n1").await;
    // A restored server is backed up like any other.
    world.backup().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_18_comes_back() {
    comes_back(Version::Old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_26_comes_back() {
    comes_back(Version::New).await;
}

/// A table whose rows say what they must be: `s` is made of `a`.
const STEADY: &str =
    "CREATE TABLE d.steady (a UInt64, s String) ENGINE = MergeTree PARTITION BY a % 50 ORDER BY a";

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_backed_up_as_it_was_and_what_is_torn_down_leaves_nothing() {
    let (mut world, server) = world(Version::Old).await;
    server.sql("CREATE DATABASE d");
    server.sql(STEADY);
    for _ in 0..4 {
        server.sql("INSERT INTO d.steady SELECT number, toString(number) FROM numbers(20000)");
    }
    world.start().await;

    // What comes and goes are tables: each backup ends well, or says that they did, and holds nothing.
    let stop = Arc::new(AtomicBool::new(false));
    let (server, busy) = (Arc::new(server), Arc::clone(&stop));
    let other = Arc::clone(&server);
    let makes = std::thread::spawn(move || {
        let mut made = 0;
        while !busy.load(Ordering::Relaxed) {
            made += 1;
            other.sql(format!("CREATE TABLE d.t{made} (a UInt64) ENGINE = MergeTree ORDER BY a"));
            other.sql(format!("INSERT INTO d.t{made} VALUES (1)"));
            other.sql(format!("RENAME TABLE d.t{made} TO d.r{made}"));
            other.sql(format!("DROP TABLE d.r{made}"));
        }
        made
    });
    for _ in 0..2 {
        let operation = world.start_backup().await;
        let ended = world.ended(&operation.id).await;
        if let Some(failure) = &ended.failure {
            assert_eq!(failure.kind, "conflict", "{failure:?}");
            assert!(failure.message.contains("the schema changed"), "{failure:?}");
        }
        assert_eq!(server.frozen(), Vec::<String>::new());
    }
    stop.store(true, Ordering::Relaxed);
    assert!(makes.join().unwrap() > 0);

    // What comes and goes are parts: inserts, merges and a mutation, while the frozen ones are read.
    let (stop, other) = (Arc::new(AtomicBool::new(false)), Arc::clone(&server));
    let busy = Arc::clone(&stop);
    let writes = std::thread::spawn(move || {
        while !busy.load(Ordering::Relaxed) {
            other.sql("INSERT INTO d.steady SELECT number, toString(number) FROM numbers(500)");
            other.sql("OPTIMIZE TABLE d.steady");
            other.sql("ALTER TABLE d.steady DELETE WHERE a = 499");
        }
    });
    let operation = world.backup().await;
    stop.store(true, Ordering::Relaxed);
    writes.join().unwrap();
    println!("under load: {:?}", operation.warnings);

    // An agent that dies with a freeze, and its state with it.
    let operation = world.start_backup().await;
    wait_async("something is frozen", async || {
        let phase = world.operation(&operation.id).await.phase;
        (phase == "done" || !server.frozen().is_empty()).then_some(())
    })
    .await;
    world.kill_agent("n1");
    world.start_agent("n1");
    world.ended(&operation.id).await;
    wait("nothing stays frozen", || server.frozen().is_empty().then_some(())).await;
    world.nothing_left_behind("n1").await;

    let mut server = Arc::into_inner(server).expect("the threads have ended");
    restored_afresh(&world, &mut server).await;
    assert_ne!(server.sql("SELECT count() FROM d.steady"), "0");
    assert_eq!(server.sql("SELECT count() FROM d.steady WHERE s != toString(a)"), "0");
    world.stop().await;
}

/// The agent stands still in the middle of it, with parts left to be given back: or it went on to the end.
pub(crate) async fn held_back(
    world: &mut World,
    operation: &v1::Operation,
    so_far: impl Fn() -> bool,
    left: impl Fn() -> String,
) -> bool {
    wait_async("it has come so far", async || {
        (so_far() || world.operation(&operation.id).await.phase == "done").then_some(())
    })
    .await;
    world.agent("n1").pause();
    // What the server was told before, it may still be at.
    let held = left().parse::<i64>().unwrap() > 100 && world.operation(&operation.id).await.phase != "done";
    if !held {
        world.agent("n1").resume();
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_stopped_goes_on_and_no_row_comes_twice() {
    let (mut world, mut server) = world(Version::Old).await;
    server.sql("CREATE DATABASE d");
    server.sql(STEADY);
    for from in 0..6 {
        server.sql(format!(
            "INSERT INTO d.steady SELECT number + {from}, toString(number + {from}) FROM numbers(2000)"
        ));
    }
    // The last to be filled, and it takes long: what is to be stopped has not ended when it is looked at.
    server.sql("CREATE TABLE d.wide (a UInt64) ENGINE = MergeTree PARTITION BY a ORDER BY a");
    server.sql("INSERT INTO d.wide SELECT number FROM numbers(600)");
    server.sql("CREATE TABLE d.log (a UInt64) ENGINE = Log");
    server.sql("INSERT INTO d.log SELECT number FROM numbers(10)");
    let seen = |server: &ClickHouse| {
        let sums = "SELECT count(), sum(cityHash64(a, s)), (SELECT sum(a) FROM d.wide) FROM d.steady";
        (server.sql(sums), server.sql("SELECT count(), sum(a) FROM d.log"))
    };
    let before = seen(&server);
    world.start().await;
    // A file as a server with users keeps it; this one has none.
    std::fs::create_dir(server.data.join("access")).unwrap();
    std::fs::write(server.data.join("access/0f.sql"), "ATTACH USER u;\n").unwrap();
    world.backup().await;
    server.stop().await;
    world.move_data("n1");
    server.start().await;
    world.seen_empty("n1").await;

    let attached = "SELECT count() FROM system.parts WHERE active AND table = 'steady'";
    let left = "SELECT 600 - count() FROM system.parts WHERE active AND table = 'wide'";
    let so_far = |server: &ClickHouse, parts: u64| {
        let loading = server.data.join("palinurus-restore/loading").exists();
        loading && server.sql(attached).parse::<u64>().unwrap() >= parts
    };
    // One that was over before the server died is followed by another, into a fresh one.
    loop {
        let operation = world.start_restore("n1", false).await;
        if !held_back(&mut world, &operation, || so_far(&server, 20), || server.sql(left)).await {
            world.ended(&operation.id).await;
            server.stop().await;
            world.destroy_data("n1");
            server.start().await;
            world.seen_empty("n1").await;
            continue;
        }
        server.kill();
        world.agent("n1").resume();
        let ended = world.ended(&operation.id).await;
        assert_eq!(ended.failure.unwrap().kind, "unavailable");
        server.start().await;
        world.seen_empty("n1").await;
        break;
    }
    let operation = world.start_restore("n1", false).await;
    wait_async("it has come so far", async || so_far(&server, 60).then_some(())).await;
    world.kill_agent("n1");
    world.start_agent("n1");
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);
    assert_eq!(seen(&server), before);
    assert_eq!(std::fs::read_to_string(server.data.join("access/0f.sql")).unwrap(), "ATTACH USER u;\n");
    assert!(server.data.join("access/need_rebuild_lists.mark").exists());
    world.stop().await;
}

/// Two replicas and the ZooKeeper where they meet.
pub(crate) async fn replicas(version: Version) -> (World, Vec<ClickHouse>, ZooKeeper) {
    let Cluster { world, servers, keeper, .. } = Cluster::start(version, &[("n1", "s1"), ("n2", "s1")]).await;
    (world, servers.into_values().collect(), keeper)
}

/// Both are gone, and by `drop` ZooKeeper knows them no more.
pub(crate) async fn restored_together(world: &World, servers: &mut [ClickHouse], drop: &str) {
    for server in &mut *servers {
        server.sql(drop);
        server.stop().await;
    }
    for (node, server) in ["n1", "n2"].iter().zip(servers) {
        world.destroy_data(node);
        server.start().await;
        world.seen_empty(node).await;
    }
    world.run(&["restore", "apply", "--yes"]).await.expect(0);
}

const REPLICATED: &str = "CREATE TABLE d.r (a UInt64, s String) \
    ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/r', '{replica}') PARTITION BY a % 4 ORDER BY a";
const HASH: &str = "SELECT count(), sum(cityHash64(a, s)) FROM d.r";

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_upload_and_come_back_together_or_alone() {
    let (mut world, mut servers, keeper) = replicas(Version::Old).await;
    for server in &servers {
        server.sql("CREATE DATABASE d");
        server.sql(REPLICATED);
    }
    for _ in 0..8 {
        servers[0].sql("INSERT INTO d.r SELECT rand64(), reinterpretAsString(rand64(1)) FROM numbers(40000)");
    }
    // Else one may have merged what the other has not.
    ClickHouse::merged(&servers.iter().collect::<Vec<_>>(), "r").await;
    // As a server with replicated access would have written it.
    keeper.create(&[
        ("/clickhouse/access", ""),
        ("/clickhouse/access/uuid", ""),
        ("/clickhouse/access/uuid/aa-1", "ATTACH USER u;"),
    ]);
    world.engine = "access_zookeeper_path = \"/clickhouse/access/\"\n".into();
    let before = servers[0].sql(HASH);
    assert_eq!(servers[1].sql(HASH), before);
    let one: u64 = servers[0]
        .sql("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND table = 'r'")
        .parse()
        .unwrap();
    world.start().await;
    world.backup().await;
    let backup = world.backups().await.pop().unwrap();
    let new: u64 = backup.nodes.iter().map(|node| node.bytes_new).sum();
    println!("two replicas of {one} bytes each: {new} bytes uploaded, {:.3}", new as f64 / one as f64);
    assert!(new as f64 <= one as f64 * 1.02, "{new} of {one}");
    // Each in a server without a ZooKeeper, so that neither joins as a third replica.
    let proved = crate::drill::drill(&world, &[]).await;
    assert_eq!(proved.state(), OperationState::Succeeded, "{:?} {:?}", proved.failure, proved.drill);
    let asked = "SELECT total_replicas FROM system.replicas WHERE table = 'r'";
    assert_eq!(servers[0].sql(asked), "2");

    restored_together(&world, &mut servers, "DROP TABLE d.r").await;
    for server in &servers {
        assert_eq!(server.sql(HASH), before, "each row once");
        let user = std::fs::read_to_string(server.data.join("access/aa-1.sql")).unwrap();
        assert_eq!(user, "ATTACH USER u;");
    }

    // One machine is replaced: ZooKeeper still knows its replica, and the other has rows that no backup has.
    servers[1].kill();
    servers[0].sql("INSERT INTO d.r VALUES (1, 'since')");
    let after = servers[0].sql(HASH);
    world.destroy_data("n2");
    servers[1].start().await;
    world.restore("n2", false).await;
    assert_eq!(servers[1].sql(HASH), after, "what the other replica has");
    servers[1].sql("INSERT INTO d.r VALUES (2, 'again')");
    servers[0].sql("SYSTEM SYNC REPLICA d.r");
    assert_eq!(servers[0].sql(HASH), servers[1].sql(HASH));
    world.stop().await;
}
