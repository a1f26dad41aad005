//! A PostgreSQL server is lost with its machine, and rebuilt without anybody asking: from the backup and the log behind it where
//! nobody else has the data, as a standby where somebody is the primary.
use std::fs;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use palinurus_proto::v1::log_target::Target;
use palinurus_proto::v1::{self, OperationState};
use palinurus_tests::World;
use palinurus_tests::archive::{backup, bring_back, end_of, logs, quiet, stored, timeline};
use palinurus_tests::commits::lsn;
use palinurus_tests::postgres::Postgres;
use palinurus_tests::world::{SERVICE, wait, wait_async};

/// Ends with the test, by whomever it was started.
struct Server(Postgres);

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.0.socket.join("started.log")).unwrap_or_default();
            eprintln!("-- the server that the agent has started:\n{log}");
        }
        self.0.end_started();
    }
}

impl Deref for Server {
    type Target = Postgres;
    fn deref(&self) -> &Postgres {
        &self.0
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Postgres {
        &mut self.0
    }
}

/// Whose agents start their servers, and know where a primary may be.
fn world(nodes: &[&str]) -> World {
    let mut world = World::new(nodes);
    world.kind = "postgresql".into();
    world.service.insert("failover".into(), "automatic".into());
    let sockets: Vec<String> =
        nodes.iter().map(|node| world.path(node).join("socket").display().to_string()).collect();
    world.engine = format!(
        "host = \"{{node}}/socket\"\narchive = true\nstart = {:?}\n\
         primary_conninfo = \"host={} user=postgres target_session_attrs=read-write\"\n",
        Postgres::start_command("{node}/data", "{node}/socket"),
        sockets.join(","),
    );
    world
}

/// With what a plan stands for, but backups that begin by themselves.
fn planned(nodes: &[&str], plan: &str) -> World {
    let mut world = world(nodes);
    world.plan = plan.into();
    world.service.insert("schedule".into(), "off".into());
    world
}

/// A primary with a table, and its standby; their agents run.
async fn servers(world: &mut World) -> (Server, Server) {
    let mut one = Server(Postgres::create(&world.data("n1")));
    one.start(&[]).await;
    one.sql("create table t (id int primary key)");
    let mut two = Server(one.standby(&world.data("n2")));
    two.start(&[]).await;
    world.start().await;
    (one, two)
}

fn ids(server: &Postgres) -> String {
    server.sql("select string_agg(id::text, ' ' order by id) from t")
}

/// Its machine: another one takes its name.
async fn lose(world: &mut World, node: &str, server: &mut Postgres) {
    die(world, node, server).await;
    replace(world, node);
}

async fn die(world: &mut World, node: &str, server: &mut Postgres) {
    world.kill_agent(node);
    server.kill().await;
}

fn replace(world: &mut World, node: &str) {
    fs::remove_dir_all(world.move_data(node)).unwrap();
    fs::remove_dir_all(world.agent_state(node)).unwrap();
    world.start_agent(node);
}

async fn failed_over(world: &World, count: usize) -> v1::Operation {
    let begun = wait_async("a failover begins", async || {
        let all = world.failovers().await;
        (all.len() >= count).then(|| all.into_iter().max_by_key(|one| one.created_ms))?
    })
    .await;
    let ended = world.ended(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    ended
}

fn text(operation: &v1::Operation) -> String {
    operation.log.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_server_comes_back_up_to_the_last_moment_that_was_stored() {
    let mut world = world(&["n1"]);
    let mut server = Server(Postgres::create(&world.data("n1")));
    server.start(&[]).await;
    world.start().await;
    server.sql("create table t (id int primary key, at text)");
    let first = stored(&world, &server).await;
    backup(&world).await;
    let (backups, taken) = (world.backups().await.len(), world.backups().await[0].started_ms);

    // It is lost in the middle of writes.
    let stop = Arc::new(AtomicBool::new(false));
    let writes = tokio::task::spawn_blocking({
        let (stop, mut psql) = (Arc::clone(&stop), server.psql());
        move || {
            let mut written = Vec::new();
            for id in 1..100_000 {
                let sql = format!("insert into t values ({id}, 'x') returning pg_current_wal_insert_lsn()");
                let output =
                    psql.args(["-c", &sql, "-c", "select pg_current_wal_insert_lsn()"]).output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let Some(at) = text.lines().nth(1).filter(|_| output.status.success()) else { break };
                written.push((id, lsn(at)));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                psql = server_psql(&psql);
            }
            written
        }
    });
    wait("much is written", || {
        (server.sql("select count(*) from t").parse::<u32>().unwrap() > 30).then_some(())
    })
    .await;
    let much = lsn(&server.sql("select pg_current_wal_insert_lsn()"));
    wait_async("a part of it is stored", async || (end_of(&world, &first).await >= much).then_some(())).await;
    die(&mut world, "n1", &mut server).await;
    stop.store(true, Ordering::Relaxed);
    let written = writes.await.unwrap();
    replace(&mut world, "n1");
    let ended = failed_over(&world, 1).await;
    let detail = ended.failover.as_ref().unwrap();
    let end = detail.logs.as_ref().unwrap().end;
    let told = text(&ended);
    for part in ["no other node has the service's data", "leads to", "answers at"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(detail.automatic && detail.follows.is_empty() && detail.rto_ms > 0);
    assert!(
        detail.gone_ms - detail.data_age_ms > taken,
        "the log's end is newer than the backup: {detail:?}"
    );

    assert_eq!(server.sql("select pg_is_in_recovery()"), "f");
    let there: Vec<u32> =
        server.sql("select id from t order by id").lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(
        there,
        (1..=there.len() as u32).collect::<Vec<_>>(),
        "a part of the writes, from the first on"
    );
    let stored_until = written.iter().filter(|(_, at)| *at <= end).map(|(id, _)| *id).max().unwrap();
    assert!(there.len() as u32 >= stored_until, "{} of {stored_until} that were stored", there.len());
    server.sql("insert into t values (1000000, 'after')");

    // Another history, and a full backup that leads along it.
    let second = stored(&world, &server).await;
    assert_ne!(first, second);
    wait_async("a new full backup", async || (world.backups().await.len() > backups).then_some(())).await;
    quiet(&world).await;
    let logs = logs(&world).await;
    let lineage =
        logs.lineages.iter().filter_map(|view| view.lineage.as_ref()).find(|it| it.id == second).unwrap();
    assert_eq!((timeline(&lineage.identity), lineage.parent.to_vec()), (2, first));
    let last = world.backups().await.pop().unwrap().id;
    assert!(
        logs.windows.iter().any(|window| window.backup_id == last && window.chain[0] == second),
        "{logs:?}"
    );
    world.nothing_left_behind("n1").await;
    world.stop().await;
}

fn server_psql(like: &std::process::Command) -> std::process::Command {
    let mut again = std::process::Command::new(like.get_program());
    let kept = like.get_args().collect::<Vec<_>>();
    again.args(&kept[..kept.len() - 4]);
    again
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_standby_streams_again_and_a_lost_primary_waits_for_its_standby() {
    let mut world = planned(&["n1", "n2"], "business-8");
    let (mut one, mut two) = servers(&mut world).await;
    stored(&world, &one).await;
    backup(&world).await;
    one.sql("insert into t values (1)");

    lose(&mut world, "n2", &mut two).await;
    let ended = failed_over(&world, 1).await;
    let told = text(&ended);
    assert_eq!(ended.failover.as_ref().unwrap().follows, "n1", "{told}");
    assert!(told.contains("n1 is the primary") && told.contains("it follows n1"), "{told}");
    one.sql("insert into t values (2)");
    wait("it follows", || (ids(&two) == "1 2").then_some(())).await;
    assert_eq!(two.sql("select pg_is_in_recovery()"), "t");
    let state = "select state from pg_stat_replication where application_name = 'walreceiver'";
    wait("it streams", || (one.sql(state) == "streaming").then_some(())).await;

    // Now the primary: what the standby has is newer than any backup.
    quiet(&world).await;
    lose(&mut world, "n1", &mut one).await;
    wait_async("it is said what it waits for", async || {
        let request =
            v1::FailoverRequest { service: SERVICE.into(), node: "n1".into(), ..Default::default() };
        let plan = world.client().await.plan_failover(request).await.ok()?.into_inner();
        plan.automatic.contains("n2 has the service's data").then_some(())
    })
    .await;
    assert_eq!(world.failovers().await.len(), 1);
    two.sql("select pg_promote()");
    two.sql("insert into t values (3)");
    let ended = failed_over(&world, 2).await;
    assert_eq!(ended.failover.as_ref().unwrap().follows, "n2", "{}", text(&ended));
    wait("the old primary's place follows the new one", || (ids(&one) == "1 2 3").then_some(())).await;
    assert_eq!(one.sql("select pg_is_in_recovery()"), "t");
    quiet(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_startup_plan_a_lost_primary_comes_from_the_backup_and_the_log_whatever_its_standby_has() {
    let mut world = planned(&["n1", "n2"], "startup-4");
    let (mut one, _two) = servers(&mut world).await;
    let first = stored(&world, &one).await;
    backup(&world).await;
    one.sql("insert into t values (1)");
    let all = lsn(&one.sql("select pg_current_wal_insert_lsn()"));
    wait_async("all of it is stored", async || (end_of(&world, &first).await >= all).then_some(())).await;
    world.seen_primary("n1").await;
    lose(&mut world, "n1", &mut one).await;
    let ended = failed_over(&world, 1).await;
    let told = text(&ended);
    assert!(ended.failover.as_ref().unwrap().follows.is_empty(), "{told}");
    assert!(told.contains("failover_from is backup") && told.contains("though n2 has data"), "{told}");
    assert_eq!((ids(&one).as_str(), one.sql("select pg_is_in_recovery()").as_str()), ("1", "f"));
    world.stop().await;
}

/// Nothing is left but the backups: the primary is restored to a moment by hand, and each replica made of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_comes_back_at_a_moment_with_its_replica() {
    let mut world = world(&["n1", "n2"]);
    world.service.insert("failover".into(), "manual".into());
    let (mut one, mut two) = servers(&mut world).await;
    let lineage = stored(&world, &one).await;
    backup(&world).await;
    one.sql("insert into t values (1)");
    let moment = lsn(&one.sql("select pg_current_wal_insert_lsn()"));
    one.sql("insert into t values (2)");
    stored(&world, &one).await;
    quiet(&world).await;
    lose(&mut world, "n1", &mut one).await;
    lose(&mut world, "n2", &mut two).await;

    bring_back(&world, &mut one, Target::Position(moment), &lineage).await;
    assert_eq!(ids(&one), "1");
    assert_ne!(stored(&world, &one).await, lineage);
    quiet(&world).await;
    world.seen_primary("n1").await;
    world.run(&["failover", "apply", SERVICE, "n2", "--yes"]).await.expect(0);
    assert_eq!(failed_over(&world, 1).await.failover.unwrap().follows, "n1");
    one.sql("insert into t values (3)");
    wait("the replica follows", || (ids(&two) == "1 3").then_some(())).await;
    assert_eq!(two.sql("select pg_is_in_recovery()"), "t");
    world.stop().await;
}
