//! Operations: durable long work. What happens next is decided here, purely; the actors only carry it out.
//!
//! The record is written before the deed: an actor persists a phase or an assignment first, then acts. Everything
//! that is done may be done again, so a first run, a retry and a takeover after a crash are the same path.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use palinurus_proto::v1::{self, OperationKind, TaskState};
use palinurus_repository::Timestamp;

mod agree;
mod backup;
mod barrier;
mod chosen;
mod delete;
mod drill;
mod failover;
mod fence;
mod lost;
pub(crate) mod own;
mod progress;
pub(crate) mod record;
mod release;
mod restore;
mod retention;
mod share;
#[cfg(test)]
mod sim;
mod task;
mod verify;

pub(crate) use chosen::Chosen;
pub(crate) use fence::Places;
pub(crate) use lost::{is_missing, taking_part};
pub(crate) use record::{Detail, Patch, Recorded};
pub(crate) use release::touched;
pub(crate) use task::task;

/// An enum whose variants have stored names, both ways.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum $name { $($variant),* }

        impl $name {
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            pub(crate) fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

named! {
    /// Where an operation stands.
    Phase {
        Inspect = "inspect", Freeze = "freeze", Snapshot = "snapshot", Thaw = "thaw", Upload = "upload",
        Manifest = "manifest", Commit = "commit", Restore = "restore", Release = "release", Verify = "verify",
        Forget = "forget", Sweep = "sweep", Fence = "fence", Probe = "probe", Mark = "mark", Mend = "mend",
        Rewrite = "rewrite", Drill = "drill", Record = "record", Done = "done",
    }
}

named! {
    /// A task's work. From `Begin` on it is the coordinator's own, recorded like an agent's under the node [`OWN`].
    Work {
        Inspect = "inspect", Freeze = "freeze", Snapshot = "snapshot", Thaw = "thaw", Upload = "upload",
        Manifest = "manifest", Release = "release", Restore = "restore", Verify = "verify",
        Probe = "probe", Drill = "drill",
        Begin = "begin", Commit = "commit", Abort = "abort", Forget = "forget", Sweep = "sweep", Check = "check",
        Fence = "fence", Mark = "mark", Mend = "mend", Rewrite = "rewrite",
        Record = "record",
    }
}

/// The node name of the coordinator's own tasks.
pub(crate) const OWN: &str = "";

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Nothing until something is heard or, at the latest, until then.
    Wait(Option<Timestamp>),
    Do(Vec<Action>),
    /// A failure is recorded with the phase that cleans up after it.
    Advance(Phase, Option<v1::Failure>),
    /// All snapshots of a backup are made again, and why.
    Again(String),
    /// The backup goes on without a node.
    Without(v1::MissingNode),
    Finish(Outcome),
}

/// Idempotent by operation, node, work and attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Assign {
        node: String,
        work: Work,
        attempt: u32,
    },
    /// Asks a task to end; it still reports how it ended.
    Stop {
        node: String,
        work: Work,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) state: v1::OperationState,
    pub(crate) failure: Option<v1::Failure>,
    /// Beyond those that the tasks reported.
    pub(crate) warnings: Vec<v1::Warning>,
}

/// What the leader has seen since it leads; nothing of it is stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) nodes: BTreeMap<String, Presence>,
    /// Assigned over the session that lives now (or running in this process): the node knows of it.
    pub(crate) told: BTreeSet<(String, Work)>,
    /// Asked to end over the session that lives now.
    pub(crate) stopped: BTreeSet<(String, Work)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Connected,
    Gone(Timestamp),
}

/// A silence is not a no: what was assigned and not heard of over a live session is `Unknown`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sighting<'a> {
    Absent,
    Unknown,
    At(&'a v1::TaskRecord),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long a node may be gone.
    pub(crate) patience: Duration,
    /// How long a task may take to stop.
    pub(crate) cancel: Duration,
}

/// Everything a decider may look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) operation: &'a v1::Operation,
    pub(crate) seen: &'a Seen,
    pub(crate) limits: Limits,
    pub(crate) now: Timestamp,
}

impl<'a> View<'a> {
    pub(crate) fn record(&self, node: &str, work: Work) -> Option<&'a v1::TaskRecord> {
        record::find(self.operation, node, work)
    }

    pub(crate) fn sighting(&self, node: &str, work: Work) -> Sighting<'a> {
        let Some(record) = self.record(node, work) else { return Sighting::Absent };
        let told = || self.seen.told.contains(&(node.to_owned(), work));
        if ended(record.state()) || (told() && self.presence(node) == Presence::Connected) {
            Sighting::At(record)
        } else {
            Sighting::Unknown
        }
    }

    pub(crate) fn presence(&self, node: &str) -> Presence {
        if node == OWN {
            return Presence::Connected;
        }
        self.seen.nodes.get(node).copied().unwrap_or(Presence::Gone(Timestamp(self.operation.phase_ms)))
    }

    pub(crate) fn phase(&self) -> Option<Phase> {
        Phase::from_name(&self.operation.phase)
    }

    pub(crate) fn cancelling(&self) -> bool {
        self.operation.state() == v1::OperationState::Cancelling
    }
}

/// What happens next. Pure: the same arguments, the same answer; asked again after every change and every crash.
pub(crate) fn decide(view: View<'_>) -> Step {
    match view.operation.kind() {
        OperationKind::Backup => backup::decide(view),
        OperationKind::Restore => restore::decide(view),
        OperationKind::Verify => verify::decide(view),
        OperationKind::Delete => delete::decide(view),
        OperationKind::Failover => failover::decide(view),
        OperationKind::Retention => retention::decide(view),
        OperationKind::Drill => drill::decide(view),
        OperationKind::Unspecified => unknown_phase(view),
    }
}

/// A record of a newer version, or damage: ended with its reason rather than left to hang.
fn unknown_phase(view: View<'_>) -> Step {
    let failure = v1::Failure {
        kind: "internal".to_owned(),
        message: format!("phase {:?} of a {:?} is not known", view.operation.phase, view.operation.kind()),
        ..Default::default()
    };
    Step::Finish(failed(failure))
}

fn failed(failure: v1::Failure) -> Outcome {
    Outcome { state: v1::OperationState::Failed, failure: Some(failure), warnings: Vec::new() }
}

fn cancelled() -> Outcome {
    Outcome { state: v1::OperationState::Cancelled, failure: None, warnings: Vec::new() }
}

fn succeeded(warnings: Vec<v1::Warning>) -> Outcome {
    Outcome { state: v1::OperationState::Succeeded, failure: None, warnings }
}

pub(crate) fn ended(state: TaskState) -> bool {
    matches!(state, TaskState::TaskDone | TaskState::TaskFailed | TaskState::TaskCancelled)
}

pub(crate) fn finished(state: v1::OperationState) -> bool {
    use v1::OperationState as S;
    matches!(state, S::Succeeded | S::Warnings | S::Failed | S::Cancelled)
}
