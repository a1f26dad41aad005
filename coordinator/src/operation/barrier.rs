//! The barrier: a phase is over when all of its tasks are done, and broken when one of them is not to be had.
use std::time::Duration;

use palinurus_proto::v1::{Failure, TaskRecord, TaskState};
use palinurus_repository::Timestamp;

use super::agree::{is_over, round};
use super::lost::takes_over;
use super::{Action, Phase, Presence, Sighting, Step, View, Work, record};

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
    let mut broken: Option<&TaskRecord> = None;
    for (node, work) in work {
        let (attempt, after) = match stand(view, node, work) {
            Stand::Done => continue,
            // What broke first: the rest may have been stopped for it.
            Stand::Broken(record) => {
                broken = Some(broken.filter(|first| first.ended_ms < record.ended_ms).unwrap_or(record));
                continue;
            }
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
        if broken.is_none() && is_lost(view, node) {
            return Barrier::Broken(lost(view, node, work));
        }
        waiting = true;
        until = Some(until.map_or(next, |until| until.min(next)));
    }
    if let Some(record) = broken {
        Barrier::Broken(reason(record))
    } else if !assign.is_empty() {
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
    matches!(view.presence(node), Presence::Gone(since) if view.now >= since.plus(view.limits.patience))
}

enum Stand<'a> {
    Done,
    Runs,
    Broken(&'a TaskRecord),
    /// To be asked for, not earlier than that.
    Open {
        attempt: u32,
        after: Timestamp,
    },
}

fn stand<'a>(view: View<'a>, node: &str, work: Work) -> Stand<'a> {
    match view.sighting(node, work) {
        Sighting::At(record) if is_over(view.operation, record, work) => {
            Stand::Open { attempt: round(view.operation), after: Timestamp(0) }
        }
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
            TaskState::TaskFailed | TaskState::TaskCancelled => Stand::Broken(record),
            _ => Stand::Runs,
        },
        Sighting::Absent | Sighting::Unknown => {
            let attempt = record::attempt(view.operation, node, work);
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

#[cfg(test)]
mod tests {
    use super::super::{Limits, OWN, Seen};
    use super::*;

    #[test]
    fn what_broke_first_is_the_reason() {
        let failed = |node: &str, work: Work, ended_ms, message: &str| {
            let failure = Some(Failure { message: message.to_owned(), ..Default::default() });
            let (node, name) = (node.to_owned(), work.name().to_owned());
            let mut record = TaskRecord { node, name, ended_ms, failure, ..Default::default() };
            record.set_state(TaskState::TaskFailed);
            record
        };
        let told = |own, reader| {
            let operation = palinurus_proto::v1::Operation {
                tasks: vec![
                    failed(OWN, Work::Check, own, "stopped"),
                    failed("n1", Work::Verify, reader, "no key"),
                ],
                ..Default::default()
            };
            let seen = Seen::default();
            let limits = Limits { patience: Duration::from_secs(1), cancel: Duration::from_secs(1) };
            let view = View { operation: &operation, seen: &seen, limits, now: Timestamp(50) };
            match barrier(view, [(OWN, Work::Check), ("n1", Work::Verify)]) {
                Barrier::Broken(failure) => failure.message,
                _ => panic!("it is broken"),
            }
        };
        assert_eq!((told(20, 10), told(10, 20)), ("no key".to_owned(), "stopped".to_owned()));
    }
}
