//! One agent's session. Passes on what the agent says, sends what it is told to, and ends when the agent is silent,
//! does not read, or leaves. What that means for its tasks is the service's and the operation's to say.
use std::sync::Arc;
use std::time::Duration;

use palinurus_proto::v1::{self, agent_message, coordinator_message::Message};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use super::service::ServiceMsg;

/// Messages on their way to an agent. One that takes none of them any more is taken for dead.
pub(crate) const OUTBOUND: usize = 256;
/// Messages of one agent that are on their way through the actors, whose mailboxes have no end.
pub(crate) const IN_FLIGHT: usize = 16;
const SILENT_BEATS: u32 = 4;

/// Goes with a message to where it is handled.
pub(crate) type Permit = OwnedSemaphorePermit;
pub(crate) type Outbound = mpsc::Sender<Result<v1::CoordinatorMessage, Status>>;

#[derive(Debug)]
pub(crate) enum AgentMsg {
    Send(Box<Message>),
    Heard(Box<v1::AgentMessage>, Permit),
    Ended(String),
    /// The agent holds its place from this node epoch on.
    Place(u64),
    /// What it may use of its machine from now on.
    Limits(Option<v1::Limits>),
    Check,
}

#[derive(Debug)]
pub(crate) struct AgentActor;

#[derive(Debug)]
pub(crate) struct AgentArgs {
    pub(crate) service: ActorRef<ServiceMsg>,
    pub(crate) node: Arc<str>,
    pub(crate) epoch: u64,
    pub(crate) node_epoch: u64,
    pub(crate) limits: Option<v1::Limits>,
    pub(crate) heartbeat: Duration,
    pub(crate) outbound: Outbound,
    /// Cancelled when the session is over, however it ended.
    pub(crate) over: CancellationToken,
}

pub(crate) struct Session {
    service: ActorRef<ServiceMsg>,
    node: Arc<str>,
    epoch: u64,
    node_epoch: u64,
    limits: Option<v1::Limits>,
    heartbeat: Duration,
    outbound: Outbound,
    heard: Instant,
    _over: DropGuard,
}

impl Actor for AgentActor {
    type Msg = AgentMsg;
    type State = Session;
    type Arguments = AgentArgs;

    async fn pre_start(
        &self,
        me: ActorRef<AgentMsg>,
        args: AgentArgs,
    ) -> Result<Session, ActorProcessingErr> {
        let AgentArgs { service, node, epoch, node_epoch, limits, heartbeat, outbound, over } = args;
        // In whole seconds, as the agent is told.
        let seconds = u32::try_from(heartbeat.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
        let heartbeat = Duration::from_secs(u64::from(seconds));
        me.send_after(heartbeat, || AgentMsg::Check);
        let session = Session {
            service,
            node,
            epoch,
            node_epoch,
            limits,
            heartbeat,
            outbound,
            heard: Instant::now(),
            _over: over.drop_guard(),
        };
        session.welcome(&me);
        Ok(session)
    }

    async fn handle(
        &self,
        me: ActorRef<AgentMsg>,
        message: AgentMsg,
        session: &mut Session,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AgentMsg::Send(message) => session.send(&me, *message),
            AgentMsg::Heard(message, permit) => session.heard(&me, *message, permit),
            AgentMsg::Ended(why) => me.stop(Some(why)),
            AgentMsg::Place(node_epoch) => {
                session.node_epoch = node_epoch;
                session.welcome(&me);
            }
            AgentMsg::Limits(limits) => {
                session.limits = limits;
                session.welcome(&me);
            }
            AgentMsg::Check if session.heard.elapsed() > session.heartbeat * SILENT_BEATS => {
                me.stop(Some("it is silent".to_owned()));
            }
            AgentMsg::Check => drop(me.send_after(session.heartbeat, || AgentMsg::Check)),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<AgentMsg>,
        _: SupervisionEvent,
        _: &mut Session,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl Session {
    fn welcome(&self, me: &ActorRef<AgentMsg>) {
        let Self { node_epoch, limits, .. } = *self;
        let heartbeat_seconds = u32::try_from(self.heartbeat.as_secs()).unwrap_or(u32::MAX);
        self.send(me, Message::Welcome(v1::Welcome { heartbeat_seconds, node_epoch, limits }));
    }

    /// Never waits: a session whose queue is full is over, and its agent is told everything again on the next one.
    fn send(&self, me: &ActorRef<AgentMsg>, message: Message) {
        let message = v1::CoordinatorMessage { epoch: self.epoch, message: Some(message) };
        if let Err(e) = self.outbound.try_send(Ok(message)) {
            me.stop(Some(match e {
                mpsc::error::TrySendError::Full(_) => "it does not read".to_owned(),
                mpsc::error::TrySendError::Closed(_) => "its connection broke".to_owned(),
            }));
        }
    }

    fn heard(&mut self, me: &ActorRef<AgentMsg>, message: v1::AgentMessage, permit: Permit) {
        self.heard = Instant::now();
        let from = me.get_id();
        let node = self.node.clone();
        let told = match message.message {
            Some(agent_message::Message::Report(report)) => {
                ServiceMsg::Report { node, from, report: Box::new(report), permit }
            }
            Some(agent_message::Message::Heartbeat(beat)) => ServiceMsg::Beat { node, from, beat, permit },
            Some(agent_message::Message::Goodbye(goodbye)) => {
                return me.stop(Some(format!("it left: {}", goodbye.reason)));
            }
            Some(agent_message::Message::Hello(_)) => return me.stop(Some("it said hello twice".to_owned())),
            None => return, // of a newer agent: nothing that this coordinator asked for
        };
        let _ = self.service.cast(told);
    }
}
