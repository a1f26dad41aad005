//! Backups from beginning to end.
use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::ErrorKind;

use crate::world::{SERVICE, World, task};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_share_the_upload_and_the_next_backup_finds_nothing_new() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1", "n2"]).await;
    let shared: Vec<u64> = (0..20).collect();
    let one = world.peer("n1", &[("a", shared.clone()), ("b", vec![100, 101])]);
    let two = world.peer("n2", &[("a", shared), ("c", vec![200])]);
    let done = operator.backup().await;
    assert_eq!(done.state(), OperationState::Succeeded, "{done:#?}");
    assert_eq!(done.phase, "done");
    for (node, tasks) in [
        ("", vec!["begin", "commit"]),
        ("n1", vec!["inspect", "freeze", "snapshot", "thaw", "upload", "manifest", "release"]),
    ] {
        for name in tasks {
            assert_eq!(task(&done, node, name).unwrap().state(), v1::TaskState::TaskDone);
        }
    }
    let positions: Vec<(u32, u32)> =
        [&one, &two].iter().map(|peer| (peer.uploads()[0].position, peer.uploads()[0].nodes)).collect();
    assert_eq!(positions, [(0, 2), (1, 2)]);
    let told: Vec<u8> = [one.verdicts(), two.verdicts()].concat();
    assert_eq!(
        told.iter().filter(|verdict| **verdict == 1).count(),
        23,
        "each chunk is uploaded once: {told:?}"
    );

    let backups = operator.backups().await;
    assert_eq!(backups.len(), 1);
    assert_eq!(backups[0].id, done.backup.as_ref().unwrap().backup_id);
    assert_eq!((backups[0].files, backups[0].bytes), (4, 43 * 65536));
    assert!(backups[0].bytes_stored > 0);

    // Seen without a coordinator, and checked: it is whole.
    let repository = world.repository().await;
    assert_eq!(repository.backups().await.len(), 1);
    let report = palinurus_repository::verify::check(&repository, true, &|_| {}).await.unwrap();
    assert_eq!(report.damages, []);

    let again = operator.backup().await;
    assert_eq!(again.state(), OperationState::Succeeded);
    let bases = &again.backup.as_ref().unwrap().bases;
    assert_eq!(bases.iter().map(|base| base.node.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
    assert!(
        [one.verdicts(), two.verdicts()].concat().iter().all(|verdict| *verdict == 3),
        "all is stored already"
    );
    let backups = operator.backups().await;
    assert!(backups[1].nodes.iter().all(|node| node.unchanged));
    assert_eq!(backups[1].bytes_stored, 0);

    let full = v1::StartBackupRequest { service: SERVICE.to_owned(), full: true };
    let full = operator.0.start_backup(full).await.unwrap().into_inner();
    let full = operator.finished(&full.id).await;
    assert_eq!(full.backup.unwrap().bases, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_and_the_second_is_told_of_the_first() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    peer.hold("upload");
    let first = operator.start_backup().await.unwrap();
    let error = operator.start_backup().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.what().contains(&first.id) && error.hint().unwrap().contains(&first.id), "{error:?}");
    let listed =
        operator.0.list_operations(v1::ListOperationsRequest { service: String::new(), running: true }).await;
    assert_eq!(listed.unwrap().into_inner().operations.len(), 1);
    peer.let_go();
    operator.finished(&first.id).await;
    let listed = operator
        .0
        .list_operations(v1::ListOperationsRequest { service: SERVICE.to_owned(), running: true })
        .await;
    assert_eq!(listed.unwrap().into_inner().operations, []);
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_it_leaves_nothing_behind() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1", "n2"]).await;
    let (one, two) = (world.peer("n1", &[("a", vec![1, 2])]), world.peer("n2", &[("a", vec![3])]));
    two.hold("upload");
    let started = operator.start_backup().await.unwrap();
    operator
        .until(&started.id, |operation| {
            task(operation, "n1", "upload").is_some_and(|task| task.state() == v1::TaskState::TaskDone)
                && task(operation, "n2", "upload")
                    .is_some_and(|task| task.state() == v1::TaskState::TaskRunning)
        })
        .await;
    let id = v1::GetOperationRequest { id: started.id[..6].to_owned() };
    let cancelling = operator.0.cancel_operation(id.clone()).await.unwrap().into_inner();
    assert_eq!(cancelling.state(), OperationState::Cancelling);
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Cancelled, "{ended:#?}");
    assert_eq!(task(&ended, "n2", "upload").unwrap().state(), v1::TaskState::TaskCancelled);
    one.released(&started.id).await;
    two.released(&started.id).await;
    assert_eq!(operator.backups().await, []);
    let repository = world.repository().await;
    assert!(repository.read(|state| state.open_transactions().is_empty()).await);
    let objects = palinurus_repository::storage::list_all(&**repository.storage(), "t/").await.unwrap();
    assert_eq!(objects, [], "what it had uploaded is gone");
    let error = palinurus_proto::from_status(operator.0.cancel_operation(id).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_failure_ends_the_backup_with_its_reason_and_the_next_one_works() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1", "n2"]).await;
    let one = world.peer("n1", &[("a", vec![1])]);
    let two = world.peer("n2", &[("a", vec![1])]);
    two.fail("snapshot");
    let ended = operator.backup().await;
    assert_eq!(ended.state(), OperationState::Failed);
    let failure = ended.failure.as_ref().unwrap();
    assert_eq!((failure.node.as_str(), failure.message.as_str()), ("n2", "disk on fire"));
    assert_eq!((failure.kind.as_str(), failure.hint.as_str()), ("unavailable", "put it out"));
    for peer in [&one, &two] {
        peer.released(&ended.id).await;
        assert_eq!(peer.began("release"), 1);
    }
    assert_eq!(one.began("upload"), 0);
    assert_eq!(operator.backups().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stays_away_fails_the_backup_and_is_released_when_it_comes_back() {
    let mut world = World::with(|config| config.patience = std::time::Duration::from_millis(700)).await;
    let mut operator = world.apply(&["n1", "n2"]).await;
    let one = world.peer("n1", &[("a", vec![1])]);
    let two = world.peer("n2", &[("a", vec![1])]);
    // Who is not there when it begins is lost after the patience.
    one.connected().await;
    two.connected().await;
    two.hold("upload");
    let started = operator.start_backup().await.unwrap();
    operator
        .until(&started.id, |operation| {
            task(operation, "n2", "upload").is_some_and(|task| task.state() == v1::TaskState::TaskRunning)
        })
        .await;
    two.cut().await;
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Failed);
    assert!(ended.failure.as_ref().unwrap().message.contains("node n2 lost"), "{ended:#?}");
    assert!(
        ended.warnings.iter().any(|warning| warning.node == "n2" && warning.message.contains("not released"))
    );
    one.released(&started.id).await;

    // Also a coordinator that was started in between knows what it owes.
    world.restart().await;
    two.join();
    two.acknowledged(&started.id, "release").await;
    two.released(&started.id).await;
    let now = world.operator().await.until(&started.id, |_| true).await;
    assert_eq!(task(&now, "n2", "release").unwrap().state(), v1::TaskState::TaskDone);
    assert_eq!(now.state(), OperationState::Failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_failed_is_tried_again_when_the_agent_comes_back() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    peer.fail("release");
    let ended = operator.backup().await;
    assert_eq!(ended.state(), OperationState::Warnings, "the backup stands: {ended:#?}");
    assert!(ended.warnings[0].message.contains("release did not succeed: disk on fire"), "{ended:#?}");
    peer.acknowledged(&ended.id, "release").await;
    peer.cut().await;
    peer.mend();
    peer.join();
    peer.released(&ended.id).await;
    peer.acknowledged(&ended.id, "release").await;
    let now = operator.until(&ended.id, |_| true).await;
    let release = task(&now, "n1", "release").unwrap();
    assert_eq!((release.state(), release.attempt), (v1::TaskState::TaskDone, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_backup_takes_away_what_only_it_used() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    {
        let _peer = world.peer("n1", &[("a", vec![1, 2, 3])]);
        assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    }
    let changed = world.peer("n1", &[("a", vec![3, 4])]);
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    let backups = operator.backups().await;
    let (first, second) = (backups[0].id.clone(), backups[1].id.clone());
    let mut delete = async |backup: &str| {
        let request = v1::DeleteBackupRequest { service: SERVICE.to_owned(), backup: backup.to_owned() };
        let started =
            operator.0.delete_backup(request).await.map_err(palinurus_proto::from_status)?.into_inner();
        Ok::<_, palinurus_repository::Error>(operator.finished(&started.id).await)
    };
    assert_eq!(delete("ffffffff").await.unwrap_err().kind(), ErrorKind::NotFound);
    let done = delete(&first[..8]).await.unwrap();
    assert_eq!(done.state(), OperationState::Succeeded, "{done:#?}");
    let detail = done.delete.unwrap();
    assert_eq!((detail.packs_condemned, detail.packs_swept), (0, 0), "chunk 3 of its pack is needed still");
    let done = delete(&second).await.unwrap();
    let detail = done.delete.unwrap();
    assert_eq!((detail.packs_condemned, detail.packs_swept), (2, 2));
    assert!(detail.objects_deleted >= 4, "{detail:?}");
    assert_eq!(operator.backups().await, []);

    // What was swept is no longer offered as stored.
    changed.verdicts();
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    assert_eq!(changed.verdicts(), [1, 1]);
}
