//! What callers find: the coordinator that leads, or one that stands by and knows who does.
use std::sync::Arc;

use palinurus_proto::{LEADER, to_status, v1};
use palinurus_repository::Error;
use ractor::ActorRef;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;

use crate::actor::coordinator::CoordinatorMsg;
use crate::api::Reads;
use crate::plans::Plans;
use crate::shared::{Base, Shared};
use crate::standby::Standby;
use crate::state::{Election, Leader};

/// A coordinator while it leads.
#[derive(Clone, Debug)]
pub(crate) struct Lead {
    pub(crate) root: ActorRef<CoordinatorMsg>,
    pub(crate) shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
pub(crate) struct Door {
    base: Arc<Base>,
    lead: watch::Receiver<Option<Lead>>,
    leader: watch::Receiver<Option<Leader>>,
    standby: Arc<Standby>,
    /// Where the state lies.
    kind: &'static str,
}

impl Door {
    pub(crate) fn new(
        base: &Arc<Base>,
        election: &dyn Election,
        lead: watch::Receiver<Option<Lead>>,
    ) -> Self {
        let standby = Arc::new(Standby::new(base.clone()));
        Self { base: base.clone(), lead, leader: election.leader(), standby, kind: election.kind() }
    }

    pub(crate) fn standby(&self) -> Arc<Standby> {
        self.standby.clone()
    }

    pub(crate) fn lead(&self) -> Result<Lead, Elsewhere> {
        let lead = self.lead.borrow().clone();
        lead.filter(|lead| !lead.shared.cancel.is_cancelled())
            .ok_or_else(|| Elsewhere { leader: self.leader() })
    }

    /// For what every coordinator answers.
    pub(crate) fn reads(&self) -> Result<Box<dyn Reads>, Status> {
        match self.lead() {
            Ok(lead) => Ok(Box::new(lead)),
            Err(elsewhere) => match self.standby.view(elsewhere.leader.is_some()) {
                Ok(view) => Ok(Box::new(view)),
                Err(e) => Err(elsewhere.refuse(&e)),
            },
        }
    }

    pub(crate) fn plans(&self) -> &Plans {
        &self.base.config.plans
    }

    pub(crate) fn cluster(&self) -> v1::Cluster {
        let leader = self.leader().unwrap_or_default();
        v1::Cluster {
            name: if self.base.config.etcd.in_use() {
                self.base.config.etcd.cluster.clone()
            } else {
                String::new()
            },
            leader: leader.name,
            address: leader.address,
            epoch: leader.epoch.0,
            answered_by: self.base.config.name.clone(),
            state: self.kind.to_owned(),
        }
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

impl Elsewhere {
    /// As a refusal for that reason.
    fn refuse(&self, error: &Error) -> Status {
        let mut status = to_status(error);
        let address = self.leader.as_ref().map_or("", |leader| &leader.address);
        if let Ok(address) = AsciiMetadataValue::try_from(address) {
            status.metadata_mut().insert(LEADER, address);
        }
        status
    }
}

impl From<Elsewhere> for Status {
    fn from(elsewhere: Elsewhere) -> Self {
        elsewhere.refuse(&elsewhere.error())
    }
}
