//! What deleting a backup does: forget it in the ledger, then sweep what only it used. Once it is forgotten there
//! is no way back, so cancelling comes too late.
use super::barrier::{Barrier, barrier};
use super::{OWN, Phase, Sighting, Step, View, Work, cancelled, failed, succeeded, unknown_phase};

pub(super) fn decide(view: View<'_>) -> Step {
    let (work, next) = match view.phase() {
        Some(Phase::Forget) => (Work::Forget, Some(Phase::Sweep)),
        Some(Phase::Sweep) => (Work::Sweep, None),
        _ => return unknown_phase(view),
    };
    if view.cancelling() && work == Work::Forget && matches!(view.sighting(OWN, work), Sighting::Absent) {
        return Step::Finish(cancelled());
    }
    match (barrier(view, [(OWN, work)]), next) {
        (Barrier::Not(step), _) => step,
        (Barrier::Broken(failure), _) => Step::Finish(failed(failure)),
        (Barrier::Passed, Some(next)) => Step::Advance(next, None),
        (Barrier::Passed, None) => Step::Finish(succeeded(Vec::new())),
    }
}
