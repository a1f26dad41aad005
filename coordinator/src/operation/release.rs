//! The way out of every operation that touched a node: stop what still runs, release each node, say how it ended.
//! Taken after success, failure and cancellation alike, so that nothing borrowed stays behind (I5).
use palinurus_proto::v1::{self, OperationState, TaskState};

use super::record::ATTEMPT;
use super::{Action, OWN, Outcome, Presence, Sighting, Step, View, Work, ended};

/// `closing` is the coordinator's own part of the clean-up; `fulfilled` says that what was asked for has happened,
/// whatever came after.
pub(super) fn release(view: View<'_>, closing: Option<Work>, fulfilled: bool) -> Step {
    if let Some(step) = stop(view, &[Work::Release, Work::Abort]) {
        return step;
    }
    let touched = view.operation.nodes.iter().filter(|node| touched(view.operation, node));
    let work = touched.map(|node| (node.as_str(), Work::Release)).chain(closing.map(|work| (OWN, work)));
    let mut assign = Vec::new();
    let mut until = None;
    let mut waiting = false;
    let mut warnings = Vec::new();
    for (node, work) in work {
        match (view.sighting(node, work), view.presence(node)) {
            (Sighting::At(record), _) => match record.state() {
                TaskState::TaskDone => {}
                TaskState::TaskFailed | TaskState::TaskCancelled => warnings.push(left_behind(record)),
                _ => waiting = true,
            },
            (_, Presence::Connected) => {
                let attempt = view.record(node, work).map_or(ATTEMPT, |record| record.attempt);
                assign.push(Action::Assign { node: node.to_owned(), work, attempt });
            }
            (_, Presence::Gone(since)) => {
                let last = since.plus(view.limits.patience);
                if view.now < last {
                    waiting = true;
                    until =
                        Some(until.map_or(last, |until: palinurus_repository::Timestamp| until.min(last)));
                } else {
                    warnings.push(v1::Warning {
                        node: node.to_owned(),
                        message: "not released: the node is gone; it is told when it comes back".to_owned(),
                        ..Default::default()
                    });
                }
            }
        }
    }
    if !assign.is_empty() {
        Step::Do(assign)
    } else if waiting {
        Step::Wait(until)
    } else {
        Step::Finish(outcome(view, fulfilled, warnings))
    }
}

/// A node that was never asked for anything holds nothing.
pub(crate) fn touched(operation: &v1::Operation, node: &str) -> bool {
    operation.tasks.iter().any(|record| record.node == node && record.name != Work::Release.name())
}

/// Asks every task but `spared` to end and waits for it, a limited time from the phase's beginning; `None` when
/// nothing runs any more. A node that is gone, or that does not know of the task, runs nothing that we could stop.
pub(super) fn stop(view: View<'_>, spared: &[Work]) -> Option<Step> {
    let last = v1_time(view.operation.phase_ms).plus(view.limits.cancel);
    let mut stop = Vec::new();
    let mut waiting = false;
    for record in &view.operation.tasks {
        let Some(work) = Work::from_name(&record.name).filter(|work| !spared.contains(work)) else {
            continue;
        };
        let running = matches!(view.sighting(&record.node, work),
            Sighting::At(last) if !ended(last.state()) && last.attempt == record.attempt);
        // What the coordinator does itself ends soon, and nothing may follow before it has.
        if !running || (record.node != OWN && view.now >= last) {
            continue;
        }
        waiting = true;
        if !view.seen.stopped.contains(&(record.node.clone(), work)) {
            stop.push(Action::Stop { node: record.node.clone(), work });
        }
    }
    match (stop.is_empty(), waiting) {
        (false, _) => Some(Step::Do(stop)),
        (true, true) => Some(Step::Wait((view.now < last).then_some(last))),
        (true, false) => None,
    }
}

fn v1_time(ms: u64) -> palinurus_repository::Timestamp {
    palinurus_repository::Timestamp(ms)
}

fn left_behind(record: &v1::TaskRecord) -> v1::Warning {
    let why = record.failure.as_ref().map_or("it does not say why", |failure| failure.message.as_str());
    v1::Warning {
        node: record.node.clone(),
        message: format!("{} did not succeed: {why}", record.name),
        ..Default::default()
    }
}

fn outcome(view: View<'_>, fulfilled: bool, warnings: Vec<v1::Warning>) -> Outcome {
    let (state, failure) = match &view.operation.failure {
        _ if fulfilled => (OperationState::Succeeded, None),
        Some(failure) => (OperationState::Failed, Some(failure.clone())),
        None if view.cancelling() => (OperationState::Cancelled, None),
        None => (OperationState::Succeeded, None),
    };
    Outcome { state, failure, warnings }
}
