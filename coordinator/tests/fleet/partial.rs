//! An agent that is lost in the middle of a backup.
use palinurus_proto::v1::{self, OperationState, TaskState};

use crate::peer::Peer;
use crate::world::{Operator, SERVICE, World, task};

const SHARED: std::ops::Range<u64> = 0..30;

struct Three {
    world: World,
    operator: Operator,
    one: Peer,
    two: Peer,
    three: Peer,
}

/// All three have the same thirty chunks, and each something of its own.
async fn three(partial: &str) -> Three {
    let world = World::new().await;
    let settings = [("patience", "700ms"), ("partial", partial)];
    let operator = world.apply_with(&["n1", "n2", "n3"], &settings).await;
    let peer = |node: &str, own: &'static str, chunks: Vec<u64>| {
        world.peer(node, &[(own, chunks), ("shared", SHARED.collect())])
    };
    let one = peer("n1", "one", vec![100]);
    let two = peer("n2", "deux", vec![200]);
    let three = peer("n3", "base", (300..340).collect());
    // Who is not there when a backup begins is lost after the patience.
    for peer in [&one, &two, &three] {
        peer.connected().await;
    }
    Three { world, operator, one, two, three }
}

impl Three {
    /// The third claims everything that is shared and is gone before it has stored any of it; the others have
    /// uploaded what is theirs alone.
    async fn lose_the_third(&mut self) -> v1::Operation {
        self.three.hold("store");
        self.one.hold("upload");
        self.two.hold("upload");
        let started = self.operator.start_backup().await.unwrap();
        self.three.asked().await;
        self.one.let_go();
        self.two.let_go();
        self.operator
            .until(&started.id, |operation| {
                ["n1", "n2"].iter().all(|node| {
                    task(operation, node, "upload").is_some_and(|task| task.state() == TaskState::TaskDone)
                })
            })
            .await;
        assert_eq!(self.three.verdicts(), [1; 70]);
        for peer in [&self.one, &self.two] {
            let told = peer.verdicts();
            assert_eq!(told.iter().filter(|verdict| **verdict == 2).count(), 30, "{told:?}");
        }
        started
    }
}

async fn assert_whole(world: &World) {
    let repository = world.repository().await;
    let report = palinurus_repository::verify::check(&repository, true, &|_| {}).await.unwrap();
    assert_eq!(report.damages, []);
    assert!(repository.read(|state| state.open_transactions().is_empty()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_it_fails_and_says_what_only_the_lost_node_had() {
    let mut world = three("refuse").await;
    let started = world.lose_the_third().await;
    world.three.die().await;
    let ended = world.operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Failed, "{ended:#?}");
    let failure = ended.failure.unwrap();
    assert_eq!((failure.node.as_str(), failure.kind.as_str()), ("n3", "unavailable"));
    let told = "node n3 lost: not heard of for 700ms while it should upload; \
                without it the backup lacks its 2 files (4.4 MiB), such as base, shared";
    assert_eq!(failure.message, told);
    assert!(failure.hint.contains("partial = allow"), "{failure:?}");
    assert_eq!(ended.backup.unwrap().missing, []);
    assert_eq!(world.operator.backups().await, []);
    for peer in [&world.one, &world.two] {
        peer.released(&started.id).await;
        assert_eq!((peer.began("upload"), peer.began("manifest")), (1, 0));
    }
    world.three.let_go();
    world.three.join();
    world.three.released(&started.id).await;
    assert_eq!(world.operator.backup().await.state(), OperationState::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allowed_the_others_take_over_and_the_backup_says_for_ever_that_it_is_partial() {
    let mut world = three("allow").await;
    let started = world.lose_the_third().await;
    // The others are kept from ending before it is back.
    world.one.hold("manifest");
    world.three.die().await;
    let going_on =
        world.operator.until(&started.id, |operation| task(operation, "n1", "manifest").is_some()).await;
    let detail = going_on.backup.unwrap();
    let missing = detail.missing.first().unwrap();
    assert_eq!((missing.node.as_str(), missing.files, missing.bytes), ("n3", 2, 70 * 65536), "{missing:?}");
    assert_eq!(missing.paths, ["base", "shared"]);
    assert!(
        going_on.log.iter().any(|entry| entry.text.contains("goes on without node n3")),
        "{:?}",
        going_on.log
    );
    let told = [world.one.verdicts(), world.two.verdicts()].concat();
    assert_eq!(
        told.iter().filter(|verdict| **verdict == 1).count(),
        30,
        "each moves to one of the two: {told:?}"
    );
    for peer in [&world.one, &world.two] {
        assert_eq!(
            peer.uploads().iter().rev().take(2).map(|task| task.take_over).collect::<Vec<_>>(),
            [true, false]
        );
    }

    // Back in the middle of it, the third is sent home and asked for nothing more.
    world.three.let_go();
    world.three.join();
    world.three.released(&started.id).await;
    let running = world.operator.until(&started.id, |_| true).await;
    assert_eq!(running.finished_ms, 0, "released while the others go on");

    // And whoever leads next knows all that. It waits for the two as long as they need to find it.
    world.world.apply_with(&["n1", "n2", "n3"], &[("patience", "10m"), ("partial", "allow")]).await;
    world.world.restart().await;
    let mut operator = world.world.operator().await;
    world.one.let_go();
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Warnings, "{ended:#?}");
    assert_eq!((world.three.began("manifest"), world.three.began("release")), (0, 1));
    let warning = ended.warnings.first().unwrap();
    assert_eq!(warning.node, "n3");
    assert!(warning.message.contains("partial") && warning.message.contains("base"), "{warning:?}");
    assert_eq!(ended.warnings.len(), 1, "{:?}", ended.warnings);

    let backups = operator.backups().await;
    assert_eq!(backups.len(), 1);
    assert_eq!(backups[0].nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
    assert_eq!((backups[0].missing[0].node.as_str(), backups[0].missing[0].files), ("n3", 2));
    let repository = world.world.repository().await;
    assert_eq!(repository.backups().await[0].missing[0].node, "n3", "the repository alone says so");
    assert_whole(&world.world).await;

    let request = |nodes: &[&str]| v1::RestoreRequest {
        service: SERVICE.to_owned(),
        backup: "latest".to_owned(),
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        delta: true,
        target: None,
        ..Default::default()
    };
    let plan = operator.0.plan_restore(request(&["n3"])).await.unwrap().into_inner();
    assert!(plan.refusals[0].contains("goes without node n3: no backup has it"), "{plan:#?}");
    let plan = operator.0.plan_restore(request(&["n1", "n2"])).await.unwrap().into_inner();
    assert!(plan.refusals.is_empty() && plan.warnings[0].contains("goes without node n3"), "{plan:#?}");
    let restore = operator.0.apply_restore(request(&["n1", "n2"])).await.unwrap().into_inner();
    assert_eq!(operator.finished(&restore.id).await.state(), OperationState::Succeeded);
    assert_eq!((world.one.restored(), world.two.restored()), (Some((2, 31 * 65536)), Some((2, 31 * 65536))));

    let next = operator.backup().await;
    assert_eq!(next.state(), OperationState::Succeeded, "{next:#?}");
    let bases = next.backup.unwrap().bases;
    assert_eq!(bases.iter().map(|base| base.node.as_str()).collect::<Vec<_>>(), ["n1", "n2"], "n3 has none");
    let backups = operator.backups().await;
    assert_eq!((backups[1].missing.len(), backups[1].nodes.len()), (0, 3));
    assert_whole(&world.world).await;
}

/// Counted by the coordinator that saw both: the claim and who stored it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_chunks_are_counted_also_when_the_lost_node_runs_on_unheard() {
    let mut world = three("allow").await;
    let started = world.lose_the_third().await;
    // Its session alone is lost: it would go on with its claims for ever.
    world.three.cut().await;
    let ended = world.operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Warnings, "{ended:#?}");
    let detail = ended.backup.as_ref().unwrap();
    assert_eq!((detail.chunks_moved, detail.missing.len()), (30, 1));
    assert!(ended.warnings.iter().any(|warning| warning.message.contains("not released")), "{ended:#?}");
    // It is owed its release, and what still runs there ends.
    world.three.join();
    world.three.released(&started.id).await;
    world.three.let_go();
    assert_whole(&world.world).await;
    assert_eq!(world.operator.backup().await.state(), OperationState::Succeeded);
}

/// Lost after its upload: what it stored is as good as before, and its own manifest alone is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_node_had_stored_stays() {
    let mut world = three("allow").await;
    world.one.hold("upload");
    world.two.hold("upload");
    world.three.hold("manifest");
    let started = world.operator.start_backup().await.unwrap();
    let is = |operation: &v1::Operation, name, state| {
        task(operation, "n3", name).is_some_and(|task| task.state() == state)
    };
    world.operator.until(&started.id, |now| is(now, "upload", TaskState::TaskDone)).await;
    world.one.let_go();
    world.two.let_go();
    world.operator.until(&started.id, |now| is(now, "manifest", TaskState::TaskRunning)).await;
    world.three.die().await;
    let ended = world.operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Warnings, "{ended:#?}");
    assert_eq!(ended.backup.as_ref().unwrap().chunks_moved, 0);
    for peer in [&world.one, &world.two] {
        assert_eq!(peer.began("upload"), 1, "nothing was left to it");
        assert_eq!(peer.verdicts().iter().filter(|verdict| **verdict == 3).count(), 30);
    }
    let backups = world.operator.backups().await;
    assert_eq!((backups[0].nodes.len(), backups[0].missing[0].node.as_str()), (2, "n3"));
    assert_whole(&world.world).await;
    world.three.let_go();
    world.three.join();
    world.three.released(&started.id).await;
    assert_eq!(world.operator.backup().await.state(), OperationState::Succeeded);
    assert_whole(&world.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_nobody_is_none() {
    let world = World::new().await;
    let settings = [("patience", "500ms"), ("partial", "allow")];
    let mut operator = world.apply_with(&["n1", "n2"], &settings).await;
    let ended = operator.backup().await;
    assert_eq!(ended.state(), OperationState::Failed, "{ended:#?}");
    let failure = ended.failure.unwrap();
    assert!(failure.message.contains("no snapshot yet"), "{failure:?}");
    assert_eq!(operator.backups().await, []);
}

/// A store that is away for a moment costs another attempt, not the backup; a node that cannot is no lost one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_failed_for_the_store_is_tried_again() {
    let mut world = three("allow").await;
    world.two.fail_once("upload");
    let ended = world.operator.backup().await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    let attempts: Vec<(u32, TaskState)> = ended
        .tasks
        .iter()
        .filter(|task| (task.node.as_str(), task.name.as_str()) == ("n2", "upload"))
        .map(|task| (task.attempt, task.state()))
        .collect();
    assert_eq!(attempts, [(1, TaskState::TaskFailed), (2, TaskState::TaskDone)]);
    assert!(!world.two.uploads()[0].take_over, "it had not got to its end");
    assert_whole(&world.world).await;
}
