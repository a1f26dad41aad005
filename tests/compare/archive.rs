//! WAL stored and fetched, a node that dies under load, and its return.
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use palinurus_proto::v1::{self, log_target::Target};
use palinurus_tests::archive::{logs, quiet, stored};
use palinurus_tests::commits::{Commit, commits, lsn, present};
use palinurus_tests::postgres::{give, succeeded};
use palinurus_tests::process::palinurus;
use palinurus_tests::world::SERVICE;

use crate::meter::{Meter, until};
use crate::round::{Pair, SETTINGS};
use crate::table::{Better, Table};

const SEGMENT: f64 = 16.0;
/// Of pgBackRest's, pushed one by one to see what the processor does: what runs in the background cannot be seen.
const ONE_BY_ONE: usize = 6;
const FETCHED: usize = 12;
/// How long the load runs before the node dies.
const LOAD: Duration = Duration::from_secs(10);

pub(crate) async fn run(pair: &mut Pair, ours_first: bool, table: &mut Table) {
    let names = push(pair, ours_first, table).await;
    let all = die(pair).await;
    for ours in [ours_first, !ours_first] {
        let _ = fs::remove_dir_all(&pair.server.data);
        fs::create_dir(&pair.server.data).unwrap();
        give(&pair.server.data);
        fs::set_permissions(&pair.server.data, Permissions::from_mode(0o700)).unwrap();
        if ours {
            restore_ours(pair, &names, table).await;
        } else {
            restore_theirs(pair, &names, table).await;
        }
        lost(pair, ours, &all, table);
        pair.server.stop().await;
        if ours {
            pair.world.stop_agent("n1").await;
        }
    }
}

/// WAL that nobody has stored yet is stored. Which segments those are.
async fn push(pair: &mut Pair, ours_first: bool, table: &mut Table) -> Vec<String> {
    pair.world.stop_agent("n1").await;
    pair.server.sql("create table bulk as select g, md5(g::text) as a, md5((g + 1)::text) as b from generate_series(1, 3000000) g");
    pair.server.sql("select pg_switch_wal()");
    let names = pair.peer.waiting();
    let end = lsn(&pair.server.sql("select pg_current_wal_flush_lsn()"));
    let mebibytes = names.len() as f64 * SEGMENT;
    for ours in [ours_first, !ours_first] {
        if ours {
            pair.world.start_agent("n1");
            let meter = Meter::begin(&pair.pids());
            until("our log is stored", async || {
                let writer = logs(&pair.world).await.writer;
                writer.and_then(|writer| writer.status).is_some_and(|status| status.stored >= end)
            })
            .await;
            let cost = meter.end();
            table.ours("wal push, MiB/s", Better::More, mebibytes / cost.seconds);
            table.ours("wal push, cpu s/GiB", Better::Less, cost.cpu * 1024.0 / mebibytes);
        } else {
            let (first, rest) = names.split_at(ONE_BY_ONE.min(names.len() / 2));
            let (mut seconds, mut cpu) = (0.0, 0.0);
            for name in first {
                let path = pair.server.data.join("pg_wal").join(name);
                let cost = pair.peer.run(&["archive-push", "--no-archive-async", path.to_str().unwrap()]);
                (seconds, cpu) = (seconds + cost.seconds, cpu + cost.cpu);
            }
            let mebibytes = first.len() as f64 * SEGMENT;
            table.theirs("wal push one by one, MiB/s", Better::More, mebibytes / seconds);
            table.theirs("wal push, cpu s/GiB", Better::Less, cpu * 1024.0 / mebibytes);
            let meter = Meter::begin(&[]);
            pair.peer.archives(&pair.server, true);
            pair.peer.drained().await;
            let seconds = meter.end().seconds;
            table.theirs("wal push, MiB/s", Better::More, rest.len() as f64 * SEGMENT / seconds);
        }
    }
    names
}

/// Both archives run, and then nothing does. What was committed.
async fn die(pair: &mut Pair) -> Vec<Commit> {
    quiet(&pair.world).await;
    stored(&pair.world, &pair.server).await;
    let mut bench = pair.server.tool("pgbench");
    bench.args(["-n", "-c", "4", "-T", "600", "postgres"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut bench = bench.spawn().unwrap();
    tokio::time::sleep(LOAD).await;
    pair.world.kill_agent("n1");
    pair.server.kill().await;
    let _ = bench.kill();
    let _ = bench.wait();
    commits(&pair.server.data)
}

async fn restore_ours(pair: &mut Pair, names: &[String], table: &mut Table) {
    pair.world.start_agent("n1");
    pair.world.joined().await;
    pair.world.seen_empty("n1").await;
    let request = v1::RestoreRequest {
        service: SERVICE.into(),
        backup: "latest".into(),
        nodes: vec!["n1".into()],
        delta: false,
        target: Some(v1::LogTarget { target: Some(Target::Latest(true)), ..v1::LogTarget::default() }),
        ..Default::default()
    };
    let meter = Meter::begin(&pair.pids());
    let operation = pair.world.client().await.apply_restore(request).await.unwrap().into_inner();
    let ended = pair.world.ended(&operation.id).await;
    table.cost(true, "restore", meter.end());
    assert_eq!(ended.state(), v1::OperationState::Succeeded, "{:?}", ended.failure);
    let state = pair.world.agent_state("n1");
    let path = pair.world.path("fetched");
    let get = |name: &str| {
        let mut get = palinurus();
        get.args(["agent", "wal-get", "--state"]).arg(&state).arg(name).arg(&path);
        get
    };
    fetch(true, names, get, table);
    recover(pair, true, table).await;
}

async fn restore_theirs(pair: &mut Pair, names: &[String], table: &mut Table) {
    let cost = pair.peer.run(&["restore"]);
    table.cost(false, "restore", cost);
    let path = pair.server.socket.join("fetched");
    let get = |name: &str| {
        let mut get = pair.peer.command();
        get.args(["archive-get", name]).arg(&path);
        get
    };
    fetch(false, names, get, table);
    recover(pair, false, table).await;
}

/// The newest segments, as the server would ask for them.
fn fetch(ours: bool, names: &[String], get: impl Fn(&str) -> Command, table: &mut Table) {
    let names = &names[names.len().saturating_sub(FETCHED + 1)..names.len() - 1];
    let meter = Meter::begin(&[]);
    for name in names {
        succeeded(get(name).output().unwrap());
    }
    table.one(ours, "wal get, MiB/s", Better::More, names.len() as f64 * SEGMENT / meter.end().seconds);
}

async fn recover(pair: &mut Pair, ours: bool, table: &mut Table) {
    let meter = Meter::begin(&[]);
    // The archive stays as the dead server left it.
    let settings: Vec<&str> = SETTINGS.into_iter().chain(["archive_command="]).collect();
    pair.server.start(&settings).await;
    until("the server is open", async || {
        pair.server.try_sql("select pg_is_in_recovery()").is_ok_and(|is| is == "f")
    })
    .await;
    table.one(ours, "start and replay, s", Better::Less, meter.end().seconds);
}

/// By how much the youngest commit that came back is older than the last one.
fn lost(pair: &Pair, ours: bool, all: &[Commit], table: &mut Table) {
    let found = present(&pair.server, "pgbench_history");
    let last = all.iter().map(|commit| commit.time_us).max().unwrap();
    let youngest = all.iter().filter(|commit| found.contains(&commit.xid)).map(|commit| commit.time_us).max();
    let youngest = youngest.unwrap_or_else(|| all[0].time_us);
    table.one(ours, "lost with the node, s of commits", Better::Less, (last - youngest) as f64 / 1e6);
}
