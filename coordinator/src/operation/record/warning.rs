//! Warnings are kept once, in the operation, and counted all.
use palinurus_proto::v1::{self, TaskRecord, task_result};

/// The count has them all.
pub(crate) const WARNINGS_KEPT: usize = 100;

/// Moves the warnings out of a result: they are kept once, in the operation.
pub(super) fn take_warnings(result: &mut v1::TaskResult) -> (Vec<v1::Warning>, u64) {
    use task_result::Result as R;
    let (warnings, count) = match &mut result.result {
        Some(R::Snapshot(r)) => (&mut r.warnings, &mut r.warning_count),
        Some(R::Upload(r)) => (&mut r.warnings, &mut r.warning_count),
        Some(R::Manifest(r)) => (&mut r.warnings, &mut r.warning_count),
        Some(R::Restore(r)) => (&mut r.warnings, &mut r.warning_count),
        Some(R::Verify(_) | R::Inspect(_) | R::Probe(_) | R::Drill(_) | R::Thaw(_)) | None => {
            return (Vec::new(), 0);
        }
    };
    *count = (*count).max(warnings.len() as u64);
    (std::mem::take(warnings), *count)
}

/// A manifest's warnings are all of its node's: those that earlier tasks told are among them.
pub(super) fn forget_warnings(operation: &mut v1::Operation, node: &str) {
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

pub(super) fn warn(operation: &mut v1::Operation, node: &str, warnings: Vec<v1::Warning>, count: u64) {
    operation.warning_count += count.max(warnings.len() as u64);
    let room = WARNINGS_KEPT.saturating_sub(operation.warnings.len());
    for mut warning in warnings.into_iter().take(room) {
        if warning.node.is_empty() {
            node.clone_into(&mut warning.node);
        }
        operation.warnings.push(warning);
    }
}
