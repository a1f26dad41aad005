//! The one executor: decides, stores, acts, and waits to be woken. A first run and a takeover are the same path.
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use palinurus_proto::v1::{self, coordinator_message::Message};
use palinurus_repository::{Error, Result, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::agent::{AgentMsg, Permit};
use super::{Reply, reply};
use crate::operation::record;
use crate::operation::{
    Action, Limits, OWN, Patch, Places, Presence, Recorded, Seen, Step, View, Work, decide, ended, own, task,
};
use crate::shared::Shared;
use crate::state::Versioned;
use crate::vault::Vault;

mod storing;

/// Before a record that could not be stored is tried again.
const STORE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Of progress that the coordinator's own tasks make, so much is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) enum OperationMsg {
    /// Once, first: every node of the operation, so that none is taken for lost before it was looked at.
    Begin(BTreeMap<String, Link>),
    /// A node has come, with what it says of this operation's tasks, or has gone.
    Node {
        node: String,
        link: Link,
    },
    Report {
        node: String,
        report: Box<v1::TaskReport>,
        permit: Permit,
    },
    /// A task of the coordinator's own has ended.
    Own {
        work: Work,
        ended: Result<Patch, v1::Failure>,
        requests: v1::Requests,
    },
    OwnProgress {
        work: Work,
        progress: v1::Progress,
    },
    Cancel(Reply<v1::Operation>),
    /// The clock says so; only the newest generation counts.
    Wake(u64),
}

#[derive(Debug)]
pub(crate) enum Link {
    Here { agent: ActorRef<AgentMsg>, tasks: Vec<v1::TaskReport> },
    Gone(Timestamp),
}

#[derive(Debug)]
pub(crate) struct OperationActor;

pub(crate) struct OperationArgs {
    pub(crate) shared: Arc<Shared>,
    pub(crate) vault: Arc<Vault>,
    pub(crate) places: Arc<dyn Places>,
    pub(crate) repository: String,
    pub(crate) limits: Limits,
    pub(crate) record: Versioned<v1::Operation>,
    pub(crate) nodes: BTreeMap<String, Link>,
}

pub(crate) struct Running {
    shared: Arc<Shared>,
    vault: Arc<Vault>,
    places: Arc<dyn Places>,
    repository: String,
    limits: Limits,
    record: Versioned<v1::Operation>,
    /// A write was not answered: it may have landed, and may land yet.
    doubt: bool,
    seen: Seen,
    agents: BTreeMap<String, ActorRef<AgentMsg>>,
    own: BTreeMap<Work, (CancellationToken, AbortOnDropHandle<()>)>,
    generation: u64,
    timer: Option<AbortOnDropHandle<Result<(), ractor::MessagingErr<OperationMsg>>>>,
}

impl Actor for OperationActor {
    type Msg = OperationMsg;
    type State = Running;
    type Arguments = OperationArgs;

    async fn pre_start(
        &self,
        me: ActorRef<OperationMsg>,
        args: OperationArgs,
    ) -> Result<Running, ActorProcessingErr> {
        let OperationArgs { shared, vault, places, repository, limits, mut record, nodes } = args;
        record.value.epoch = vault.epoch.0;
        me.cast(OperationMsg::Begin(nodes))?;
        Ok(Running {
            shared,
            vault,
            places,
            repository,
            limits,
            record,
            doubt: false,
            seen: Seen::default(),
            agents: BTreeMap::new(),
            own: BTreeMap::new(),
            generation: 0,
            timer: None,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<OperationMsg>,
        message: OperationMsg,
        run: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            OperationMsg::Begin(nodes) => {
                for (node, link) in nodes {
                    run.node(&node, link).await?;
                }
            }
            OperationMsg::Node { node, link } => run.node(&node, link).await?,
            OperationMsg::Report { node, report, permit: _permit } => run.reports(&node, &[*report]).await?,
            OperationMsg::Own { work, ended, requests } => run.own_ended(&me, work, ended, requests).await?,
            OperationMsg::OwnProgress { work, progress } => {
                record::own_progress(&mut run.record.value, work, progress);
                run.shared.board.publish(&run.record.value);
                return Ok(());
            }
            OperationMsg::Cancel(to) => run.cancel(to).await?,
            OperationMsg::Wake(generation) if generation < run.generation => return Ok(()),
            OperationMsg::Wake(_) => {}
        }
        run.turn(&me).await
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<OperationMsg>,
        _: SupervisionEvent,
        _: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl Running {
    /// Decides and acts until there is nothing to do but wait.
    async fn turn(&mut self, me: &ActorRef<OperationMsg>) -> Result<(), ActorProcessingErr> {
        loop {
            if !self.settle().await? {
                self.wake_after(me, STORE_AGAIN_AFTER);
                return Ok(());
            }
            let now = self.shared.now();
            let view = View { operation: &self.record.value, seen: &self.seen, limits: self.limits, now };
            let step = decide(view);
            if let Step::Do(actions) = &step {
                // Known of an attempt before, perhaps: of this one not before it is sent.
                for action in actions {
                    if let Action::Assign { node, work, .. } = action {
                        self.seen.told.remove(&(node.clone(), *work));
                    }
                }
            }
            let mut next = self.record.value.clone();
            if record::apply(&mut next, &step, now) && !self.store(next).await? {
                self.wake_after(me, STORE_AGAIN_AFTER);
                return Ok(());
            }
            match step {
                Step::Wait(until) => {
                    self.generation += 1;
                    self.timer = None;
                    if let Some(until) = until {
                        self.wake_after(me, until.since(now));
                    }
                    return Ok(());
                }
                Step::Do(actions) => {
                    for action in actions {
                        self.perform(me, action).await?;
                    }
                }
                Step::Without(missing) => {
                    let operation = &self.record.value.id;
                    tracing::warn!(operation, reason = missing.reason, "goes on without a node");
                    // Not awaited: the claims may be busy with opening the index.
                    let vault = self.vault.clone();
                    tokio::spawn(async move { vault.part(&missing.node).await });
                }
                Step::Advance(phase, _) => {
                    tracing::info!(operation = self.record.value.id, phase = phase.name(), "phase");
                }
                Step::Finish(_) => {
                    let Versioned { value: ended, .. } = &self.record;
                    let failure = ended.failure.as_ref().map_or("", |failure| &failure.message);
                    tracing::info!(
                        operation = ended.id,
                        state = ended.state().as_str_name(),
                        failure,
                        "ended"
                    );
                    me.stop(None);
                    return Ok(());
                }
            }
        }
    }

    fn wake_after(&mut self, me: &ActorRef<OperationMsg>, after: Duration) {
        self.generation += 1;
        let generation = self.generation;
        self.timer =
            Some(AbortOnDropHandle::new(me.send_after(after, move || OperationMsg::Wake(generation))));
    }

    async fn perform(
        &mut self,
        me: &ActorRef<OperationMsg>,
        action: Action,
    ) -> Result<(), ActorProcessingErr> {
        match action {
            Action::Assign { node, work, .. } if node == OWN => {
                self.seen.told.insert((node, work));
                self.start_own(me, work);
            }
            Action::Stop { node, work } if node == OWN => {
                if let Some((stop, _)) = self.own.get(&work) {
                    stop.cancel();
                }
                self.seen.stopped.insert((node, work));
            }
            Action::Assign { node, work, .. } => {
                self.seen.told.insert((node.clone(), work));
                let freeze_limit = self.shared.config.freeze_limit;
                match task(&self.record.value, &self.repository, freeze_limit, &node, work) {
                    Ok(task) => self.send(&node, Message::Task(task)),
                    Err(e) => self.unassignable(&node, work, &e).await?,
                }
            }
            Action::Stop { node, work } => {
                let stop = v1::CancelTask {
                    operation: self.record.value.id.clone(),
                    task: work.name().to_owned(),
                    attempt: record::attempt(&self.record.value, &node, work),
                };
                self.send(&node, Message::Cancel(stop));
                self.seen.stopped.insert((node, work));
            }
        }
        Ok(())
    }

    fn send(&self, node: &str, message: Message) {
        if let Some(agent) = self.agents.get(node) {
            let _ = agent.cast(AgentMsg::Send(Box::new(message))); // a session that is over comes back as `Link::Gone`
        }
    }

    /// A record from which no task can be made fails like the task would.
    async fn unassignable(
        &mut self,
        node: &str,
        work: Work,
        error: &Error,
    ) -> Result<(), ActorProcessingErr> {
        let mut report = v1::TaskReport {
            task: work.name().to_owned(),
            attempt: record::attempt(&self.record.value, node, work),
            failure: Some(palinurus_proto::failure(error)),
            ..Default::default()
        };
        report.set_state(v1::TaskState::TaskFailed);
        if self.settle().await? {
            let mut next = self.record.value.clone();
            record::report(&mut next, node, &report, self.shared.now());
            self.store(next).await?;
        }
        Ok(())
    }

    fn start_own(&mut self, me: &ActorRef<OperationMsg>, work: Work) {
        if self.own.contains_key(&work) {
            return;
        }
        let stop = CancellationToken::new();
        let (operation, vault, places, me, stopped) =
            (self.record.value.clone(), self.vault.clone(), self.places.clone(), me.clone(), stop.clone());
        let patience = self.shared.config.store_patience;
        let run = async move {
            let shown = std::sync::Mutex::new(None::<Instant>);
            let progress = |progress: v1::Progress| {
                let mut last = shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if last.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY) {
                    *last = Some(Instant::now());
                    let _ = me.cast(OperationMsg::OwnProgress { work, progress });
                }
            };
            let before = vault.requests();
            let done = own::persevere(work, &operation, &vault, &*places, patience, &stopped, &progress);
            // A panic in a task of its own would be silence: the operation must hear of it.
            let ended = AssertUnwindSafe(done).catch_unwind().await.unwrap_or_else(|_| {
                Err(palinurus_proto::failure(&Error::internal(format!("{} panicked", work.name()))))
            });
            let requests = vault.requests().since(&before).into();
            let _ = me.cast(OperationMsg::Own { work, ended, requests });
        };
        self.own.insert(work, (stop, AbortOnDropHandle::new(tokio::spawn(run))));
    }

    async fn own_ended(
        &mut self,
        me: &ActorRef<OperationMsg>,
        work: Work,
        ended: Result<Patch, v1::Failure>,
        requests: v1::Requests,
    ) -> Result<(), ActorProcessingErr> {
        let settled = self.settle().await?;
        let mut next = self.record.value.clone();
        record::own_requests(&mut next, work, requests);
        record::own(&mut next, work, ended.clone(), self.shared.now());
        if settled && self.store(next).await? {
            self.own.remove(&work);
            self.seen.told.remove(&(OWN.to_owned(), work));
        } else {
            me.send_after(STORE_AGAIN_AFTER, move || OperationMsg::Own { work, ended, requests });
        }
        Ok(())
    }

    async fn node(&mut self, node: &str, link: Link) -> Result<(), ActorProcessingErr> {
        self.seen.told.retain(|(each, _)| each != node);
        self.seen.stopped.retain(|(each, _)| each != node);
        match link {
            Link::Gone(since) => {
                self.agents.remove(node);
                self.seen.nodes.insert(node.to_owned(), Presence::Gone(since));
                Ok(())
            }
            Link::Here { agent, tasks } => {
                self.agents.insert(node.to_owned(), agent);
                self.seen.nodes.insert(node.to_owned(), Presence::Connected);
                self.reports(node, &tasks).await
            }
        }
    }

    /// Records what a node says; what has ended is acknowledged once it is stored.
    async fn reports(&mut self, node: &str, reports: &[v1::TaskReport]) -> Result<(), ActorProcessingErr> {
        if !self.settle().await? {
            return Ok(()); // it is told again
        }
        let now = self.shared.now();
        let mut next = self.record.value.clone();
        let mut stored = BTreeSet::new();
        let mut progress = false;
        for report in reports {
            match record::report(&mut next, node, report, now) {
                Recorded::Ended => drop(stored.insert(report.task.clone())),
                Recorded::Progress => {
                    progress = true;
                    if let Some(work) = Work::from_name(&report.task) {
                        self.seen.told.insert((node.to_owned(), work));
                    }
                }
                Recorded::Nothing => {}
            }
        }
        if !stored.is_empty() {
            if !self.store(next).await? {
                return Ok(()); // not acknowledged, so it is told again
            }
        } else if progress {
            self.record.value = next;
            self.shared.board.publish(&self.record.value);
        }
        for report in reports.iter().filter(|report| ended(report.state())) {
            self.send(node, acknowledge(report));
        }
        Ok(())
    }

    async fn cancel(&mut self, to: Reply<v1::Operation>) -> Result<(), ActorProcessingErr> {
        let settled = self.settle().await?;
        let mut next = self.record.value.clone();
        if !settled || (record::cancel(&mut next, self.shared.now()) && !self.store(next).await?) {
            reply(to, Err(Error::unavailable("the cancellation could not be stored").with_hint("try again")));
            return Ok(());
        }
        reply(to, Ok(self.record.value.clone()));
        Ok(())
    }
}

pub(super) fn acknowledge(report: &v1::TaskReport) -> Message {
    Message::Acknowledge(v1::Acknowledge {
        operation: report.operation.clone(),
        task: report.task.clone(),
        attempt: report.attempt,
    })
}
