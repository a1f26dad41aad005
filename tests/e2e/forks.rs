//! Another service begins with what a backup has, or with a moment, and neither touches the other from then on.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use palinurus_proto::v1;
use palinurus_repository::{KeyFile, SystemEntropy};
use palinurus_tests::World;
use palinurus_tests::archive::{backup, logs_of, quiet_of, recover, stored, stored_of, timeline};
use palinurus_tests::commits::lsn;
use palinurus_tests::compare::assert_equal;
use palinurus_tests::postgres::{Postgres, give};
use palinurus_tests::process::palinurus;
use palinurus_tests::world::{FORK, Ran, SERVICE, files_below, run, wait, wait_async};

/// `palinurus restore VERB --service s --into fork ...`
async fn fork(world: &World, verb: &str, more: &[&str]) -> Ran {
    let words = ["restore", verb, "--service", SERVICE, "--into", FORK];
    world.run(&[&words[..], more].concat()).await
}

#[track_caller]
fn refused(ran: &Ran, why: &str) {
    let said = format!("{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.code != 0 && said.contains(why), "not because of {why:?}:\n{said}");
}

fn copy(from: &Path, to: PathBuf) -> PathBuf {
    assert!(Command::new("cp").arg("-a").arg(from).arg(&to).status().unwrap().success());
    to
}

/// The only backup of the fork, which was begun by itself.
async fn first_backup(world: &World) -> v1::Backup {
    let first = wait_async("the fork is backed up", async || world.backups_of(FORK).await.pop()).await;
    quiet_of(world, FORK).await;
    first
}

async fn sound(world: &World) {
    for service in [SERVICE, FORK] {
        world.run(&["repository", "check", "--service", service, "--read-data"]).await.expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_any_backup_become_a_service_of_their_own() {
    let mut world = World::encrypted(&["a1", "a2", "f1", "f2"]);
    world.forks = vec!["f1", "f2"];
    // The fork's agents have a key of their own.
    let key = world.path("key-of-f");
    KeyFile::generate(&SystemEntropy::new()).unwrap().write(&key).unwrap();
    for node in ["f1", "f2"] {
        world.own_keys.insert(node.into(), format!("[{key:?}]"));
    }
    for node in ["a1", "a2"] {
        fs::write(world.data(node).join("name"), node).unwrap();
        fs::write(world.data(node).join("bytes"), node.repeat(700_000)).unwrap();
    }
    world.start().await;
    for node in ["f1", "f2"] {
        world.seen_empty(node).await;
    }
    refused(&fork(&world, "plan", &[]).await, "has no backup: there is nothing to fork");
    let first = world.backup().await.backup.unwrap().backup_id;
    let as_of = ["a1", "a2"].map(|node| copy(&world.data(node), world.path(&format!("{node}-then"))));
    fs::write(world.data("a1").join("later"), "not of the first backup").unwrap();
    world.backup().await;

    let itself = ["restore", "plan", "--service", SERVICE, "--into", SERVICE];
    refused(&world.run(&itself).await, "cannot be a fork of itself");
    refused(&fork(&world, "apply", &[&first, "--yes"]).await, "palinurus keys add --repository");
    let own = format!("file://{}", world.fork_repository().display());
    for url in [world.repository_url(), own] {
        let (old, new) = (world.key(), key.clone());
        let words = ["keys", "add", "--repository", &url, "--keys", old.to_str().unwrap(), "--new"];
        world.run(&[&words[..], &[new.to_str().unwrap()]].concat()).await.expect(0);
    }
    let parent = files_below(world.repository());
    let plan = fork(&world, "plan", &[&first]).await.expect(0).json();
    let pairs = [("f1", "a1"), ("f2", "a2")];
    for (node, (onto, source)) in plan["nodes"].as_array().unwrap().iter().zip(pairs) {
        assert_eq!((&node["node"], &node["source"]), (&onto.into(), &source.into()), "{plan:#}");
    }
    assert_eq!((&plan["service"], &plan["into"]), (&SERVICE.into(), &FORK.into()));
    fork(&world, "apply", &[&first, "--yes"]).await.expect(0);
    for (node, then) in ["f1", "f2"].into_iter().zip(&as_of) {
        assert_equal(then, &world.data(node), &[]);
    }

    // Its first backup is whole, its own, and made by itself; at its parent's nothing has changed.
    let backup = first_backup(&world).await;
    assert!(backup.bytes_new >= 2 * 700_000, "{backup:#?}");
    assert_eq!(files_below(world.repository()), parent);
    world.seen_filled("f1").await;
    let again = fork(&world, "plan", &[&first]).await;
    refused(&again, "a fork begins a service");
    refused(&again, "directory of node f1 is not empty: empty it");

    // It goes on without its parent's repository, and restores its own.
    let aside = world.path("parent's");
    fs::rename(world.repository(), &aside).unwrap();
    fs::write(world.data("f1").join("own"), "the fork's").unwrap();
    let start = v1::StartBackupRequest { service: FORK.into(), full: false };
    let second = world.client().await.start_backup(start).await.unwrap().into_inner();
    assert_eq!(world.ended(&second.id).await.state(), v1::OperationState::Succeeded);
    let moved = world.move_data("f1");
    world.seen_empty("f1").await;
    world.run(&["restore", "apply", "--service", FORK, "--node", "f1", "--yes"]).await.expect(0);
    assert_equal(&moved, &world.data("f1"), &[]);
    fs::rename(&aside, world.repository()).unwrap();
    sound(&world).await;

    let audit = fs::read_to_string(world.path("coordinator/audit.log")).unwrap();
    assert!(audit.contains(r#""into":"fork""#), "{audit}");
    for node in ["f1", "f2"] {
        world.nothing_left_behind(node).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_not_forked() {
    let mut world = World::new(&["a1", "a2", "f1"]);
    world.forks = vec!["f1"];
    for node in ["a1", "a2"] {
        fs::write(world.data(node).join("name"), node).unwrap();
    }
    world.start().await;
    world.backup().await;
    world.seen_empty("f1").await;
    refused(&fork(&world, "plan", &[]).await, "the backup has 2 nodes (a1, a2), and service fork has 1 (f1)");
    refused(&fork(&world, "plan", &["--delta"]).await, "cannot be used with");
    refused(&fork(&world, "plan", &["--to", "latest"]).await, "has no log");
    let plan = fork(&world, "plan", &["--node", "f1=a2"]).await.expect(0).json();
    assert!(plan["warnings"][0].as_str().unwrap().contains("node a1 of the backup is restored onto nobody"));
    fs::write(world.data("f1").join("somebody's"), "x").unwrap();
    world.seen_filled("f1").await;
    refused(&fork(&world, "apply", &["--node", "f1=a2", "--yes"]).await, "is not empty: empty it");
    refused(&fork(&world, "plan", &["--node", "f9=a2"]).await, "service fork has no node");
    world.stop().await;
}

const IDS: &str = "select string_agg(id::text, ' ' order by id) from t";

fn insert(server: &Postgres, id: u32) -> u64 {
    server.sql(&format!("insert into t values ({id})"));
    lsn(&server.sql("select pg_current_wal_insert_lsn()"))
}

/// A subscription in this server to a publication of its own, and the walsender that serves it.
async fn subscribed(server: &Postgres) -> String {
    server.sql("create database source");
    let mut source = server.tool("psql");
    source.args(["-XAtqd", "source", "-c"]);
    source.arg("create table news (id int); create publication news for table news");
    source.arg("-c").arg("select pg_create_logical_replication_slot('news', 'pgoutput')");
    assert!(source.status().unwrap().success());
    server.sql("create table news (id int)");
    server.sql(&format!(
        "create subscription news connection 'host={} user=postgres dbname=source' publication news \
         with (create_slot = false, slot_name = 'news', copy_data = false)",
        server.socket.display()
    ));
    let sender = "select pid from pg_stat_replication where application_name = 'news'";
    wait("the subscription is served", || server.try_sql(sender).ok().filter(|pid| !pid.is_empty())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_becomes_a_service_while_its_parent_goes_on() {
    let mut world = World::new(&["n1", "f1"]);
    world.forks = vec!["f1"];
    world.kind = "postgresql".into();
    world.engine = "host = \"{node}/socket\"\narchive = true\n".into();
    let archive = world.path("archive");
    fs::create_dir(&archive).unwrap();
    let mut server = Postgres::create(&world.data("n1"));
    give(&archive);
    let conf = server.data.join("postgresql.conf");
    let settings = format!(
        "wal_level = logical\narchive_mode = on\narchive_command = 'cp %p {}/%f'\n",
        archive.display()
    );
    fs::write(&conf, fs::read_to_string(&conf).unwrap() + &settings).unwrap();
    server.start(&[]).await;
    server.sql("create table t (id int primary key)");
    server.sql("alter system set primary_conninfo = 'host=nowhere'");
    server.sql("alter system set primary_slot_name = 'nobody'");
    let sender = subscribed(&server).await;
    let mut forked = Postgres::at(&world.data("f1"));
    world.start().await;
    let lineage = stored(&world, &server).await;
    backup(&world).await;
    let places: Vec<u64> = (1..=6).map(|id| insert(&server, id)).collect();
    assert_eq!(stored(&world, &server).await, lineage);
    world.seen_empty("f1").await;

    refused(&fork(&world, "plan", &["--to", "2001-01-01 00:00:00Z"]).await, "window");
    // After the fourth, before the fifth, by the position.
    let place = format!("{:X}/{:X}", places[3] >> 32, places[3] & 0xffff_ffff);
    fork(&world, "apply", &["--to", &place, "--yes"]).await.expect(0);
    insert(&server, 7);
    recover(&mut forked, &[]).await;
    assert_eq!(forked.sql(IDS), "1 2 3 4");
    for (setting, value) in [
        ("archive_mode", "off"),
        ("archive_command", "(disabled)"),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("max_logical_replication_workers", "0"),
    ] {
        assert_eq!(forked.sql(&format!("show {setting}")), value, "{setting}");
    }

    // A history of its own, in a repository of its own, with a backup that begins by itself.
    insert(&forked, 1000);
    forked.sql("select pg_switch_wal()");
    let own = stored_of(&world, FORK, &forked).await;
    let known = logs_of(&world, FORK).await.lineages;
    let [view] = known.as_slice() else { panic!("{known:#?}") };
    assert_eq!(timeline(&view.lineage.as_ref().unwrap().identity), 2);
    first_backup(&world).await;

    // And its parent's goes on as before.
    insert(&server, 8);
    assert_eq!(stored(&world, &server).await, lineage);
    let logs = logs_of(&world, SERVICE).await;
    assert_eq!((logs.lineages.len(), logs.lineages[0].stretches.len()), (1, 1), "{logs:#?}");
    server.sql("select pg_switch_wal()");
    wait("the parent's own archive has more", || (!files_below(&archive).is_empty()).then_some(())).await;
    let of_fork = files_below(&archive).into_iter().find(|path| {
        !path.ends_with(".history") && {
            !path.file_name().unwrap().to_str().unwrap().starts_with("00000001")
        }
    });
    assert_eq!(of_fork, None, "the fork archives into its parent's");
    let senders =
        "select string_agg(pid::text, ' ') from pg_stat_replication where application_name = 'news'";
    assert_eq!(server.sql(senders), sender, "nobody else reads the subscription");
    assert_eq!(forked.sql("select count(*) from pg_stat_subscription where pid is not null"), "0");

    // What it may read of its parent's ended with its recovery.
    wait_async("the recovery is over", async || {
        let request = v1::ListOperationsRequest { service: FORK.into(), running: false };
        let all = world.client().await.list_operations(request).await.ok()?.into_inner().operations;
        all.iter().any(|it| it.recovered_ms > 0).then_some(())
    })
    .await;
    let mut get = palinurus();
    get.args(["agent", "wal-get", "--state"]).arg(world.agent_state("f1"));
    get.arg("000000010000000000000001").arg(world.path("taken"));
    refused(&run(get).await, "it reads nothing of its parent's any more");

    // It comes back from its own.
    backup_of_fork_leads(&world).await;
    forked.stop().await;
    fs::remove_dir_all(world.move_data("f1")).unwrap();
    world.seen_empty("f1").await;
    let words = ["restore", "apply", "--service", FORK, "--to", "latest", "--yes"];
    world.run(&words).await.expect(0);
    recover(&mut forked, &[]).await;
    assert_eq!(forked.sql(IDS), "1 2 3 4 1000");
    assert_ne!(stored_of(&world, FORK, &forked).await, own);
    quiet_of(&world, FORK).await;
    assert_eq!(server.sql(IDS), "1 2 3 4 5 6 7 8");
    sound(&world).await;
    world.stop().await;
}

async fn backup_of_fork_leads(world: &World) {
    wait_async("the fork's backup leads along its log", async || {
        (!logs_of(world, FORK).await.windows.is_empty()).then_some(())
    })
    .await;
}
