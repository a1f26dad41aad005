//! How the record takes in what an agent reports of a task.
use palinurus_proto::v1::{self, TaskReport, TaskState, task_result};
use palinurus_repository::Timestamp;

use super::damage::verify;
use super::note;
use super::warning::{forget_warnings, take_warnings, warn};
use crate::operation::progress::sum;
use crate::operation::{Work, ended};

/// Of what an engine says.
const TOLD_MAX: usize = 500;

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
    let verified = match result(report) {
        Some(task_result::Result::Verify(verified)) if has_ended => verified.detail.clone(),
        _ => None,
    };
    warn(operation, node, heard.0, heard.1);
    if has_ended && report.state() == TaskState::TaskDone && report.task == Work::Drill.name() {
        drilled(operation, node, report);
    }
    if has_ended && report.state() == TaskState::TaskDone && report.task == Work::Probe.name() {
        in_use(operation, report, now);
    }
    if has_ended
        && let Some(task_result::Result::Restore(restored)) = result(report)
        && !restored.told.is_empty()
    {
        note(operation, now, format!("{node}: {}", cut(&restored.told)));
    }
    if let Some(verified) = verified {
        verify(operation, verified);
    }
    operation.progress = Some(sum(&operation.tasks));
    operation.updated_ms = now.0;
    if has_ended { Recorded::Ended } else { Recorded::Progress }
}

/// Who did it, and of what, is what was asked: an agent does not say that of itself.
fn drilled(operation: &mut v1::Operation, node: &str, report: &TaskReport) {
    let Some(task_result::Result::Drill(result)) = report.result.as_ref().and_then(|it| it.result.as_ref())
    else {
        return;
    };
    let Some(drill) = &mut operation.drill else { return };
    let Some(part) = drill.parts.iter().find(|part| part.node == node) else { return };
    let (node, source) = (part.node.clone(), part.source.clone());
    drill.results.push(v1::DrillResult { node, source, ..result.clone() });
}

fn result(report: &TaskReport) -> Option<&task_result::Result> {
    report.result.as_ref()?.result.as_ref()
}

fn cut(told: &str) -> String {
    told.chars().take(TOLD_MAX).collect()
}

/// The restored node is in use again: that is when a failover is over for its users.
fn in_use(operation: &mut v1::Operation, report: &TaskReport, now: Timestamp) {
    let told = match result(report) {
        Some(task_result::Result::Probe(probe)) => cut(&probe.told),
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
