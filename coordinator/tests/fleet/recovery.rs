//! The coordinator stops at any moment; the next one goes on.
use palinurus_proto::v1::{self, OperationState, TaskState};

use crate::world::{World, task};

const TASKS: [&str; 7] = ["inspect", "freeze", "snapshot", "thaw", "upload", "manifest", "release"];

async fn goes_on_from(phase: &'static str) {
    let mut world = World::new().await;
    let mut operator = world.apply(&["n1", "n2"]).await;
    let (one, two) = (world.peer("n1", &[("a", vec![1, 2])]), world.peer("n2", &[("a", vec![2, 3])]));
    two.hold(phase);
    let started = operator.start_backup().await.unwrap();
    operator
        .until(&started.id, |operation| {
            let state = |node| task(operation, node, phase).map(v1::TaskRecord::state);
            state("n1") == Some(TaskState::TaskDone) && state("n2") == Some(TaskState::TaskRunning)
        })
        .await;
    let before = (one.epoch(), two.epoch());
    world.restart().await;
    let mut operator = world.operator().await;
    let resumed = operator.until(&started.id, |_| true).await;
    assert_eq!(resumed.phase, phase);
    two.let_go();
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_eq!(ended.epoch, before.0 + 1);
    for peer in [&one, &two] {
        peer.released(&started.id).await;
        // Who had released before needs not be heard of again for the end.
        peer.obeys(before.0 + 1).await;
        assert_eq!(peer.began(phase), 1, "known to run, or to have ended: not begun again");
        assert_eq!(peer.epoch(), before.0 + 1);
    }
    assert_eq!(operator.backups().await.len(), 1);
    let repository = world.repository().await;
    let report = palinurus_repository::verify::check(&repository, true, &|_| {}).await.unwrap();
    assert_eq!(report.damages, []);
    assert!(repository.read(|state| state.open_transactions().is_empty()).await);
}

macro_rules! phases {
    ($($name:ident $phase:literal),*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            goes_on_from($phase).await;
        }
    )* };
}

phases!(
    inspect_goes_on "inspect",
    freeze_goes_on "freeze",
    snapshot_goes_on "snapshot",
    thaw_goes_on "thaw",
    upload_goes_on "upload",
    manifest_goes_on "manifest",
    release_goes_on "release"
);

fn ended(operation: &v1::Operation) -> usize {
    operation.tasks.iter().filter(|task| task.state() == TaskState::TaskDone).count()
}

/// Wherever it stands: a coordinator that stops whenever something has been done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_after_every_change_it_still_ends() {
    let mut world = World::new().await;
    let mut operator = world.apply(&["n1", "n2"]).await;
    let (one, two) = (world.peer("n1", &[("a", vec![1, 2])]), world.peer("n2", &[("a", vec![2, 3])]));
    for task in TASKS {
        one.hold(task);
        two.hold(task);
    }
    let started = operator.start_backup().await.unwrap();
    let mut seen = started.clone();
    let mut stops = 0;
    // One more between two stops, however long it takes to look.
    let mut next = TASKS.iter().flat_map(|task| [(&one, *task), (&two, *task)]);
    while seen.finished_ms == 0 {
        world.restart().await;
        stops += 1;
        if let Some((peer, task)) = next.next() {
            peer.let_go_of(task);
        }
        let known = ended(&seen);
        let changed = |now: &v1::Operation| now.finished_ms > 0 || ended(now) > known;
        seen = world.operator().await.until(&started.id, changed).await;
    }
    assert!(stops >= 2 * TASKS.len(), "only {stops} stops");
    assert_eq!(seen.state(), OperationState::Succeeded, "{seen:#?}");
    for peer in [&one, &two] {
        peer.released(&started.id).await;
        for task in TASKS {
            assert_eq!(peer.began(task), 1, "{task}");
        }
    }
    let repository = world.repository().await;
    assert_eq!(repository.backups().await.len(), 1);
    let report = palinurus_repository::verify::check(&repository, true, &|_| {}).await.unwrap();
    assert_eq!(report.damages, []);
}

/// A task that ended while nobody listened is told again, recorded, and only then forgotten by the agent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_unheard_is_heard_later() {
    let mut world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    peer.hold("snapshot");
    let started = operator.start_backup().await.unwrap();
    operator
        .until(&started.id, |operation| {
            task(operation, "n1", "snapshot").is_some_and(|task| task.state() == TaskState::TaskRunning)
        })
        .await;
    world.stop().await;
    peer.let_go();
    world.start().await;
    let mut operator = world.operator().await;
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_eq!(peer.began("snapshot"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_survives_too() {
    let mut world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    peer.hold("release");
    peer.hold("upload");
    let started = operator.start_backup().await.unwrap();
    operator.until(&started.id, |operation| task(operation, "n1", "upload").is_some()).await;
    operator.0.cancel_operation(v1::GetOperationRequest { id: started.id.clone() }).await.unwrap();
    operator.until(&started.id, |operation| task(operation, "n1", "release").is_some()).await;
    world.restart().await;
    peer.let_go();
    let ended = world.operator().await.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Cancelled, "{ended:#?}");
}

/// Lost with its disk: a coordinator that begins anew finds the backups in the repository, above all old epochs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_is_lost_and_the_repository_is_taken_up_again() {
    let mut world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    let peer = world.peer("n1", &[("a", vec![1, 2])]);
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    world.restart().await;
    world.stop().await;
    peer.cut().await;
    std::fs::remove_dir_all(&world.config.state).unwrap();
    world.start().await;
    let mut operator = world.apply(&["n1"]).await;
    peer.join();
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    let backups = operator.backups().await;
    assert_eq!(backups.len(), 2);
    assert!(backups[1].nodes[0].unchanged, "what was stored before is known: {backups:#?}");
    assert!(peer.epoch() > 1000, "above all that the lost one can have given out");
}
