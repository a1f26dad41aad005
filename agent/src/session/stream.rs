//! One session: hello, welcome, then orders in and reports out until one side ends it.
use std::collections::HashMap;
use std::time::Duration;

use palinurus_proto::v1::agent_message::Message as Out;
use palinurus_proto::v1::coordinator_message::Message as In;
use palinurus_proto::v1::fleet_client::FleetClient;
use palinurus_proto::v1::{self, AgentMessage, CoordinatorMessage};
use palinurus_repository::{Epoch, Error, Result};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{End, Session};
use crate::engine::Health;
use crate::journal::TaskKey;

const MESSAGE_MAX: usize = 64 << 20;
/// Messages on their way out. Progress that finds no room is dropped: the next tick has newer.
const QUEUE: usize = 64;
/// An end that was told and not acknowledged is told again.
const TELL_AGAIN: Duration = Duration::from_secs(5);
/// For the last words.
const GOODBYE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Stream {
    channel: Channel,
    out: mpsc::Sender<AgentMessage>,
    incoming: Streaming<CoordinatorMessage>,
    timeout: Duration,
    /// It has said that nobody leads.
    leaderless: bool,
    /// What was last told of each task that has not been acknowledged, and when.
    told: HashMap<TaskKey, (v1::TaskReport, Instant)>,
}

/// Says hello and waits for the call to be accepted.
pub(super) async fn open(channel: Channel, hello: v1::Hello, timeout: Duration) -> Result<Stream> {
    let (out, outgoing) = mpsc::channel(QUEUE);
    out.try_send(message(Out::Hello(hello))).map_err(|_| Error::internal("no room for the hello"))?;
    let mut client = FleetClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let call = tokio::time::timeout(timeout, client.session(ReceiverStream::new(outgoing)));
    let incoming = call
        .await
        .map_err(|_| Error::unavailable("the coordinator does not answer the session"))?
        .map_err(palinurus_proto::from_status)?
        .into_inner();
    Ok(Stream { channel, out, incoming, timeout, leaderless: false, told: HashMap::new() })
}

impl Stream {
    pub(super) async fn run(
        mut self,
        session: &Session,
        health: watch::Receiver<Health>,
        cancel: &CancellationToken,
    ) -> End {
        let welcome = match self.welcome(session, cancel).await {
            Ok(welcome) => welcome,
            Err(end) => return end,
        };
        tracing::info!(epoch = session.epochs.highest(&session.host.config.service).0, "session begins");
        session.host.leader.send_replace(Some(self.channel.clone()));
        let error = tokio::select! {
            biased;
            () = cancel.cancelled() => {
                self.goodbye("the agent was stopped").await;
                return End::Goodbye;
            }
            ended = self.exchange(session, health, &welcome) => match ended {
                Ok(end) => return end,
                Err(error) => error,
            },
        };
        End::Broken { error, welcomed: true }
    }

    async fn welcome(&mut self, session: &Session, cancel: &CancellationToken) -> Result<v1::Welcome, End> {
        let broken = |error| End::Broken { error, welcomed: false };
        let next = tokio::select! {
            biased;
            () = cancel.cancelled() => {
                self.goodbye("the agent was stopped").await;
                return Err(End::Goodbye);
            }
            next = tokio::time::timeout(self.timeout, self.next(session)) => next,
        };
        let next = next.map_err(|_| broken(Error::unavailable("the coordinator does not welcome us")))?;
        let next = next.map_err(|error| match self.leaderless {
            true => End::Leaderless { error },
            false => broken(error),
        });
        match next? {
            // Asked to work after all, by one who cannot know: it is for the operator to say.
            In::Welcome(_) if session.stand_down.why().is_some() => {
                self.goodbye("it has stood down").await;
                Err(End::Replaced { error: Error::fenced("this agent has stood down and wants no place") })
            }
            In::Welcome(welcome) => {
                session.node_epoch.observe(welcome.node_epoch).map_err(broken)?;
                session.pace(welcome.limits.as_ref());
                Ok(welcome)
            }
            In::Refused(refused) => Err(refusal(refused)),
            _ => Err(broken(Error::internal("the first message is no welcome"))),
        }
    }

    async fn exchange(
        &mut self,
        session: &Session,
        mut health: watch::Receiver<Health>,
        welcome: &v1::Welcome,
    ) -> Result<End> {
        let every = Duration::from_secs(welcome.heartbeat_seconds.max(1).into());
        let mut heartbeat = interval(every);
        let mut progress = interval(session.host.config.session.progress);
        for ticks in [&mut heartbeat, &mut progress] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut changes = session.runner.changes();
        loop {
            tokio::select! {
                biased;
                next = self.next(session) => match next? {
                    In::Refused(refused) => return Ok(refusal(refused)),
                    order => self.obey(session, order),
                },
                _ = heartbeat.tick() => self.beat(session, &health)?,
                // At once, and before the report of a task that has filled it.
                _ = health.changed() => self.beat(session, &health)?,
                changed = changes.changed() => {
                    changed.map_err(|_| Error::internal("the runner is gone"))?;
                    self.report(session)?;
                }
                _ = progress.tick() => self.report(session)?,
            }
        }
    }

    fn beat(&mut self, session: &Session, health: &watch::Receiver<Health>) -> Result<()> {
        let Health { data_empty, primary, recovered } = health.borrow().clone();
        let log_failure = session.host.unopened.borrow().clone();
        self.tell(Out::Heartbeat(v1::Heartbeat { data_empty, primary, recovered, log_failure }))?;
        Ok(())
    }

    /// The next message of an epoch that is not over.
    async fn next(&mut self, session: &Session) -> Result<In> {
        loop {
            let next = self.incoming.message().await.map_err(|status| {
                self.leaderless =
                    status.metadata().get(palinurus_proto::LEADER).is_some_and(|leader| leader.is_empty());
                palinurus_proto::from_status(status)
            })?;
            let Some(next) = next else {
                return Err(Error::unavailable("the coordinator ended the session"));
            };
            // A refusal says nothing about who leads, but nobody whose time is over sends an agent away for good.
            if !matches!(&next.message, Some(In::Refused(refused)) if !refused.stand_down) {
                session.epochs.observe(&session.host.config.service, Epoch(next.epoch))?;
            }
            // A kind that a later version knows.
            if let Some(message) = next.message {
                return Ok(message);
            }
        }
    }

    fn obey(&mut self, session: &Session, order: In) {
        let epoch = session.epochs.highest(&session.host.config.service).0;
        match order {
            In::Task(task) => {
                // Asked again: told again, whatever was told before.
                self.told.remove(&TaskKey::of(&task));
                session.runner.start(task, epoch);
            }
            In::Cancel(v1::CancelTask { operation, task, attempt }) => {
                session.runner.cancel(&TaskKey { operation, task, attempt });
            }
            In::Acknowledge(v1::Acknowledge { operation, task, attempt }) => {
                let key = TaskKey { operation, task, attempt };
                self.told.remove(&key);
                session.runner.acknowledge(&key);
            }
            In::Welcome(welcome) => {
                session.pace(welcome.limits.as_ref());
                if let Err(error) = session.node_epoch.observe(welcome.node_epoch) {
                    tracing::error!(error = %error.chain(), "a node epoch was not taken");
                }
            }
            In::Refused(_) => {}
        }
    }

    /// Tells what is new of running tasks, and every end that is not acknowledged.
    fn report(&mut self, session: &Session) -> Result<()> {
        let (running, ended) = (session.runner.running(), session.runner.unacknowledged());
        for (report, again) in
            ended.into_iter().map(|r| (r, true)).chain(running.into_iter().map(|r| (r, false)))
        {
            let key = TaskKey {
                operation: report.operation.clone(),
                task: report.task.clone(),
                attempt: report.attempt,
            };
            let stale = self
                .told
                .get(&key)
                .is_none_or(|(told, at)| *told != report || (again && at.elapsed() >= TELL_AGAIN));
            if stale && self.tell(Out::Report(report.clone()))? {
                self.told.insert(key, (report, Instant::now()));
            }
        }
        Ok(())
    }

    /// Never waits: false when there is no room.
    fn tell(&self, what: Out) -> Result<bool> {
        match self.out.try_send(message(what)) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Full(_)) => Ok(false),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Error::unavailable("the session broke")),
        }
    }

    /// A clean end: without it the coordinator takes the agent for lost.
    async fn goodbye(&mut self, why: &str) {
        let bye = message(Out::Goodbye(v1::Goodbye { reason: why.to_owned() }));
        let said = async {
            if self.out.send(bye).await.is_err() {
                return;
            }
            // Closing the stream tells the coordinator to close its own.
            self.out = mpsc::channel(1).0;
            while let Ok(Some(_)) = self.incoming.message().await {}
        };
        let _ = tokio::time::timeout(GOODBYE, said).await;
    }
}

fn refusal(refused: v1::Refused) -> End {
    let error = refused
        .failure
        .as_ref()
        .map_or_else(|| Error::unavailable("it does not say why"), palinurus_proto::from_failure);
    if refused.stand_down {
        return End::Replaced { error };
    }
    End::Refused { error, leader: refused.leader }
}

fn message(what: Out) -> AgentMessage {
    AgentMessage { message: Some(what) }
}
