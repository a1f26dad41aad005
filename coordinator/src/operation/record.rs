//! How an operation's record changes: every change is a function of this file, used by the actor and by the
//! deciders' tests alike. None of them looks at a clock or waits.
use bytes::Bytes;
use palinurus_proto::v1::{
    self, OperationKind, OperationState, TaskRecord, TaskReport, TaskState, task_result,
};
use palinurus_repository::ledger::Objects;
use palinurus_repository::sweep::Swept;
use palinurus_repository::{Epoch, Timestamp};

use super::progress::sum;
use super::{Action, OWN, Outcome, Phase, Step, Work, ended};

/// Warnings and damages kept; the counts have them all.
pub(crate) const WARNINGS_KEPT: usize = 100;
const LOG_KEPT: usize = 200;
/// Of what a probe says.
const TOLD_MAX: usize = 500;
pub(crate) const DAMAGES_KEPT: usize = 1000;
/// The first.
pub(crate) const ATTEMPT: u32 = 1;

/// What an operation is about.
#[derive(Clone, Debug)]
pub(crate) enum Detail {
    Backup(v1::BackupDetail),
    Restore(v1::RestoreDetail),
    Verify(v1::VerifyDetail),
    Delete(v1::DeleteDetail),
    Failover(v1::FailoverDetail),
    Retention(v1::RetentionDetail),
}

/// What a task of the coordinator's own found out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Patch {
    Nothing,
    Begun {
        bases: Vec<v1::NodeManifest>,
        key_epochs: Vec<v1::KeyEpoch>,
        /// Packs of the bases, encoded.
        damaged: Bytes,
        warnings: Vec<v1::Warning>,
    },
    Committed {
        chunks_moved: u64,
    },
    /// How many of those that were to go are gone, and why others are not.
    Forgot {
        gone: u64,
        kept: Vec<String>,
    },
    /// None: it was not the time to look.
    Rewrote(Option<v1::RewriteDetail>),
    Swept(Swept),
    Checked(v1::VerifyDetail),
    /// The ledger knows of the damage.
    Marked,
    Mended(v1::MendDetail),
    /// Who has the place now, in words.
    Fenced(String),
}

/// What came of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Known already, or about nothing that was asked for.
    Nothing,
    /// To be shown; losing it loses nothing.
    Progress,
    /// To be stored before anything follows from it, and only then acknowledged.
    Ended,
}

pub(crate) fn create(
    id: String,
    service: &str,
    nodes: Vec<String>,
    epoch: Epoch,
    now: Timestamp,
    detail: Detail,
) -> v1::Operation {
    let mut operation = v1::Operation {
        id,
        service: service.to_owned(),
        epoch: epoch.0,
        created_ms: now.0,
        updated_ms: now.0,
        phase_ms: now.0,
        nodes,
        ..Default::default()
    };
    operation.set_state(OperationState::Running);
    let (kind, phase) = match detail {
        Detail::Backup(backup) => {
            operation.backup = Some(backup);
            (OperationKind::Backup, Phase::Inspect)
        }
        Detail::Restore(restore) => {
            operation.restore = Some(restore);
            (OperationKind::Restore, Phase::Restore)
        }
        Detail::Verify(verify) => {
            operation.verify = Some(verify);
            (OperationKind::Verify, Phase::Verify)
        }
        Detail::Delete(delete) => {
            operation.delete = Some(delete);
            (OperationKind::Delete, Phase::Forget)
        }
        Detail::Failover(failover) => {
            operation.failover = Some(failover);
            (OperationKind::Failover, Phase::Fence)
        }
        Detail::Retention(retention) => {
            operation.retention = Some(retention);
            (OperationKind::Retention, Phase::Forget)
        }
    };
    operation.set_kind(kind);
    operation.phase = phase.name().to_owned();
    operation
}

/// Says in the operation's log what was decided and why.
pub(crate) fn note(operation: &mut v1::Operation, now: Timestamp, text: impl Into<String>) {
    if operation.log.len() >= LOG_KEPT {
        operation.log.remove(0);
    }
    operation.log.push(v1::LogEntry { at_ms: now.0, text: text.into() });
}

/// The last attempt.
pub(crate) fn find<'a>(operation: &'a v1::Operation, node: &str, work: Work) -> Option<&'a TaskRecord> {
    let same = |record: &&TaskRecord| record.node == node && record.name == work.name();
    operation.tasks.iter().filter(same).max_by_key(|record| record.attempt)
}

/// Of the task as it stands, or will first be asked for.
pub(crate) fn attempt(operation: &v1::Operation, node: &str, work: Work) -> u32 {
    find(operation, node, work).map_or(ATTEMPT, |record| record.attempt)
}

/// What the record says once `step` is taken; to be stored before the step's actions. False when it says nothing new.
pub(crate) fn apply(operation: &mut v1::Operation, step: &Step, now: Timestamp) -> bool {
    match step {
        Step::Wait(_) => false,
        Step::Do(actions) => {
            let before = operation.tasks.len();
            for action in actions {
                if let Action::Assign { node, work, attempt } = action {
                    assign(operation, node, *work, *attempt, now);
                }
            }
            operation.tasks.len() > before
        }
        Step::Without(missing) => {
            without(operation, missing.clone(), now);
            true
        }
        Step::Advance(phase, failure) => {
            advance(operation, *phase, failure.clone(), now);
            true
        }
        Step::Finish(outcome) => {
            finish(operation, outcome.clone(), now);
            true
        }
    }
}

/// Assigning again what was assigned changes nothing.
fn assign(operation: &mut v1::Operation, node: &str, work: Work, attempt: u32, now: Timestamp) {
    if find(operation, node, work).is_some_and(|record| record.attempt >= attempt) {
        return;
    }
    let mut record = TaskRecord {
        node: node.to_owned(),
        name: work.name().to_owned(),
        attempt,
        assigned_ms: now.0,
        ..Default::default()
    };
    record.set_state(TaskState::TaskAssigned);
    operation.tasks.push(record);
}

fn without(operation: &mut v1::Operation, missing: v1::MissingNode, now: Timestamp) {
    note(operation, now, format!("goes on without node {}: {}", missing.node, missing.reason));
    if let Some(backup) = &mut operation.backup
        && backup.missing.iter().all(|known| known.node != missing.node)
    {
        backup.missing.push(missing);
    }
    operation.updated_ms = now.0;
}

fn advance(operation: &mut v1::Operation, phase: Phase, failure: Option<v1::Failure>, now: Timestamp) {
    operation.phase = phase.name().to_owned();
    operation.phase_ms = now.0;
    operation.updated_ms = now.0;
    if operation.failover.is_some() {
        let why = failure.as_ref().map(|failure| format!(": {}", failure.message)).unwrap_or_default();
        note(operation, now, format!("{}{why}", phase.name()));
    }
    if operation.failure.is_none() {
        operation.failure = failure;
    }
}

fn finish(operation: &mut v1::Operation, outcome: Outcome, now: Timestamp) {
    // What is said of the whole operation stands before what is said of single files, and is never left out.
    operation.warning_count += outcome.warnings.len() as u64;
    operation.warnings.splice(0..0, outcome.warnings);
    operation.warnings.truncate(WARNINGS_KEPT);
    let state = match outcome.state {
        OperationState::Succeeded if operation.warning_count > 0 => OperationState::Warnings,
        state => state,
    };
    operation.set_state(state);
    operation.failure = outcome.failure;
    operation.phase = Phase::Done.name().to_owned();
    operation.phase_ms = now.0;
    operation.updated_ms = now.0;
    operation.finished_ms = now.0;
}

/// For an operation that cannot be carried on: failed without its clean-up, which its nodes are then owed.
pub(crate) fn give_up(operation: &mut v1::Operation, failure: v1::Failure, now: Timestamp) {
    finish(operation, super::failed(failure), now);
}

/// Which attempt at releasing a node the operation owes it: a release that failed is not repeated under its name.
pub(crate) fn owed_attempt(operation: &v1::Operation, node: &str) -> u32 {
    match find(operation, node, Work::Release) {
        Some(release) if matches!(release.state(), TaskState::TaskFailed | TaskState::TaskCancelled) => {
            release.attempt + 1
        }
        Some(release) => release.attempt,
        None => ATTEMPT,
    }
}

/// Makes room for the report of a release that the operation ended without.
pub(crate) fn owe(operation: &mut v1::Operation, node: &str, attempt: u32) {
    if find(operation, node, Work::Release).is_none() {
        assign(operation, node, Work::Release, attempt, Timestamp(operation.updated_ms));
    }
    let release = operation.tasks.iter_mut().find(|record| {
        record.node == node
            && record.name == Work::Release.name()
            && record.state() != TaskState::TaskDone
            && record.attempt <= attempt
    });
    if let Some(release) = release {
        release.set_state(TaskState::TaskAssigned);
        release.attempt = attempt;
        release.failure = None;
    }
}

/// False when it has ended or is being cancelled already.
pub(crate) fn cancel(operation: &mut v1::Operation, now: Timestamp) -> bool {
    if operation.state() != OperationState::Running {
        return false;
    }
    operation.set_state(OperationState::Cancelling);
    operation.updated_ms = now.0;
    true
}

pub(crate) fn report(
    operation: &mut v1::Operation,
    node: &str,
    report: &TaskReport,
    now: Timestamp,
) -> Recorded {
    let found = operation
        .tasks
        .iter_mut()
        .find(|record| record.node == node && record.name == report.task && record.attempt == report.attempt);
    let Some(record) = found.filter(|record| !ended(record.state())) else { return Recorded::Nothing };
    if report.state() == TaskState::Unspecified {
        return Recorded::Nothing;
    }
    record.set_state(report.state());
    if report.progress.is_some() {
        record.progress = report.progress;
    }
    let has_ended = ended(report.state());
    let mut heard = (Vec::new(), 0);
    if has_ended {
        record.ended_ms = now.0;
        record.failure.clone_from(&report.failure);
        record.result.clone_from(&report.result);
        heard = record.result.as_mut().map(take_warnings).unwrap_or_default();
        if matches!(
            record.result.as_ref().and_then(|r| r.result.as_ref()),
            Some(task_result::Result::Manifest(_))
        ) {
            forget_warnings(operation, node);
        }
    }
    let verified = match report.result.as_ref().and_then(|result| result.result.as_ref()) {
        Some(task_result::Result::Verify(verified)) if has_ended => verified.detail.clone(),
        _ => None,
    };
    warn(operation, node, heard.0, heard.1);
    if has_ended && report.state() == TaskState::TaskDone && report.task == Work::Probe.name() {
        in_use(operation, report, now);
    }
    if let Some(verified) = verified {
        verify(operation, verified);
    }
    operation.progress = Some(sum(&operation.tasks));
    operation.updated_ms = now.0;
    if has_ended { Recorded::Ended } else { Recorded::Progress }
}

/// The restored node is in use again: that is when a failover is over for its users.
fn in_use(operation: &mut v1::Operation, report: &TaskReport, now: Timestamp) {
    let told = match report.result.as_ref().and_then(|result| result.result.as_ref()) {
        Some(task_result::Result::Probe(probe)) => probe.told.chars().take(TOLD_MAX).collect(),
        _ => String::new(),
    };
    let Some(failover) = &mut operation.failover else { return };
    failover.rto_ms = now.0.saturating_sub(failover.gone_ms).max(1);
    let text = match told.is_empty() {
        true => format!("{} is in use again", failover.node),
        false => format!("{} is in use again: {told}", failover.node),
    };
    note(operation, now, text);
}

/// Of a leader whose clock was ahead: what waits from a moment on waits from now at the latest.
pub(crate) fn not_ahead(operation: &mut v1::Operation, now: Timestamp) {
    for task in &mut operation.tasks {
        // Before any loss: rather a task that is repeated once than what nobody takes over.
        task.assigned_ms = task.assigned_ms.min(now.0.saturating_sub(1));
        task.ended_ms = task.ended_ms.min(now.0);
    }
    let missing = operation.backup.iter_mut().flat_map(|backup| &mut backup.missing);
    let lost = missing.map(|missing| &mut missing.lost_ms);
    for moment in lost.chain([&mut operation.phase_ms, &mut operation.finished_ms]) {
        *moment = (*moment).min(now.0);
    }
}

/// How a task of the coordinator's own ended.
pub(crate) fn own(
    operation: &mut v1::Operation,
    work: Work,
    ended: Result<Patch, v1::Failure>,
    now: Timestamp,
) {
    let patch = match ended {
        Ok(patch) => patch,
        Err(failure) => {
            if let Some(record) = own_record(operation, work) {
                record.set_state(TaskState::TaskFailed);
                record.failure = Some(failure);
            }
            operation.updated_ms = now.0;
            return;
        }
    };
    match patch {
        Patch::Nothing => {}
        Patch::Begun { bases, key_epochs, damaged, warnings } => {
            warn(operation, "", warnings, 0);
            if let Some(backup) = &mut operation.backup {
                backup.base_id = bases.first().map(|base| base.backup_id.clone()).unwrap_or_default();
                backup.bases = bases;
                backup.key_epochs = key_epochs;
                backup.damaged = damaged;
            }
        }
        Patch::Committed { chunks_moved } => {
            if let Some(backup) = &mut operation.backup {
                backup.committed = true;
                backup.chunks_moved = backup.chunks_moved.max(chunks_moved);
            }
        }
        Patch::Forgot { gone, kept } => {
            if let Some(retention) = &mut operation.retention {
                retention.backups_forgotten = gone;
            }
            for text in kept {
                note(operation, now, text);
            }
        }
        Patch::Rewrote(rewrite) => {
            if let Some(retention) = &mut operation.retention {
                retention.rewrite = rewrite;
            }
        }
        Patch::Swept(swept) => self::swept(operation, &swept, now),
        Patch::Checked(detail) => verify(operation, detail),
        Patch::Marked => {
            if let Some(verify) = &mut operation.verify {
                (verify.damaged, verify.whole) = Default::default();
            }
        }
        Patch::Mended(mend) => {
            if let Some(verify) = &mut operation.verify {
                verify.mend = Some(mend);
            }
        }
        Patch::Fenced(told) => note(operation, now, told),
    }
    if let Some(record) = own_record(operation, work) {
        record.set_state(TaskState::TaskDone);
    }
    operation.updated_ms = now.0;
}

fn swept(operation: &mut v1::Operation, swept: &Swept, now: Timestamp) {
    if let Some(delete) = &mut operation.delete {
        delete.packs_condemned = swept.condemned;
        delete.packs_swept = swept.packs;
        delete.objects_deleted = swept.deleted.objects;
        delete.objects_locked = swept.deleted.locked;
        delete.locked_until_ms = swept.deleted.locked_until.map_or(0, |until| until.0);
    }
    if let Some(retention) = &mut operation.retention {
        retention.packs_condemned = swept.condemned;
        retention.packs_swept = swept.packs;
        retention.objects_deleted = swept.deleted.objects;
        retention.bytes_deleted = swept.deleted.bytes;
        retention.temporaries = swept.deleted.temporaries;
        retention.objects_locked = swept.deleted.locked;
        retention.locked_until_ms = swept.deleted.locked_until.map_or(0, |until| until.0);
        retention.packs_waiting = swept.waiting;
        retention.waits_for = swept.waits_for.iter().map(ToString::to_string).collect();
    }
    if swept.waiting > 0 {
        let text = format!("{} packs wait for {} open transactions", swept.waiting, swept.waits_for.len());
        note(operation, now, text);
    }
    if swept.gave_way {
        note(operation, now, "stopped before all was deleted: the next run goes on");
    }
}

/// How far a task of the coordinator's own is.
pub(crate) fn own_progress(operation: &mut v1::Operation, work: Work, progress: v1::Progress) {
    if let Some(record) = own_record(operation, work) {
        let requests = record.progress.and_then(|before| before.requests);
        record.progress = Some(v1::Progress { requests, ..progress });
    }
    operation.progress = Some(sum(&operation.tasks));
}

/// What a task of the coordinator's own has asked of the store.
pub(crate) fn own_requests(operation: &mut v1::Operation, work: Work, requests: v1::Requests) {
    if let Some(record) = own_record(operation, work) {
        let progress = record.progress.get_or_insert_default();
        progress.requests.get_or_insert_default().add(&requests);
    }
    operation.progress = Some(sum(&operation.tasks));
}

fn own_record(operation: &mut v1::Operation, work: Work) -> Option<&mut TaskRecord> {
    operation.tasks.iter_mut().find(|record| record.node == OWN && record.name == work.name())
}

/// Adds what somebody checked to what others did.
fn verify(operation: &mut v1::Operation, found: v1::VerifyDetail) {
    let Some(verify) = &mut operation.verify else { return };
    verify.packs_checked = verify.packs_checked.max(found.packs_checked);
    verify.backups_checked = verify.backups_checked.max(found.backups_checked);
    verify.damaged = joined(&verify.damaged, &found.damaged);
    verify.whole = joined(&verify.whole, &found.whole);
    let unlisted = found.damage_count.saturating_sub(found.damages.len() as u64);
    verify.damage_count += unlisted;
    for damage in found.damages {
        if verify.damages.iter().any(|known| known.object == damage.object && known.what == damage.what) {
            continue;
        }
        verify.damage_count += 1;
        if verify.damages.len() < DAMAGES_KEPT {
            verify.damages.push(damage);
        }
    }
}

/// Both lists of objects. What does not decode says nothing.
fn joined(one: &Bytes, other: &Bytes) -> Bytes {
    let mut all = Objects::decode(one).unwrap_or_default();
    all.extend(&Objects::decode(other).unwrap_or_default());
    if all.is_empty() { Bytes::new() } else { all.encode().into() }
}

/// Moves the warnings out of a result: they are kept once, in the operation.
fn take_warnings(result: &mut v1::TaskResult) -> (Vec<v1::Warning>, u64) {
    use task_result::Result as R;
    let (warnings, count) = match &mut result.result {
        Some(R::Snapshot(r)) => (&mut r.warnings, &mut r.warning_count),
        Some(R::Upload(r)) => (&mut r.warnings, &mut r.warning_count),
        Some(R::Manifest(r)) => (&mut r.warnings, &mut r.warning_count),
        Some(R::Restore(r)) => (&mut r.warnings, &mut r.warning_count),
        Some(R::Verify(_) | R::Inspect(_) | R::Probe(_)) | None => return (Vec::new(), 0),
    };
    *count = (*count).max(warnings.len() as u64);
    (std::mem::take(warnings), *count)
}

/// A manifest's warnings are all of its node's: those that earlier tasks told are among them.
fn forget_warnings(operation: &mut v1::Operation, node: &str) {
    use task_result::Result as R;
    operation.warnings.retain(|warning| warning.node != node);
    let told = |record: &TaskRecord| match record.result.as_ref().and_then(|result| result.result.as_ref()) {
        Some(R::Snapshot(r)) => r.warning_count,
        Some(R::Upload(r)) => r.warning_count,
        _ => 0,
    };
    let told: u64 = operation.tasks.iter().filter(|record| record.node == node).map(told).sum();
    operation.warning_count = operation.warning_count.saturating_sub(told);
}

fn warn(operation: &mut v1::Operation, node: &str, warnings: Vec<v1::Warning>, count: u64) {
    operation.warning_count += count.max(warnings.len() as u64);
    let room = WARNINGS_KEPT.saturating_sub(operation.warnings.len());
    for mut warning in warnings.into_iter().take(room) {
        if warning.node.is_empty() {
            node.clone_into(&mut warning.node);
        }
        operation.warnings.push(warning);
    }
}

#[cfg(test)]
mod tests {
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
        let result =
            v1::UploadResult { warnings: vec![warning; 150], warning_count: 4000, ..Default::default() };
        let mut ended = said(TaskState::TaskDone);
        ended.result = Some(v1::TaskResult { result: Some(task_result::Result::Upload(result)) });
        report(&mut operation, "n1", &ended, Timestamp(9));
        assert_eq!((operation.warnings.len(), operation.warning_count), (WARNINGS_KEPT, 4000));
        assert!(operation.warnings.iter().all(|warning| warning.node == "n1"));
        let Some(task_result::Result::Upload(kept)) = &operation.tasks[0].result.as_ref().unwrap().result
        else {
            panic!()
        };
        assert!(kept.warnings.is_empty() && kept.warning_count == 4000);
        finish(&mut operation, super::super::succeeded(Vec::new()), Timestamp(10));
        assert_eq!(operation.state(), OperationState::Warnings);
    }

    #[test]
    fn a_manifests_warnings_stand_for_its_nodes_earlier_ones() {
        let warning = |message: &str| v1::Warning { message: message.to_owned(), ..Default::default() };
        let mut operation = backup();
        let mut ended = said(TaskState::TaskDone);
        let result =
            v1::UploadResult { warnings: vec![warning("torn")], warning_count: 1, ..Default::default() };
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
        let damage =
            v1::Damage { object: "t/x".to_owned(), what: "missing".to_owned(), ..Default::default() };
        let found = v1::VerifyDetail {
            damages: vec![damage],
            damage_count: 1,
            packs_checked: 7,
            ..Default::default()
        };
        own(&mut operation, Work::Check, Ok(Patch::Checked(found.clone())), Timestamp(6));
        verify(&mut operation, found);
        let detail = operation.verify.unwrap();
        assert_eq!((detail.damage_count, detail.damages.len(), detail.packs_checked), (1, 1, 7));
    }
}
