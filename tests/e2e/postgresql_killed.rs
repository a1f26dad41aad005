//! kill -9 of the server, the agent or the coordinator in each phase of a backup, under load and while the log is
//! stored. The phase is no chance: a process of the server that it waits for is held.
use std::fs;

use palinurus_proto::v1::{OperationState, log_target::Target};
use palinurus_tests::World;
use palinurus_tests::archive::{backup, bring_back, end_of, held_in_upload, logs, prepared, quiet, stored};
use palinurus_tests::commits::{Moment, commits, present, until};
use palinurus_tests::load::{BALANCES, Load, ROWS, fill, written};
use palinurus_tests::postgres::{Paused, Postgres};
use palinurus_tests::store::{Faults, Proxy, Server};
use palinurus_tests::world::wait;

const KEEP: &str = "wal_keep_size=2GB";
/// More to upload than a moment's.
const BALLAST: &str =
    "create table ballast as select md5(g::text) || md5((g + 1)::text) from generate_series(1, 600000) g";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Server,
    Agent,
    Coordinator,
}

/// Where the backup stands when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The server answers nobody.
    Inspect,
    /// Its checkpoint does not end.
    Snapshot,
    /// The rest of the WAL does not come.
    Upload,
}

/// Agent or coordinator; it comes back when what was in the way is out of it.
async fn dies(world: &mut World, victim: Victim, let_go: impl FnOnce()) {
    if victim == Victim::Agent {
        world.kill_agent("n1");
        let_go();
        world.start_agent("n1");
    } else {
        world.kill_coordinator();
        let_go();
        world.start_coordinator().await;
    }
}

/// A backup that stands there, and what it stands for.
async fn standing(world: &World, server: &Postgres, at: At) -> (String, Paused) {
    match at {
        At::Inspect => {
            let held = Paused::new(server.pid());
            let id = world.start_backup().await.id;
            world.comes_to(&id, "inspect").await;
            (id, held)
        }
        At::Snapshot => {
            let held = server.pause("backend_type = 'checkpointer'");
            let id = world.start_backup().await.id;
            world.comes_to(&id, "snapshot").await;
            (id, held)
        }
        At::Upload => held_in_upload(world, server).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_in_whichever_phase_the_log_has_no_gap_and_backups_go_on() {
    let (mut world, mut server) = prepared(&[KEEP]).await;
    // For the server that answers nobody: the backup waits for it until it is looked at.
    world.engine.push_str("connect_timeout = \"100s\"\n");
    world.start().await;
    fill(&server);
    server.sql(BALLAST);
    let lineage = stored(&world, &server).await;
    backup(&world).await;
    let mut load = Load::start(&server, &world.path("."));
    for at in [At::Inspect, At::Snapshot, At::Upload] {
        for victim in [Victim::Server, Victim::Agent, Victim::Coordinator] {
            quiet(&world).await;
            let (id, held) = standing(&world, &server, at).await;
            let before = world.backups().await.len();
            match victim {
                Victim::Server => {
                    server.kill().await;
                    load.kill();
                    drop(held);
                    server.start(&[KEEP]).await;
                    load = Load::start(&server, &world.path("."));
                }
                other => dies(&mut world, other, || drop(held)).await,
            }
            world.joined().await;
            let ended = world.ended(&id).await;
            println!("{victim:?} at {at:?}: {:?}", ended.state());
            match ended.state() {
                OperationState::Succeeded | OperationState::Warnings => {
                    assert_eq!(world.backups().await.len(), before + 1, "{victim:?} at {at:?}");
                }
                OperationState::Failed => {
                    let failure = ended.failure.unwrap();
                    assert!(!failure.hint.is_empty(), "{victim:?} at {at:?}: {failure:?}");
                    assert_eq!(world.backups().await.len(), before, "{victim:?} at {at:?}");
                }
                other => panic!("{victim:?} at {at:?} ended as {other:?}"),
            }
            wait("only the log's session stays open", || {
                (server.sql("select count(*) from pg_replication_slots where temporary") == "0").then_some(())
            })
            .await;
            world.nothing_left_behind("n1").await;
        }
    }
    written(&server, 50).await;
    load.stop(&server).await;
    assert_eq!(stored(&world, &server).await, lineage);
    end_of(&world, &lineage).await;
    assert!(logs(&world).await.writer.unwrap().gaps.is_empty());
    quiet(&world).await;
    world.backup().await;
    let rows = present(&server, ROWS);
    server.stop().await;
    let all = commits(&server.data);
    fs::remove_dir_all(world.move_data("n1")).unwrap();
    bring_back(&world, &mut server, Target::Latest(true), &lineage).await;
    let there = present(&server, ROWS);
    assert_eq!(there, rows);
    assert!(rows.is_subset(&until(&all, Moment::End(u64::MAX))));
    assert_eq!(server.sql(BALANCES), "t");
    quiet(&world).await;
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_while_it_is_committed_the_backup_is_there_in_the_end() {
    let store = Server::moto().await;
    let proxy = Proxy::before(store.address, Faults::none()).await;
    let (mut world, mut server) = prepared(&[KEEP]).await;
    world.keep_repository_at(store.url_through(proxy.address, "killed"));
    server.sql(BALLAST);
    world.start().await;
    let lineage = stored(&world, &server).await;
    backup(&world).await;
    for victim in [Victim::Server, Victim::Agent, Victim::Coordinator] {
        quiet(&world).await;
        let (id, held) = standing(&world, &server, At::Upload).await;
        let before = world.backups().await.len();
        // The record is not taken, and asked for again.
        proxy.set(Faults::refusing("PUT /lab/killed/ledger/", "503 Slow Down", "SlowDown"));
        drop(held);
        world.comes_to(&id, "commit").await;
        let let_go = || proxy.set(Faults::none());
        match victim {
            Victim::Server => {
                server.kill().await;
                let_go();
                server.start(&[KEEP]).await;
            }
            other => dies(&mut world, other, let_go).await,
        }
        world.joined().await;
        let ended = world.ended(&id).await;
        assert_eq!(ended.state(), OperationState::Succeeded, "{victim:?}: {:?}", ended.failure);
        assert_eq!(world.backups().await.len(), before + 1, "{victim:?}");
        world.nothing_left_behind("n1").await;
    }
    assert_eq!(stored(&world, &server).await, lineage);
    assert!(logs(&world).await.writer.unwrap().gaps.is_empty());
    quiet(&world).await;
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
    world.stop().await;
}
