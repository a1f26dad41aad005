//! What of the log stays because a restored database may still read it: from the restore on until its agent says that the
//! recovery has ended, or another restore has taken its place. Pure, from the operations' records.
use std::time::Duration;

use palinurus_proto::v1::{self, TaskState, log_target::Target};
use palinurus_repository::log::At;
use palinurus_repository::{LineageId, Timestamp};

use crate::operation::{Work, finished};

/// Nobody waits for ever for a server that is never started.
const AT_MOST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whether this operation's recovery may still read, as far as itself says.
pub(crate) fn holds(operation: &v1::Operation) -> bool {
    let reads = |logs: &v1::LogRestore| {
        let target = logs.target.as_ref().and_then(|target| target.target.as_ref());
        !logs.chain.is_empty() && !matches!(target, Some(Target::Immediate(_)))
    };
    let restored = operation
        .tasks
        .iter()
        .any(|task| task.name == Work::Restore.name() && task.state() == TaskState::TaskDone);
    // Seen in use, when it is a failover's.
    let used = operation.failover.as_ref().is_some_and(|failover| failover.rto_ms > 0);
    let running = !finished(operation.state());
    logs(operation).is_some_and(reads) && operation.recovered_ms == 0 && !used && (running || restored)
}

/// What retention must leave of `service`'s log, by the operations of one service: its own, or one that has forks of it.
pub(crate) fn held<'a>(
    service: &str,
    operations: impl Iterator<Item = &'a v1::Operation> + Clone,
    now: Timestamp,
) -> Vec<v1::LogHold> {
    let mut held = Vec::new();
    let reads = |operation: &&v1::Operation| source(operation) == service && holds(operation);
    for operation in operations.clone().filter(reads) {
        let over = operation.finished_ms > 0 && now >= Timestamp(operation.finished_ms).plus(AT_MOST);
        // Its directory has other data by now.
        let replaced = operations.clone().any(|later| {
            let there = later.nodes.iter().any(|node| operation.nodes.contains(node));
            there && later.created_ms > operation.created_ms && writes(later)
        });
        if over || replaced {
            continue;
        }
        let Some(logs) = logs(operation) else { continue };
        for (at, lineage) in logs.chain.iter().enumerate() {
            let first = logs.first - logs.first % u64::from(lineage.segment.max(1));
            held.push(v1::LogHold {
                operation: operation.id.clone(),
                lineage: lineage.id.clone(),
                position: if at == 0 { first } else { 0 },
            });
        }
    }
    held
}

/// Whose repository it restores from.
fn source(operation: &v1::Operation) -> &str {
    parent(operation).map_or(&operation.service, |parent| &parent.service)
}

/// Of a fork.
pub(crate) fn parent(operation: &v1::Operation) -> Option<&v1::Parent> {
    operation.restore.as_ref()?.parent.as_ref()
}

pub(crate) fn pins(held: &[v1::LogHold]) -> Vec<At> {
    let at = |hold: &v1::LogHold| {
        Some(At { lineage: LineageId::from_slice(&hold.lineage).ok()?, position: hold.position })
    };
    held.iter().filter_map(at).collect()
}

fn logs(operation: &v1::Operation) -> Option<&v1::LogRestore> {
    let restore = || operation.restore.as_ref()?.plan.as_ref()?.logs.as_deref();
    operation.failover.as_ref().and_then(|failover| failover.logs.as_ref()).or_else(restore)
}

/// It has restored, or will.
fn writes(operation: &v1::Operation) -> bool {
    let restores = operation.restore.is_some() || operation.failover.is_some();
    let begun = operation.tasks.iter().any(|task| task.name == Work::Restore.name());
    restores && (begun || !finished(operation.state()))
}

#[cfg(test)]
mod tests {
    use palinurus_proto::v1::OperationState;

    use super::*;

    fn restore(id: &str, created_ms: u64, target: Target) -> v1::Operation {
        let lineage = |id: u8| v1::LogLineage { id: vec![id; 16].into(), segment: 16, ..Default::default() };
        let logs = v1::LogRestore {
            chain: vec![lineage(1), lineage(2)],
            target: Some(v1::LogTarget { target: Some(target), ..Default::default() }),
            first: 40,
            end: 90,
            ..Default::default()
        };
        let plan = v1::RestorePlan { logs: Some(Box::new(logs)), ..Default::default() };
        let mut operation = v1::Operation {
            id: id.to_owned(),
            service: "s".to_owned(),
            created_ms,
            nodes: vec!["n1".to_owned()],
            restore: Some(v1::RestoreDetail { plan: Some(plan), ..Default::default() }),
            ..Default::default()
        };
        operation.set_state(OperationState::Running);
        operation
    }

    fn ended(mut operation: v1::Operation, state: OperationState, restored: TaskState) -> v1::Operation {
        let mut task = v1::TaskRecord { name: Work::Restore.name().to_owned(), ..Default::default() };
        task.set_state(restored);
        operation.tasks.push(task);
        operation.finished_ms = operation.created_ms + 10;
        operation.set_state(state);
        operation
    }

    #[test]
    fn a_recovery_keeps_what_it_reads_until_it_ends() {
        let now = Timestamp(1_000);
        let count = |all: &[v1::Operation], now| held("s", all.iter(), now).len();
        let running = restore("a", 100, Target::Position(80));
        let pinned = pins(&held("s", std::iter::once(&running), now));
        let at = |id: u8, position| At { lineage: LineageId([id; 16]), position };
        assert_eq!(
            pinned,
            [at(1, 32), at(2, 0)],
            "the first file from its beginning, the next lineage whole"
        );
        let done = ended(running.clone(), OperationState::Succeeded, TaskState::TaskDone);
        assert_eq!(count(std::slice::from_ref(&done), now), 2, "the database is started later");
        let failed = ended(running.clone(), OperationState::Failed, TaskState::TaskFailed);
        assert_eq!(count(&[failed], now), 0, "there is nothing to be started");
        let late = Timestamp(done.finished_ms).plus(AT_MOST);
        assert_eq!(count(std::slice::from_ref(&done), late), 0);
        assert_eq!(count(&[v1::Operation { recovered_ms: 1, ..done.clone() }], now), 0);
        let again = restore("b", 200, Target::Immediate(true));
        assert_eq!(count(&[done.clone(), again], now), 0, "another has taken its place, and reads nothing");
        let elsewhere =
            v1::Operation { nodes: vec!["n2".to_owned()], ..restore("b", 200, Target::TimeUs(1)) };
        assert_eq!(count(&[done.clone(), elsewhere], now), 4);
        let mut fork = v1::Operation { service: "t".to_owned(), ..done };
        fork.restore.as_mut().unwrap().parent =
            Some(v1::Parent { service: "s".to_owned(), ..Default::default() });
        assert_eq!(count(std::slice::from_ref(&fork), now), 2, "what it reads is its parent's");
        assert_eq!(held("t", std::iter::once(&fork), now), [], "and not its own");
    }
}
