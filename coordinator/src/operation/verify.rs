//! What a check of the repository does: the coordinator looks at names, sizes and manifests; user data, when it is
//! to be read at all, is read by an agent.
use palinurus_proto::v1;

use super::barrier::{Barrier, barrier};
use super::release::stop;
use super::{OWN, Outcome, Phase, Step, View, Work, cancelled, failed, succeeded, unknown_phase};

pub(super) fn decide(view: View<'_>) -> Step {
    match view.phase() {
        Some(Phase::Verify) => {}
        Some(Phase::Mark) => return own(view, Work::Mark),
        Some(Phase::Mend) => return own(view, Work::Mend),
        _ => return unknown_phase(view),
    }
    if view.cancelling() {
        return stop(view, &[]).unwrap_or(Step::Finish(cancelled()));
    }
    let detail = view.operation.verify.as_ref();
    let reader = detail.map(|detail| detail.node.as_str()).filter(|node| !node.is_empty());
    // A scrub's reader looks at the structure as well: once is enough.
    let own = Some((OWN, Work::Check)).filter(|_| !detail.is_some_and(|detail| detail.automatic));
    let work = own.into_iter().chain(reader.map(|node| (node, Work::Verify)));
    match barrier(view, work) {
        Barrier::Not(step) => step,
        Barrier::Broken(failure) => stop(view, &[]).unwrap_or(Step::Finish(failed(failure))),
        Barrier::Passed
            if detail.is_some_and(|detail| !detail.damaged.is_empty() || !detail.whole.is_empty()) =>
        {
            Step::Advance(Phase::Mark, None)
        }
        Barrier::Passed => next(view, Work::Mark),
    }
}

/// The ledger is told, so that the next backup builds on nothing that is damaged; then, when asked to, what can be mended is.
fn own(view: View<'_>, work: Work) -> Step {
    match barrier(view, [(OWN, work)]) {
        Barrier::Not(step) => step,
        Barrier::Broken(failure) => Step::Finish(failed(failure)),
        Barrier::Passed => next(view, work),
    }
}

fn next(view: View<'_>, done: Work) -> Step {
    let repair = view.operation.verify.as_ref().is_some_and(|detail| detail.repair);
    match repair && done == Work::Mark && !view.cancelling() {
        true => Step::Advance(Phase::Mend, None),
        false => Step::Finish(ended(view)),
    }
}

fn ended(view: View<'_>) -> Outcome {
    let detail = view.operation.verify.as_ref();
    if let Some(mend) = detail.and_then(|detail| detail.mend) {
        return match mend.spoiled {
            0 => succeeded(Vec::new()),
            count => failed(left(count)),
        };
    }
    match detail.map_or(0, |detail| detail.damage_count) {
        0 => succeeded(Vec::new()),
        count => failed(damaged(count)),
    }
}

fn left(count: u64) -> v1::Failure {
    v1::Failure {
        kind: "corrupt".to_owned(),
        message: format!("{count} backups need something still that is damaged"),
        hint: "a copy may have it: `palinurus repository repair --from`".to_owned(),
        node: String::new(),
    }
}

fn damaged(count: u64) -> v1::Failure {
    v1::Failure {
        kind: "corrupt".to_owned(),
        message: match count {
            1 => "1 object of the repository is damaged".to_owned(),
            count => format!("{count} objects of the repository are damaged"),
        },
        hint: "the operation lists them with the backups and files they spoil; the next backup stores what it can anew, and \
               `palinurus repository repair` mends older ones: docs/operations/check.md"
            .to_owned(),
        node: String::new(),
    }
}
