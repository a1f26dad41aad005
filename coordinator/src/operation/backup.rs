//! What a backup does, in order. Each phase is a barrier over all nodes.
//!
//! ```text
//! inspect ─ freeze ─ snapshot ─ thaw ─ upload ─ manifest ─ commit ─┐
//!    └────────┴─────────┴────────┴───────┴─────────┴─ failure or ──┴─ release ─ done
//! ```
//! From `thaw` it goes back to `freeze` where the nodes' snapshots do not fit together ([`super::agree`]).
//! The transaction begins with `inspect`: a repository that cannot be written to is found before anything is
//! frozen. Until `commit` a backup can be cancelled; from there on the ledger says whether it exists. Until then, too,
//! a node that is lost fails it or is left behind ([`super::lost`]); a task that failed always fails it. A node that
//! brings nothing, as a standby does, is only inspected ([`super::share`]).
use super::agree::again;
use super::barrier::{barrier, first_lost};
use super::lost::{lose, send_home, taking_part, warnings};
use super::release::release;
use super::share::refusal;
use super::{OWN, Phase, Step, View, Work, unknown_phase};

const ORDER: [(Phase, Work); 6] = [
    (Phase::Inspect, Work::Inspect),
    (Phase::Freeze, Work::Freeze),
    (Phase::Snapshot, Work::Snapshot),
    (Phase::Thaw, Work::Thaw),
    (Phase::Upload, Work::Upload),
    (Phase::Manifest, Work::Manifest),
];

pub(super) fn decide(view: View<'_>) -> Step {
    let at = match view.phase() {
        Some(Phase::Release) => return leave(view),
        Some(Phase::Commit) => return barrier(view, [(OWN, Work::Commit)]).pass(Phase::Release),
        phase => ORDER.iter().position(|(each, _)| Some(*each) == phase),
    };
    let Some(at) = at else { return unknown_phase(view) };
    if view.cancelling() {
        return Step::Advance(Phase::Release, None);
    }
    if let Some(step) = send_home(view) {
        return step;
    }
    let (phase, work) = ORDER[at];
    let begin = (phase == Phase::Inspect).then_some((OWN, Work::Begin));
    let nodes = || taking_part(view.operation).map(|node| (node, work));
    if let Some((node, work)) = first_lost(view, nodes()) {
        return lose(view, node, work);
    }
    let next = ORDER.get(at + 1).map_or(Phase::Commit, |(next, _)| *next);
    match barrier(view, begin.into_iter().chain(nodes())).pass(next) {
        Step::Advance(next, None) if phase == Phase::Inspect => match refusal(view.operation) {
            Some(failure) => Step::Advance(Phase::Release, Some(failure)),
            None => Step::Advance(next, None),
        },
        Step::Advance(next, None) if phase == Phase::Thaw => {
            again(view.operation).unwrap_or(Step::Advance(next, None))
        }
        step => step,
    }
}

/// A commit whose answer was lost may have happened: closing the transaction looks, and then the backup stands.
fn leave(view: View<'_>) -> Step {
    let committed = view.operation.backup.as_ref().is_some_and(|backup| backup.committed);
    let begun = view.record(OWN, Work::Begin).is_some();
    let mut step = release(view, (begun && !committed).then_some(Work::Abort), committed);
    if let Step::Finish(outcome) = &mut step
        && committed
    {
        outcome.warnings.splice(0..0, warnings(view.operation));
    }
    step
}
