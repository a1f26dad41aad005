//! A disk that fills up under the repository, the spool or the restored data: the reason is said, and once there is
//! room the same command works.
use std::fs;

use palinurus_proto::v1::{self, OperationState};
use palinurus_tests::seeded::Random;
use palinurus_tests::tmpfs::Tmpfs;
use palinurus_tests::{World, compare};

fn fill(world: &World, files: usize) {
    let mut random = Random::new(11);
    for i in 0..files {
        fs::write(world.data("n1").join(format!("{i}")), random.bytes(1_000_000)).unwrap();
    }
}

#[track_caller]
pub(crate) fn says_full(operation: &v1::Operation) {
    assert_eq!(operation.state(), OperationState::Failed);
    let failure = operation.failure.as_ref().unwrap();
    let said = format!("{} {}", failure.message, failure.hint).to_lowercase();
    assert!(said.contains("space"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repository_is_full() {
    let mut world = World::new(&["n1"]);
    let small = world.path("small");
    let Some(_tmpfs) = Tmpfs::mount(&small, 24) else { return };
    world.keep_repository_in(&small);
    fill(&world, 60);
    world.start().await;
    let operation = world.start_backup().await;
    says_full(&world.ended(&operation.id).await);
    assert!(world.backups().await.is_empty());
    world.nothing_left_behind("n1").await;
    // Less to store: it fits now, beside nothing of the failed one.
    for i in 10..60 {
        fs::remove_file(world.data("n1").join(format!("{i}"))).unwrap();
    }
    world.backup().await;
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_state_is_full() {
    let mut world = World::new(&["n1"]);
    let Some(_tmpfs) = Tmpfs::mount(&world.agent_state("n1"), 1) else { return };
    for i in 0..20_000 {
        fs::write(world.data("n1").join(format!("a file with a name of some length {i:060}")), "").unwrap();
    }
    world.start().await;
    let operation = world.start_backup().await;
    says_full(&world.ended(&operation.id).await);
    world.nothing_left_behind("n1").await;
    for i in 100..20_000 {
        fs::remove_file(world.data("n1").join(format!("a file with a name of some length {i:060}"))).unwrap();
    }
    world.backup().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_restores_target_is_full() {
    let mut world = World::new(&["n1"]);
    fill(&world, 40);
    world.start().await;
    world.backup().await;
    world.stop().await;
    let small = world.path("small");
    let Some(_tmpfs) = Tmpfs::mount(&small, 16) else { return };
    let (url, key) = (world.repository_url(), world.key());
    let restore = |target: &std::path::Path| {
        [
            "restore",
            "--repository",
            &url,
            "--keys",
            key.to_str().unwrap(),
            "--target",
            target.to_str().unwrap(),
        ]
        .map(str::to_owned)
    };
    let full = world.run(&restore(&small)).await.expect(5);
    assert!(full.stderr.to_lowercase().contains("space"), "{}", full.stderr);
    let roomy = world.path("roomy");
    world.run(&restore(&roomy)).await.expect(0);
    compare::assert_equal(&world.data("n1"), &roomy, &[]);
}
