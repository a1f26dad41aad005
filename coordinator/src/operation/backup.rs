//! What a backup does, in order. Each phase is a barrier over all nodes.
//!
//! ```text
//! inspect ─ freeze ─ snapshot ─ thaw ─ upload ─ manifest ─ commit ─┐
//!    └────────┴─────────┴────────┴───────┴─────────┴─ failure or ──┴─ release ─ done
//! ```
//! The transaction begins with `inspect`: a repository that cannot be written to is found before anything is
//! frozen. Until `commit` a backup can be cancelled; from there on the ledger says whether it exists.
use palinurus_proto::v1;

use super::barrier::barrier;
use super::release::release;
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
    let (phase, work) = ORDER[at];
    let begin = (phase == Phase::Inspect).then_some((OWN, Work::Begin));
    let nodes = view.operation.nodes.iter().map(|node| (node.as_str(), work));
    let next = ORDER.get(at + 1).map_or(Phase::Commit, |(next, _)| *next);
    barrier(view, begin.into_iter().chain(nodes)).pass(next)
}

/// A commit whose answer was lost may have happened: closing the transaction looks, and then the backup stands.
fn leave(view: View<'_>) -> Step {
    let committed = view.operation.backup.as_ref().is_some_and(|backup: &v1::BackupDetail| backup.committed);
    let begun = view.record(OWN, Work::Begin).is_some();
    release(view, (begun && !committed).then_some(Work::Abort), committed)
}
