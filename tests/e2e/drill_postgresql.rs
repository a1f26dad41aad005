//! Drills of PostgreSQL: a scratch server is started from the backup, asked everything, and gone again.
use std::fs;
use std::os::unix::fs::FileExt;

use palinurus_proto::v1::{self, OperationState, log_target::Target};
use palinurus_tests::World;
use palinurus_tests::postgres::Postgres;
use palinurus_tests::world::{SERVICE, wait, wait_async};
use rustix::process::{Pid, Signal, kill_process};

use crate::drill::{begin, drill, no_server_stays, working_below};

async fn world(more: &str, drill: &str) -> (World, Postgres) {
    let mut world = World::new(&["n1"]);
    world.kind = "postgresql".into();
    let mut server = Postgres::create(&world.data("n1"));
    // It would write a page anew that a test has damaged.
    server.start(&["autovacuum=off"]).await;
    world.engine = format!("host = {:?}\n{more}\n[drill]\n{drill}\n", server.socket);
    world.start().await;
    (world, server)
}

async fn start_to(world: &World, target: Target) -> v1::Operation {
    let target = Some(v1::LogTarget { target: Some(target), ..Default::default() });
    let request = v1::StartDrillRequest { service: SERVICE.into(), target, ..Default::default() };
    world.begun(async |mut client| client.start_drill(request.clone()).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_backup_is_proved_and_a_damaged_page_is_named() {
    let probe = "probe = [\"select count(*) = 2000 from t\"]";
    let (mut world, server) = world("", probe).await;
    let fast = world.path("fast");
    fs::create_dir(&fast).unwrap();
    palinurus_tests::postgres::give(&fast);
    server.sql(&format!("create tablespace fast location '{}'", fast.display()));
    server.sql("create table placed tablespace fast as select generate_series(1, 100) g");
    server.sql("create table t as select g as id, repeat('x', 100) as text from generate_series(1, 2000) g");
    server.sql("create index on t (id)");
    server.sql("create database \"od=d 'n\"");
    world.backup().await;
    let ended = drill(&world, &[]).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);
    let result = &ended.drill.unwrap().results[0];
    let ran: Vec<&str> =
        result.checks.iter().filter(|check| !check.skipped).map(|check| check.name.as_str()).collect();
    for wanted in [
        "pg_amcheck --heapallindexed",
        "pg_dump od=d 'n",
        "pg_dumpall --globals-only",
        "probe",
        "pg_checksums --check",
    ] {
        assert!(ran.contains(&wanted), "{wanted}: {result:?}");
    }
    assert!(result.rto_ms >= result.restored_ms && result.position > 0, "{result:?}");
    no_server_stays(&world).await;
    assert_eq!(server.sql("select count(*) from t"), "2000", "the server itself was not touched");
    let shown = world.run(&["drill", "show", &ended.id]).await.expect(0).stdout;
    assert!(shown.contains("\"rto_ms\""), "{shown}");

    // On the disk, while the server has it whole in memory: the backup keeps the page as it is.
    server.sql("checkpoint");
    let file = fs::File::options().write(true).open(server.file("t")).unwrap();
    file.write_all_at(b"damage", 8192 + 4000).unwrap();
    world.backup().await;
    server.sql("delete from t where id = 7");
    let ended = drill(&world, &[]).await;
    let failure = ended.failure.unwrap();
    assert_eq!(failure.kind, "corrupt", "{failure:?}");
    let result = &ended.drill.unwrap().results[0];
    let found = result.findings.join("\n");
    assert!(found.contains("table \"t\"") || found.contains("public.t"), "{found}");
    assert!(found.contains("checksum verification failed"), "{found}");
    no_server_stays(&world).await;
    world.stop().await;
}

async fn logs(world: &World) -> v1::Logs {
    let request = v1::ShowLogsRequest { service: SERVICE.into() };
    world.client().await.show_logs(request).await.unwrap().into_inner()
}

/// All that was written is stored, and a backup leads there.
async fn stored(world: &World, server: &Postgres) {
    let text = server.sql("select pg_current_wal_flush_lsn()");
    let (high, low) = text.split_once('/').unwrap();
    let end = u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap();
    wait_async("the log is stored", async || {
        let logs = logs(world).await;
        let stored = logs.writer?.status?.stored >= end;
        (stored && logs.windows.iter().any(|window| window.to >= end)).then_some(())
    })
    .await;
    wait_async("nothing runs", async || {
        let request = v1::ListOperationsRequest { service: SERVICE.into(), running: true };
        let running = world.client().await.list_operations(request).await.ok()?.into_inner().operations;
        running.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_goes_along_the_log_and_fails_where_a_piece_is_missing() {
    let (mut world, server) = world("archive = true", "probe = [\"select count(*) = 1000 from t\"]").await;
    server.sql("create table t (id int)");
    wait_async("a backup from which the log leads on", async || {
        (!logs(&world).await.windows.is_empty()).then_some(())
    })
    .await;
    for part in 0..10 {
        server.sql(&format!("insert into t select generate_series({}, {})", part * 100, part * 100 + 99));
    }
    stored(&world, &server).await;
    let begun = start_to(&world, Target::Latest(true)).await;
    let ended = world.ended(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);
    let result = &ended.drill.unwrap().results[0];
    assert!(result.recovered_ms > 1_600_000_000_000, "{result:?}");
    assert!(result.reached.contains("timeline 2"), "{result:?}");
    no_server_stays(&world).await;
    assert_eq!(logs(&world).await.lineages.len(), 1, "a drill writes no log");
    // The recovery of a real restore is not the drill's.
    assert!(!world.agent_state("n1").join("recovery").exists());

    // Lost after the plan was made: the agent is stopped meanwhile.
    let agent = Pid::from_raw(world.agent("n1").pid() as i32).unwrap();
    kill_process(agent, Signal::STOP).unwrap();
    let begun = start_to(&world, Target::Latest(true)).await;
    let mut pieces = crate::quarantine::of_kind(&world, "l");
    pieces.retain(|piece| piece.file_name().unwrap().to_str().unwrap().contains('-'));
    pieces.iter().for_each(|piece| fs::remove_file(piece).unwrap());
    assert!(!pieces.is_empty());
    kill_process(agent, Signal::CONT).unwrap();
    let ended = world.ended(&begun.id).await;
    let failure = ended.failure.unwrap();
    assert_eq!(failure.kind, "corrupt", "{failure:?}");
    assert!(failure.message.contains("log"), "{failure:?}");
    no_server_stays(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_scratch_server_outlives_its_agent_or_its_drill() {
    // Long enough to be met: the probe sleeps.
    let (mut world, server) = world("", "probe = [\"select pg_sleep(600)\"]").await;
    server.sql("create table t as select generate_series(1, 100) g");
    world.backup().await;
    let state = world.agent_state("n1");
    let runs =
        async || wait("a scratch server runs", || (!working_below(&state).is_empty()).then_some(())).await;

    let begun = begin(&world, &[]).await;
    runs().await;
    world.client().await.cancel_operation(v1::GetOperationRequest { id: begun.id.clone() }).await.unwrap();
    let ended = world.ended(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Cancelled, "{:?}", ended.failure);
    no_server_stays(&world).await;

    let begun = begin(&world, &[]).await;
    runs().await;
    world.kill_agent("n1");
    wait("the server ends with its agent", || working_below(&state).is_empty().then_some(())).await;
    world.start_agent("n1");
    // The agent begins it again, as every task that was cut short.
    runs().await;
    world.client().await.cancel_operation(v1::GetOperationRequest { id: begun.id.clone() }).await.unwrap();
    world.ended(&begun.id).await;
    no_server_stays(&world).await;
    assert_eq!(server.sql("select count(*) from t"), "100");
    world.stop().await;
}
