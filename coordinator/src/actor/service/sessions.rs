//! Who is connected for each node, and what a session that comes or goes means.
use std::collections::BTreeMap;
use std::sync::Arc;

use palinurus_proto::v1::{self, OperationKind, TaskState, coordinator_message::Message};
use palinurus_repository::{Error, Result};
use ractor::{ActorId, ActorRef};

use super::admission::Admission;
use super::seat::{Seat, seats};
use super::{Connect, Service, ServiceMsg};
use crate::actor::agent::{AgentActor, AgentArgs, Permit};
use crate::actor::operation::{Link, OperationMsg, acknowledge};
use crate::operation::record::{self, ATTEMPT, Recorded};
use crate::operation::{Work, ended, touched};
use crate::state::{Expect, Versioned};

/// Before a release that failed is tried again.
const CLEAN_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);
/// An agent has no more operations at a time than this.
const STRAYS_MAX: usize = 1000;

impl Service {
    /// After the service has changed: a seat for each new node.
    pub(super) fn add_seats(&mut self) {
        for (name, seat) in seats(&self.record.value, &mut self.departed, self.shared.now()) {
            let v1::Node { zone, spare, succeeds, .. } = seat.node.clone();
            let node = &mut self.seats.entry(name).or_insert(seat).node;
            (node.zone, node.spare, node.succeeds) = (zone, spare, succeeds);
        }
    }

    pub(super) async fn connect(&mut self, me: &ActorRef<ServiceMsg>, connect: Connect) -> Result<Admission> {
        let Connect { hello, spare, outbound, over } = connect;
        self.check_epoch(&hello)?;
        if let Some(why) = self.shut_out(&hello) {
            tracing::warn!(
                service = self.name(),
                node = hello.node,
                instance = hello.instance,
                why = why.chain(),
                "an agent is to stand down"
            );
            return Ok(Admission::StandDown { epoch: self.epoch.0, why });
        }
        self.admit(&hello, spare)?;
        let name: Arc<str> = hello.node.as_str().into();
        let args = AgentArgs {
            service: me.clone(),
            node: name,
            epoch: self.epoch.0,
            node_epoch: self
                .seats
                .get(&hello.node)
                .map_or(0, |seat| seat.node.node_epoch.max(hello.node_epoch)),
            limits: self.seats.get(&hello.node).and_then(|seat| seat.node.limits),
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
        seat.seat(&hello, now);
        let node = &mut seat.node;
        (node.version, node.engine) = (hello.version, hello.engine);
        let seen = node.clone();
        tracing::info!(service = self.name(), node = seen.name, instance = seen.instance, "connected");
        self.store_seen(&seen).await;
        self.heard_hello(&hello.node, hello.tasks);
        self.reconsider(me);
        self.clean_later(me);
        Ok(Admission::Seated(agent))
    }

    /// The running operation hears of its tasks; what waits is kept; whatever else runs there is to end.
    fn heard_hello(&mut self, node: &str, tasks: Vec<v1::TaskReport>) {
        let running = self
            .slot
            .running()
            .and_then(|(id, actor)| Some((self.shared.board.find(id).ok()?, actor.clone())));
        let Some(seat) = self.seats.get_mut(node) else { return };
        let (strays, said): (Vec<_>, Vec<_>) =
            tasks.into_iter().partition(|report| !self.slot.knows(&report.operation));
        for report in said.iter().filter(|report| !is_released(report)) {
            // Should it end without this agent, because another in its place was released.
            let known = self.shared.board.find(&report.operation);
            if known.is_ok_and(|known| borrows(&known.borrow())) && self.strays.len() < STRAYS_MAX {
                self.strays.entry((node.to_owned(), report.operation.clone())).or_insert(ATTEMPT);
            }
        }
        seat.said = said;
        if let Some((operation, actor)) = running {
            let link = seat.link(&operation.borrow());
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
                let is_release = stray.task == Work::Release.name();
                if !is_released(stray)
                    && let Some(operation) = self.history.get(&stray.operation)
                    && borrows(&operation.value)
                {
                    // Whoever says so was not released, though another agent in its place may have been.
                    attempt = Some(record::owed_attempt(&operation.value, node));
                }
                if is_release {
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
        for operation in self.history.owing() {
            if let Some(attempt) = owed(&operation.id) {
                releases.entry(&operation.id).or_insert(attempt);
            }
        }
        for (operation, attempt) in releases {
            seat.send(self.release(node, operation, attempt));
        }
    }

    /// Every node that is connected gets the releases that an operation which has ended still owes.
    pub(super) fn clean_all(&self) {
        for node in self.seats.keys() {
            self.clean(node, &[]);
        }
        for ((node, operation), attempt) in &self.strays {
            if let Some(seat) = self.seats.get(node)
                && !self.slot.knows(operation)
            {
                let told = self.history.get(operation);
                let owed = told.map_or(ATTEMPT, |known| record::owed_attempt(&known.value, node));
                seat.send(self.release(node, operation, owed.max(*attempt)));
            }
        }
    }

    fn release(&self, node: &str, operation: &str, attempt: u32) -> Message {
        Message::Task(v1::Task {
            operation: operation.to_owned(),
            task: Work::Release.name().to_owned(),
            attempt,
            service: self.name().to_owned(),
            node: node.to_owned(),
            repository: self.record.value.repository.clone(),
            work: Some(v1::task::Work::Release(v1::ReleaseTask {})),
            ..Default::default()
        })
    }

    /// How a release ended that no record asks for.
    fn stray_released(&mut self, node: &str, report: &v1::TaskReport) {
        let stray = (node.to_owned(), report.operation.clone());
        if report.state() == TaskState::TaskDone {
            self.strays.remove(&stray);
        } else if self.strays.len() < STRAYS_MAX || self.strays.contains_key(&stray) {
            self.strays.insert(stray, report.attempt + 1);
        }
    }

    /// A node that is here and was not released is asked again, until it is.
    pub(super) fn clean_later(&mut self, me: &ActorRef<ServiceMsg>) {
        let here = self.seats.iter().filter(|(_, seat)| seat.connected());
        let mut owes = here.flat_map(|(node, _)| self.history.owing().map(move |each| (node, each)));
        let connected = |node| self.seats.get(node).is_some_and(Seat::connected);
        let mut strays = self.strays.keys();
        let owed = strays.any(|(node, operation)| connected(node) && !self.slot.knows(operation))
            || owes.any(|(node, each)| owes_release(each, node));
        if !self.cleaning && owed {
            self.cleaning = true;
            me.send_after(CLEAN_AGAIN, || ServiceMsg::Clean);
        }
    }

    pub(super) async fn report(
        &mut self,
        node: &str,
        from: ActorId,
        report: Box<v1::TaskReport>,
        permit: Permit,
    ) {
        let Some(seat) = self.seats.get_mut(node).filter(|seat| seat.is(from)) else { return };
        seat.node.last_seen_ms = self.shared.now().0;
        if is_released(&report) {
            self.strays.remove(&(node.to_owned(), report.operation.clone()));
        }
        // Newer than the last heartbeat.
        if let Some(v1::task_result::Result::Probe(probe)) =
            report.result.as_ref().and_then(|result| result.result.as_ref())
        {
            seat.node.data_empty = probe.data_empty;
        }
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
        if report.task != Work::Release.name() {
            return true;
        }
        let operation = match self.history.get(&report.operation) {
            Some(operation) if owes_release(&operation.value, node) => operation.clone(),
            _ => {
                self.stray_released(node, report);
                return true;
            }
        };
        let mut next = operation.value.clone();
        let now = self.shared.now();
        record::owe(&mut next, node, report.attempt);
        if record::report(&mut next, node, report, now) != Recorded::Ended {
            return true;
        }
        match self.shared.records.put_operation(&next, Expect::At(operation.revision)).await {
            Ok(revision) => {
                self.shared.board.publish(&next);
                self.history.insert(Versioned { value: next, revision });
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
                self.history.insert(newest);
                false
            }
        }
    }

    pub(super) async fn beat(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        node: &str,
        from: ActorId,
        beat: &v1::Heartbeat,
    ) {
        let now = self.shared.now();
        let moving = self.failover_running().is_some_and(|failover| failover.node == node);
        let Some(seat) = self.seats.get_mut(node).filter(|seat| seat.is(from)) else { return };
        seat.node.last_seen_ms = now.0;
        self.recovered(node, &beat.recovered).await;
        self.unopened(node, beat.log_failure.as_ref());
        let Some(seat) = self.seats.get_mut(node) else { return };
        let (known, told) = ((seat.node.data_empty, seat.node.primary), (beat.data_empty, beat.primary));
        if known == told {
            return;
        }
        if known.0 && !beat.data_empty && !moving && seat.node.holder != seat.node.instance {
            // It was given data in another way: the data is its own now.
            seat.node.holder.clone_from(&seat.node.instance);
            seat.node.holder_gone_ms = 0;
        }
        seat.looked(beat.data_empty, beat.primary);
        let seen = seat.node.clone();
        self.store_seen(&seen).await;
        self.reconsider(me);
    }

    async fn store_seen(&self, seen: &v1::Node) {
        if let Err(e) = self.shared.records.put_node(seen).await {
            tracing::warn!(node = seen.name, error = e.chain(), "cannot store when the node was seen");
        }
    }

    /// True when the child was a session that had a seat.
    pub(super) async fn session_ended(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        child: ActorId,
        why: &str,
    ) -> bool {
        let now = self.shared.now();
        let Some((node, seat)) = self.seats.iter_mut().find(|(_, seat)| seat.is(child)) else {
            return false;
        };
        tracing::info!(node, why, "session ended");
        seat.session = None;
        seat.gone_since = now;
        seat.node.connected = false;
        (seat.node.last_seen_ms, seat.node.gone_ms) = (now.0, now.0);
        if seat.node.instance == seat.node.holder {
            seat.node.holder_gone_ms = now.0;
        }
        let (node, seen) = (node.clone(), seat.node.clone());
        self.unopened(&node, None);
        if let Some((_, actor)) = self.slot.running() {
            let _ = actor.cast(OperationMsg::Node { node: node.clone(), link: Link::Gone(now) });
        }
        self.store_seen(&seen).await;
        self.reconsider(me);
        true
    }
}

fn seat_send(seats: &BTreeMap<String, Seat>, node: &str, message: Message) {
    if let Some(seat) = seats.get(node) {
        seat.send(message);
    }
}

fn is_released(report: &v1::TaskReport) -> bool {
    report.task == Work::Release.name() && report.state() == TaskState::TaskDone
}

/// Its nodes hold something for it until they are released.
fn borrows(operation: &v1::Operation) -> bool {
    matches!(
        operation.kind(),
        OperationKind::Backup | OperationKind::Restore | OperationKind::Failover | OperationKind::Drill
    )
}

/// The operation ended without that node, which may still hold something of it.
pub(super) fn owes_release(operation: &v1::Operation, node: &str) -> bool {
    let released = |record: &v1::TaskRecord| record.state() == TaskState::TaskDone;
    borrows(operation)
        && touched(operation, node)
        && !record::find(operation, node, Work::Release).is_some_and(released)
}
