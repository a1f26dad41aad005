//! Who may have a session, who must wait, and who is to stand down.
use palinurus_proto::v1;
use palinurus_repository::mutant::{self, Mutant};
use palinurus_repository::{Error, Result};
use ractor::ActorRef;

use super::Service;
use super::seat::Seat;
use crate::actor::agent::AgentMsg;

/// More failovers than there can have been.
const NODE_EPOCH_MAX: u64 = 1 << 32;

/// What became of an agent that said hello.
#[derive(Debug)]
pub(crate) enum Admission {
    Seated(ActorRef<AgentMsg>),
    /// Another agent has its place for good.
    StandDown {
        epoch: u64,
        why: Error,
    },
}

impl Service {
    /// A coordinator that does not lead any more must say nothing else.
    pub(super) fn check_epoch(&self, hello: &v1::Hello) -> Result<()> {
        if hello.epoch <= self.epoch.0 {
            return Ok(());
        }
        Err(Error::fenced(format!(
            "node {} has seen epoch {}, and this coordinator leads {} with {}",
            hello.node,
            hello.epoch,
            self.name(),
            self.epoch
        ))
        .with_hint("another coordinator has taken over: see which one the agents should follow"))
    }

    /// `spare`: the agent's certificate is one for spares.
    pub(super) fn admit(&self, hello: &v1::Hello, spare: bool) -> Result<()> {
        let Some(seat) = self.seats.get(&hello.node) else {
            if let Some(successor) = self.successor(&hello.node) {
                return Err(Error::not_found(format!(
                    "node {} is no node of service {} any more: {successor} has taken its place",
                    hello.node,
                    self.name()
                ))
                .with_hint("`palinurus service apply` adds it again, such as as a spare"));
            }
            let nodes: Vec<&str> = self.seats.keys().map(String::as_str).collect();
            return Err(Error::not_found(format!("service {} has no node {:?}", self.name(), hello.node))
                .with_hint(format!(
                    "its nodes are {}; `palinurus service apply` adds one",
                    nodes.join(", ")
                )));
        };
        if spare && !seat.known().spare && seat.known().succeeds.is_empty() {
            return Err(Error::denied(format!(
                "the certificate is a spare's, and node {} of service {} is none",
                hello.node,
                self.name()
            ))
            .with_hint(format!(
                "issue one for the node: palinurus certs issue DIR agent --service {} --node {}",
                self.name(),
                hello.node
            )));
        }
        if hello.engine != self.record.value.r#type {
            return Err(Error::invalid(format!(
                "node {} has engine {:?}, and service {} is of type {:?}",
                hello.node,
                hello.engine,
                self.name(),
                self.record.value.r#type
            )));
        }
        if hello.node_epoch > NODE_EPOCH_MAX {
            return Err(Error::invalid(format!(
                "node epoch {} of {} cannot be",
                hello.node_epoch, hello.node
            )));
        }
        if let Some(failover) = self.failover_running()
            && failover.node == hello.node
            && failover.instance != hello.instance
        {
            return Err(Error::conflict(format!(
                "node {} is being restored onto agent {}",
                hello.node, failover.instance
            ))
            .with_hint("wait until that has ended"));
        }
        match seat.instance() {
            Some(instance) if instance != hello.instance => Err(Error::conflict(format!(
                "node {} of service {} is taken by agent {instance}, which is connected",
                hello.node,
                self.name()
            ))
            .with_hint("stop the other agent, or give this one the name of another node")),
            _ => Ok(()),
        }
    }

    /// Why that agent is to stand down: it was replaced, it knows an older node epoch than the place's, or it says so
    /// itself.
    pub(super) fn shut_out(&self, hello: &v1::Hello) -> Option<Error> {
        if mutant::on(Mutant::FencedIsSeated) {
            return None;
        }
        let (service, node) = (self.name(), &hello.node);
        let hint = "its data directory is left as it is; docs/operations/failover.md says how to use the machine again";
        if hello.stood_down {
            return Some(
                Error::fenced(format!("agent {} of {node} has stood down", hello.instance)).with_hint(hint),
            );
        }
        let mut known = self.seats.values().map(Seat::known).chain(self.departed.values());
        if known.any(|known| known.fenced.contains(&hello.instance)) {
            let by = self.successor(node).unwrap_or("another agent");
            let what = format!(
                "agent {} was replaced as {node} of service {service}: {by} has its place",
                hello.instance
            );
            return Some(Error::fenced(what).with_hint(hint));
        }
        let place = self.seats.get(node).map(Seat::known).or_else(|| self.departed.get(node))?;
        let older = hello.node_epoch > 0 && hello.node_epoch < place.node_epoch;
        (older && place.holder != hello.instance).then(|| {
            Error::fenced(format!(
                "agent {} held {node} of service {service} at node epoch {}, and it is at {} by now",
                hello.instance, hello.node_epoch, place.node_epoch
            ))
            .with_hint(hint)
        })
    }

    /// Which node has taken the place of that one.
    pub(super) fn successor(&self, node: &str) -> Option<&str> {
        let mut nodes = self.record.value.nodes.iter();
        nodes.find(|spec| spec.succeeds.iter().any(|lost| lost == node)).map(|spec| spec.name.as_str())
    }

    /// The nodes as they are to be, each with the places it has taken. One that took a place is no spare any more.
    pub(super) fn succeeded(&self, mut wanted: Vec<v1::NodeSpec>) -> Result<Vec<v1::NodeSpec>> {
        for node in &mut wanted {
            let known = self.record.value.nodes.iter().find(|known| known.name == node.name);
            node.succeeds = known.map(|known| known.succeeds.clone()).unwrap_or_default();
            if let (true, Some(lost)) = (node.spare, node.succeeds.first()) {
                return Err(Error::conflict(format!(
                    "node {} has taken the place of {lost} and holds its data: it is no spare any more",
                    node.name
                ))
                .with_hint(format!(
                    "take `spare` off {} and take {lost} out, or make {lost} the spare",
                    node.name
                )));
            }
        }
        Ok(wanted)
    }
}
