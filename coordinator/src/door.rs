//! What callers find: the coordinator that leads, or one that stands by and knows who does.
use std::sync::Arc;

use palinurus_proto::to_status;
use palinurus_repository::Error;
use ractor::ActorRef;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;

use crate::actor::coordinator::CoordinatorMsg;
use crate::shared::Shared;
use crate::state::Leader;

/// Metadata of a refusal: where the leader is reached.
pub(crate) const LEADER: &str = "palinurus-leader";

/// A coordinator while it leads.
#[derive(Clone, Debug)]
pub(crate) struct Lead {
    pub(crate) root: ActorRef<CoordinatorMsg>,
    pub(crate) shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
pub(crate) struct Door {
    lead: watch::Receiver<Option<Lead>>,
    leader: watch::Receiver<Option<Leader>>,
}

impl Door {
    pub(crate) fn new(lead: watch::Receiver<Option<Lead>>, leader: watch::Receiver<Option<Leader>>) -> Self {
        Self { lead, leader }
    }

    pub(crate) fn lead(&self) -> Result<Lead, Elsewhere> {
        let lead = self.lead.borrow().clone();
        lead.filter(|lead| !lead.shared.cancel.is_cancelled())
            .ok_or_else(|| Elsewhere { leader: self.leader() })
    }

    /// As far as is known here.
    pub(crate) fn leader(&self) -> Option<Leader> {
        self.leader.borrow().clone()
    }
}

/// This coordinator does not lead.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    pub(crate) leader: Option<Leader>,
}

impl Elsewhere {
    pub(crate) fn error(&self) -> Error {
        match &self.leader {
            Some(leader) => Error::fenced(format!(
                "this coordinator stands by: {} leads, at {}",
                leader.name, leader.address
            ))
            .with_hint(format!("ask {}", leader.address)),
            None => Error::unavailable("no coordinator leads at the moment")
                .with_hint("try again in a few seconds; if it stays so, see the coordinators' logs"),
        }
    }
}

impl From<Elsewhere> for Status {
    fn from(elsewhere: Elsewhere) -> Self {
        let mut status = to_status(&elsewhere.error());
        if let Some(leader) = elsewhere.leader
            && let Ok(address) = AsciiMetadataValue::try_from(leader.address)
        {
            status.metadata_mut().insert(LEADER, address);
        }
        status
    }
}
