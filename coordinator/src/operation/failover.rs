//! What a failover does: fence whoever had the lost node's place, write the newest backup onto the new holder, see that
//! it is in use, release it.
use palinurus_proto::v1::TaskState;
use palinurus_repository::mutant::{self, Mutant};

use super::barrier::barrier;
use super::release::release;
use super::{OWN, Phase, Step, View, Work, unknown_phase};

pub(super) fn decide(view: View<'_>) -> Step {
    let onto = |work| view.operation.nodes.iter().map(move |node| (node.as_str(), work));
    match view.phase() {
        Some(Phase::Fence | Phase::Restore | Phase::Probe) if view.cancelling() => {
            Step::Advance(Phase::Release, None)
        }
        Some(Phase::Fence) if mutant::on(Mutant::UnfencedFailover) => Step::Advance(Phase::Restore, None),
        Some(Phase::Fence) => barrier(view, [(OWN, Work::Fence)]).pass(Phase::Restore),
        Some(Phase::Restore) => barrier(view, onto(Work::Restore)).pass(Phase::Probe),
        Some(Phase::Probe) => barrier(view, onto(Work::Probe)).pass(Phase::Release),
        Some(Phase::Release) => {
            let probed = onto(Work::Probe).all(|(node, work)| {
                view.record(node, work).is_some_and(|r| r.state() == TaskState::TaskDone)
            });
            release(view, None, probed)
        }
        _ => unknown_phase(view),
    }
}
