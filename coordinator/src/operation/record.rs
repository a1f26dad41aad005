//! How an operation's record changes: every change is a function of this module, used by the actor and by the
//! deciders' tests alike. None of them looks at a clock or waits.
use palinurus_proto::v1::{self, OperationKind, OperationState, TaskRecord, TaskState};
use palinurus_repository::{Epoch, Timestamp};

use super::{Action, Outcome, Phase, Step, Work};

mod damage;
mod patch;
mod report;
mod warning;

pub(crate) use damage::DAMAGES_KEPT;
pub(crate) use patch::{Patch, own, own_progress, own_requests};
pub(crate) use report::{Recorded, report};
pub(crate) use warning::WARNINGS_KEPT;

const LOG_KEPT: usize = 200;
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
    Drill(v1::DrillDetail),
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
        Detail::Drill(drill) => {
            operation.drill = Some(Box::new(drill));
            (OperationKind::Drill, Phase::Drill)
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
        Step::Again(why) => {
            again(operation, why, now);
            true
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

fn again(operation: &mut v1::Operation, why: &str, now: Timestamp) {
    note(operation, now, format!("all snapshots are made again: {why}"));
    if let Some(backup) = &mut operation.backup {
        backup.snapshots_again += 1;
    }
    advance(operation, Phase::Freeze, None, now);
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

#[cfg(test)]
mod tests;
