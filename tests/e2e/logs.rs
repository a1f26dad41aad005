//! A PostgreSQL server's WAL, stored as it is written, and restores that stop at any moment in it.
use std::fs;
use std::time::Duration;

use palinurus_proto::v1::log_target::Target;
use palinurus_tests::World;
use palinurus_tests::archive::{
    backup, bring_back, logs, quiet, restore, restore_as, stored, timeline, world,
};
use palinurus_tests::commits::lsn;
use palinurus_tests::postgres::{Postgres, as_user, bin, give, pair, succeeded};
use palinurus_tests::store::proxy::Fault;
use palinurus_tests::store::{Faults, Proxy, Server};
use palinurus_tests::world::{wait, wait_async};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_server_stops_although_the_store_is_away() {
    let store = Server::moto().await;
    let proxy = Proxy::before(store.address, Faults::none()).await;
    let mut world = World::new(&["n1"]);
    world.kind = "postgresql".into();
    world.keep_repository_at(store.url_through(proxy.address, "log"));
    let mut server = Postgres::create(&world.data("n1"));
    server.start(&[]).await;
    world.engine = format!("host = {:?}\narchive = true\n", server.socket);
    world.start().await;
    server.sql("create table t (id int, filler text)");
    let lineage = stored(&world, &server).await;
    backup(&world).await;
    quiet(&world).await;
    // What waits to be stored is little, and more than an agent holds at once.
    for rows in [1, 30_000] {
        proxy.set(Faults { seed: 0, percent: 100, kinds: vec![Fault::Busy] });
        server.sql(&format!(
            "insert into t select g, repeat(md5(g::text), 30) from generate_series(1, {rows}) g"
        ));
        let began = tokio::time::Instant::now();
        server.stop().await;
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "pg_ctl would have given up: {:?}",
            began.elapsed()
        );
        proxy.set(Faults::none());
        server.start(&[]).await;
        assert_eq!(stored(&world, &server).await, lineage);
    }
    let logs = logs(&world).await;
    assert_eq!((logs.lineages.len(), logs.lineages[0].stretches.len()), (1, 1), "{logs:?}");
    assert!(logs.writer.unwrap().gaps.is_empty());
    quiet(&world).await;
    world.stop().await;
}

/// Makes a server that is down follow another one.
fn follow(standby: &Postgres, primary: &Postgres) {
    let signal = standby.data.join("standby.signal");
    fs::write(&signal, "").unwrap();
    give(&signal);
    let auto = standby.data.join("postgresql.auto.conf");
    let line = format!("primary_conninfo = 'host={} user=postgres'\n", primary.socket.display());
    fs::write(&auto, fs::read_to_string(&auto).unwrap() + &line).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_takes_the_log_over_without_a_gap() {
    let settings = ["track_commit_timestamp=on", "wal_keep_size=128MB"];
    let (mut world, mut first, mut second) = pair("archive = true\n", &settings, |first| {
        first.sql("create table t (id int primary key)");
    })
    .await;
    world.start().await;
    let parent = stored(&world, &first).await;
    backup(&world).await;
    let mut places: Vec<_> = (1..=3).map(|id| insert(&first, id)).collect();
    stored(&world, &first).await;

    // What follows reaches the standby, and no archive; then the standby alone goes on.
    world.kill_agent("n1");
    places.extend((4..=6).map(|id| insert(&first, id)));
    first.sql("select pg_switch_wal()");
    let slot = first.sql("select slot_name from pg_replication_slots where slot_name like 'palinurus_s_%'");
    let end = first.sql("select pg_current_wal_flush_lsn()");
    wait("the standby has all", || {
        (second.sql(&format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t").then_some(())
    })
    .await;
    first.stop().await;
    second.sql("select pg_promote()");
    places.extend((7..=9).map(|id| insert(&second, id)));
    let child = stored(&world, &second).await;
    assert_ne!(child, parent);
    let told = logs(&world).await;
    assert!(told.lineages.iter().all(|view| view.stretches.len() == 1), "{told:?}");
    assert!(told.writer.unwrap().gaps.is_empty());

    // The old primary comes back with what only it has written, is rewound, and follows.
    first.start(&settings).await;
    first.sql("create table lost as select 1");
    first.stop().await;
    let source = format!("host={} user=postgres dbname=postgres", second.socket.display());
    succeeded(
        as_user(&bin().join("pg_rewind"))
            .arg("-D")
            .arg(&first.data)
            .args(["--source-server", &source])
            .output()
            .unwrap(),
    );
    follow(&first, &second);
    first.start(&settings).await;
    // As one that needs no rewinding has it still.
    first.sql(&format!("select pg_create_physical_replication_slot('{slot}', true)"));
    world.start_agent("n1");
    world.joined().await;
    let slots = "select count(*) from pg_replication_slots where slot_name like 'palinurus_s_%'";
    wait("its slot is dropped", || (first.sql(slots) == "0").then_some(())).await;
    places.extend((10..=10).map(|id| insert(&second, id)));
    assert_eq!(stored(&world, &second).await, child);

    // Both sides of the promotion; the part that only the standby could give is there.
    quiet(&world).await;
    second.stop().await;
    for to in [5, 8, 6] {
        restore(&world, &mut first, Target::Position(places[to - 1].0), &child).await;
        assert_eq!(first.sql(IDS), ids(to as u32));
        stored(&world, &first).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standbys_backup_leads_along_its_primarys_log() {
    let settings = ["track_commit_timestamp=on"];
    let (mut world, mut first, mut second) =
        pair("archive = true\nfrom = \"prefer-standby\"\n", &settings, |first| {
            first.sql("create table t (id int primary key)");
        })
        .await;
    world.start().await;
    let lineage = stored(&world, &first).await;
    backup(&world).await;
    quiet(&world).await;
    assert!(world.backups().await.iter().all(|backup| backup.nodes[0].node == "n2"));
    let places: Vec<_> = (1..=6).map(|id| insert(&first, id)).collect();
    stored(&world, &first).await;
    second.stop().await;
    for to in [3, 5] {
        restore_as(&world, &mut first, "n1=n2", Target::Position(places[to - 1].0), &lineage).await;
        assert_eq!(first.sql(IDS), ids(to as u32));
        stored(&world, &first).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_in_the_last_record_is_the_end_of_the_log() {
    let (mut world, mut server) = world(&["track_commit_timestamp=on"]).await;
    server.sql("create table t (id int primary key)");
    let lineage = stored(&world, &server).await;
    backup(&world).await;
    for id in 1..=3 {
        insert(&server, id);
    }
    quiet(&world).await;
    // The checkpoint of its shutdown is the last record, and it waits until that is stored.
    server.stop().await;
    let end = logs(&world).await.lineages[0].stretches[0].to;
    fs::remove_dir_all(world.move_data("n1")).unwrap();
    bring_back(&world, &mut server, Target::Position(end - 8), &lineage).await;
    assert_eq!(server.sql(IDS), ids(3));
    stored(&world, &server).await;
    quiet(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_that_is_younger_than_its_backup_wants_its_directory() {
    let (mut world, mut server) = world(&["track_commit_timestamp=on"]).await;
    stored(&world, &server).await;
    backup(&world).await;
    let late = world.path("late");
    let made = || {
        fs::create_dir(&late).unwrap();
        give(&late);
    };
    made();
    server.sql(&format!("create tablespace late location '{}'", late.display()));
    server.sql("create table t (id int primary key) tablespace late");
    insert(&server, 1);
    stored(&world, &server).await;
    quiet(&world).await;
    server.stop().await;
    fs::remove_dir_all(world.move_data("n1")).unwrap();
    fs::remove_dir_all(&late).unwrap();
    world.seen_empty("n1").await;
    world.run(&["restore", "apply", "--yes", "--to", "latest"]).await.expect(0);
    let said = server.start_in_vain().await;
    let told = format!("directory \"{}\" does not exist", late.display());
    assert!(said.contains(&told) && said.contains("Create this directory"), "{said}");
    made();
    server.start(&[]).await;
    wait("the server is promoted", || {
        (server.try_sql("select pg_is_in_recovery()").ok()? == "f").then_some(())
    })
    .await;
    assert_eq!(server.sql(IDS), ids(1));
    stored(&world, &server).await;
    quiet(&world).await;
    world.stop().await;
}
