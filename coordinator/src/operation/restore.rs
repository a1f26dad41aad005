//! What a restore does: every node writes its part, then all are released.
use palinurus_proto::v1::TaskState;

use super::barrier::{Barrier, barrier};
use super::release::release;
use super::{Phase, Step, View, Work, unknown_phase};

pub(super) fn decide(view: View<'_>) -> Step {
    let nodes = &view.operation.nodes;
    match view.phase() {
        Some(Phase::Restore) if view.cancelling() => Step::Advance(Phase::Release, None),
        Some(Phase::Restore) => {
            match barrier(view, nodes.iter().map(|node| (node.as_str(), Work::Restore))) {
                Barrier::Not(step) => step,
                Barrier::Passed => Step::Advance(Phase::Release, None),
                Barrier::Broken(failure) => Step::Advance(Phase::Release, Some(failure)),
            }
        }
        Some(Phase::Release) => {
            let done = |node: &String| {
                view.record(node, Work::Restore).is_some_and(|record| record.state() == TaskState::TaskDone)
            };
            release(view, None, nodes.iter().all(done))
        }
        _ => unknown_phase(view),
    }
}
