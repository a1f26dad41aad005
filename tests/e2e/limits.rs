//! What an agent may use of its machine, changed while a backup runs: held by a limit under which it would take weeks, and
//! done as soon as that is lifted.
use std::fs;

use palinurus_proto::v1::OperationState;
use palinurus_tests::World;
use palinurus_tests::seeded::Random;
use serde_json::{Value, json};

async fn limits(world: &World, arguments: &[&str]) -> Value {
    let ran = world.run(&[&["node", "limits"], arguments].concat()).await.expect(0);
    ran.json()["nodes"][0]["limits"].clone()
}

#[tokio::test]
async fn a_limit_holds_a_backup_outlives_the_coordinator_and_is_lifted() {
    let mut world = World::new(&["n1"]);
    // One frame, so one pack: the first that is sent is let through, what is sent next has to wait for it.
    fs::write(world.data("n1").join("file"), Random::new(5).bytes(500_000)).unwrap();
    world.start().await;
    let unset = json!({ "read": null, "send": null, "receive": null, "cpu": null });
    assert_eq!(limits(&world, &[]).await, unset);
    let set = limits(&world, &["n1", "--send", "1", "--read", "50MiB", "--cpu", "150%"]).await;
    assert_eq!(set, json!({ "read": 50 << 20, "send": 1, "receive": null, "cpu": 150 }));

    let backup = world.start_backup().await;
    world.comes_to(&backup.id, "manifest").await;
    world.kill_coordinator();
    world.start_coordinator().await;
    world.joined().await;
    // The rest is as it was, and the agent that has connected anew is held as before.
    let left = limits(&world, &["--read", "default", "--cpu", "none"]).await;
    assert_eq!(left, json!({ "read": null, "send": 1, "receive": null, "cpu": 0 }));
    assert_eq!(world.operation(&backup.id).await.state(), OperationState::Running);
    assert_eq!(limits(&world, &["--send", "none"]).await["send"], 0);
    assert_eq!(world.ended(&backup.id).await.state(), OperationState::Succeeded);
    assert_eq!(limits(&world, &["--send", "default", "--cpu", "default"]).await, unset);

    let wrong = world.run(&["node", "limits", "n7", "--send", "1MiB"]).await;
    assert!(wrong.code != 0 && wrong.stderr.contains("no node n7"), "{}", wrong.stderr);
    world.stop().await;
}
