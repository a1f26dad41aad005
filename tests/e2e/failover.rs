//! A node is lost, and comes back by itself: on a new machine, or on a spare. The old machine, should it return,
//! touches nothing.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use palinurus_proto::v1::{self, OperationState};
use palinurus_tests::World;
use palinurus_tests::compare::assert_equal;
use palinurus_tests::world::{SERVICE, wait, wait_async};

/// Different bytes for each node, some of them in one larger file.
fn fill(world: &World, node: &str, megabytes: usize) {
    let data = world.data(node);
    fs::create_dir_all(data.join("tables/empty")).unwrap();
    let mut state = node.bytes().fold(0x9E37_79B9_7F4A_7C15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let mut random = |bytes: usize| -> Vec<u8> {
        let next = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        next.take(bytes / 8).flatten().collect()
    };
    fs::write(data.join("tables/large"), random(megabytes << 20)).unwrap();
    for i in 0..40 {
        fs::write(data.join(format!("tables/{i}")), random(10_000)).unwrap();
    }
    std::os::unix::fs::symlink("tables/1", data.join("link")).unwrap();
}

fn copy(from: &Path, to: PathBuf) -> PathBuf {
    assert!(Command::new("cp").arg("-a").arg(from).arg(&to).status().unwrap().success());
    to
}

async fn world(nodes: &[&str], spares: &[&'static str]) -> World {
    let mut world = World::new(nodes);
    world.spares = spares.to_vec();
    // Longer than a machine that is busy lets an agent stand still: it is that of all nodes.
    for (key, value) in [("failover", "automatic"), ("failover_patience", "12s")] {
        world.service.insert(key.into(), value.into());
    }
    for node in nodes.iter().filter(|node| !spares.contains(node)) {
        fill(&world, node, 3);
    }
    world.start().await;
    for spare in spares {
        world.seen_empty(spare).await;
    }
    world.backup().await;
    world
}

fn text(operation: &v1::Operation) -> String {
    operation.log.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>().join("\n")
}

/// What the next backup of a restored node stores: nothing that is not there.
async fn next_backup_is_nothing_new(world: &World, node: &str) {
    world.backup().await;
    let backup = world.backups().await.pop().unwrap();
    let part = backup.nodes.iter().find(|part| part.node == node).unwrap();
    assert_eq!(part.bytes_new, 0, "{part:?}");
    assert!(part.files >= 41, "{part:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_machine_gets_the_lost_nodes_data_without_anybody_asking() {
    let mut world = world(&["n1", "n2", "n3"], &[]).await;
    world.kill_agent("n2");
    let lost = world.move_data("n2");
    fs::remove_dir_all(world.agent_state("n2")).unwrap();
    world.start_agent("n2");
    let begun = world.failover().await;
    let ended = world.ended(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_equal(&lost, &world.data("n2"), &[]);
    let detail = ended.failover.as_ref().unwrap();
    assert!(detail.automatic && detail.rto_ms > 0 && detail.data_age_ms > 0, "{detail:?}");
    assert!(text(&ended).contains("holds 2 names"), "{}", text(&ended));
    world.nothing_left_behind("n2").await;
    next_backup_is_nothing_new(&world, "n2").await;

    let listed = world.run(&["failover", "list"]).await.expect(0).json();
    let row = &listed["failovers"][0];
    assert_eq!((row["failover"]["lost"].as_str(), row["state"].as_str()), (Some("n2"), Some("succeeded")));
    assert!(
        row["failover"]["rto_ms"].as_u64().unwrap() > 0 && listed["waiting"].as_array().unwrap().is_empty()
    );
    let shown = world.run(&["operation", "show", &begun.id]).await.expect(0).json();
    assert!(shown["log"].as_array().unwrap().len() >= 5, "{shown}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_takes_over_and_the_old_machine_stands_down_untouched() {
    let mut world = world(&["n1", "n2", "s1"], &["s1"]).await;
    world.kill_agent("n2");
    let begun = world.failover().await;
    let ended = world.ended(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_equal(&world.data("n2"), &world.data("s1"), &[]);
    assert!(text(&ended).contains("longer than its patience of 12s"), "{}", text(&ended));
    next_backup_is_nothing_new(&world, "s1").await;

    let before = copy(&world.data("n2"), world.path("n2-before"));
    let mark = world.agent_state("n2").join("stood-down.json");
    for _ in 0..2 {
        world.start_agent("n2");
        wait("the old agent stands down", || mark.exists().then_some(())).await;
        let log = world.path("n2.log");
        wait("it says why", || fs::read_to_string(&log).unwrap().contains("s1 has its place").then_some(()))
            .await;
        assert_equal(&before, &world.data("n2"), &[]);
        world.stop_agent("n2").await;
    }
    world.backup().await;
    assert_equal(&world.data("s1"), &world.data("n2"), &[]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_ever_restored_onto_data() {
    let mut world = world(&["n1", "n2", "s1"], &["s1"]).await;
    // A spare that somebody used, and a new machine that has something of its own.
    fs::write(world.data("s1").join("mine"), "mine").unwrap();
    wait_async("the spare is seen to be used", async || (!world.node("s1").await.data_empty).then_some(()))
        .await;
    world.kill_agent("n2");
    let waiting = wait_async("it is said why nothing happens", async || {
        let request =
            v1::FailoverRequest { service: SERVICE.into(), node: "n2".into(), ..Default::default() };
        let plan = world.client().await.plan_failover(request).await.unwrap().into_inner();
        plan.automatic.contains("no spare is connected and empty").then_some(plan)
    })
    .await;
    assert!(!waiting.refusals.is_empty());
    let refused = world.run(&["failover", "apply", SERVICE, "n2", "--onto", "s1", "--yes"]).await.expect(4);
    assert!(refused.error()["error"].to_string().contains("holds data"), "{}", refused.stderr);
    let _old = world.move_data("n2");
    fs::write(world.data("n2").join("theirs"), "theirs").unwrap();
    fs::remove_dir_all(world.agent_state("n2")).unwrap();
    world.start_agent("n2");
    world.joined().await;
    world.backup().await;
    assert!(world.failovers().await.is_empty());
    assert_eq!(fs::read_to_string(world.data("n2").join("theirs")).unwrap(), "theirs");
    assert_eq!(fs::read_to_string(world.data("s1").join("mine")).unwrap(), "mine");
    assert_eq!(fs::read_dir(world.data("n2")).unwrap().count(), 1);
    world.stop().await;
}

/// The agent dies in the middle of the restore and comes back: the same failover goes on from what is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_while_it_is_restored_goes_on() {
    let mut world = World::new(&["n1", "n2"]);
    world.service.insert("failover".into(), "automatic".into());
    fill(&world, "n1", 1);
    fill(&world, "n2", 96);
    world.start().await;
    world.backup().await;
    let marker = world.data("n2").join(".palinurus-restore");
    let mut count = 0;
    // A restore that was over before its agent died is followed by another.
    loop {
        count += 1;
        world.kill_agent("n2");
        let lost = world.move_data("n2");
        fs::remove_dir_all(world.agent_state("n2")).unwrap();
        world.start_agent("n2");
        let begun = wait_async("a failover begins", async || {
            let all = world.failovers().await;
            (all.len() == count).then(|| all.into_iter().max_by_key(|it| it.created_ms))?
        })
        .await;
        wait_async("the restore has begun", async || {
            let (there, now) = (marker.exists(), world.operation(&begun.id).await);
            (there || now.phase == "done").then_some(())
        })
        .await;
        world.kill_agent("n2");
        let middle = marker.exists();
        world.start_agent("n2");
        let ended = world.ended(&begun.id).await;
        assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
        assert_equal(&lost, &world.data("n2"), &[]);
        assert_eq!(world.failovers().await.len(), count);
        fs::remove_dir_all(lost).unwrap();
        if middle {
            break;
        }
        world.joined().await;
    }
    world.stop().await;
}
