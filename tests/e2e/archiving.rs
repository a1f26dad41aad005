//! Storing a server's log when something is in the way: the server goes on, what is wrong is said, and once it is mended
//! nothing is missing, or the gap is told.
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use palinurus_proto::v1::{OperationState, log_target::Target};
use palinurus_tests::World;
use palinurus_tests::archive::{
    self, backup, bring_back, end_of, held_in_upload, logs, quiet, stored, trouble, world,
};
use palinurus_tests::commits::present;
use palinurus_tests::load::{BALANCES, Load, ROWS, fill, written};
use palinurus_tests::postgres::{Postgres, as_user, bin};
use palinurus_tests::process::Process;
use palinurus_tests::tmpfs::Tmpfs;
use palinurus_tests::world::{wait, wait_async};

/// The agent's.
const SLOT: &str = "select slot_name from pg_replication_slots where slot_name like 'palinurus_s_%'";

/// No room is left beside that file.
fn fill_up(ballast: &Path) {
    let mut file = File::create(ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_stops_the_archive_and_not_the_server() {
    let (mut world, mut server) = archive::prepared(&[]).await;
    let small = world.path("small");
    let Some(_tmpfs) = Tmpfs::mount(&small, 96) else { return };
    world.keep_repository_in(&small);
    fill(&server);
    world.start().await;
    let lineage = stored(&world, &server).await;
    backup(&world).await;
    let load = Load::start(&server, &world.path("."));
    written(&server, 100).await;
    let ballast = small.join("ballast");
    fill_up(&ballast);
    let failure = trouble(&world).await;
    assert!(failure.hint.contains("free space"), "{failure:?}");
    written(&server, 500).await;
    wait_async("it is said how far it is behind", async || {
        (logs(&world).await.writer?.lag_bytes > 0).then_some(())
    })
    .await;
    fs::remove_file(&ballast).unwrap();
    written(&server, 100).await;
    load.stop(&server).await;
    let rows = present(&server, ROWS);
    assert_eq!(stored(&world, &server).await, lineage);
    let after = wait_async("nothing is wrong any more", async || {
        logs(&world)
            .await
            .writer
            .filter(|writer| writer.status.as_ref().is_some_and(|it| it.failure.is_none()))
    })
    .await;
    assert!(after.gaps.is_empty(), "{after:?}");
    end_of(&world, &lineage).await;

    quiet(&world).await;
    server.kill().await;
    fs::remove_dir_all(world.move_data("n1")).unwrap();
    bring_back(&world, &mut server, Target::Latest(true), &lineage).await;
    assert_eq!(present(&server, ROWS), rows);
    assert_eq!(server.sql(BALANCES), "t");
    quiet(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_another_reads_from_is_told_and_waited_for() {
    let (mut world, server) = world(&[]).await;
    let lineage = stored(&world, &server).await;
    quiet(&world).await;
    world.kill_agent("n1");
    let slot = server.sql(SLOT);
    wait("the slot is free", || {
        (server.sql(&format!("select active from pg_replication_slots where slot_name = '{slot}'")) == "f")
            .then_some(())
    })
    .await;
    let taken = world.path("taken");
    fs::create_dir(&taken).unwrap();
    palinurus_tests::postgres::give(&taken);
    let mut receiver = as_user(&bin().join("pg_receivewal"));
    receiver.arg("-h").arg(&server.socket).args(["-U", "postgres", "--slot", &slot, "-D"]).arg(&taken);
    let receiver = Process::start("pg_receivewal", receiver, &world.path("receiver.log"));
    wait("the slot is taken", || {
        (server.sql(&format!("select active from pg_replication_slots where slot_name = '{slot}'")) == "t")
            .then_some(())
    })
    .await;
    world.start_agent("n1");
    let failure = trouble(&world).await;
    assert!(
        failure.message.contains("is active for PID") && failure.hint.contains("active_pid"),
        "{failure:?}"
    );
    server.sql("create table t as select 1 as a");
    receiver.kill();
    assert_eq!(stored(&world, &server).await, lineage);
    end_of(&world, &lineage).await;
    assert!(logs(&world).await.writer.unwrap().gaps.is_empty());
    quiet(&world).await;
    world.stop().await;
}

/// How much of the log the server keeps for who is behind.
async fn keeps(server: &Postgres, size: &str) {
    server.sql(&format!("alter system set max_slot_wal_keep_size = '{size}'"));
    server.sql("select pg_reload_conf()");
    wait("the server follows", || (server.sql("show max_slot_wal_keep_size") == size).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_the_server_could_keep_no_longer_has_a_gap_that_is_told() {
    let (mut world, server) = world(&["max_wal_size=32MB", "min_wal_size=32MB"]).await;
    stored(&world, &server).await;
    backup(&world).await;
    let before = world.backups().await.len();
    world.kill_agent("n1");
    // Not before and not behind: it could outrun an agent that is there.
    keeps(&server, "16MB").await;
    server.sql("create table t (id int)");
    wait("the server gives it up", || {
        server.sql("insert into t values (1)");
        server.sql("select pg_switch_wal()");
        server.sql("checkpoint");
        (server.sql("select wal_status from pg_replication_slots where slot_name like 'palinurus_s_%'")
            == "lost")
            .then_some(())
    })
    .await;
    keeps(&server, "-1").await;
    world.start_agent("n1");
    stored(&world, &server).await;
    let logs = logs(&world).await;
    assert_eq!((logs.lineages[0].stretches.len(), logs.writer.unwrap().gaps.len()), (2, 1));
    wait_async("a backup behind the gap", async || (world.backups().await.len() > before).then_some(()))
        .await;
    quiet(&world).await;
    let end = archive::logs(&world).await.windows.iter().map(|window| window.to).max().unwrap();
    assert!(end >= logs.lineages[0].stretches[1].to, "a window leads along what is behind the gap");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_own_disk_was_full_has_a_whole_log_and_backups_again() {
    let mut world = World::new(&["n1"]);
    world.kind = "postgresql".into();
    let Some(_tmpfs) = Tmpfs::mount(&world.data("n1"), 160) else { return };
    let mut server = Postgres::create(&world.data("n1"));
    server.start(&[]).await;
    world.engine = format!("host = {:?}\narchive = true\n", server.socket);
    world.start().await;
    server.sql("create table t as select generate_series(1, 1000) g");
    let lineage = stored(&world, &server).await;
    backup(&world).await;
    let ballast = world.data("n1").join("ballast");
    fill_up(&ballast);
    let full = server.try_sql("create table u as select generate_series(1, 1000000) g").unwrap_err();
    println!("the server: {full}");
    let operation = world.start_backup().await;
    let ended = world.ended(&operation.id).await;
    println!("the backup: {:?} {:?}", ended.state(), ended.failure);
    assert_eq!(ended.state(), OperationState::Failed);
    assert!(!ended.failure.unwrap().hint.is_empty());
    fs::remove_file(&ballast).unwrap();
    // Some servers have ended, some have not: it depends on what they could not write.
    server.kill().await;
    server.start(&[]).await;
    server.sql("insert into t values (1001)");
    assert_eq!(stored(&world, &server).await, lineage);
    assert!(logs(&world).await.writer.unwrap().gaps.is_empty());
    quiet(&world).await;
    world.backup().await;
    world.nothing_left_behind("n1").await;
    quiet(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_full_disk_fails_its_backup_and_holds_neither_server_nor_log() {
    let (mut world, mut server) = archive::prepared(&[]).await;
    let state = world.agent_state("n1");
    let Some(_tmpfs) = Tmpfs::mount(&state, 96) else { return };
    world.start().await;
    server.sql("create table t as select generate_series(1, 1000) g");
    let lineage = stored(&world, &server).await;
    backup(&world).await;
    quiet(&world).await;
    // Room for its records, and for no WAL of a backup. It reads so slowly that it cannot end before that WAL is written.
    world.run(&["node", "limits", "--read", "100KiB"]).await.expect(0);
    let (id, held) = held_in_upload(&world, &server).await;
    let before = world.backups().await.len();
    let ballast = state.join("ballast");
    fill_up(&ballast);
    let filled = File::options().write(true).open(&ballast).unwrap();
    filled.set_len(filled.metadata().unwrap().len() - (4 << 20)).unwrap();
    server.sql("create table u as select generate_series(1, 500000) g");
    drop(held);
    world.run(&["node", "limits", "--read", "none"]).await.expect(0);
    let ended = world.ended(&id).await;
    let failure = ended.failure.clone().unwrap_or_default();
    assert_eq!(ended.state(), OperationState::Failed);
    assert!(format!("{} {}", failure.message, failure.hint).contains("space"), "{failure:?}");
    assert_eq!(world.backups().await.len(), before);
    wait("no slot but the log's stays", || {
        (server.sql("select count(*) from pg_replication_slots where temporary") == "0").then_some(())
    })
    .await;
    server.sql("insert into t values (1001)");
    assert_eq!(stored(&world, &server).await, lineage);
    fs::remove_file(&ballast).unwrap();
    world.backup().await;
    world.nothing_left_behind("n1").await;
    quiet(&world).await;
    server.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_even_be_opened_is_told_with_the_reason() {
    let (mut world, mut server) = archive::prepared(&[]).await;
    server.sql("create role backup replication login password 's3cret'");
    let hba = server.data.join("pg_hba.conf");
    let trust = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, format!("local all backup scram-sha-256\n{trust}")).unwrap();
    server.stop().await;
    world.start().await;
    let told = async |world: &World, words: &str| {
        wait_async(words, async || {
            let failures = logs(world).await.failures;
            let one = failures.into_iter().find(|it| it.node == "n1")?.failure?;
            (one.message.contains(words) && !one.hint.is_empty()).then_some(())
        })
        .await;
    };
    told(&world, "no PostgreSQL server answers").await;
    server.start(&[]).await;
    let lineage = stored(&world, &server).await;
    wait_async("nothing is wrong any more", async || logs(&world).await.failures.is_empty().then_some(()))
        .await;
    quiet(&world).await;

    world.stop_agent("n1").await;
    let password = world.path("password");
    fs::write(&password, "wrong\n").unwrap();
    fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).unwrap();
    world.engine += &format!("user = \"backup\"\npassword_file = {password:?}\n");
    world.start_agent("n1");
    told(&world, "password authentication failed").await;
    wait_async("the command tells it, too", async || {
        let shown = world.run(&["logs", "show"]).await.expect(0);
        assert!(!shown.stdout.contains("s3cret"));
        let failures = shown.json()["failures"].clone();
        failures[0]["failure"].as_str()?.contains("password").then_some(())
    })
    .await;
    world.stop_agent("n1").await;
    wait_async("it is gone", async || logs(&world).await.failures.is_empty().then_some(())).await;
    assert_eq!(logs(&world).await.writer.unwrap().lineage, lineage);
    server.stop().await;
    world.stop().await;
}
