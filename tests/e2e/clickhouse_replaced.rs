//! Replicas of one shard whose backups are not the same, and one that is replaced while the other is written.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use palinurus_proto::v1::{self, OperationState, TaskState};
use palinurus_tests::clickhouse::{ClickHouse, Cluster, Version};
use palinurus_tests::world::{SERVICE, wait, wait_async};

const NODES: [(&str, &str); 2] = [("n1", "s"), ("n2", "s")];

fn table(name: &str) -> String {
    format!(
        "CREATE TABLE d.{name} (a UInt64, s String) \
         ENGINE = ReplicatedMergeTree('/clickhouse/tables/{{shard}}/{name}', '{{replica}}') PARTITION BY a % 4 ORDER BY a"
    )
}

fn insert(server: &ClickHouse, table: &str, rows: u64) {
    server.sql(format!(
        "INSERT INTO d.{table} SELECT rand64(), reinterpretAsString(rand64(1)) FROM numbers({rows})"
    ));
}

/// What a server has of a table.
fn hash(server: &ClickHouse, table: &str) -> String {
    server.sql(format!("SELECT count(), sum(cityHash64(a, s)) FROM d.{table}"))
}

/// The replicas' rows are of different moments: of one table the first has none yet, of another the second has none any more.
/// Whoever comes first when they are restored is one of two, and for each of them there is a table that it has no rows of.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_had_no_rows_of_comes_from_the_other() {
    let mut cluster = Cluster::start(Version::Old, &NODES).await;
    cluster.each("CREATE DATABASE d");
    for name in ["gone", "grown", "never", "waits"] {
        cluster.each(&table(name));
    }
    insert(&cluster.servers["n1"], "gone", 1000);
    cluster.each("SYSTEM SYNC REPLICA d.gone");
    let gone = hash(&cluster.servers["n1"], "gone");
    cluster.world.start().await;

    // The second one's snapshot begins with waiting for this.
    cluster.servers["n2"].sql("SYSTEM STOP FETCHES d.waits");
    insert(&cluster.servers["n1"], "waits", 10);
    let operation = cluster.world.start_backup().await;
    wait_async("the first replica has its snapshot", async || {
        let tasks = cluster.world.operation(&operation.id).await.tasks;
        let done = |node: &str| {
            tasks
                .iter()
                .any(|it| it.node == node && it.name == "snapshot" && it.state() == TaskState::TaskDone)
        };
        assert!(!done("n2"), "it waits for rows that it does not fetch");
        done("n1").then_some(())
    })
    .await;
    insert(&cluster.servers["n1"], "grown", 1000);
    for partition in 0..4 {
        cluster.servers["n1"].sql(format!("ALTER TABLE d.gone DROP PARTITION {partition}"));
    }
    for name in ["gone", "grown"] {
        cluster.servers["n2"].sql(format!("SYSTEM SYNC REPLICA d.{name}"));
    }
    let grown = hash(&cluster.servers["n2"], "grown");
    assert_eq!(cluster.servers["n2"].sql("SELECT count() FROM d.gone"), "0");
    cluster.servers["n2"].sql("SYSTEM START FETCHES d.waits");
    let ended = cluster.world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);

    cluster.renew().await;
    for (node, _) in NODES {
        cluster.world.seen_empty(node).await;
    }
    cluster.world.run(&["restore", "apply", "--yes"]).await.expect(0);
    for server in cluster.servers.values() {
        assert_eq!(hash(server, "gone"), gone, "as the first replica had it");
        assert_eq!(hash(server, "grown"), grown, "as the second replica had it");
        assert_eq!(server.sql("SELECT count() FROM d.never"), "0");
        assert_eq!(server.sql("SELECT count() FROM d.waits"), "10");
    }
    cluster.world.stop().await;
}

const BATCHES: u64 = 8;

/// The second node's machine is gone, and another one is in its place: it has taken it up again when this returns.
async fn replace(cluster: &mut Cluster) -> (v1::Operation, u64) {
    cluster.servers.get_mut("n2").unwrap().stop().await;
    cluster.world.kill_agent("n2");
    cluster.world.destroy_data("n2");
    std::fs::remove_dir_all(cluster.world.agent_state("n2")).unwrap();

    // Rows come in all the time.
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (busy, counted) = (Arc::clone(&stop), Arc::clone(&written));
    let first = cluster.servers.remove("n1").unwrap();
    let writes = std::thread::spawn(move || {
        while !busy.load(Ordering::Relaxed) {
            insert(&first, "r", 10);
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        first
    });
    wait("rows come in", || (written.load(Ordering::Relaxed) > 2).then_some(())).await;
    cluster.servers.get_mut("n2").unwrap().start().await;
    cluster.world.start_agent("n2");
    cluster.world.seen_empty("n2").await;
    cluster.world.run(&["failover", "apply", SERVICE, "n2", "--yes"]).await.expect(0);
    let begun = cluster.world.failovers().await.into_iter().max_by_key(|it| it.created_ms).unwrap();
    stop.store(true, Ordering::Relaxed);
    cluster.servers.insert("n1", writes.join().unwrap());
    let ended = cluster.world.ended(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);

    cluster.servers["n2"].sql("SYSTEM SYNC REPLICA d.r");
    assert_eq!(hash(&cluster.servers["n1"], "r"), hash(&cluster.servers["n2"], "r"));
    assert_eq!(cluster.servers["n2"].sql("SELECT count(), sum(a) FROM d.own"), "100\t4950");
    let fetches = "SELECT sum(value) FROM system.events WHERE event = 'ReplicatedPartFetches'";
    (ended, cluster.servers["n2"].sql(fetches).parse().unwrap())
}

fn told(operation: &v1::Operation) -> String {
    operation.log.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_replica_is_rebuilt_from_the_backup_or_from_its_peer() {
    let mut cluster = Cluster::start(Version::Old, &NODES).await;
    cluster.each("CREATE DATABASE d");
    // Parts keep their names: nothing is small enough to be merged.
    let unmerged =
        "SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1";
    cluster.each(&format!("{} {unmerged}", table("r")));
    cluster.servers["n2"].sql("CREATE TABLE d.own (a UInt64) ENGINE = MergeTree ORDER BY a");
    cluster.servers["n2"].sql("INSERT INTO d.own SELECT number FROM numbers(100)");
    for _ in 0..BATCHES {
        insert(&cluster.servers["n1"], "r", 10_000);
    }
    cluster.servers["n2"].sql("SYSTEM SYNC REPLICA d.r");
    cluster.world.start().await;
    cluster.world.backup().await;
    let parts = |cluster: &Cluster| -> u64 {
        cluster.servers["n1"]
            .sql("SELECT count() FROM system.parts WHERE active AND table = 'r'")
            .parse()
            .unwrap()
    };
    let old = parts(&cluster);
    assert_eq!(old, BATCHES * 4);

    let (ended, fetched) = replace(&mut cluster).await;
    let new = parts(&cluster) - old;
    println!("from the backup: {fetched} parts fetched from the other replica, of {old} and {new} new ones");
    assert!(told(&ended).contains("failover_from is backup"), "{}", told(&ended));
    assert!(fetched <= new, "{fetched} fetched, and {new} are new");

    cluster.world.service.insert("failover_from".into(), "replica".into());
    cluster.world.apply_service().await;
    let (ended, fetched) = replace(&mut cluster).await;
    println!("from the other replica: {fetched} parts");
    assert!(
        told(&ended).contains("failover_from is replica, and n1 of shard s is there"),
        "{}",
        told(&ended)
    );
    assert!(fetched >= old, "{fetched} fetched of {old}");
    // The other way is open as well.
    insert(&cluster.servers["n2"], "r", 10);
    cluster.servers["n1"].sql("SYSTEM SYNC REPLICA d.r");
    assert_eq!(hash(&cluster.servers["n1"], "r"), hash(&cluster.servers["n2"], "r"));
    cluster.world.stop().await;
}
