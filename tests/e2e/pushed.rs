//! WAL that a server hands over by `archive_command`: what is said to be stored is, and nothing else is taken for it.
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use palinurus_proto::v1::OperationState;
use palinurus_proto::v1::log_target::Target;
use palinurus_tests::World;
use palinurus_tests::archive::{
    backup, bring_back, end_of, handed, handing, logs, push, push_command, quiet, restore, timeline,
};
use palinurus_tests::load::{BALANCES, Load, fill, written};
use palinurus_tests::postgres::{Postgres, give};
use palinurus_tests::store::proxy::Fault;
use palinurus_tests::store::{Faults, Proxy, Server};
use palinurus_tests::world::wait;

const IDS: &str = "select string_agg(id::text, ' ' order by id) from t";

/// The file in which the server writes now, once it is stored.
async fn ended(world: &World, server: &Postgres) -> PathBuf {
    let file = written_now(server);
    handed(world, server).await;
    file
}

fn written_now(server: &Postgres) -> PathBuf {
    // At a segment's very beginning the one before it would be named.
    server.sql("insert into t values (0)");
    server.data.join("pg_wal").join(server.sql("select pg_walfile_name(pg_current_wal_lsn())"))
}

/// A copy with the same name, and what `change` makes of it.
fn copy(world: &World, file: &PathBuf, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let directory = world.path("copies");
    fs::create_dir_all(&directory).unwrap();
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    let copy = directory.join(file.file_name().unwrap());
    fs::write(&copy, bytes).unwrap();
    give(&copy);
    give(&directory);
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_over_leads_to_any_moment_in_it() {
    let (mut world, mut server) = handing(&["track_commit_timestamp=on"]).await;
    world.start().await;
    server.sql("create table t (id int primary key)");
    let first = handed(&world, &server).await;
    backup(&world).await;
    for id in 1..=6 {
        server.sql(&format!("insert into t values ({id})"));
    }
    let third =
        "select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint from t where id = 3";
    let third = server.sql(third).parse().unwrap();
    assert_eq!(handed(&world, &server).await, first);
    assert_eq!(server.sql("select count(*) from pg_replication_slots"), "0", "nothing is streamed");
    quiet(&world).await;
    restore(&world, &mut server, Target::TimeUs(third), &first).await;
    assert_eq!(server.sql(IDS), "1 2 3");
    server.sql("insert into t values (100)");
    let second = handed(&world, &server).await;
    assert_ne!(second, first, "it is another history");

    restore(&world, &mut server, Target::Latest(true), &first).await;
    assert_eq!(server.sql(IDS), "1 2 3 4 5 6");
    handed(&world, &server).await;
    restore(&world, &mut server, Target::Latest(true), &second).await;
    assert_eq!(server.sql(IDS), "1 2 3 100");
    handed(&world, &server).await;
    let logs = logs(&world).await;
    let mut timelines: Vec<u32> =
        logs.lineages.iter().map(|view| timeline(&view.lineage.as_ref().unwrap().identity)).collect();
    timelines.sort_unstable();
    assert_eq!(timelines, [1, 2, 3, 4]);
    assert!(logs.lineages.iter().all(|view| view.stretches.len() == 1), "{logs:?}");
    quiet(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_again_is_stored_and_another_one_refused() {
    let (mut world, server) = handing(&[]).await;
    world.start().await;
    server.sql("create table t (id int)");
    handed(&world, &server).await;
    let file = ended(&world, &server).await;
    let whole = copy(&world, &file, |_| ());
    let is_refused = |file: &PathBuf, why: &str| {
        let (code, said) = push(&world, file);
        assert!(code == Some(1) && said.contains(why), "{code:?}: {said}");
    };
    assert_eq!(push(&world, &file).0, Some(0));
    assert_eq!(push(&world, &whole).0, Some(0));
    is_refused(&copy(&world, &file, |bytes| bytes[5000] ^= 1), "is another file than is stored");
    is_refused(&copy(&world, &file, |bytes| bytes[24] ^= 1), "this agent's server is cluster");
    is_refused(&copy(&world, &file, |bytes| bytes.truncate(1 << 20)), "bytes");

    is_refused(&written_now(&server), "has not handed");
    is_refused(&world.path("n1.toml"), "not a file that PostgreSQL archives");

    let elsewhere = world.path("elsewhere/data");
    fs::create_dir_all(&elsewhere).unwrap();
    let mut foreign = Postgres::create(&elsewhere);
    foreign.start(&[]).await;
    let name = foreign.sql("select pg_walfile_name(pg_current_wal_lsn())");
    is_refused(&elsewhere.join("pg_wal").join(name), "is of cluster");
    foreign.stop().await;

    // Another process knows nothing of what this one read: it compares with what is stored.
    ended(&world, &server).await;
    ended(&world, &server).await;
    quiet(&world).await;
    world.stop_agent("n1").await;
    let (code, said) = push(&world, &file);
    assert!(code == Some(1) && said.contains("no agent answers"), "{code:?}: {said}");
    world.start_agent("n1");
    world.joined().await;
    ended(&world, &server).await;
    assert_eq!(push(&world, &copy(&world, &file, |_| ())).0, Some(0));
    let (code, said) = push(&world, &copy(&world, &file, |bytes| bytes[5000] ^= 1));
    assert!(code == Some(1) && said.contains("is another file"), "{said}");
    quiet(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_while_files_are_handed_over_loses_none() {
    let (mut world, mut server) = handing(&["max_wal_size=64MB", "min_wal_size=32MB"]).await;
    fill(&server);
    world.start().await;
    let lineage = handed(&world, &server).await;
    backup(&world).await;
    let load = Load::start(&server, &world.path("."));
    for _ in 0..4 {
        written(&server, 100).await;
        server.sql("select pg_switch_wal()");
        world.kill_agent("n1");
        written(&server, 50).await;
        server.sql("select pg_switch_wal()");
        world.start_agent("n1");
        world.joined().await;
    }
    load.stop(&server).await;
    let count = server.sql("select count(*) from pgbench_history");
    assert_eq!(handed(&world, &server).await, lineage);
    end_of(&world, &lineage).await;
    let logs = logs(&world).await;
    assert!(logs.writer.unwrap().gaps.is_empty());
    quiet(&world).await;
    server.kill().await;
    fs::remove_dir_all(world.move_data("n1")).unwrap();
    bring_back(&world, &mut server, Target::Latest(true), &lineage).await;
    assert_eq!(server.sql("select count(*) from pgbench_history"), count);
    assert_eq!(server.sql(BALANCES), "t");
    quiet(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_needs_no_right_to_replicate() {
    let (mut world, mut server) = handing(&["max_wal_senders=0", "max_replication_slots=0"]).await;
    world.engine.push_str("user = \"backup\"\n");
    server.sql("create role backup login");
    server.sql("grant execute on function pg_backup_start, pg_backup_stop to backup");
    server.sql("create table t (id int)");
    world.start().await;
    let lineage = handed(&world, &server).await;
    quiet(&world).await;
    let operation = world.start_backup().await;
    while world.operation(&operation.id).await.state() == OperationState::Running {
        server.sql("insert into t values (1)");
        server.sql("select pg_switch_wal()");
        server.sql("checkpoint");
    }
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);
    server.sql("insert into t values (2)");
    assert_eq!(handed(&world, &server).await, lineage);
    let count = server.sql("select count(*) from t");
    restore(&world, &mut server, Target::Latest(true), &lineage).await;
    assert_eq!(server.sql("select count(*) from t"), count);
    handed(&world, &server).await;
    restore(&world, &mut server, Target::Immediate(true), &lineage).await;
    assert_eq!(server.sql("select count(*) from t where id = 2"), "0");
    quiet(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_keeps_no_server_from_its_end_and_loses_nothing() {
    let store = Server::moto().await;
    let proxy = Proxy::before(store.address, Faults::none()).await;
    let (mut world, mut server) = handing(&[]).await;
    world.keep_repository_at(store.url_through(proxy.address, "log"));
    world.start().await;
    server.sql("create table t (id int)");
    let lineage = handed(&world, &server).await;
    backup(&world).await;
    quiet(&world).await;
    proxy.set(Faults { seed: 0, percent: 100, kinds: vec![Fault::Busy] });
    server.sql("insert into t values (1)");
    server.sql("select pg_switch_wal()");
    wait("the server hears of it", || {
        (server.sql("select failed_count > 0 from pg_stat_archiver") == "t").then_some(())
    })
    .await;
    let began = tokio::time::Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(60), "pg_ctl would have given up: {:?}", began.elapsed());
    proxy.set(Faults::none());
    server.start(&[]).await;
    assert_eq!(handed(&world, &server).await, lineage);
    end_of(&world, &lineage).await;
    assert!(logs(&world).await.writer.unwrap().gaps.is_empty());
    all_is_taken(&server).await;
    quiet(&world).await;
    world.stop().await;
}

async fn all_is_taken(server: &Postgres) {
    let waits = "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'";
    wait("the server has nothing left to hand over", || {
        server.sql("select pg_reload_conf()");
        (server.sql(waits) == "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_hands_over_what_the_old_primary_had_not() {
    let mut world = World::new(&["n1", "n2"]);
    world.kind = "postgresql".into();
    world.engine = "host = \"{node}/socket\"\narchive = \"push\"\n".into();
    let [own, others] = ["n1", "n2"].map(|node| format!("archive_command={}", push_command(&world, node)));
    let settings = |command| ["archive_mode=on", "wal_keep_size=128MB", command];
    let mut first = Postgres::create(&world.data("n1"));
    first.start(&settings(&own)).await;
    first.sql("create table t (id int primary key)");
    let mut second = first.standby(&world.data("n2"));
    second.start(&settings(&others)).await;
    world.start().await;
    let parent = handed(&world, &first).await;
    backup(&world).await;
    quiet(&world).await;
    world.kill_agent("n1");
    for id in 1..=3 {
        first.sql(&format!("insert into t values ({id})"));
        first.sql("select pg_switch_wal()");
    }
    let end = first.sql("select pg_current_wal_flush_lsn()");
    wait("the standby has all", || {
        (second.sql(&format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t").then_some(())
    })
    .await;
    first.stop().await;
    second.sql("select pg_promote()");
    second.sql("insert into t values (4)");
    let child = handed(&world, &second).await;
    assert_ne!(child, parent);
    let told = logs(&world).await;
    assert!(told.lineages.iter().all(|view| view.stretches.len() == 1), "{told:?}");
    assert!(told.writer.unwrap().gaps.is_empty());
    // The history, what was left in its middle, and the first of the new one.
    all_is_taken(&second).await;
    quiet(&world).await;
    second.stop().await;
    fs::remove_dir_all(world.move_data("n1")).unwrap();
    world.start_agent("n1");
    world.joined().await;
    bring_back(&world, &mut first, Target::Latest(true), &child).await;
    assert_eq!(first.sql(IDS), "1 2 3 4");
    world.stop().await;
}
