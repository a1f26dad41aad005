//! Mistakes of those who set a server up or bring it back: each is refused with what to do, before anything is touched.
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use palinurus_proto::v1::{self, OperationState};
use palinurus_tests::World;
use palinurus_tests::archive::{self, logs, quiet, stored};
use palinurus_tests::postgres::{Postgres, as_user, bin, give, succeeded};
use palinurus_tests::process::Process;
use palinurus_tests::store::tool;
use palinurus_tests::world::{SERVICE, files_below, wait};

async fn world(settings: &[&str]) -> (World, Postgres) {
    let mut world = World::new(&["n1"]);
    world.kind = "postgresql".into();
    let mut server = Postgres::create(&world.data("n1"));
    server.start(settings).await;
    world.engine = format!("host = {:?}\n", server.socket);
    world.start().await;
    (world, server)
}

/// How it must be said: the kind, a part of the message, a part of the hint.
type Said = (&'static str, &'static str, &'static str);

#[track_caller]
fn is_said(failure: &v1::Failure, (kind, message, hint): Said) {
    let said = failure.kind == kind && failure.message.contains(message) && failure.hint.contains(hint);
    assert!(said, "{failure:?} is not {kind}, {message:?}, {hint:?}");
}

async fn refused(world: &World, server: &Postgres, said: Said) {
    let operation = world.start_backup().await;
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Failed, "{said:?}");
    is_said(&ended.failure.unwrap(), said);
    let open = "select count(*) from pg_stat_activity where application_name = 'palinurus'";
    wait("nothing stays open", || (server.sql(open) == "0").then_some(())).await;
    assert!(world.backups().await.is_empty(), "{said:?}");
    world.nothing_left_behind("n1").await;
}

async fn restart_agent(world: &mut World, engine: &str) {
    world.stop_agent("n1").await;
    engine.clone_into(&mut world.engine);
    world.start_agent("n1");
    world.joined().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_cannot_be() {
    let (mut world, mut server) = world(&["max_replication_slots=2", "max_wal_senders=2"]).await;
    let version = server.data.join("PG_VERSION");
    let own = fs::read_to_string(&version).unwrap();
    fs::write(&version, "12\n").unwrap();
    refused(&world, &server, ("invalid", "PostgreSQL 12 is too old", "upgrade to 13")).await;
    fs::write(&version, "a note\n").unwrap();
    refused(&world, &server, ("invalid", "PG_VERSION says", "")).await;
    fs::remove_file(&version).unwrap();
    refused(&world, &server, ("not_found", "PG_VERSION", "engine.root must be the data directory")).await;
    fs::write(&version, own).unwrap();
    give(&version);

    for slot in ["one", "two"] {
        server.sql(&format!("select pg_create_physical_replication_slot('{slot}')"));
    }
    refused(&world, &server, ("unavailable", "replication slots are in use", "max_replication_slots")).await;
    server.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots");
    let receivers: Vec<Process> = (0..2)
        .map(|number| {
            let taken = world.path(&format!("taken-{number}"));
            fs::create_dir(&taken).unwrap();
            give(&taken);
            let mut command = as_user(&bin().join("pg_receivewal"));
            command.arg("-h").arg(&server.socket).args(["-U", "postgres", "-D"]).arg(&taken);
            Process::start("pg_receivewal", command, &world.path(&format!("receiver-{number}.log")))
        })
        .collect();
    wait("all senders are taken", || {
        (server.sql("select count(*) from pg_stat_replication") == "2").then_some(())
    })
    .await;
    refused(&world, &server, ("unavailable", "max_wal_senders", "max_wal_senders")).await;
    receivers.into_iter().for_each(Process::kill);

    // A password that nobody may read but the agent, and that must be there.
    server.sql("create role backup login replication password 's3cret'");
    server.sql("grant execute on function pg_backup_start, pg_backup_stop to backup");
    let hba = server.data.join("pg_hba.conf");
    let trust = fs::read_to_string(&hba).unwrap();
    let scram = "local all backup scram-sha-256\nlocal replication backup scram-sha-256\n";
    fs::write(&hba, format!("{scram}{trust}")).unwrap();
    server.reload().await;
    let (plain, password) = (world.engine.clone(), world.path("password"));
    restart_agent(&mut world, &format!("{plain}user = \"backup\"\n")).await;
    refused(&world, &server, ("denied", "asks for a password", "engine.password_file")).await;
    let named = format!("{plain}user = \"backup\"\npassword_file = {password:?}\n");
    restart_agent(&mut world, &named).await;
    refused(&world, &server, ("not_found", "password", "")).await;
    fs::write(&password, "s3cret\n").unwrap();
    fs::set_permissions(&password, Permissions::from_mode(0o644)).unwrap();
    refused(&world, &server, ("denied", "password", "chmod 600")).await;
    fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();

    // The directory is a copy of the one that the server runs in: of the right cluster, and yet of another moment.
    server.stop().await;
    let data = server.data.clone();
    server.data = world.move_data("n1");
    server.start(&[]).await;
    let copied = Command::new("cp").arg("-a").arg(server.data.join(".")).arg(&data).status().unwrap();
    assert!(copied.success());
    refused(&world, &server, ("conflict", "is not the directory of the server", "show data_directory")).await;
    world.stop().await;
}

/// Each path with its length and time.
fn contents(data: &Path) -> Vec<(std::path::PathBuf, u64, std::time::SystemTime)> {
    let look = |path: std::path::PathBuf| {
        let meta = path.symlink_metadata().unwrap();
        (path, meta.len(), meta.modified().unwrap())
    };
    files_below(data).into_iter().map(look).collect()
}

async fn refused_restore(world: &World, said: Said) {
    let before = contents(&world.data("n1"));
    let request = v1::RestoreRequest {
        service: SERVICE.into(),
        backup: "latest".into(),
        nodes: vec!["n1".into()],
        delta: true,
        ..Default::default()
    };
    let operation = world.apply_restore(request).await;
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Failed, "{said:?}");
    is_said(&ended.failure.unwrap(), said);
    assert_eq!(contents(&world.data("n1")), before, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_over_what_must_not_be_lost() {
    let (mut world, mut server) = world(&["autovacuum=off", "checkpoint_timeout=1h"]).await;
    world.backup().await;
    server.sql("checkpoint");
    // It writes now and then by itself what standbys want to know.
    let held = server.pause("backend_type = 'background writer'");
    refused_restore(&world, ("conflict", "a server runs in", "stop it")).await;
    drop(held);
    server.stop().await;

    // An upgrade has put a newer version's cluster there.
    world.move_data("n1");
    let newer = tool("postgresql/bin").join("initdb");
    give(&world.data("n1"));
    fs::set_permissions(world.data("n1"), Permissions::from_mode(0o700)).unwrap();
    succeeded(as_user(&newer).args(["-N", "-U", "postgres", "-D"]).arg(world.data("n1")).output().unwrap());
    world.seen_filled("n1").await;
    refused_restore(&world, ("conflict", "of PostgreSQL 18", "empty directory")).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_log_is_not_stored_under_the_name() {
    let (mut world, mut server) = archive::world(&[]).await;
    stored(&world, &server).await;
    quiet(&world).await;
    world.stop_agent("n1").await;
    server.stop().await;
    world.move_data("n1");
    let mut other = Postgres::create(&world.data("n1"));
    other.start(&[]).await;
    let before = logs(&world).await.lineages;
    world.start_agent("n1");
    world.joined().await;
    wait("the agent says why", || {
        let log = world.agent("n1").log_text();
        let said =
            ["the log is not stored", "this node's backups are of cluster", "a new cluster is a new service"];
        said.iter().all(|said| log.contains(said)).then_some(())
    })
    .await;
    assert_eq!(logs(&world).await.lineages, before);
    assert_eq!(other.sql("select count(*) from pg_replication_slots"), "0");
    // It looks again and again.
    wait("no session stays open", || (other.sessions() == "0").then_some(())).await;
    world.stop().await;
}
