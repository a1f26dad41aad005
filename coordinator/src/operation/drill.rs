//! What a drill does: restore parts of a backup beside the data and have them proved, write what came of it into the
//! ledger, release. A restore that is found wrong fails the operation; that, too, is written first.
use palinurus_proto::v1;

use super::barrier::{Barrier, barrier};
use super::release::release;
use super::{OWN, Phase, Step, View, Work, unknown_phase};

pub(super) fn decide(view: View<'_>) -> Step {
    match view.phase() {
        Some(Phase::Drill) if view.cancelling() => Step::Advance(Phase::Release, None),
        Some(Phase::Drill) => {
            let nodes = view.operation.nodes.iter().map(|node| (node.as_str(), Work::Drill));
            barrier(view, nodes).pass(Phase::Record)
        }
        // Proved is proved: too late to cancel.
        Some(Phase::Record) => match barrier(view, [(OWN, Work::Record)]) {
            Barrier::Not(step) => step,
            Barrier::Passed => Step::Advance(Phase::Release, found(view.operation)),
            Barrier::Broken(failure) => {
                Step::Advance(Phase::Release, Some(found(view.operation).unwrap_or(failure)))
            }
        },
        Some(Phase::Release) => {
            let recorded = view.operation.drill.as_ref().is_some_and(|drill| drill.recorded);
            release(view, None, recorded && found(view.operation).is_none())
        }
        _ => unknown_phase(view),
    }
}

/// Why the backup is not what it should be.
fn found(operation: &v1::Operation) -> Option<v1::Failure> {
    let drill = operation.drill.as_ref()?;
    let mut failed = drill.results.iter().filter(|result| result.finding_count > 0);
    let first = failed.next()?;
    let more = failed.map(|result| result.finding_count).sum::<u64>() + first.finding_count - 1;
    let what = first.findings.first().map_or("it does not say what", String::as_str);
    let rest = if more > 0 { format!(", and {more} more findings") } else { String::new() };
    Some(v1::Failure {
        kind: "corrupt".to_owned(),
        message: format!(
            "backup {} is not what it should be: {} restored at {}: {what}{rest}",
            drill.backup_id, first.source, first.node
        ),
        hint: "take a full backup, and see docs/operations/drills.md for what each finding means".to_owned(),
        node: first.node.clone(),
    })
}
