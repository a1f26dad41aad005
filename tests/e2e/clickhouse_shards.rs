//! ClickHouse as a cluster: two shards of two replicas, backed up while they are written, and restored as a whole.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use palinurus_proto::v1::{OperationState, TaskState};
use palinurus_tests::World;
use palinurus_tests::clickhouse::{ClickHouse, Cluster, Version};
use palinurus_tests::world::{wait, wait_async};

const NODES: [(&str, &str); 4] = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")];

/// Each `n` is a batch of [`BATCH`] rows, half of them for each shard.
const TABLE: &str = "CREATE TABLE d.r (n UInt64, a UInt64, s String) \
    ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/r', '{replica}') PARTITION BY n % 4 ORDER BY (n, a)";
const ALL: &str = "CREATE TABLE d.everything AS d.r ENGINE = Distributed(all, d, r, a)";
const BATCH: u64 = 200;

fn insert(server: &ClickHouse, n: u64, rows: u64) {
    let row = format!("toUInt64({n}), number, reinterpretAsString(rand64())");
    server.sql(format!("INSERT INTO d.everything SELECT {row} FROM numbers({rows})"));
}

/// The batches that a server has, and how many rows of each.
fn batches(server: &ClickHouse) -> BTreeMap<u64, u64> {
    let rows = server.sql("SELECT n, count() FROM d.r GROUP BY n");
    let row = |line: &str| {
        let (n, count) = line.split_once('\t').unwrap();
        (n.parse().unwrap(), count.parse().unwrap())
    };
    rows.lines().map(row).collect()
}

const HASH: &str = "SELECT count(), sum(cityHash64(n, a, s)) FROM d.r";

/// The rows of `d.r` that a node had when it was backed up.
async fn rows_at_the_cut(world: &World, node: &str) -> u64 {
    let (url, key, target) = (world.repository_url(), world.key(), world.path(&format!("files of {node}")));
    let (key, to) = (key.to_str().unwrap(), target.to_str().unwrap());
    let offline = ["restore", "--repository", &url, "--keys", key, "--node", node, "--target", to];
    if !target.exists() {
        world.run(&[&offline[..], &["--include", "clickhouse.json"]].concat()).await.expect(0);
    }
    let facts: serde_json::Value =
        serde_json::from_slice(&fs::read(target.join("clickhouse.json")).unwrap()).unwrap();
    let tables = facts["tables"].as_array().unwrap();
    tables.iter().find(|table| table["name"] == "r").unwrap()["rows"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_shards_of_two_replicas_come_back_as_they_were_cut() {
    let mut cluster = Cluster::start(Version::Old, &NODES).await;
    cluster.each("CREATE DATABASE d");
    cluster.each(TABLE);
    cluster.each(ALL);
    for _ in 0..4 {
        let row = "toUInt64(0), rand64(), reinterpretAsString(rand64(1))";
        cluster.servers["a1"].sql(format!("INSERT INTO d.everything SELECT {row} FROM numbers(100000)"));
    }
    for shard in [["a1", "a2"], ["b1", "b2"]] {
        ClickHouse::merged(&shard.map(|node| &cluster.servers[node]), "r").await;
    }
    cluster.world.start().await;

    // Undisturbed: what two replicas have is uploaded once.
    cluster.world.backup().await;
    let nodes = cluster.world.backups().await.pop().unwrap().nodes;
    for shard in ["a", "b"] {
        let of = |node: &str| nodes.iter().find(|it| it.node == format!("{shard}{node}")).unwrap();
        let (new, one) = (of("1").bytes_new + of("2").bytes_new, of("1").bytes.max(of("2").bytes));
        println!("shard {shard}: {new} bytes uploaded of {one}: {:.3}", new as f64 / one as f64);
        assert!(new as f64 <= one as f64 * 1.02, "shard {shard}: {new} of {one}");
    }

    // And while rows come in through the table over all shards.
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (busy, counted) = (Arc::clone(&stop), Arc::clone(&written));
    let through = cluster.servers.remove("a1").unwrap();
    let writes = std::thread::spawn(move || {
        while !busy.load(Ordering::Relaxed) {
            let n = counted.load(Ordering::Relaxed) + 1;
            insert(&through, n, BATCH);
            counted.store(n, Ordering::Relaxed);
        }
        through
    });
    let more_than =
        async |n| wait("rows come in", || (written.load(Ordering::Relaxed) > n).then_some(())).await;
    more_than(3).await;
    let before = written.load(Ordering::Relaxed);
    let operation = cluster.world.start_backup().await;
    more_than(before + 3).await;
    cluster.world.ended(&operation.id).await;
    let after = written.load(Ordering::Relaxed) + 1;
    stop.store(true, Ordering::Relaxed);
    cluster.servers.insert("a1", writes.join().unwrap());
    assert_eq!(cluster.world.backups().await.len(), 2);

    // Into two shards of one replica each: the nodes that are left out are no nodes of the service then.
    cluster.renew().await;
    cluster.world.leave_out(&["a2", "b2"]).await;
    for node in ["a1", "b1"] {
        cluster.world.seen_empty(node).await;
    }
    let told = cluster.world.run(&["restore", "plan"]).await.expect(0);
    let told = [told.stdout, told.stderr].concat();
    assert!(told.contains("a2 of the backup is left out: a1 brings the same shard a"), "{told}");
    cluster.world.run(&["restore", "apply", "--yes"]).await.expect(0);
    for node in ["a1", "b1"] {
        let server = &cluster.servers[node];
        let rows = batches(server).values().sum::<u64>();
        assert_eq!(rows, rows_at_the_cut(&cluster.world, node).await, "all that {node} had at the cut");
        assert_eq!(server.sql("SELECT total_replicas FROM system.replicas WHERE table = 'r'"), "1");
    }
    for node in ["a2", "b2"] {
        let tables = "SELECT count() FROM system.tables WHERE database = 'd'";
        assert_eq!(cluster.servers[node].sql(tables), "0", "{node} was left alone");
    }
    cluster.world.take_in(&["a2", "b2"]).await;

    // And into as many as there were.
    cluster.renew().await;
    for (node, _) in NODES {
        cluster.world.seen_empty(node).await;
    }
    cluster.world.run(&["restore", "apply", "--yes"]).await.expect(0);
    let mut total = 0;
    for shard in ["a", "b"] {
        let [one, two] = ["1", "2"].map(|node| format!("{shard}{node}"));
        let server = &cluster.servers[one.as_str()];
        assert_eq!(server.sql(HASH), cluster.servers[two.as_str()].sql(HASH), "replicas of shard {shard}");
        let found = batches(server);
        let rows = found.values().sum::<u64>();
        total += rows;
        let cuts = BTreeSet::from([
            rows_at_the_cut(&cluster.world, &one).await,
            rows_at_the_cut(&cluster.world, &two).await,
        ]);
        println!("shard {shard}: {rows} rows restored, cut at {cuts:?}");
        assert!(cuts.contains(&rows), "shard {shard}: {rows} rows, and {cuts:?} at the cut");
        // All that was there before the backup, nothing that came after it, and no batch in part.
        assert!((0..=before).all(|n| found.contains_key(&n)), "shard {shard}: {found:?}");
        assert!(found.keys().all(|n| *n <= after), "shard {shard}: {found:?}");
        assert!(found.iter().all(|(n, rows)| *n == 0 || *rows == BATCH / 2), "shard {shard}: {found:?}");
    }
    for server in cluster.servers.values() {
        assert_eq!(server.sql("SELECT count() FROM d.everything"), total.to_string());
    }
    // It is a cluster again: what one takes in the others get.
    insert(&cluster.servers["b2"], after + 1, BATCH);
    cluster.each("SYSTEM SYNC REPLICA d.r");
    for server in cluster.servers.values() {
        assert_eq!(batches(server)[&(after + 1)], BATCH / 2);
    }
    cluster.world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_made_between_two_nodes_freezes_has_all_of_them_made_again() {
    let mut world = World::new(&["n1", "n2"]);
    world.kind = "clickhouse".into();
    let mut servers = Vec::new();
    for node in ["n1", "n2"] {
        let mut server = ClickHouse::create(Version::Old, &world.path(node), None);
        server.start().await;
        world.engines.insert(node.into(), server.engine());
        server.sql("CREATE DATABASE d");
        server.sql("CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a");
        servers.push(server);
    }
    // Nodes need not be the same.
    servers[1].sql("CREATE TABLE d.slow (a UInt64) ENGINE = Log");
    world.start().await;

    // The second node's snapshot waits for this.
    let mut held = servers[1].insert_without_end("slow").await;
    let operation = world.start_backup().await;
    wait_async("the first node has its snapshot", async || {
        let tasks = world.operation(&operation.id).await.tasks;
        let done = |node: &str| {
            tasks
                .iter()
                .any(|it| it.node == node && it.name == "snapshot" && it.state() == TaskState::TaskDone)
        };
        assert!(!done("n2"), "it waits for rows that are not there yet");
        done("n1").then_some(())
    })
    .await;
    servers[0].sql("CREATE TABLE d.late (a UInt64) ENGINE = MergeTree ORDER BY a");
    held.write_all(b"1\n").unwrap();
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);
    assert_eq!(ended.backup.unwrap().snapshots_again, 1);
    let told = ended.log.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>().join("; ");
    assert!(told.contains("made again: n1: the schema changed: table d.late was made"), "{told}");

    // What it has is of the second time, and when that was is told.
    servers[0].stop().await;
    world.destroy_data("n1");
    servers[0].start().await;
    world.restore("n1", false).await;
    assert_eq!(servers[0].sql("SELECT count() FROM d.late"), "0");
    let shown = world.run(&["backup", "show", "latest"]).await.expect(0).json();
    assert!(shown["taken"].is_string() && shown["skew_ms"].as_u64().is_some(), "{shown}");
    for node in ["n1", "n2"] {
        assert_eq!(servers[usize::from(node == "n2")].frozen(), Vec::<String>::new());
        world.nothing_left_behind(node).await;
    }
    world.stop().await;
}

const QUEUE: &str = "/clickhouse/task_queue/ddl";

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_for_all_nodes_that_one_of_them_has_not_run_is_seen() {
    let mut cluster = Cluster::start(Version::Old, &[("n1", "s1"), ("n2", "s1")]).await;
    cluster.distributes_statements(QUEUE).await;
    let first = &cluster.servers["n1"];
    first.sql("CREATE DATABASE d ON CLUSTER `all`");
    first.sql("CREATE TABLE d.t ON CLUSTER `all` (a UInt64) ENGINE = MergeTree ORDER BY a");
    assert_eq!(cluster.servers["n2"].sql("SELECT count() FROM d.t"), "0");
    cluster.world.start().await;
    cluster.world.backup().await;

    // As it is before the second one comes to it.
    let below = |path: &str| format!("SELECT name FROM system.zookeeper WHERE path = '{path}' ORDER BY name");
    let statement = first.sql(below(QUEUE)).lines().last().unwrap().to_owned();
    let finished = format!("{QUEUE}/{statement}/finished");
    let port = cluster.servers["n2"].tcp_port().to_string();
    let nodes = first.sql(below(&finished));
    let second = nodes.lines().find(|node| node.ends_with(&port)).unwrap();
    let second = format!("{finished}/{second}");
    cluster.keeper.delete(&second);
    let operation = cluster.world.start_backup().await;
    let failure = cluster.world.ended(&operation.id).await.failure.unwrap();
    assert!(failure.message.contains(&format!("ON CLUSTER statement {statement}")), "{failure:?}");
    assert!(failure.message.contains("n2") || failure.node == "n2", "{failure:?}");
    cluster.keeper.create(&[(&second, "0")]);
    cluster.world.backup().await;
    cluster.world.stop().await;
}
