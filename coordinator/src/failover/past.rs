//! How the failovers of each place have ended so far.
use std::collections::BTreeMap;

use palinurus_proto::v1::{self, OperationKind, OperationState};
use palinurus_repository::Timestamp;

/// The last failover that had to do with a place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) place: String,
    pub(crate) id: String,
    pub(crate) state: OperationState,
    pub(crate) ended: Timestamp,
    pub(crate) why: String,
    /// In a row, this one included.
    pub(crate) failures: u32,
    pub(crate) detail: v1::FailoverDetail,
}

impl Ended {
    /// It has put the agent in its place, and its data not into the directory.
    pub(super) fn left_unfinished(&self, node: &v1::Node) -> bool {
        let failed = matches!(self.state, OperationState::Failed | OperationState::Cancelled);
        let here = self.detail.node == node.name && self.detail.instance == node.instance;
        failed && here && node.holder == node.instance
    }

    pub(super) fn was_cancelled(&self) -> bool {
        self.state == OperationState::Cancelled
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Past(BTreeMap<String, Ended>);

impl Past {
    /// Of operations that have ended, in any order.
    pub(crate) fn of<'a>(operations: impl Iterator<Item = &'a v1::Operation>) -> Self {
        let mut failovers: Vec<&v1::Operation> =
            operations.filter(|operation| operation.kind() == OperationKind::Failover).collect();
        failovers.sort_by_key(|operation| (operation.created_ms, operation.id.as_str()));
        let mut past = Self::default();
        for operation in failovers {
            let Some(detail) = &operation.failover else { continue };
            past.add(&detail.lost, operation, detail);
            if detail.node != detail.lost {
                past.add(&detail.node, operation, detail);
            }
        }
        past
    }

    fn add(&mut self, place: &str, operation: &v1::Operation, detail: &v1::FailoverDetail) {
        let before = self.0.get(place);
        let failed = operation.state() == OperationState::Failed;
        let failures = if failed { before.map_or(0, |before| before.failures) + 1 } else { 0 };
        let why = operation.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
        let ended = Ended {
            place: place.to_owned(),
            id: operation.id.clone(),
            state: operation.state(),
            ended: Timestamp(operation.finished_ms),
            why,
            failures,
            detail: detail.clone(),
        };
        self.0.insert(place.to_owned(), ended);
    }

    pub(super) fn of_place(&self, place: &str) -> Option<&Ended> {
        self.0.get(place)
    }
}
