//! What was made to stand still goes on again, whoever dies.
use std::fs;
use std::path::{Path, PathBuf};

use palinurus_proto::v1::OperationState;
use palinurus_tests::World;
use palinurus_tests::world::wait;

/// Of an agent that nobody tells to thaw.
const SHORT: &str = "freeze_limit = \"3s\"\n";
const LONG: &str = "freeze_limit = \"60s\"\n";

/// A database that is frozen while a file exists, and takes a second to freeze.
async fn frozen_world(freeze: &str, limit: &str) -> (World, PathBuf) {
    let mut world = World::new(&["n1", "n2"]);
    let frozen = world.path("frozen");
    let (at, freeze) = (frozen.display(), freeze.replace("FROZEN", &frozen.display().to_string()));
    world.engine = format!(
        "freeze_command = [\"/bin/sh\", \"-c\", \"{freeze}\"]\n\
         thaw_command = [\"/bin/sh\", \"-c\", \"rm -f {at}\"]\n"
    );
    world.settings = limit.into();
    for node in ["n1", "n2"] {
        fs::write(world.data(node).join("file"), node).unwrap();
    }
    world.start().await;
    (world, frozen)
}

/// A process that was told of that path.
fn runs_with(path: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut told = processes.filter_map(|each| fs::read_to_string(each.path().join("cmdline")).ok());
    told.any(|words| words.contains(path.to_str().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_thaws_what_it_froze() {
    let (mut world, frozen) = frozen_world("touch FROZEN", LONG).await;
    world.backup().await;
    assert!(!frozen.exists());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_thaws_when_it_is_back() {
    let (mut world, frozen) = frozen_world("touch FROZEN; sleep 1", LONG).await;
    let operation = world.start_backup().await;
    wait("it is frozen", || frozen.exists().then_some(())).await;
    world.kill_agent("n1");
    world.kill_agent("n2");
    // What the freeze command of the killed agents still does must not come after the thaw.
    wait("no freeze command runs", || (!runs_with(&frozen)).then_some(())).await;
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
    let (mut world, frozen) = frozen_world("touch FROZEN; sleep 1", SHORT).await;
    let operation = world.start_backup().await;
    wait("it is frozen", || frozen.exists().then_some(())).await;
    world.kill_coordinator();
    wait("the agents thaw by themselves", || (!frozen.exists()).then_some(())).await;
    world.settings = LONG.into();
    world.start_coordinator().await;
    world.joined().await;
    let ended = world.ended(&operation.id).await;
    eprintln!("the backup ended as {:?}: {:?}", ended.state(), ended.failure);
    wait("it stays thawed", || (!frozen.exists()).then_some(())).await;
    world.backup().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_fails_fails_the_backup_with_its_words() {
    let (world, frozen) = frozen_world("touch FROZEN; echo no such table >&2; exit 3", LONG).await;
    let operation = world.start_backup().await;
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Failed);
    let failure = ended.failure.unwrap();
    assert!(failure.message.contains("no such table"), "{failure:?}");
    wait("both have thawed it", || (!frozen.exists()).then_some(())).await;
    assert!(world.backups().await.is_empty());
    world.nothing_left_behind("n1").await;
}
