//! Who is connected for each node, and what a session that comes or goes means.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use palinurus_proto::v1::{self, OperationKind, TaskState, coordinator_message::Message};
use palinurus_repository::{Error, Result, Timestamp};
use ractor::{ActorId, ActorRef};

use super::{Connect, Service, ServiceMsg};
use crate::actor::agent::{AgentActor, AgentArgs, AgentMsg, Permit};
use crate::actor::operation::{Link, OperationMsg, acknowledge};
use crate::operation::record::{self, ATTEMPT, Recorded};
use crate::operation::{Work, ended, touched};
use crate::state::{Expect, Versioned};

/// A clock that is further off is warned of.
const CLOCK_OFF: Duration = Duration::from_secs(60);

/// A node's place: at most one agent at a time has it.
#[derive(Debug)]
pub(super) struct Seat {
    node: v1::Node,
    session: Option<ActorRef<AgentMsg>>,
    gone_since: Timestamp,
    /// What its agent's Hello said of operations that do not run yet.
    said: Vec<v1::TaskReport>,
}

impl Seat {
    fn new(node: v1::Node, now: Timestamp) -> Self {
        Self { node: v1::Node { connected: false, ..node }, session: None, gone_since: now, said: Vec::new() }
    }

    pub(super) fn shown(&self) -> v1::Node {
        self.node.clone()
    }

    pub(super) fn connected(&self) -> bool {
        self.session.is_some()
    }

    pub(super) fn instance(&self) -> Option<&str> {
        self.session.as_ref().map(|_| self.node.instance.as_str())
    }

    pub(super) fn leave(&self, why: &str) {
        if let Some(session) = &self.session {
            session.stop(Some(why.to_owned()));
        }
    }

    /// As an operation that begins or goes on is to see it.
    pub(super) fn link(&mut self, operation: &str) -> Link {
        match &self.session {
            None => Link::Gone(self.gone_since),
            Some(agent) => {
                let (tasks, said) = self.said.drain(..).partition(|report| report.operation == operation);
                self.said = said;
                Link::Here { agent: agent.clone(), tasks }
            }
        }
    }

    fn send(&self, message: Message) {
        if let Some(session) = &self.session {
            let _ = session.cast(AgentMsg::Send(message));
        }
    }
}

pub(super) fn seats(service: &v1::Service, known: Vec<v1::Node>, now: Timestamp) -> BTreeMap<String, Seat> {
    let mut known: BTreeMap<String, v1::Node> =
        known.into_iter().map(|node| (node.name.clone(), node)).collect();
    let seat = |spec: &v1::NodeSpec| {
        let node = known.remove(&spec.name).unwrap_or_default();
        let node = v1::Node {
            service: service.name.clone(),
            name: spec.name.clone(),
            zone: spec.zone.clone(),
            ..node
        };
        (spec.name.clone(), Seat::new(node, now))
    };
    service.nodes.iter().map(seat).collect()
}

impl Service {
    /// After the service has changed: a seat for each new node.
    pub(super) fn add_seats(&mut self) {
        for (name, seat) in seats(&self.record.value, Vec::new(), self.shared.now()) {
            let zone = seat.node.zone.clone();
            self.seats.entry(name).or_insert(seat).node.zone = zone;
        }
    }

    pub(super) async fn connect(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        connect: Connect,
    ) -> Result<ActorRef<AgentMsg>> {
        let Connect { hello, outbound, over } = connect;
        self.admit(&hello)?;
        let name: Arc<str> = hello.node.as_str().into();
        let args = AgentArgs {
            service: me.clone(),
            node: name,
            epoch: self.epoch.0,
            node_epoch: self.seats.get(&hello.node).map_or(0, |seat| seat.node.node_epoch),
            heartbeat: self.shared.config.heartbeat,
            outbound,
            over,
        };
        let spawned = me.spawn_linked(None, AgentActor, args).await;
        let (agent, _) = spawned.map_err(|e| Error::internal("a session").with_source(e.to_string()))?;
        let now = self.shared.now();
        let Some(seat) = self.seats.get_mut(&hello.node) else {
            return Err(Error::internal("the node is gone"));
        };
        seat.leave("its agent has connected again");
        seat.session = Some(agent.clone());
        let node = &mut seat.node;
        node.connected = true;
        node.last_seen_ms = now.0;
        node.data_empty = hello.data_empty;
        node.clock_ahead_ms = clock_ahead(&hello, now);
        (node.instance, node.version, node.engine) = (hello.instance, hello.version, hello.engine);
        let seen = node.clone();
        tracing::info!(service = self.name(), node = seen.name, instance = seen.instance, "connected");
        if seen.clock_ahead_ms.unsigned_abs() > CLOCK_OFF.as_millis() as u64 {
            tracing::warn!(node = seen.name, ahead_ms = seen.clock_ahead_ms, "the node's clock is off");
        }
        if let Err(e) = self.shared.records.put_node(&seen).await {
            tracing::warn!(node = seen.name, error = e.chain(), "cannot store when the node was seen");
        }
        self.heard_hello(&hello.node, hello.tasks);
        Ok(agent)
    }

    fn admit(&self, hello: &v1::Hello) -> Result<()> {
        let Some(seat) = self.seats.get(&hello.node) else {
            let nodes: Vec<&str> = self.seats.keys().map(String::as_str).collect();
            return Err(Error::not_found(format!("service {} has no node {:?}", self.name(), hello.node))
                .with_hint(format!(
                    "its nodes are {}; `palinurus service apply` adds one",
                    nodes.join(", ")
                )));
        };
        if hello.engine != self.record.value.r#type {
            return Err(Error::invalid(format!(
                "node {} has engine {:?}, and service {} is of type {:?}",
                hello.node,
                hello.engine,
                self.name(),
                self.record.value.r#type
            )));
        }
        if hello.epoch > self.epoch.0 {
            return Err(Error::fenced(format!(
                "node {} has seen epoch {}, and this coordinator leads {} with {}",
                hello.node,
                hello.epoch,
                self.name(),
                self.epoch
            ))
            .with_hint("another coordinator has taken over: see which one the agents should follow"));
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

    /// The running operation hears of its tasks; what waits is kept; whatever else runs there is to end.
    fn heard_hello(&mut self, node: &str, tasks: Vec<v1::TaskReport>) {
        let running = self.slot.running().map(|(id, actor)| (id.to_owned(), actor.clone()));
        let Some(seat) = self.seats.get_mut(node) else { return };
        let (strays, said) = tasks.into_iter().partition(|report| !self.slot.knows(&report.operation));
        seat.said = said;
        if let Some((id, actor)) = running {
            let link = seat.link(&id);
            let _ = actor.cast(OperationMsg::Node { node: node.to_owned(), link });
        }
        self.clean(node, &strays);
    }

    /// Ends what an agent still does for operations that have ended, and gives out the releases it is owed.
    fn clean(&self, node: &str, strays: &[v1::TaskReport]) {
        let Some(seat) = self.seats.get(node) else { return };
        let owed = |id: &str| match self.history.get(id) {
            Some(operation) if owes_release(&operation.value, node) => {
                Some(record::owed_attempt(&operation.value, node))
            }
            Some(_) => None,
            None => Some(ATTEMPT), // of a state that was lost: nobody else will ever clean up after it
        };
        let mut releases: BTreeMap<&str, u32> = BTreeMap::new();
        for stray in strays {
            let mut attempt = owed(&stray.operation);
            if ended(stray.state()) {
                seat.send(acknowledge(stray));
                if stray.task == Work::Release.name() {
                    attempt = attempt.map(|attempt| attempt.max(stray.attempt + 1));
                }
            } else {
                let (operation, task) = (stray.operation.clone(), stray.task.clone());
                seat.send(Message::Cancel(v1::CancelTask { operation, task, attempt: stray.attempt }));
                attempt = attempt.or(Some(ATTEMPT));
            }
            if let Some(attempt) = attempt {
                let known = releases.entry(&stray.operation).or_default();
                *known = attempt.max(*known);
            }
        }
        for id in self.history.keys() {
            if let Some(attempt) = owed(id) {
                releases.entry(id).or_insert(attempt);
            }
        }
        for (operation, attempt) in releases {
            seat.send(Message::Task(v1::Task {
                operation: operation.to_owned(),
                task: Work::Release.name().to_owned(),
                attempt,
                service: self.name().to_owned(),
                node: node.to_owned(),
                repository: self.record.value.repository.clone(),
                work: Some(v1::task::Work::Release(v1::ReleaseTask {})),
            }));
        }
    }

    /// Every node that is connected gets the releases that an operation which has ended still owes.
    pub(super) fn clean_all(&self) {
        for node in self.seats.keys() {
            self.clean(node, &[]);
        }
    }

    pub(super) async fn report(
        &mut self,
        node: &str,
        from: ActorId,
        report: Box<v1::TaskReport>,
        permit: Permit,
    ) {
        let Some(seat) = self.seats.get_mut(node).filter(|seat| is_session(seat, from)) else { return };
        seat.node.last_seen_ms = self.shared.now().0;
        if let Some((id, actor)) = self.slot.running()
            && id == report.operation
        {
            let _ = actor.cast(OperationMsg::Report { node: node.to_owned(), report, permit });
            return;
        }
        if self.slot.knows(&report.operation) && Work::from_name(&report.task).is_some() {
            // It does not run yet: it hears of this with the Hello, and acknowledges then.
            seat.said.retain(|said| (&said.operation, &said.task) != (&report.operation, &report.task));
            seat.said.push(*report);
            return;
        }
        if !ended(report.state()) {
            return;
        }
        if self.released(node, &report).await {
            seat_send(&self.seats, node, acknowledge(&report));
        }
    }

    /// Stores how a release that came late ended. False when that failed: the agent will tell it again.
    async fn released(&mut self, node: &str, report: &v1::TaskReport) -> bool {
        let Some(operation) = self.history.get(&report.operation).cloned() else { return true };
        if report.task != Work::Release.name() {
            return true;
        }
        let mut next = operation.value.clone();
        let now = self.shared.now();
        record::owe(&mut next, node, report.attempt);
        if record::report(&mut next, node, report, now) != Recorded::Ended {
            return true;
        }
        match self.shared.records.put_operation(&next, Expect::At(operation.revision)).await {
            Ok(revision) => {
                self.shared.board.publish(&next);
                self.history.insert(next.id.clone(), Versioned { value: next, revision });
                true
            }
            Err(e) => {
                tracing::warn!(
                    operation = next.id,
                    node,
                    error = e.chain(),
                    "cannot store how the node was released"
                );
                let newest = self.newest(operation).await;
                self.history.insert(newest.value.id.clone(), newest);
                false
            }
        }
    }

    pub(super) fn beat(&mut self, node: &str, from: ActorId, data_empty: bool) {
        let now = self.shared.now();
        if let Some(seat) = self.seats.get_mut(node).filter(|seat| is_session(seat, from)) {
            seat.node.data_empty = data_empty;
            seat.node.last_seen_ms = now.0;
        }
    }

    /// True when the child was a session that had a seat.
    pub(super) async fn session_ended(&mut self, child: ActorId, why: &str) -> bool {
        let now = self.shared.now();
        let Some((node, seat)) = self.seats.iter_mut().find(|(_, seat)| is_session(seat, child)) else {
            return false;
        };
        tracing::info!(node, why, "session ended");
        seat.session = None;
        seat.gone_since = now;
        seat.node.connected = false;
        seat.node.last_seen_ms = now.0;
        let (node, seen) = (node.clone(), seat.node.clone());
        if let Some((_, actor)) = self.slot.running() {
            let _ = actor.cast(OperationMsg::Node { node: node.clone(), link: Link::Gone(now) });
        }
        if let Err(e) = self.shared.records.put_node(&seen).await {
            tracing::warn!(node, error = e.chain(), "cannot store when the node was seen");
        }
        true
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

fn is_session(seat: &Seat, id: ActorId) -> bool {
    seat.session.as_ref().is_some_and(|session| session.get_id() == id)
}

fn seat_send(seats: &BTreeMap<String, Seat>, node: &str, message: Message) {
    if let Some(seat) = seats.get(node) {
        seat.send(message);
    }
}

/// The operation ended without that node, which may still hold something of it.
pub(super) fn owes_release(operation: &v1::Operation, node: &str) -> bool {
    let borrows = matches!(operation.kind(), OperationKind::Backup | OperationKind::Restore);
    let released = |record: &v1::TaskRecord| record.state() == TaskState::TaskDone;
    borrows && touched(operation, node) && !record::find(operation, node, Work::Release).is_some_and(released)
}
