//! A node's place, as one agent after another has it.
use std::collections::BTreeMap;
use std::time::Duration;

use palinurus_proto::v1::{self, coordinator_message::Message};
use palinurus_repository::Timestamp;
use palinurus_repository::mutant::{self, Mutant};
use ractor::{ActorId, ActorRef};

use crate::actor::agent::AgentMsg;
use crate::actor::operation::Link;
use crate::failover::Place;

/// A clock that is further off is warned of.
const CLOCK_OFF: Duration = Duration::from_secs(60);
/// Of a place that no failover has touched.
const FIRST_NODE_EPOCH: u64 = 1;

/// A node's place: at most one agent at a time has it.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) node: v1::Node,
    pub(super) session: Option<ActorRef<AgentMsg>>,
    pub(super) gone_since: Timestamp,
    /// What its agent's Hello said of operations that do not run yet.
    pub(super) said: Vec<v1::TaskReport>,
}

impl Seat {
    fn new(mut node: v1::Node, now: Timestamp) -> Self {
        node.connected = false;
        if node.holder.is_empty() {
            node.holder.clone_from(&node.instance);
        }
        // It was connected when the last leader ended, and may have gone at any time since.
        for gone in [&mut node.gone_ms, &mut node.holder_gone_ms] {
            *gone = if *gone == 0 { node.last_seen_ms } else { *gone };
        }
        Self { node, session: None, gone_since: now, said: Vec::new() }
    }

    pub(super) fn shown(&self) -> v1::Node {
        self.node.clone()
    }

    pub(super) fn known(&self) -> &v1::Node {
        &self.node
    }

    pub(super) fn place(&self) -> Place {
        Place { node: self.shown(), gone_since: (!self.connected()).then_some(self.gone_since) }
    }

    /// Its holder is there and has its data, or it is nobody's.
    pub(super) fn is_well(&self) -> bool {
        self.node.spare || self.node.holder.is_empty() || (self.connected() && !self.node.data_empty)
    }

    /// Why the agent that is here is not the node for that backup: it has nothing, and another holds the place.
    pub(super) fn stands_in(&self, backup: &v1::BackupDetail) -> Option<String> {
        let v1::Node { name, instance, holder, data_empty, spare, .. } = &self.node;
        let nobodys = holder.is_empty() || holder == instance || backup.first.contains(name);
        let here = self.connected() && *data_empty && !*spare;
        (here && !nobodys && !mutant::on(Mutant::ReplacementIsNode)).then(|| {
            format!(
                "agent {instance} is connected for {name} with an empty directory, and {holder} has its place: the \
                 backup does without it; `palinurus failover apply` restores {name} first"
            )
        })
    }

    /// From now on as it was stored.
    pub(super) fn set(&mut self, node: v1::Node) {
        self.node = node;
    }

    pub(super) fn tell_epoch(&self) {
        if let Some(session) = &self.session {
            let _ = session.cast(AgentMsg::Place(self.node.node_epoch));
        }
    }

    pub(super) fn tell_limits(&self) {
        if let Some(session) = &self.session {
            let _ = session.cast(AgentMsg::Limits(self.node.limits));
        }
    }

    /// Whoever comes with data, or comes first, has the place; an empty directory is a replacement's.
    pub(super) fn seat(&mut self, hello: &v1::Hello, now: Timestamp) {
        let node = &mut self.node;
        if node.holder.is_empty() || node.holder == hello.instance || !hello.data_empty {
            if !node.holder.is_empty() && node.holder != hello.instance {
                tracing::warn!(
                    node = node.name,
                    was = node.holder,
                    is = hello.instance,
                    "the place has another agent"
                );
            }
            node.holder.clone_from(&hello.instance);
            node.holder_gone_ms = 0;
        } else if node.holder_gone_ms == 0 {
            node.holder_gone_ms = if node.last_seen_ms > 0 { node.last_seen_ms } else { now.0 };
        }
        node.connected = true;
        node.gone_ms = 0;
        node.last_seen_ms = now.0;
        node.instance.clone_from(&hello.instance);
        self.looked(hello.data_empty, hello.primary);
        let node = &mut self.node;
        node.clock_ahead_ms = clock_ahead(hello, now);
        if node.clock_ahead_ms.unsigned_abs() > CLOCK_OFF.as_millis() as u64 {
            tracing::warn!(node = node.name, ahead_ms = node.clock_ahead_ms, "the node's clock is off");
        }
        node.node_epoch = node.node_epoch.max(hello.node_epoch);
    }

    /// What its agent sees of the data. A replacement is no primary; whether the lost one was decides what it becomes.
    pub(super) fn looked(&mut self, data_empty: bool, primary: bool) {
        let node = &mut self.node;
        (node.data_empty, node.primary) = (data_empty, primary);
        if !data_empty && node.holder == node.instance {
            node.holder_primary = primary;
        }
    }

    pub(super) fn connected(&self) -> bool {
        self.session.is_some()
    }

    pub(super) fn instance(&self) -> Option<&str> {
        self.session.as_ref().map(|_| self.node.instance.as_str())
    }

    pub(super) fn is(&self, session: ActorId) -> bool {
        self.session.as_ref().is_some_and(|mine| mine.get_id() == session)
    }

    pub(super) fn leave(&self, why: &str) {
        if let Some(session) = &self.session {
            session.stop(Some(why.to_owned()));
        }
    }

    /// As an operation that begins or goes on is to see it. A backup of an empty replacement would be the newest, and
    /// what the node is restored from.
    pub(super) fn link(&mut self, operation: &v1::Operation) -> Link {
        let lost = operation.backup.as_ref().is_some_and(|backup| self.stands_in(backup).is_some());
        match self.session.as_ref().filter(|_| !lost) {
            None => Link::Gone(self.gone_since),
            Some(agent) => {
                let (tasks, said) = self.said.drain(..).partition(|report| report.operation == operation.id);
                self.said = said;
                Link::Here { agent: agent.clone(), tasks }
            }
        }
    }

    pub(super) fn send(&self, message: Message) {
        if let Some(session) = &self.session {
            let _ = session.cast(AgentMsg::Send(Box::new(message)));
        }
    }
}

/// What is known of nodes that are not in the service any more stays in `known`.
pub(super) fn seats(
    service: &v1::Service,
    known: &mut BTreeMap<String, v1::Node>,
    now: Timestamp,
) -> BTreeMap<String, Seat> {
    let seat = |spec: &v1::NodeSpec| {
        let node = known.remove(&spec.name).unwrap_or_default();
        (spec.name.clone(), Seat::new(as_specified(service, spec, node), now))
    };
    service.nodes.iter().map(seat).collect()
}

/// What is known of a node, and what its service says of it.
pub(crate) fn as_specified(service: &v1::Service, spec: &v1::NodeSpec, known: v1::Node) -> v1::Node {
    v1::Node {
        service: service.name.clone(),
        name: spec.name.clone(),
        zone: spec.zone.clone(),
        spare: spec.spare,
        succeeds: spec.succeeds.clone(),
        node_epoch: known.node_epoch.max(FIRST_NODE_EPOCH),
        ..known
    }
}

/// Of the agent's clock. Only shown: nothing is decided by it.
fn clock_ahead(hello: &v1::Hello, now: Timestamp) -> i64 {
    if hello.now_ms == 0 {
        return 0; // it does not say
    }
    let ahead = i128::from(hello.now_ms) - i128::from(now.0);
    ahead.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}
