//! An agent without data: its session, its heartbeats and its reports are as a real one's.
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use palinurus_identity::Dialer;
use palinurus_proto::v1::agent_message::Message as Out;
use palinurus_proto::v1::coordinator_message::Message as In;
use palinurus_proto::v1::fleet_client::FleetClient;
use palinurus_proto::v1::{self, TaskState};
use palinurus_proto::{PROTOCOL, from_failure, from_status};
use palinurus_repository::{Clock, Error, ErrorKind, Result, SystemClock};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use super::Fleet;
use super::content::Held;
use super::work::{self, Uploaded};

pub(super) const MESSAGE_MAX: usize = 64 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// As a real agent's.
const PROGRESS: Duration = Duration::from_millis(500);
const TELL_AGAIN: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) service: String,
    pub(super) node: String,
    pub(super) instance: String,
    pub(super) held: Held,
    pub(super) dialer: Dialer,
    pub(super) fleet: Arc<Fleet>,
    /// By the running operation's upload, for its manifest.
    pub(super) uploaded: tokio::sync::Mutex<Option<Uploaded>>,
}

type Key = (String, String, u32);

/// They outlive a connection.
struct Tasks {
    running: HashMap<Key, v1::TaskReport>,
    unacknowledged: HashMap<Key, v1::TaskReport>,
    ends: mpsc::Sender<v1::TaskReport>,
    ended: mpsc::Receiver<v1::TaskReport>,
}

impl Agent {
    /// A connection that breaks is dialled again, as by any agent.
    pub(super) async fn run(self: Arc<Self>, cancel: CancellationToken) -> Result<()> {
        let (ends, ended) = mpsc::channel(16);
        let mut tasks = Tasks { running: HashMap::new(), unacknowledged: HashMap::new(), ends, ended };
        let mut has_joined = false;
        loop {
            match Box::pin(self.session(&mut tasks, &mut has_joined, &cancel)).await {
                Err(error) if error.kind() == ErrorKind::Unavailable && !cancel.is_cancelled() => {
                    self.fleet.reconnects.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(node = self.node, error = error.chain(), "dials again");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(_) if cancel.is_cancelled() => return Ok(()),
                ended => return ended,
            }
        }
    }

    async fn session(
        self: &Arc<Self>,
        tasks: &mut Tasks,
        has_joined: &mut bool,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let channel = self.connect().await?;
        let (out, outgoing) = mpsc::channel(64);
        let tell = async |message| {
            let told = out.send(v1::AgentMessage { message: Some(message) }).await;
            told.map_err(|_| Error::unavailable("the session broke"))
        };
        tell(Out::Hello(self.hello(tasks))).await?;
        let mut client = FleetClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let mut incoming =
            client.session(ReceiverStream::new(outgoing)).await.map_err(from_status)?.into_inner();
        let welcome = incoming.message().await.map_err(from_status)?.and_then(|first| first.message);
        let heartbeat = match welcome {
            Some(In::Welcome(welcome)) => Duration::from_secs(welcome.heartbeat_seconds.max(1).into()),
            Some(In::Refused(refused)) => return Err(refusal(refused)),
            other => return Err(Error::unavailable(format!("no welcome but {other:?}"))),
        };
        if !std::mem::replace(has_joined, true) {
            self.fleet.joined.fetch_add(1, Ordering::Relaxed);
        }
        let mut beats = tokio::time::interval(heartbeat);
        let mut ticks = tokio::time::interval(PROGRESS);
        let mut again = tokio::time::interval(TELL_AGAIN);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    tell(Out::Goodbye(v1::Goodbye { reason: "the benchmark ends".into() })).await?;
                    drop(out);
                    while let Ok(Some(_)) = incoming.message().await {}
                    return Ok(());
                }
                next = incoming.message() => {
                    let next = next.map_err(from_status)?;
                    let next = next.ok_or_else(|| Error::unavailable("the coordinator ended a session"))?;
                    match next.message {
                        Some(In::Task(task)) => tell(Out::Report(self.begin(tasks, &channel, task, next.epoch))).await?,
                        Some(In::Acknowledge(v1::Acknowledge { operation, task, attempt })) => {
                            tasks.unacknowledged.remove(&(operation, task, attempt));
                        }
                        Some(In::Refused(refused)) => return Err(refusal(refused)),
                        // What is cancelled here is short, and ends by itself; limits are for those who read and send.
                        Some(_) | None => {}
                    }
                }
                Some(report) = tasks.ended.recv() => {
                    let key = key(&report);
                    tasks.running.remove(&key);
                    tasks.unacknowledged.insert(key, report.clone());
                    tell(Out::Report(report)).await?;
                }
                _ = beats.tick() => tell(Out::Heartbeat(v1::Heartbeat::default())).await?,
                _ = ticks.tick() => {
                    for report in tasks.running.values_mut().filter(|report| report.task == "upload") {
                        let bytes_done = self.fleet.asked.load(Ordering::Relaxed);
                        let files_total = self.held.files;
                        report.progress = Some(v1::Progress { files_total, bytes_done, ..Default::default() });
                        tell(Out::Report(report.clone())).await?;
                    }
                }
                _ = again.tick() => {
                    for report in tasks.unacknowledged.values() {
                        self.fleet.told_again.fetch_add(1, Ordering::Relaxed);
                        tell(Out::Report(report.clone())).await?;
                    }
                }
            }
        }
    }

    /// What is to be said of it now: a task is begun once, however often it is asked for.
    fn begin(
        self: &Arc<Self>,
        tasks: &mut Tasks,
        channel: &Channel,
        task: v1::Task,
        epoch: u64,
    ) -> v1::TaskReport {
        let begun = report(&task, epoch, TaskState::TaskRunning);
        let key = key(&begun);
        if let Some(told) = tasks.unacknowledged.get(&key).or_else(|| tasks.running.get(&key)) {
            return told.clone();
        }
        tasks.running.insert(key, begun.clone());
        let (agent, channel, ends) = (self.clone(), channel.clone(), tasks.ends.clone());
        tokio::spawn(async move { ends.send(agent.perform(channel, task, epoch).await).await });
        begun
    }

    async fn connect(&self) -> Result<Channel> {
        // All come from one address here, of which only some may knock at a time.
        let turn = self.fleet.knocking.acquire().await;
        let _turn = turn.map_err(|e| Error::internal("a turn to connect").with_source(e))?;
        let uri: Uri = self
            .fleet
            .server
            .parse()
            .map_err(|_| Error::internal(format!("address {}", self.fleet.server)))?;
        let tune = |endpoint: Endpoint| {
            endpoint
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE * 12)
                .keep_alive_while_idle(true)
        };
        self.dialer.connect(&uri, tune).await
    }

    fn hello(&self, tasks: &Tasks) -> v1::Hello {
        v1::Hello {
            service: self.service.clone(),
            node: self.node.clone(),
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: "files".to_owned(),
            protocol: PROTOCOL,
            now_ms: SystemClock.now().0,
            tasks: tasks.running.values().chain(tasks.unacknowledged.values()).cloned().collect(),
            ..Default::default()
        }
    }

    async fn perform(&self, channel: Channel, task: v1::Task, epoch: u64) -> v1::TaskReport {
        let ended = Box::pin(work::execute(self, channel, &task, epoch)).await;
        let mut report = report(&task, epoch, TaskState::TaskDone);
        match ended {
            Ok(result) => report.result = result.map(|result| v1::TaskResult { result: Some(result) }),
            Err(error) => {
                report.set_state(TaskState::TaskFailed);
                report.failure = Some(palinurus_proto::failure(&error));
            }
        }
        report
    }
}

fn refusal(refused: v1::Refused) -> Error {
    refused.failure.map_or_else(|| Error::internal("refused"), |why| from_failure(&why))
}

fn key(report: &v1::TaskReport) -> Key {
    (report.operation.clone(), report.task.clone(), report.attempt)
}

fn report(task: &v1::Task, epoch: u64, state: TaskState) -> v1::TaskReport {
    let mut report = v1::TaskReport {
        operation: task.operation.clone(),
        task: task.task.clone(),
        attempt: task.attempt,
        epoch,
        ..Default::default()
    };
    report.set_state(state);
    report
}
