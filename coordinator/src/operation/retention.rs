//! What retention does: forget what the policy gives up, move what is used out of packs that are hardly used, then sweep. It may stop anywhere: what is left is garbage that
//! the next run finds, so it gives way to whatever else is asked of the service.
use super::barrier::{Barrier, barrier};
use super::release::stop;
use super::{OWN, Phase, Step, View, Work, cancelled, failed, succeeded, unknown_phase};

pub(super) fn decide(view: View<'_>) -> Step {
    let (work, next) = match view.phase() {
        Some(Phase::Forget) => (Work::Forget, Some(Phase::Rewrite)),
        Some(Phase::Rewrite) => (Work::Rewrite, Some(Phase::Sweep)),
        Some(Phase::Sweep) => (Work::Sweep, None),
        _ => return unknown_phase(view),
    };
    if view.cancelling() {
        return stop(view, &[]).unwrap_or(Step::Finish(cancelled()));
    }
    match (barrier(view, [(OWN, work)]), next) {
        (Barrier::Not(step), _) => step,
        (Barrier::Broken(failure), _) => Step::Finish(failed(failure)),
        (Barrier::Passed, Some(next)) => Step::Advance(next, None),
        (Barrier::Passed, None) => Step::Finish(succeeded(Vec::new())),
    }
}
