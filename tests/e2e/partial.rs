//! An agent killed for good in the middle of its upload, under both policies.
use std::fs;

use palinurus_proto::v1::{self, OperationState};
use palinurus_tests::process::palinurus;
use palinurus_tests::seeded::Random;
use palinurus_tests::world::{Ran, files_below, run, wait_async};
use palinurus_tests::{World, compare};

const FILE: usize = 2_000_000;

/// Three nodes with the same sixty files, and each with files of its own, which come first in the list: the third
/// begins in the middle of what is shared.
async fn world_of_three(random: &mut Random) -> World {
    let mut world = World::new(&["n1", "n2", "n3"]);
    for i in 0..60 {
        let shared = random.bytes(FILE);
        for node in ["n1", "n2", "n3"] {
            fs::write(world.data(node).join(format!("s-{i:02}")), &shared).unwrap();
        }
    }
    for (node, own) in [("n1", 2), ("n2", 2), ("n3", 30)] {
        for i in 0..own {
            fs::write(world.data(node).join(format!("a-{node}-{i:02}")), random.bytes(FILE)).unwrap();
        }
    }
    fs::write(world.data("n3").join("a-n3-large"), random.bytes(FILE + 1)).unwrap();
    // Longer than a machine that is busy lets an agent stand still: it is that of all nodes.
    world.service = [("patience", "12s"), ("partial", "refuse")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    world.start().await;
    world
}

/// Has claimed, and has not stored all of it.
async fn kill_while_it_uploads(world: &mut World) -> String {
    loop {
        let operation = world.start_backup().await;
        let begun = wait_async("n3 has claimed something", async || {
            let now = world.operation(&operation.id).await;
            let uploads = |task: &&v1::TaskRecord| task.node == "n3" && task.name == "upload";
            let new = now.tasks.iter().find(uploads).and_then(|task| task.progress).map(|it| it.bytes_new);
            let claimed = new.unwrap_or_default() >= 4 << 20;
            (claimed || now.phase == "done").then_some(claimed)
        });
        if begun.await {
            world.agent("n3").pause();
            let state = files_below(&world.agent_state("n3"));
            let uploaded = state.iter().any(|path| path.ends_with("uploaded"));
            if !uploaded && world.operation(&operation.id).await.phase == "upload" {
                world.kill_agent("n3");
                return operation.id;
            }
            world.agent("n3").resume();
        }
        // It was too fast: once more, and nothing of it is there.
        world.ended(&operation.id).await;
        world.run(&["backup", "delete", "latest", "--yes"]).await.expect(0);
    }
}

async fn as_text(world: &World, arguments: &[&str]) -> Ran {
    let mut command = palinurus();
    command.env("PALINURUS_SERVER", world.server()).args(arguments);
    run(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_lost_in_its_upload_fails_the_backup_or_makes_it_partial() {
    let mut random = Random::new(31);
    let mut world = world_of_three(&mut random).await;

    let id = kill_while_it_uploads(&mut world).await;
    let ended = world.ended(&id).await;
    assert_eq!(ended.state(), OperationState::Failed, "{ended:#?}");
    let failure = ended.failure.unwrap();
    assert!(failure.message.contains("node n3 lost"), "{failure:?}");
    assert!(failure.message.contains("its 91 files (173.6 MiB), such as a-n3-large"), "{failure:?}");
    assert!(world.backups().await.is_empty());
    world.start_agent("n3");
    world.joined().await;
    for node in ["n1", "n2", "n3"] {
        world.nothing_left_behind(node).await;
    }

    world.service.insert("partial".to_owned(), "allow".to_owned());
    world.apply_service().await;
    let id = kill_while_it_uploads(&mut world).await;
    let watched = world.run(&["operation", "watch", &id]).await.expect(3);
    assert!(watched.stderr.contains("the backup is partial: node n3 lost"), "{}", watched.stderr);
    let shown = watched.json();
    assert_eq!(shown["state"], "warnings");
    assert_eq!((&shown["missing"][0]["node"], &shown["missing"][0]["files"]), (&"n3".into(), &91.into()));
    let moved = shown["chunks_moved"].as_u64().unwrap();
    assert!(moved > 0, "what n3 had claimed and not stored was stored by another");
    eprintln!("{moved} chunks moved");

    // Wherever a backup is shown.
    let list = as_text(&world, &["backup", "list"]).await.expect(0);
    assert!(list.stdout.contains("partial, without n3"), "{}", list.stdout);
    let show = as_text(&world, &["backup", "show", "latest"]).await.expect(0);
    assert!(
        show.stdout.contains("the backup is partial") && show.stdout.contains("a-n3-large"),
        "{}",
        show.stdout
    );
    let listed = world.run(&["backup", "list"]).await.expect(0).json();
    assert_eq!(listed["backups"][0]["missing"][0]["node"], "n3");
    let (url, key) = (world.repository_url(), world.key());
    let place = ["--repository", &url, "--keys", key.to_str().unwrap()];
    let alone = world.run(&[&["repository", "list"], &place[..]].concat()).await.expect(0).json();
    assert_eq!(alone["backups"][0]["missing"][0]["node"], "n3");
    let plan = world.run(&["restore", "plan", "--node", "n3"]).await.expect(1).json();
    assert!(plan["refusals"][0].as_str().unwrap().contains("goes without node n3"), "{plan}");
    world.run(&["repository", "check", "--read-data"]).await.expect(0);

    // What is in it is whole, with a coordinator and without.
    let want = world.move_data("n1");
    world.restore("n1", false).await;
    compare::assert_equal(&want, &world.data("n1"), &[]);
    let target = world.path("target");
    let to = ["--target", target.to_str().unwrap()];
    let lacks = world.run(&[&["restore", "--node", "n3"], &place[..], &to].concat()).await;
    assert_eq!(lacks.code, 1, "{}", lacks.stderr);
    let restored = world.run(&[&["restore", "--node", "n2"], &place[..], &to].concat()).await.expect(0);
    assert!(restored.stderr.contains("goes without node n3"), "{}", restored.stderr);
    compare::assert_equal(&world.data("n2"), &target, &[]);

    // It comes back, lets go of what it kept, and is in the next backup.
    world.start_agent("n3");
    world.joined().await;
    world.nothing_left_behind("n3").await;
    assert_eq!(world.backup().await.state(), OperationState::Succeeded);
    let backups = world.backups().await;
    assert_eq!((backups[1].nodes.len(), backups[1].missing.len()), (3, 0));
    let want = world.move_data("n3");
    world.restore("n3", false).await;
    compare::assert_equal(&want, &world.data("n3"), &[]);
    world.stop().await;
}
