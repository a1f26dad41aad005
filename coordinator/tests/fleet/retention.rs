//! Retention that runs by itself, beside what operators ask for.
use std::collections::BTreeSet;
use std::time::Duration;

use palinurus_proto::from_status;
use palinurus_proto::v1::{self, OperationKind, OperationState};
use palinurus_repository::{Epoch, ErrorKind, TransactionId, ledger::Purpose};

use crate::world::{Operator, SERVICE, World};

async fn runs(operator: &mut Operator) -> Vec<v1::Operation> {
    let request = v1::ListOperationsRequest { service: SERVICE.to_owned(), running: false };
    let all = operator.0.list_operations(request).await.unwrap().into_inner().operations;
    all.into_iter().filter(|operation| operation.kind() == OperationKind::Retention).collect()
}

/// None of them runs.
async fn ended(operator: &mut Operator) -> Vec<v1::Operation> {
    loop {
        let runs = runs(operator).await;
        if runs.iter().all(|run| run.finished_ms > 0) {
            return runs;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while !look().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} never happens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_runs_by_itself_and_nothing_that_is_started_is_refused() {
    let world = World::new().await;
    let mut operator = world.apply_with(&["n1"], &[("keep_last", "2"), ("retention_interval", "1s")]).await;
    let mut taken = Vec::new();
    for n in 0..8u64 {
        let peer = world.peer("n1", &[("a", vec![n])]);
        let done = operator.backup().await;
        assert_eq!(done.state(), OperationState::Succeeded, "{done:#?}");
        taken.push(done.backup.unwrap().backup_id);
        peer.die().await;
    }
    until("the last two are left", async || {
        let left: Vec<String> =
            operator.clone().backups().await.into_iter().map(|backup| backup.id).collect();
        left == taken[6..]
    })
    .await;
    let ended = ended(&mut operator).await;
    let forgotten: BTreeSet<&String> =
        ended.iter().flat_map(|run| &run.retention.as_ref().unwrap().forget).collect();
    assert_eq!(forgotten, taken[..6].iter().collect());
    for run in &ended {
        assert!(matches!(run.state(), OperationState::Succeeded | OperationState::Cancelled), "{run:#?}");
        assert!(run.retention.as_ref().unwrap().automatic && !run.log.is_empty());
    }
    let repository = world.repository().await;
    let report = palinurus_repository::verify::check(&repository, true, &|_| {}).await.unwrap();
    assert_eq!(report.damages, []);
    until("all garbage is gone", async || {
        let repository = world.repository().await;
        palinurus_repository::retention::chores(&repository).await.unwrap().is_empty()
    })
    .await;
}

/// A transaction that nobody ends is ended; with nothing to do nothing is recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_is_found() {
    let mut world = World::new().await;
    let mut operator = world.apply_with(&["n1"], &[("retention_interval", "1s")]).await;
    let _peer = world.peer("n1", &[("a", vec![1])]);
    operator.backup().await;
    world.stop().await;
    let repository = world.repository().await;
    let epoch = repository.read(|state| state.leader().0).await;
    let dead = TransactionId([9; 16]);
    repository.begin(epoch, dead, Purpose::Backup).await.unwrap();
    let left = format!("t/{dead}/p/0101010101010101-00000000");
    repository.storage().put_new(&left, vec![1; 1000].into()).await.unwrap();
    assert!(epoch > Epoch(0));
    world.start().await;
    let mut operator = world.operator().await;
    until("it is gone", async || {
        repository.refresh().await.unwrap();
        let open = repository.read(|state| state.open_transactions().len()).await;
        open == 0 && repository.storage().size(&left).await.is_err()
    })
    .await;
    let ended = ended(&mut operator).await;
    assert_eq!(ended.len(), 1, "nothing is recorded of looks that find nothing");
    assert!(ended[0].log.iter().any(|entry| entry.text.contains("nobody ends")), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_and_holds_refuse_and_a_plan_that_is_old_is_not_applied() {
    let world = World::new().await;
    let mut operator = world.apply_with(&["n1"], &[("keep_last", "1"), ("retention_interval", "off")]).await;
    let _peer = world.peer("n1", &[("a", vec![1])]);
    for _ in 0..3 {
        operator.backup().await;
    }
    let ids: Vec<String> = operator.backups().await.into_iter().map(|backup| backup.id).collect();
    let request = v1::RetentionRequest { service: SERVICE.to_owned(), backups: Vec::new() };
    let plan = operator.0.plan_retention(request.clone()).await.unwrap().into_inner();
    let forget: Vec<String> =
        plan.backups.iter().filter(|choice| !choice.keep).map(|choice| choice.backup_id.clone()).collect();
    assert_eq!(forget, ids[..2]);
    let pin =
        v1::PinBackupRequest { service: SERVICE.to_owned(), backup: ids[0].clone(), reason: "keep".into() };
    let pinned = operator.0.pin_backup(pin).await.unwrap().into_inner();
    assert_eq!(pinned.kept_for, ["pin: keep"]);
    let shown = v1::RetentionRequest { backups: forget, ..request.clone() };
    let old = from_status(operator.0.apply_retention(shown).await.unwrap_err());
    assert!(old.kind() == ErrorKind::Conflict && old.hint().unwrap().contains("plan"), "{old:?}");
    let delete = v1::DeleteBackupRequest { service: SERVICE.to_owned(), backup: ids[0].clone() };
    let refused = from_status(operator.0.delete_backup(delete).await.unwrap_err());
    assert!(refused.what().contains("pinned: keep"), "{refused:?}");
    let hold = v1::HoldBackupRequest {
        service: SERVICE.to_owned(),
        backup: ids[1].clone(),
        until_ms: 1,
        reason: String::new(),
    };
    let past = from_status(operator.0.hold_backup(hold).await.unwrap_err());
    assert_eq!(past.kind(), ErrorKind::Invalid);
    let started = operator.0.apply_retention(request).await.unwrap().into_inner();
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    let left: Vec<String> = operator.backups().await.into_iter().map(|backup| backup.id).collect();
    assert_eq!(left, [ids[0].clone(), ids[2].clone()]);
}
