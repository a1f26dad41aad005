//! The barrier: a phase is over when all of its tasks are done, and broken when one of them is not to be had.
use palinurus_proto::v1::{Failure, TaskState};
use palinurus_repository::mutant::{self, Mutant};

use super::{Action, Phase, Presence, Sighting, Step, View, Work};

pub(super) enum Barrier {
    Passed,
    Broken(Failure),
    Not(Step),
}

impl Barrier {
    /// For operations that leave by `release`, whatever happens.
    pub(super) fn pass(self, next: Phase) -> Step {
        match self {
            Self::Not(step) => step,
            Self::Passed => Step::Advance(next, None),
            Self::Broken(failure) => Step::Advance(Phase::Release, Some(failure)),
        }
    }
}

pub(super) fn barrier<'n>(view: View<'_>, work: impl IntoIterator<Item = (&'n str, Work)>) -> Barrier {
    let mut assign = Vec::new();
    let mut until = None;
    let mut waiting = false;
    for (node, work) in work {
        match view.sighting(node, work) {
            Sighting::At(record) => match record.state() {
                TaskState::TaskDone => {}
                TaskState::TaskFailed | TaskState::TaskCancelled => return Barrier::Broken(reason(record)),
                _ => waiting = true,
            },
            Sighting::Absent | Sighting::Unknown => match view.presence(node) {
                Presence::Connected => assign.push(Action::Assign { node: node.to_owned(), work }),
                Presence::Gone(since) => {
                    let last = since.plus(view.limits.patience);
                    if view.now >= last && !mutant::on(Mutant::EndlessPatience) {
                        return Barrier::Broken(lost(view, node, work));
                    }
                    waiting = true;
                    until =
                        Some(until.map_or(last, |until: palinurus_repository::Timestamp| until.min(last)));
                }
            },
        }
    }
    if !assign.is_empty() {
        Barrier::Not(Step::Do(assign))
    } else if waiting {
        Barrier::Not(Step::Wait(until))
    } else {
        Barrier::Passed
    }
}

fn reason(record: &palinurus_proto::v1::TaskRecord) -> Failure {
    let mut failure = record.failure.clone().unwrap_or_else(|| Failure {
        kind: "internal".to_owned(),
        message: format!("task {} ended without saying why", record.name),
        ..Default::default()
    });
    failure.node.clone_from(&record.node);
    failure
}

fn lost(view: View<'_>, node: &str, work: Work) -> Failure {
    Failure {
        kind: "unavailable".to_owned(),
        message: format!(
            "node {node} lost: not heard of for {} while it should {}",
            humantime::format_duration(view.limits.patience),
            work.name()
        ),
        hint: format!("see that the agent of {node} runs and reaches the coordinator, then start again"),
        node: node.to_owned(),
    }
}
