//! The one executor: decides, stores, acts, and waits to be woken. A first run and a takeover are the same path.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use palinurus_proto::v1::{self, coordinator_message::Message};
use palinurus_repository::{Error, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::agent::{AgentMsg, Permit};
use super::{Reply, reply};
use crate::operation::record;
use crate::operation::{Action, Limits, OWN, Patch, Places, Seen, Step, View, Work, decide, finished, task};
use crate::shared::Shared;
use crate::state::Versioned;
use crate::vault::Vault;

mod node;
mod own;
mod storing;

pub(super) use node::acknowledge;

/// Before a record that could not be stored is tried again.
const STORE_AGAIN_AFTER: Duration = Duration::from_secs(1);

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
                run.show();
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
            // By a write that was not answered: how it ended stands.
            if finished(self.record.value.state()) {
                me.stop(None);
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
                Step::Again(why) => {
                    tracing::info!(operation = self.record.value.id, why, "all snapshots are made again");
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
