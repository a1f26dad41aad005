//! A PostgreSQL service of one node whose log is stored, and restores of it to a moment.
use std::fs;
use std::path::Path;

use palinurus_proto::v1::{self, OperationState, log_target::Target};

use crate::World;
use crate::commits::lsn;
use crate::postgres::{Paused, Postgres, as_user};
use crate::process::binary;
use crate::world::{SERVICE, wait, wait_async};

/// A service of one node, whose server's log is stored.
pub async fn world(settings: &[&str]) -> (World, Postgres) {
    let (mut world, server) = prepared(settings).await;
    world.start().await;
    (world, server)
}

/// The server runs, nothing else yet.
pub async fn prepared(settings: &[&str]) -> (World, Postgres) {
    let (mut world, mut server) = created();
    server.start(settings).await;
    world.engine = format!("host = {:?}\narchive = true\n", server.socket);
    (world, server)
}

fn created() -> (World, Postgres) {
    let mut world = World::new(&["n1"]);
    world.kind = "postgresql".into();
    let server = Postgres::create(&world.data("n1"));
    (world, server)
}

/// As [`prepared`], with a server that hands its WAL over.
pub async fn handing(settings: &[&str]) -> (World, Postgres) {
    let (mut world, mut server) = created();
    let command = push_command(&world, "n1");
    server.configure(&format!("archive_mode = on\narchive_command = '{command}'\n"));
    server.start(settings).await;
    world.engine = format!("host = {:?}\narchive = \"push\"\n", server.socket);
    (world, server)
}

pub fn push_command(world: &World, node: &str) -> String {
    format!("{} agent wal-push --state {} %p", binary().display(), world.agent_state(node).display())
}

/// All that the server has written is handed over and stored; on which lineage.
pub async fn handed(world: &World, server: &Postgres) -> Vec<u8> {
    let now = server.sql("select pg_walfile_name(pg_current_wal_lsn())");
    let now = u32::from_str_radix(&now[..8], 16).unwrap();
    let end = lsn(&server.sql("select pg_switch_wal()"));
    wait_async("the log is handed over", async || {
        // An archiver that has failed three times waits for a minute.
        server.sql("select pg_reload_conf()");
        is_stored(world, SERVICE, end, now).await
    })
    .await
}

/// What the server's user gets, who hands a file over by hand: the exit code, and what is said.
pub fn push(world: &World, file: &Path) -> (Option<i32>, String) {
    let state = world.agent_state("n1");
    let mut command = as_user(binary());
    command.args(["agent", "wal-push", "--state"]).arg(state).arg(file);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub async fn logs(world: &World) -> v1::Logs {
    logs_of(world, SERVICE).await
}

pub async fn logs_of(world: &World, service: &str) -> v1::Logs {
    let request = v1::ShowLogsRequest { service: service.into() };
    world.client().await.show_logs(request).await.unwrap().into_inner()
}

pub fn timeline(identity: &[u8]) -> u32 {
    u32::from_be_bytes(identity[8..].try_into().unwrap())
}

/// All that the server has written is stored; on which lineage.
pub async fn stored(world: &World, server: &Postgres) -> Vec<u8> {
    stored_of(world, SERVICE, server).await
}

pub async fn stored_of(world: &World, service: &str, server: &Postgres) -> Vec<u8> {
    let end = lsn(&server.sql("select pg_current_wal_flush_lsn()"));
    let now = server.sql("select timeline_id from pg_control_checkpoint()").parse().unwrap();
    wait_async("the log is stored", async || is_stored(world, service, end, now).await).await
}

/// On which lineage all up to `end` is, when that is of the timeline `now` or a later one.
async fn is_stored(world: &World, service: &str, end: u64, now: u32) -> Option<Vec<u8>> {
    let logs = logs_of(world, service).await;
    let writer = logs.writer?;
    let own = logs.lineages.iter().filter_map(|view| view.lineage.as_ref());
    let own = own.into_iter().find(|lineage| lineage.id == writer.lineage)?;
    let stored = writer.status.as_ref()?.stored >= end && timeline(&own.identity) >= now;
    stored.then(|| writer.lineage.to_vec())
}

/// Every new history has a backup begun by itself, at a time of its own: nothing runs, and that one has been made, or
/// has failed.
pub async fn quiet(world: &World) {
    quiet_of(world, SERVICE).await;
}

pub async fn quiet_of(world: &World, service: &str) {
    wait_async("nothing runs, and a backup leads along what is written", async || {
        let mut client = world.client().await;
        let logs = client.show_logs(v1::ShowLogsRequest { service: service.into() }).await.ok()?.into_inner();
        let written = logs.writer.filter(|writer| writer.streaming).map(|writer| writer.lineage);
        let is_led_to = |lineage| logs.windows.iter().any(|window| window.chain.first() == Some(lineage));
        let led = written.as_ref().is_none_or(is_led_to);
        let request = v1::ListOperationsRequest { service: service.into(), running: false };
        let all = client.list_operations(request).await.ok()?.into_inner().operations;
        if all.iter().any(|it| matches!(it.state(), OperationState::Running | OperationState::Cancelling)) {
            return None;
        }
        let backups = all.iter().filter(|operation| operation.kind() == v1::OperationKind::Backup);
        let last = backups.max_by_key(|operation| operation.created_ms);
        // After one that failed, as of a node that is away, the next comes a minute later at the earliest.
        let failed = last.is_some_and(|last| last.state() == OperationState::Failed);
        (led || failed).then_some(())
    })
    .await;
}

/// A backup from which a recovery may begin: the one that the log's history has asked for.
pub async fn backup(world: &World) {
    wait_async("a backup leads along the log", async || {
        (!logs(world).await.windows.is_empty()).then_some(())
    })
    .await;
    quiet(world).await;
}

/// The process of the server's that sends the WAL of a backup.
const SENDER: &str = "select pid from pg_stat_replication, pg_replication_slots \
     where pid = active_pid and temporary and state = 'streaming'";
const STOPS: &str = "select count(*) from pg_stat_activity \
     where application_name = 'palinurus' and backend_type = 'client backend' and query like '%pg_backup_stop%'";

/// A backup in the middle of its upload, which cannot end: whatever is read and sent meanwhile, without the rest of its WAL,
/// whose sender is held, it is no backup. One that was too fast is followed by another.
pub async fn held_in_upload(world: &World, server: &Postgres) -> (String, Paused) {
    wait_async("a backup is met in its upload", async || {
        let id = world.start_backup().await.id;
        let sender = wait_async("the WAL of the backup flows", async || match server.sql(SENDER).parse() {
            Ok(pid) => Some(Some(pid)),
            Err(_) => (world.operation(&id).await.phase == "done").then_some(None),
        })
        .await;
        if let Some(pid) = sender {
            let held = Paused::new(pid);
            if server.sql(STOPS) == "0" && world.is_met_at(&id, "upload").await {
                return Some((id, held));
            }
        }
        world.ended(&id).await;
        None
    })
    .await
}

/// The node is lost, and comes back at `target`.
pub async fn restore(world: &World, server: &mut Postgres, target: Target, lineage: &[u8]) {
    restore_as(world, server, "n1", target, lineage).await;
}

/// From the backup of another node: `n1=<node>`.
pub async fn restore_as(world: &World, server: &mut Postgres, node: &str, target: Target, lineage: &[u8]) {
    quiet(world).await;
    server.stop().await;
    fs::remove_dir_all(world.move_data("n1")).unwrap();
    back(world, server, node, target, lineage).await;
}

/// Into the empty directory of a server that is not there any more. Starts it, and waits until it is open.
pub async fn bring_back(world: &World, server: &mut Postgres, target: Target, lineage: &[u8]) {
    back(world, server, "n1", target, lineage).await;
}

async fn back(world: &World, server: &mut Postgres, node: &str, target: Target, lineage: &[u8]) {
    world.seen_empty("n1").await;
    let lineage = lineage.iter().map(|byte| format!("{byte:02x}")).collect();
    let request = v1::RestoreRequest {
        service: SERVICE.into(),
        backup: "latest".into(),
        nodes: vec![node.into()],
        delta: false,
        target: Some(v1::LogTarget { target: Some(target.clone()), lineage }),
        ..Default::default()
    };
    let operation = world.apply_restore(request).await;
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{target:?}: {:?}", ended.failure);
    recover(server, &["track_commit_timestamp=on"]).await;
}

/// Starts what was restored, and waits until it is open.
pub async fn recover(server: &mut Postgres, settings: &[&str]) {
    server.start(settings).await;
    wait("the server is promoted", || {
        (server.try_sql("select pg_is_in_recovery()").ok()? == "f").then_some(())
    })
    .await;
}

/// Up to where the lineage is stored without a hole.
pub async fn end_of(world: &World, lineage: &[u8]) -> u64 {
    let logs = logs(world).await;
    let view =
        logs.lineages.iter().find(|view| view.lineage.as_ref().is_some_and(|known| known.id == lineage));
    let stretches = &view.expect("a lineage of the service").stretches;
    assert_eq!(stretches.len(), 1, "the log has a hole: {stretches:?}");
    stretches[0].to
}

/// Why the agent stores nothing, once it says so.
pub async fn trouble(world: &World) -> v1::Failure {
    wait_async("the agent says what is wrong", async || logs(world).await.writer?.status?.failure).await
}
