use palinurus_proto::v1::{TaskReport, task_result};

use super::damage::verify;
use super::*;

fn backup() -> v1::Operation {
    let mut operation = create(
        "o1".to_owned(),
        "s",
        vec!["n1".to_owned(), "n2".to_owned()],
        Epoch(1),
        Timestamp(5),
        Detail::Backup(v1::BackupDetail::default()),
    );
    assign(&mut operation, "n1", Work::Upload, ATTEMPT, Timestamp(5));
    operation
}

fn said(state: TaskState) -> TaskReport {
    let mut report = TaskReport { task: "upload".to_owned(), attempt: ATTEMPT, ..Default::default() };
    report.set_state(state);
    report
}

#[test]
fn a_leader_whose_clock_was_ahead_holds_up_nobody() {
    let mut operation = backup();
    (operation.phase_ms, operation.tasks[0].ended_ms, operation.finished_ms) = (900, 900, 0);
    not_ahead(&mut operation, Timestamp(7));
    let moments = (operation.phase_ms, operation.tasks[0].ended_ms, operation.finished_ms);
    assert_eq!((moments, operation.tasks[0].assigned_ms), ((7, 7, 0), 5));
}

#[test]
fn a_task_ends_once() {
    let mut operation = backup();
    let now = Timestamp(9);
    assert_eq!(report(&mut operation, "n1", &said(TaskState::TaskRunning), now), Recorded::Progress);
    assert_eq!(report(&mut operation, "n1", &said(TaskState::TaskDone), now), Recorded::Ended);
    let after = operation.clone();
    for late in [TaskState::TaskRunning, TaskState::TaskFailed, TaskState::TaskDone] {
        assert_eq!(report(&mut operation, "n1", &said(late), Timestamp(11)), Recorded::Nothing);
    }
    assert_eq!(report(&mut operation, "n2", &said(TaskState::TaskDone), now), Recorded::Nothing);
    assert_eq!(operation, after);
}

#[test]
fn warnings_are_kept_once_and_counted_all() {
    let mut operation = backup();
    let warning =
        v1::Warning { path: b"x".to_vec().into(), message: "vanished".to_owned(), ..Default::default() };
    let result = v1::UploadResult { warnings: vec![warning; 150], warning_count: 4000, ..Default::default() };
    let mut ended = said(TaskState::TaskDone);
    ended.result = Some(v1::TaskResult { result: Some(task_result::Result::Upload(result)) });
    report(&mut operation, "n1", &ended, Timestamp(9));
    assert_eq!((operation.warnings.len(), operation.warning_count), (WARNINGS_KEPT, 4000));
    assert!(operation.warnings.iter().all(|warning| warning.node == "n1"));
    let Some(task_result::Result::Upload(kept)) = &operation.tasks[0].result.as_ref().unwrap().result else {
        panic!()
    };
    assert!(kept.warnings.is_empty() && kept.warning_count == 4000);
    finish(&mut operation, crate::operation::succeeded(Vec::new()), Timestamp(10));
    assert_eq!(operation.state(), OperationState::Warnings);
}

#[test]
fn a_manifests_warnings_stand_for_its_nodes_earlier_ones() {
    let warning = |message: &str| v1::Warning { message: message.to_owned(), ..Default::default() };
    let mut operation = backup();
    let mut ended = said(TaskState::TaskDone);
    let result = v1::UploadResult { warnings: vec![warning("torn")], warning_count: 1, ..Default::default() };
    ended.result = Some(v1::TaskResult { result: Some(task_result::Result::Upload(result)) });
    report(&mut operation, "n1", &ended, Timestamp(9));
    assign(&mut operation, "n1", Work::Manifest, ATTEMPT, Timestamp(9));
    let result =
        v1::ManifestResult { warnings: vec![warning("torn"), warning("a socket")], ..Default::default() };
    ended.task = "manifest".to_owned();
    ended.result = Some(v1::TaskResult { result: Some(task_result::Result::Manifest(result)) });
    report(&mut operation, "n1", &ended, Timestamp(9));
    assert_eq!((operation.warnings.len(), operation.warning_count), (2, 2));
}

#[test]
fn damage_found_by_two_counts_once() {
    let mut operation = create(
        "o1".to_owned(),
        "s",
        Vec::new(),
        Epoch(1),
        Timestamp(5),
        Detail::Verify(v1::VerifyDetail::default()),
    );
    let damage = v1::Damage { object: "t/x".to_owned(), what: "missing".to_owned(), ..Default::default() };
    let found =
        v1::VerifyDetail { damages: vec![damage], damage_count: 1, packs_checked: 7, ..Default::default() };
    own(&mut operation, Work::Check, Ok(Patch::Checked(found.clone())), Timestamp(6));
    verify(&mut operation, found);
    let detail = operation.verify.unwrap();
    assert_eq!((detail.damage_count, detail.damages.len(), detail.packs_checked), (1, 1, 7));
}
