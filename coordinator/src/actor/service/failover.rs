//! When a place needs another agent: looks whenever something has changed, begins failovers, and gives out places.
use std::cmp::Ordering;
use std::collections::BTreeMap;

use async_trait::async_trait;
use palinurus_proto::v1;
use palinurus_repository::{Error, ErrorKind, Result};
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::{Service, ServiceMsg};
use crate::actor::{RESTART_AFTER, ask};
use crate::failover::{
    Candidate, Mode, Past, Place, Policy, Source, Sources, Verdict, View, consider, manual,
};
use crate::operation::{Detail, Places};
use crate::state::{Expect, Versioned};

/// Instances that a place remembers to have shut out, and nodes that one has succeeded: the newest.
const FENCED_KEPT: usize = 16;

/// What an operator asks for, with what there is to restore from.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) node: String,
    pub(crate) onto: String,
    pub(crate) source: Option<Source>,
    pub(crate) sources: Sources,
}

/// What waits for the next look.
#[derive(Default)]
pub(super) struct Failovers {
    survey: Option<AbortOnDropHandle<()>>,
    timer: Option<AbortOnDropHandle<Result<(), ractor::MessagingErr<ServiceMsg>>>>,
    /// Why each node waits, as last said.
    waiting: BTreeMap<String, String>,
}

/// The service as the fence's executor asks it.
pub(super) struct Seats(pub(super) ActorRef<ServiceMsg>);

#[async_trait]
impl Places for Seats {
    async fn fence(&self, failover: &v1::FailoverDetail) -> Result<String> {
        ask(&self.0, |to| ServiceMsg::Fence(Box::new(failover.clone()), to)).await
    }
}

impl Service {
    /// Looks again, if anything is wrong at all: the ledger is read in a task of its own.
    pub(super) fn reconsider(&mut self, me: &ActorRef<ServiceMsg>) {
        let automatic = Policy::of(&self.record.value).mode == Mode::Automatic;
        let Ok(vault) = self.vault() else { return };
        if !automatic || self.seats.values().all(super::Seat::is_well) {
            self.failovers = Failovers::default();
            return;
        }
        let me = me.clone();
        // A look that is under way may have read before the change.
        self.failovers.survey = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let sources = vault.repository.read(Sources::of).await;
            let _ = me.cast(ServiceMsg::Surveyed(sources));
        })));
    }

    pub(super) async fn surveyed(&mut self, me: &ActorRef<ServiceMsg>, sources: Sources) {
        self.failovers.survey = None;
        let verdicts = self.view(&sources, consider);
        let now = self.shared.now();
        let mut waiting = BTreeMap::new();
        let mut next = None;
        let mut candidate = None;
        for verdict in verdicts {
            match verdict {
                Verdict::Take(take) => candidate = Some(take),
                Verdict::Wait { node, until, why } => {
                    if self.failovers.waiting.get(&node) != Some(&why) {
                        tracing::info!(service = self.name(), node, why, "no failover yet");
                    }
                    waiting.insert(node, why);
                    next = [next, until].into_iter().flatten().min();
                }
            }
        }
        self.failovers.waiting = waiting;
        self.failovers.timer = next
            .map(|until| AbortOnDropHandle::new(me.send_after(until.since(now), || ServiceMsg::Reconsider)));
        let Some(candidate) = candidate else { return };
        let Candidate { detail, reasons, .. } = *candidate;
        let (lost, onto) = (detail.lost.clone(), detail.node.clone());
        tracing::warn!(service = self.name(), lost, onto, ?reasons, "failover by itself");
        if let Err(e) = self.fail_over(me, detail, &reasons).await {
            tracing::error!(
                service = self.name(),
                lost,
                error = e.chain(),
                "cannot begin the failover, trying again"
            );
            self.failovers.timer =
                Some(AbortOnDropHandle::new(me.send_after(RESTART_AFTER, || ServiceMsg::Reconsider)));
        }
    }

    pub(super) fn plan_failover(&self, wanted: Wanted) -> Result<v1::FailoverPlan> {
        let Wanted { node, onto, source, sources } = wanted;
        self.view(&sources, |view| manual::plan(view, self.name(), &node, &onto, source))
    }

    pub(super) async fn apply_failover(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        wanted: Wanted,
    ) -> Result<v1::Operation> {
        let plan = self.plan_failover(wanted)?;
        if !plan.refusals.is_empty() {
            return Err(Error::conflict(format!("the failover is refused: {}", plan.refusals.join("; ")))
                .with_hint("palinurus failover plan shows what would be done"));
        }
        let detail = plan.failover.unwrap_or_default();
        let mut notes = vec![format!("asked for by an operator: {} onto {}", detail.lost, detail.node)];
        notes.extend(plan.reasons);
        notes.extend(plan.warnings);
        self.fail_over(me, detail, &notes).await
    }

    async fn fail_over(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        detail: v1::FailoverDetail,
        notes: &[String],
    ) -> Result<v1::Operation> {
        let vault = self.vault()?;
        self.slot_free()?;
        let nodes = vec![detail.node.clone()];
        self.begin(me, vault, nodes, Detail::Failover(detail), notes).await
    }

    /// The failover in the slot.
    pub(super) fn failover_running(&self) -> Option<v1::FailoverDetail> {
        let current = self.slot.current()?;
        self.shared.board.find(current.id).ok()?.borrow().failover.clone()
    }

    fn view<T>(&self, sources: &Sources, look: impl FnOnce(View<'_>) -> T) -> T {
        let in_order = self.record.value.nodes.iter().filter_map(|spec| self.seats.get(&spec.name));
        let places: Vec<Place> = in_order.map(super::Seat::place).collect();
        let past = Past::of(self.history.values().map(|operation| &operation.value));
        look(View {
            policy: Policy::of(&self.record.value),
            places: &places,
            sources,
            past: &past,
            running: self.slot.current().map(|current| current.id),
            now: self.shared.now(),
        })
    }

    /// Why that agent is to stand down: it was replaced, it knows an older node epoch than the place's, or it says so
    /// itself.
    pub(super) fn shut_out(&self, hello: &v1::Hello) -> Option<Error> {
        let (service, node) = (self.name(), &hello.node);
        let hint = "its data directory is left as it is; docs/operations/failover.md says how to use the machine again";
        if hello.stood_down {
            return Some(
                Error::fenced(format!("agent {} of {node} has stood down", hello.instance)).with_hint(hint),
            );
        }
        let mut known = self.seats.values().map(super::Seat::known).chain(self.departed.values());
        if known.any(|known| known.fenced.contains(&hello.instance)) {
            let by = self.successor(node).unwrap_or("another agent");
            let what = format!(
                "agent {} was replaced as {node} of service {service}: {by} has its place",
                hello.instance
            );
            return Some(Error::fenced(what).with_hint(hint));
        }
        let place = self.seats.get(node).map(super::Seat::known).or_else(|| self.departed.get(node))?;
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
        let loaded = self.shared.records.services().await;
        let found = loaded.map(|all| all.into_iter().find(|service| service.value.name == self.name()));
        match found {
            Ok(Some(record)) => {
                self.record = record;
                Error::unavailable("the service's record was another one").with_source(conflict)
            }
            Ok(None) => conflict,
            Err(e) => e,
        }
    }

    fn place(&self, node: &str) -> Result<v1::Node> {
        let known = self.seats.get(node).map(super::Seat::known).or_else(|| self.departed.get(node));
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
