//! What a change of a service's power does next. Asked again after whatever may change the answer, and by every leader.
use std::time::Duration;

use palinurus_proto::v1::{self, OperationState, PowerState};
use palinurus_repository::Timestamp;

use super::{off, on, still_off};
use crate::failover::time;
use crate::operation::finished;

/// For the rest of the log to be stored, after the last backup.
const TAIL_AT_MOST: Duration = Duration::from_secs(60);
/// Between two looks at what writers tell.
const LOOK: Duration = Duration::from_secs(1);
/// What was told sooner may have been seen before.
const TOLD_AFTER: Duration = Duration::from_secs(2);
/// For a writer to come back that a new leader has not heard of.
const UNHEARD: Duration = Duration::from_secs(10);
/// For the first node to be in use, so that the others can be made replicas of it.
const REPLICAS_WITHIN: Duration = Duration::from_secs(5 * 60);
/// After a run of a deletion that left something.
const ERASE_AGAIN: Duration = Duration::from_secs(60);
/// What a store keeps locked and does not say for how long.
const LOCKED_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// Clocks of two leaders differ by less.
const SKEW_MS: u64 = 60_000;

/// Of the log, as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tail {
    /// The service has none.
    #[default]
    NoLog,
    /// Nobody gives it.
    Unheard,
    /// When that was told, and how much the store lacked then.
    Told(Timestamp, u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) power: &'a v1::Power,
    /// Those of this change, in the order in which they began.
    pub(crate) operations: &'a [v1::Operation],
    /// Another one has the service's slot.
    pub(crate) busy: Option<&'a str>,
    pub(crate) tail: Tail,
    /// One node's data is everybody's.
    pub(crate) replicated: bool,
    /// Members that are there and empty.
    pub(crate) empty: &'a [String],
    pub(crate) now: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Until then, or until something changes; and for what.
    Wait(Option<Timestamp>, String),
    /// The last backup begins.
    BackUp,
    /// It is planned how to restore, and that begins.
    Restore,
    /// That node is made a replica.
    Follow(String),
    /// All backups are forgotten and swept.
    Erase,
    /// Nothing is left but records.
    Gone,
    /// Stored, and asked again.
    Set(v1::Power),
}

pub(crate) fn decide(view: View<'_>) -> Step {
    let last = view.operations.last();
    if let Some(running) = last.filter(|last| !finished(last.state())) {
        let kind = running.kind().name();
        return Step::Wait(None, format!("operation {} ({kind}) runs", running.id));
    }
    match view.power.state() {
        PowerState::PowerStopping => stopping(view, last),
        PowerState::PowerStarting => starting(view, last),
        PowerState::PowerDeleting => deleting(view, last),
        PowerState::PowerOn | PowerState::PowerOff => Step::Wait(None, String::new()),
    }
}

fn unless_busy(view: View<'_>, step: Step) -> Step {
    match view.busy {
        Some(id) => Step::Wait(None, format!("operation {id} runs: it comes after")),
        None => step,
    }
}

fn stopping(view: View<'_>, last: Option<&v1::Operation>) -> Step {
    let begun = match last {
        Some(last) if is_made(last) => past(last.finished_ms, view.now),
        Some(last) => {
            let why = format!(
                "it stays on, as its last backup, operation {}, {}; `palinurus service power-off --no-backup` powers it off \
                 without one",
                last.id,
                ended(last)
            );
            return Step::Set(on(view.power, why, view.now));
        }
        None if view.power.no_backup => past(view.power.since_ms, view.now),
        None => return unless_busy(view, Step::BackUp),
    };
    let waits = |limit: Duration, told: &str| {
        let until = begun.plus(limit);
        (view.now < until).then(|| Step::Wait(Some(until.min(view.now.plus(LOOK))), told.to_owned()))
    };
    let waits = match view.tail {
        Tail::NoLog => None,
        Tail::Unheard => waits(UNHEARD, "it is looked whether somebody gives the log"),
        Tail::Told(at, 0) if at >= begun.plus(TOLD_AFTER) => None,
        Tail::Told(..) => waits(TAIL_AT_MOST, "the end of the log is being stored"),
    };
    waits.unwrap_or_else(|| Step::Set(off(view.power, String::new(), view.now)))
}

fn starting(view: View<'_>, last: Option<&v1::Operation>) -> Step {
    let Some(last) = last else { return unless_busy(view, Step::Restore) };
    let Some(first) = view.operations.iter().find(|operation| good(operation)) else {
        let why = format!(
            "it stays off, as operation {} {}; directories that hold a part of the backup are emptied, or gone on with by \
             `palinurus service power-on --delta`",
            last.id,
            ended(last)
        );
        return Step::Set(still_off(view.power, why, view.now));
    };
    let left = |why: &str| {
        let nodes = view.empty.join(", ");
        format!("{why}: {nodes} stays empty; `palinurus failover apply` makes it a replica")
    };
    match view.empty.first().filter(|_| view.replicated) {
        None => Step::Set(on(view.power, String::new(), view.now)),
        Some(_) if !good(last) => {
            Step::Set(on(view.power, left(&format!("operation {} {}", last.id, ended(last))), view.now))
        }
        Some(_) if view.now >= past(first.finished_ms, view.now).plus(REPLICAS_WITHIN) => {
            Step::Set(on(view.power, left("no primary was seen in time"), view.now))
        }
        Some(node) => unless_busy(view, Step::Follow(node.clone())),
    }
}

fn deleting(view: View<'_>, last: Option<&v1::Operation>) -> Step {
    let Some(last) = last else { return unless_busy(view, Step::Erase) };
    let detail = last.retention.clone().unwrap_or_default();
    let again = |at: Timestamp, why: String| match view.now < at {
        true => Step::Wait(Some(at), format!("{why}; again {}", time(at))),
        false => unless_busy(view, Step::Erase),
    };
    let ended_at = past(last.finished_ms, view.now);
    if !good(last) {
        return again(ended_at.plus(ERASE_AGAIN), format!("operation {} {}", last.id, ended(last)));
    }
    if (detail.backups_forgotten as usize) < detail.forget.len() {
        let why = "it is not deleted, as some of its backups are pinned or held: `palinurus backup list --why` says which";
        return Step::Set(still_off(view.power, why.to_owned(), view.now));
    }
    if detail.objects_locked > 0 {
        let until = match detail.locked_until_ms {
            0 => ended_at.plus(LOCKED_AGAIN),
            at => Timestamp(at),
        };
        let why = format!("the store keeps {} objects locked", detail.objects_locked);
        return again(until.max(ended_at.plus(ERASE_AGAIN)), why);
    }
    if detail.packs_waiting > 0 {
        return again(ended_at.plus(ERASE_AGAIN), format!("{} packs wait", detail.packs_waiting));
    }
    Step::Gone
}

/// What lies in the future was noted under a clock that was wrong: nobody waits for it.
fn past(at: u64, now: Timestamp) -> Timestamp {
    Timestamp(if at > now.0.saturating_add(SKEW_MS) { 0 } else { at })
}

fn good(operation: &v1::Operation) -> bool {
    matches!(operation.state(), OperationState::Succeeded | OperationState::Warnings)
}

/// Whatever came of the rest of it, the backup is there.
fn is_made(operation: &v1::Operation) -> bool {
    operation.backup.as_ref().is_some_and(|backup| backup.committed)
}

fn ended(operation: &v1::Operation) -> String {
    match (&operation.failure, operation.state()) {
        (_, OperationState::Cancelled) => "was cancelled".to_owned(),
        (Some(failure), _) => format!("failed: {}", failure.message),
        (None, _) => "failed".to_owned(),
    }
}
