//! Who has a place: given to another agent in writes that may each be the last one of this leader.
use std::cmp::Ordering;

use palinurus_proto::v1;
use palinurus_repository::{Error, ErrorKind, Result};

use super::Service;
use super::seat::Seat;
use crate::state::{Expect, Versioned};

/// Instances that a place remembers to have shut out, and nodes that one has succeeded: the newest.
const FENCED_KEPT: usize = 16;

impl Service {
    /// Stores, in an order that leaves no agent a way back after the first write: who is shut out; who has the place;
    /// for a spare, the service's nodes. Whoever does it again goes on where it stopped.
    pub(super) async fn fence(&mut self, failover: &v1::FailoverDetail) -> Result<String> {
        let v1::FailoverDetail { lost, node, instance, fenced, node_epoch, .. } = failover;
        let mut place = self.place(lost)?;
        match place.node_epoch.cmp(node_epoch) {
            Ordering::Less => self.may_fence(failover)?,
            Ordering::Equal => self.is_of(failover, &place)?,
            Ordering::Greater => return Err(taken(failover, place.node_epoch)),
        }
        place.node_epoch = place.node_epoch.max(*node_epoch);
        if !fenced.is_empty() && !place.fenced.contains(fenced) {
            place.fenced.push(fenced.clone());
            let extra = place.fenced.len().saturating_sub(FENCED_KEPT);
            place.fenced.drain(..extra);
        }
        if lost == node {
            hold(&mut place, instance, *node_epoch);
        }
        self.shared.records.put_node(&place).await?;
        match self.seats.get_mut(lost) {
            Some(seat) => seat.set(place),
            None => drop(self.departed.insert(lost.clone(), place)),
        }
        if lost != node {
            let mut target = self.place(node)?;
            hold(&mut target, instance, *node_epoch);
            self.shared.records.put_node(&target).await?;
            if let Some(seat) = self.seats.get_mut(node) {
                seat.set(target);
            }
            self.succeed(lost, node).await?;
        }
        if let Some(seat) = self.seats.get(node) {
            seat.tell_epoch();
        }
        let shut_out = if fenced.is_empty() { "nobody".to_owned() } else { format!("agent {fenced}") };
        Ok(format!("agent {instance} holds {node} at node epoch {node_epoch}; {shut_out} is shut out"))
    }

    /// Begun before, and by no other failover.
    fn is_of(&self, failover: &v1::FailoverDetail, place: &v1::Node) -> Result<()> {
        let v1::FailoverDetail { lost, node, instance, .. } = failover;
        let ours = match lost == node {
            true => place.holder == *instance,
            false => self.seats.contains_key(lost) || self.successor(lost) == Some(node),
        };
        if ours { Ok(()) } else { Err(taken(failover, place.node_epoch)) }
    }

    /// As it stands now, the last time that anything can stand against it.
    fn may_fence(&self, failover: &v1::FailoverDetail) -> Result<()> {
        let v1::FailoverDetail { lost, node, instance, .. } = failover;
        if let Some(back) = self.seats.get(lost).and_then(|seat| seat.instance())
            && back != instance
        {
            return Err(Error::conflict(format!(
                "{lost} has come back, with agent {back}: it keeps its place"
            )));
        }
        let Some((seat, here)) = self.seats.get(node).and_then(|seat| Some((seat, seat.instance()?))) else {
            return Err(Error::unavailable(format!("{node} is not connected")));
        };
        if here != instance {
            return Err(Error::conflict(format!("{node} has another agent by now, {here}")));
        }
        if !seat.known().data_empty {
            return Err(Error::conflict(format!(
                "the directory of {node} holds data: a failover never writes onto data"
            )));
        }
        Ok(())
    }

    /// What is stored counts; with it the same is tried again.
    async fn reload(&mut self, conflict: Error) -> Error {
        match self.shared.records.service(self.name()).await {
            Ok(Some(record)) => {
                self.record = record;
                Error::unavailable("the service's record was another one").with_source(conflict)
            }
            Ok(None) => conflict,
            Err(e) => e,
        }
    }

    fn place(&self, node: &str) -> Result<v1::Node> {
        let known = self.seats.get(node).map(Seat::known).or_else(|| self.departed.get(node));
        known.cloned().ok_or_else(|| Error::not_found(format!("service {} has no node {node}", self.name())))
    }

    /// The spare becomes a full node under its own name, and the lost one leaves.
    async fn succeed(&mut self, lost: &str, node: &str) -> Result<()> {
        let mut next = self.record.value.clone();
        let before = next.nodes.iter().find(|spec| spec.name == lost).cloned();
        next.nodes.retain(|spec| spec.name != lost);
        if let Some(spec) = next.nodes.iter_mut().find(|spec| spec.name == node) {
            spec.spare = false;
            if let Some(before) = before {
                let past = std::iter::once(before.name).chain(before.succeeds);
                spec.succeeds = past.chain(std::mem::take(&mut spec.succeeds)).take(FENCED_KEPT).collect();
            }
        }
        if next != self.record.value {
            let stored = self.shared.records.put_service(&next, Expect::At(self.record.revision)).await;
            let revision = match stored {
                // A write whose answer was lost may be what it conflicts with.
                Err(e) if e.kind() == ErrorKind::Conflict => return Err(self.reload(e).await),
                stored => stored?,
            };
            self.record = Versioned { value: next, revision };
        }
        if let Some(seat) = self.seats.remove(lost) {
            seat.leave("another agent has its place");
            self.departed.insert(lost.to_owned(), seat.shown());
        }
        self.add_seats();
        Ok(())
    }
}

fn taken(failover: &v1::FailoverDetail, epoch: u64) -> Error {
    Error::conflict(format!(
        "{} is at node epoch {epoch} by now: another failover has given its place to somebody else",
        failover.lost
    ))
}

fn hold(node: &mut v1::Node, instance: &str, epoch: u64) {
    instance.clone_into(&mut node.holder);
    node.node_epoch = node.node_epoch.max(epoch);
    (node.holder_gone_ms, node.spare) = (0, false);
}
