//! The barrier: a phase is over when all of its tasks are done, and broken when one of them is not to be had.
use std::time::Duration;

use palinurus_proto::v1::{Failure, TaskRecord, TaskState};
use palinurus_repository::Timestamp;
use palinurus_repository::mutant::{self, Mutant};

use super::lost::takes_over;
use super::record::ATTEMPT;
use super::{Action, Phase, Presence, Sighting, Step, View, Work};

/// How often a task may fail for a store or a coordinator that is away.
const TRIES: usize = 3;
/// Before the second try; twice as long before the third.
const PAUSE: Duration = Duration::from_secs(5);

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
    let mut until: Option<Timestamp> = None;
    let mut waiting = false;
    for (node, work) in work {
        let (attempt, after) = match stand(view, node, work) {
            Stand::Done => continue,
            Stand::Broken(failure) => return Barrier::Broken(failure),
            Stand::Runs => {
                waiting = true;
                continue;
            }
            Stand::Open { attempt, after } => (attempt, after),
        };
        let next = match view.presence(node) {
            Presence::Connected if view.now >= after => {
                assign.push(Action::Assign { node: node.to_owned(), work, attempt });
                continue;
            }
            Presence::Connected => after,
            Presence::Gone(since) => since.plus(view.limits.patience),
        };
        if is_lost(view, node) {
            return Barrier::Broken(lost(view, node, work));
        }
        waiting = true;
        until = Some(until.map_or(next, |until| until.min(next)));
    }
    if !assign.is_empty() {
        Barrier::Not(Step::Do(assign))
    } else if waiting {
        Barrier::Not(Step::Wait(until))
    } else {
        Barrier::Passed
    }
}

/// The first of those nodes that still has to do its part and has been gone for too long.
pub(super) fn first_lost<'n>(
    view: View<'_>,
    work: impl IntoIterator<Item = (&'n str, Work)>,
) -> Option<(&'n str, Work)> {
    let open = |node, work| matches!(stand(view, node, work), Stand::Open { .. });
    work.into_iter().find(|(node, work)| open(node, *work) && is_lost(view, node))
}

fn is_lost(view: View<'_>, node: &str) -> bool {
    if mutant::on(Mutant::EndlessPatience) {
        return false;
    }
    matches!(view.presence(node), Presence::Gone(since) if view.now >= since.plus(view.limits.patience))
}

enum Stand {
    Done,
    Runs,
    Broken(Failure),
    /// To be asked for, not earlier than that.
    Open {
        attempt: u32,
        after: Timestamp,
    },
}

fn stand(view: View<'_>, node: &str, work: Work) -> Stand {
    match view.sighting(node, work) {
        Sighting::At(record) => match record.state() {
            TaskState::TaskDone if work == Work::Upload && takes_over(view, record) => {
                Stand::Open { attempt: record.attempt + 1, after: Timestamp(0) }
            }
            TaskState::TaskDone => Stand::Done,
            TaskState::TaskFailed if is_tried_again(view, record, work) => {
                let failures = failures(view, record) as u32;
                let after = Timestamp(record.ended_ms).plus(PAUSE * failures);
                Stand::Open { attempt: record.attempt + 1, after }
            }
            TaskState::TaskFailed | TaskState::TaskCancelled => Stand::Broken(reason(record)),
            _ => Stand::Runs,
        },
        Sighting::Absent | Sighting::Unknown => {
            let attempt = view.record(node, work).map_or(ATTEMPT, |record| record.attempt);
            Stand::Open { attempt, after: Timestamp(0) }
        }
    }
}

/// Only what moves the bytes: its packs are journaled, so another try repeats little; and only what may pass by
/// itself.
fn is_tried_again(view: View<'_>, record: &TaskRecord, work: Work) -> bool {
    let away = record.failure.as_ref().is_some_and(|failure| failure.kind == "unavailable");
    away && matches!(work, Work::Upload | Work::Manifest) && failures(view, record) < TRIES
}

fn failures(view: View<'_>, record: &TaskRecord) -> usize {
    let same = |each: &&TaskRecord| each.node == record.node && each.name == record.name;
    view.operation.tasks.iter().filter(same).filter(|each| each.state() == TaskState::TaskFailed).count()
}

fn reason(record: &TaskRecord) -> Failure {
    let mut failure = record.failure.clone().unwrap_or_else(|| Failure {
        kind: "internal".to_owned(),
        message: format!("task {} ended without saying why", record.name),
        ..Default::default()
    });
    failure.node.clone_from(&record.node);
    failure
}

pub(super) fn lost(view: View<'_>, node: &str, work: Work) -> Failure {
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
