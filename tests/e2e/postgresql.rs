//! PostgreSQL, a real server: backed up under load, restored, started, and asked whether everything is there.
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use palinurus_proto::v1::{self, OperationState};
use palinurus_tests::World;
use palinurus_tests::archive::held_in_upload;
use palinurus_tests::postgres::{Postgres, as_user, bin, give, pair, succeeded};
use palinurus_tests::world::{self, wait};

/// A service of one node with a server in its data directory.
async fn world(settings: &[&str]) -> (World, Postgres) {
    let mut world = World::new(&["n1"]);
    world.kind = "postgresql".into();
    let mut server = Postgres::create(&world.data("n1"));
    server.start(settings).await;
    world.engine = format!("host = {:?}\n", server.socket);
    (world, server)
}

fn bench(server: &Postgres, arguments: &[&str]) -> Command {
    let mut command = server.tool("pgbench");
    command.args(arguments).arg("postgres").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// What four tables must agree on after any whole transaction, and no other time.
const BALANCES: &str = "select (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers) \
     and (select sum(bbalance) from pgbench_branches) = (select sum(abalance) from pgbench_accounts) \
     and (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) from pgbench_history)";

/// Every way there is to find damage.
async fn is_sound(server: &mut Postgres) {
    assert_eq!(server.sql(BALANCES), "t");
    server.sql("create extension if not exists amcheck");
    let amcheck =
        succeeded(server.tool("pg_amcheck").args(["--heapallindexed", "postgres"]).output().unwrap());
    assert_eq!(amcheck, "");
    succeeded(server.tool("pg_dumpall").stdout(Stdio::null()).output().unwrap());
    server.stop().await;
    succeeded(
        as_user(&bin().join("pg_checksums")).args(["--check", "-D"]).arg(&server.data).output().unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_primary_comes_back_whole() {
    let (mut world, mut server) = world(&[]).await;
    let (fast, moved) = (world.path("fast"), world.path("moved"));
    for space in [&fast, &moved] {
        fs::create_dir(space).unwrap();
        give(space);
    }
    server.sql(&format!("create tablespace fast location '{}'", fast.display()));
    let oid = server.sql("select oid from pg_tablespace where spcname = 'fast'");
    server
        .sql("create table placed tablespace fast as select g, md5(g::text) from generate_series(1, 5000) g");
    server.sql("create unlogged table volatile as select generate_series(1, 5000) g");
    server.sql("create table committed (id bigserial primary key, at timestamptz default clock_timestamp())");
    let large = server.sql("select lo_from_bytea(0, decode(repeat('c0ffee', 20000), 'hex'))");
    assert!(bench(&server, &["-i", "-s", "3", "-q"]).status().unwrap().success());
    world.engine += &format!("tablespaces = {{ {oid:?} = {moved:?} }}\n");
    world.start().await;
    world.backup().await;

    // Under load: what was acknowledged before the backup's end is in it, whole transactions and no halves.
    let mut load = bench(&server, &["-c", "3", "-T", "600"]).spawn().unwrap();
    let script = world.path("commit.sql");
    fs::write(&script, "insert into committed default values;\n").unwrap();
    let mut commits =
        bench(&server, &["-n", "-c", "1", "-T", "600", "-f", script.to_str().unwrap()]).spawn().unwrap();
    wait("commits flow", || (server.sql("select count(*) from committed") != "0").then_some(())).await;
    let before: u64 = server.sql("select max(id) from committed").parse().unwrap();
    let operation = world.backup().await;
    let after: u64 = server.sql("select max(id) from committed").parse().unwrap();
    for child in [&mut load, &mut commits] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(operation.state(), OperationState::Succeeded, "{:?}", operation.warnings);
    assert!(after > before, "the backup stood in nobody's way");
    wait("nothing stays open in the server", || (server.sessions() == "0").then_some(())).await;
    server.stop().await;

    let _old = world.move_data("n1");
    world.restore("n1", false).await;
    assert_eq!(server.data.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!server.data.join("recovery.signal").exists());
    assert_eq!(fs::read_link(server.data.join(format!("pg_tblspc/{oid}"))).unwrap(), moved);
    server.start(&[]).await;
    assert_eq!(server.sql("select pg_is_in_recovery()"), "f");
    let (count, max) = server
        .sql("select count(*) || ' ' || max(id) from committed")
        .split_once(' ')
        .map(|(count, max)| (count.parse::<u64>().unwrap(), max.parse::<u64>().unwrap()))
        .unwrap();
    assert!(before <= max && max <= after, "{before} <= {max} <= {after}");
    // One session wrote them in order: no gap but what an aborted insert may leave.
    assert_eq!(count, max);
    assert_eq!(server.sql("select count(*), sum(length(md5)) from placed"), "5000|160000");
    assert_eq!(server.sql("select count(*) from volatile"), "0");
    assert_eq!(server.sql(&format!("select length(lo_get({large}))")), "60000");
    is_sound(&mut server).await;
    world.nothing_left_behind("n1").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scattered_updates_send_little() {
    let (mut world, mut server) = world(&["autovacuum=off"]).await;
    assert!(bench(&server, &["-i", "-s", "8", "-q"]).status().unwrap().success());
    server.sql("checkpoint");
    world.start().await;
    world.backup().await;
    let first = newest(&world).await;
    server.sql("update pgbench_accounts set abalance = 1 where aid % 4000 = 0");
    world.backup().await;
    let second = newest(&world).await;
    println!("full: {} stored; after 200 scattered updates: {}", first.bytes_stored, second.bytes_stored);
    // 200 pages twice (new row, old row), as many index pages, their full images in the WAL, and what a server writes.
    assert!(
        second.bytes_stored < first.bytes_stored / 3,
        "{} of {}",
        second.bytes_stored,
        first.bytes_stored
    );
    assert!(second.bytes_new < 40 << 20, "{}", second.bytes_new);
    server.stop().await;
    world.move_data("n1");
    world.restore("n1", false).await;
    server.start(&[]).await;
    assert_eq!(server.sql("select count(*) from pgbench_accounts where abalance = 1"), "200");
    world.stop().await;
}

async fn newest(world: &World) -> v1::BackupNode {
    let backups = world.backups().await;
    backups.iter().max_by_key(|backup| backup.committed_ms).unwrap().nodes[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_while_it_uploads_leaves_nothing_open() {
    let (mut world, server) = world(&[]).await;
    assert!(bench(&server, &["-i", "-s", "10", "-q"]).status().unwrap().success());
    world.start().await;
    let (id, held) = held_in_upload(&world, &server).await;
    let before = world.backups().await.len();
    assert_ne!(server.sessions(), "0");
    world.kill_agent("n1");
    drop(held);
    wait("the server lets go of the backup", || (server.sessions() == "0").then_some(())).await;
    world.start_agent("n1");
    let ended = world.ended(&id).await;
    let failure = ended.failure.clone().unwrap();
    assert_eq!((ended.state(), failure.kind.as_str()), (OperationState::Failed, "conflict"), "{failure:?}");
    assert!(failure.hint.contains("start the backup again"), "{failure:?}");
    world.nothing_left_behind("n1").await;
    world.backup().await;
    assert_eq!(world.backups().await.len(), before + 1);
    world.stop().await;
}

/// Sessions in which the server was told that a backup begins.
const OPEN: &str = "select count(*) from pg_stat_activity \
     where application_name = 'palinurus' and backend_type = 'client backend'";

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_server_ends_fails_the_backup() {
    let (mut world, server) = world(&[]).await;
    assert!(bench(&server, &["-i", "-s", "10", "-q"]).status().unwrap().success());
    world.start().await;
    for kind in ["client backend", "walsender"] {
        let (id, held) = held_in_upload(&world, &server).await;
        let before = world.backups().await.len();
        server.sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where application_name = 'palinurus' and backend_type = '{kind}'"
        ));
        if kind == "client backend" {
            // It has ended before the rest of the WAL can come.
            wait("the backup's session has ended", || (server.sql(OPEN) == "0").then_some(())).await;
        }
        drop(held);
        let ended = world.ended(&id).await;
        let failure = ended.failure.clone().unwrap();
        assert!(failure.kind == "conflict" && failure.message.contains("broke"), "{kind}: {failure:?}");
        wait("nothing stays open", || (server.sessions() == "0").then_some(())).await;
        assert_eq!(world.backups().await.len(), before);
    }
    world.backup().await;
    world.nothing_left_behind("n1").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_told() {
    let (mut world, mut server) = world(&[]).await;
    server.sql("create table precious as select g, repeat('x', 500) from generate_series(1, 2000) g");
    let file = server.file("precious");
    server.stop().await;
    fs::File::options().write(true).open(&file).unwrap().write_all_at(b"broken", 3 * 8192 + 4000).unwrap();
    server.start(&[]).await;
    world.start().await;
    for _ in 0..2 {
        let operation = world.backup().await;
        assert_eq!(operation.state(), OperationState::Warnings);
        let name = file.strip_prefix(&server.data).unwrap();
        let told = operation.warnings.iter().any(|warning| {
            Path::new(std::str::from_utf8(&warning.path).unwrap()) == name
                && warning.message.starts_with("page 3 is damaged")
        });
        assert!(told, "{:?}", operation.warnings);
    }
    world.stop().await;
}

/// How a backup that must fail does so.
async fn refusal(world: &World) -> v1::Failure {
    let operation = world.start_backup().await;
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Failed);
    let failure = ended.failure.clone().unwrap();
    assert!(!failure.hint.is_empty(), "{failure:?}");
    failure
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_a_hint() {
    let (mut world, mut server) = world(&[]).await;
    server.sql("create role backup login password 's3cret'");
    server.sql("grant execute on function pg_backup_start, pg_backup_stop to backup");
    let hba = server.data.join("pg_hba.conf");
    let trust = fs::read_to_string(&hba).unwrap();
    fs::write(
        &hba,
        format!("local all backup scram-sha-256\nlocal replication backup scram-sha-256\n{trust}"),
    )
    .unwrap();
    server.reload().await;
    let password = world.path("password");
    fs::write(&password, "wrong\n").unwrap();
    fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).unwrap();
    let socket = world.engine.clone();
    world.engine += &format!("user = \"backup\"\npassword_file = {password:?}\n");
    world.start().await;

    let failure = refusal(&world).await;
    assert!(
        failure.kind == "denied" && failure.message.contains("password authentication failed"),
        "{failure:?}"
    );
    fs::write(&password, "s3cret\n").unwrap();
    let failure = refusal(&world).await;
    assert!(failure.kind == "denied" && failure.hint.contains("replication"), "{failure:?}");
    server.sql("alter role backup replication");
    world.backup().await;
    assert!(!world.agent("n1").log_text().contains("s3cret"));

    server.sql("revoke execute on function pg_backup_start from backup");
    let failure = refusal(&world).await;
    assert!(failure.hint.contains("grant execute on function pg_backup_start"), "{failure:?}");

    server.stop().await;
    let failure = refusal(&world).await;
    assert!(failure.message.contains("no PostgreSQL server answers"), "{failure:?}");
    server.start(&["wal_level=minimal", "max_wal_senders=0"]).await;
    world.stop_agent("n1").await;
    world.engine = socket;
    world.start_agent("n1");
    world.joined().await;
    let failure = refusal(&world).await;
    assert!(failure.message.contains("wal_level is minimal"), "{failure:?}");
    server.stop().await;

    // Another cluster answers where this one did; then it lies in the directory, too.
    let mut other = Postgres::create(&{
        let data = world.path("n1").join("other");
        fs::create_dir(&data).unwrap();
        data
    });
    other.start(&[]).await;
    let failure = refusal(&world).await;
    assert!(failure.message.contains("is the data directory of cluster"), "{failure:?}");
    other.stop().await;
    world.move_data("n1");
    fs::remove_dir(world.data("n1")).unwrap();
    fs::rename(&other.data, world.data("n1")).unwrap();
    server.start(&[]).await;
    let failure = refusal(&world).await;
    assert!(failure.message.contains("this node's backups are of cluster"), "{failure:?}");
    assert_eq!(world.backups().await.len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_brings_all_whichever_it_is() {
    let (mut world, mut first, mut second) = pair("", &[], |first| {
        first.sql("create table t as select 1 as a");
    })
    .await;
    world.start().await;
    let operation = world.backup().await;
    assert_eq!(operation.state(), OperationState::Succeeded, "{:?}", operation.warnings);
    assert_eq!(newest(&world).await.node, "n1");
    assert!(world.backups().await[0].missing.is_empty());

    second.sql("select pg_promote()");
    let failure = refusal(&world).await;
    assert!(failure.kind == "conflict" && failure.message.contains("n1 and n2 both say"), "{failure:?}");
    first.stop().await;
    second.sql("insert into t values (2)");
    world.backup().await;
    assert_eq!(newest(&world).await.node, "n2");

    second.stop().await;
    let failure = refusal(&world).await;
    assert!(failure.message.contains("no node brings data"), "{failure:?}");
    world.move_data("n2");
    world.restore("n2", false).await;
    second.start(&[]).await;
    assert_eq!(second.sql("select sum(a) from t"), "3");
    for node in ["n1", "n2"] {
        world.nothing_left_behind(node).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_spares_the_primary() {
    let (mut world, mut first, mut second) = pair("from = \"prefer-standby\"\n", &[], |first| {
        assert!(bench(first, &["-i", "-s", "3", "-q"]).status().unwrap().success());
    })
    .await;
    wait("the standby follows", || {
        (second.sql("select count(*) from pg_stat_wal_receiver where status = 'streaming'") == "1")
            .then_some(())
    })
    .await;
    world.start().await;
    let mut load = bench(&first, &["-c", "3", "-T", "600"]).spawn().unwrap();
    world.backup().await;
    first.sql("checkpoint");
    let operation = world.backup().await;
    load.kill().unwrap();
    load.wait().unwrap();
    assert_eq!(operation.state(), OperationState::Succeeded, "{:?}", operation.warnings);
    assert_eq!(newest(&world).await.node, "n2");
    wait("nothing stays open in the standby", || (second.sessions() == "0").then_some(())).await;

    // Promoted under the backup, it has no whole one; nor is it a standby any more.
    let (id, held) = held_in_upload(&world, &second).await;
    let before = world.backups().await.len();
    assert_eq!(second.sql("select pg_promote()"), "t");
    drop(held);
    let ended = world.ended(&id).await;
    assert_eq!(ended.state(), OperationState::Failed);
    assert_eq!(world.backups().await.len(), before);

    first.stop().await;
    second.stop().await;
    world.move_data("n1");
    world.seen_empty("n1").await;
    let request = v1::RestoreRequest {
        service: world::SERVICE.into(),
        backup: "latest".into(),
        nodes: vec!["n1=n2".into()],
        ..Default::default()
    };
    let operation = world.apply_restore(request).await;
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);
    assert!(fs::read_to_string(first.data.join("backup_label")).unwrap().contains("BACKUP FROM: standby"));
    assert!(!first.data.join("standby.signal").exists());
    first.start(&[]).await;
    assert_eq!(first.sql("select pg_is_in_recovery()"), "f");
    is_sound(&mut first).await;

    // Without one that follows, the primary brings it; or nobody, where it must be a standby.
    first.start(&[]).await;
    world.backup().await;
    assert_eq!(newest(&world).await.node, "n1");
    for node in ["n1", "n2"] {
        world.stop_agent(node).await;
    }
    world.engine = "host = \"{node}/socket\"\nfrom = \"standby\"\n".into();
    for node in ["n1", "n2"] {
        world.start_agent(node);
    }
    world.joined().await;
    let failure = refusal(&world).await;
    assert!(
        failure.message.contains("no node brings data") && failure.message.contains("from"),
        "{failure:?}"
    );
    world.stop().await;
}
