//! What a check of the repository does: the coordinator looks at names, sizes and manifests; user data, when it is
//! to be read at all, is read by an agent.
use palinurus_proto::v1;

use super::barrier::{Barrier, barrier};
use super::release::stop;
use super::{OWN, Phase, Step, View, Work, cancelled, failed, succeeded, unknown_phase};

pub(super) fn decide(view: View<'_>) -> Step {
    if view.phase() != Some(Phase::Verify) {
        return unknown_phase(view);
    }
    if view.cancelling() {
        return stop(view, &[]).unwrap_or(Step::Finish(cancelled()));
    }
    let detail = view.operation.verify.as_ref();
    let reader = detail.map(|detail| detail.node.as_str()).filter(|node| !node.is_empty());
    let work = std::iter::once((OWN, Work::Check)).chain(reader.map(|node| (node, Work::Verify)));
    match barrier(view, work) {
        Barrier::Not(step) => step,
        Barrier::Broken(failure) => stop(view, &[]).unwrap_or(Step::Finish(failed(failure))),
        Barrier::Passed => match detail.map_or(0, |detail| detail.damage_count) {
            0 => Step::Finish(succeeded(Vec::new())),
            count => Step::Finish(failed(damaged(count))),
        },
    }
}

fn damaged(count: u64) -> v1::Failure {
    v1::Failure {
        kind: "corrupt".to_owned(),
        message: match count {
            1 => "1 object of the repository is damaged".to_owned(),
            count => format!("{count} objects of the repository are damaged"),
        },
        hint: "the operation lists them and the backups they belong to; keep the store as it is".to_owned(),
        node: String::new(),
    }
}
