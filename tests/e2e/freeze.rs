//! What was made to stand still goes on again, whoever dies.
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use palinurus_proto::v1::OperationState;
use palinurus_tests::World;
use palinurus_tests::world::wait;

/// A database that is frozen while a file exists, and takes a second to freeze.
async fn frozen_world(freeze: &str) -> (World, PathBuf) {
    let mut world = World::new(&["n1", "n2"]);
    let frozen = world.path("frozen");
    let (at, freeze) = (frozen.display(), freeze.replace("FROZEN", &frozen.display().to_string()));
    world.engine = format!(
        "freeze_command = [\"/bin/sh\", \"-c\", \"{freeze}\"]\n\
         thaw_command = [\"/bin/sh\", \"-c\", \"rm -f {at}\"]\n"
    );
    world.settings = "freeze_limit = \"3s\"\n".into();
    for node in ["n1", "n2"] {
        fs::write(world.data(node).join("file"), node).unwrap();
    }
    world.start().await;
    (world, frozen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_thaws_what_it_froze() {
    let (mut world, frozen) = frozen_world("touch FROZEN").await;
    world.backup().await;
    assert!(!frozen.exists());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_thaws_when_it_is_back() {
    let (mut world, frozen) = frozen_world("touch FROZEN; sleep 1").await;
    let operation = world.start_backup().await;
    wait("it is frozen", || frozen.exists().then_some(())).await;
    world.kill_agent("n1");
    world.kill_agent("n2");
    // What the freeze command of the killed agents still does must not come after the thaw.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(frozen.exists());
    world.start_agent("n1");
    world.start_agent("n2");
    wait("it is thawed", || (!frozen.exists()).then_some(())).await;
    world.ended(&operation.id).await;
    wait("it stays thawed", || (!frozen.exists()).then_some(())).await;
    world.nothing_left_behind("n1").await;
    world.backup().await;
    assert!(!frozen.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_coordinator_does_not_leave_it_frozen() {
    let (mut world, frozen) = frozen_world("touch FROZEN; sleep 1").await;
    let operation = world.start_backup().await;
    wait("it is frozen", || frozen.exists().then_some(())).await;
    world.kill_coordinator();
    wait("the agents thaw by themselves", || (!frozen.exists()).then_some(())).await;
    world.start_coordinator().await;
    world.joined().await;
    let ended = world.ended(&operation.id).await;
    eprintln!("the backup ended as {:?}: {:?}", ended.state(), ended.failure);
    assert!(!frozen.exists());
    world.backup().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_fails_fails_the_backup_with_its_words() {
    let (world, frozen) = frozen_world("touch FROZEN; echo no such table >&2; exit 3").await;
    let operation = world.start_backup().await;
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Failed);
    let failure = ended.failure.unwrap();
    assert!(failure.message.contains("no such table"), "{failure:?}");
    assert!(!frozen.exists());
    assert!(world.backups().await.is_empty());
    world.nothing_left_behind("n1").await;
}
