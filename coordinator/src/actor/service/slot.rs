//! What a service does now, and what it does next.
use std::collections::VecDeque;

use palinurus_proto::v1;
use ractor::ActorRef;

use crate::actor::operation::OperationMsg;
use crate::state::Versioned;

/// What runs, and what is to run after it: after a start, the operations that were not finished.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) waiting: VecDeque<Versioned<v1::Operation>>,
    pub(super) running: Option<Run>,
    /// Begun, and whether it is stored is not known: nothing else may begin before it is.
    pub(super) unsure: Option<v1::Operation>,
    /// Of the operation in the slot, over all of its actors.
    pub(super) failures: u32,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: String,
    pub(super) kind: v1::OperationKind,
    pub(super) actor: ActorRef<OperationMsg>,
}

pub(super) struct Current<'a> {
    pub(super) id: &'a str,
    pub(super) kind: v1::OperationKind,
}

impl Slot {
    pub(super) fn wait(&mut self, operation: Versioned<v1::Operation>) {
        let at = self.waiting.partition_point(|other| other.value.created_ms <= operation.value.created_ms);
        self.waiting.insert(at, operation);
    }

    pub(super) fn current(&self) -> Option<Current<'_>> {
        if let Some(run) = &self.running {
            return Some(Current { id: &run.id, kind: run.kind });
        }
        let next = self.unsure.as_ref().or(self.waiting.front().map(|operation| &operation.value));
        next.map(|operation| Current { id: &operation.id, kind: operation.kind() })
    }

    pub(super) fn running(&self) -> Option<(&str, &ActorRef<OperationMsg>)> {
        self.running.as_ref().map(|run| (run.id.as_str(), &run.actor))
    }

    /// Runs, or is to run.
    pub(super) fn knows(&self, id: &str) -> bool {
        let runs = self.running.as_ref().is_some_and(|run| run.id == id);
        let waits = self.waiting.iter().map(|operation| &operation.value).chain(&self.unsure);
        runs || waits.into_iter().any(|operation| operation.id == id)
    }
}
