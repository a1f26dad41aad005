//! Stores what the database writes, as it writes it: beside the session, for as long as the engine has a log to give.
//!
//! ```text
//! engine (LogStream) ─ filling ─ seal ─ store        one piece is filled, one is under way, nothing lies on the disk
//!        ▲ what is durable ◄──────────┘              grants and status: `far`, one Fleet.Log beside the session
//! ```
//! The database is told that it may let go of a position only when all before it is durable in the store.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_repository::{Error, ErrorKind, LineageId, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::{History, Logs};
use crate::epoch::Epochs;
use crate::host::Host;
use crate::node_epoch::NodeEpoch;
use crate::session::Backoff;

mod append;
mod beside;
mod carry;
mod command;
mod far;
mod files;
mod filling;
mod known;
mod push;
mod reach;
mod recovery;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use beside::Beside;
pub use command::run as command;
pub(crate) use push::Storing;
pub(crate) use reach::reachable;
pub(crate) use recovery::Recovery;
pub(crate) use socket::{give, serve};

use append::{Append, End};
use far::{Far, Order};

/// Between looks at a database that has no log to give.
const LOOK: Duration = Duration::from_secs(2);
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct LogTask {
    pub(crate) host: Arc<Host>,
    pub(crate) epochs: Arc<Epochs>,
    pub(crate) node_epoch: Arc<NodeEpoch>,
}

/// The grant under which this process puts pieces, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    lineage: LineageId,
    identity: Vec<u8>,
    epoch: u32,
    stored: u64,
}

/// What the halves of this task tell each other.
#[derive(Debug)]
struct Wires {
    open: watch::Sender<Option<v1::LogOpen>>,
    status: watch::Sender<v1::LogStatus>,
    orders: watch::Receiver<Option<Order>>,
}

impl LogTask {
    /// Until cancelled, where the engine has logs at all.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let Some(logs) = self.host.engine.logs() else { return };
        let (open, opens) = watch::channel(None);
        let (status, told) = watch::channel(v1::LogStatus::default());
        let (orders, ordered) = watch::channel(None);
        let far = Far {
            host: Arc::clone(&self.host),
            epochs: self.epochs,
            node_epoch: self.node_epoch,
            opens,
            status: told,
            orders,
        };
        let writer =
            Writer { host: self.host, logs, wires: Wires { open, status, orders: ordered }, held: None };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = far.run() => {}
            () = writer.run() => {}
        }
    }
}

/// The words with which a database asks for log files, of the agent that answers in `state`.
pub(crate) fn command_of(program: &[String], state: &Path) -> Result<Vec<String>> {
    let text = state.to_str().ok_or_else(|| Error::invalid("the state directory's path is not UTF-8"))?;
    let more = ["wal-get", "--state", text].map(str::to_owned);
    Ok(program.iter().cloned().chain(more).collect())
}

/// Its data was brought back: it writes another history under the same name.
fn is_set_back(held: &Held, history: &History) -> bool {
    held.identity == history.identity && history.end < held.stored
}

struct Writer {
    host: Arc<Host>,
    logs: Arc<dyn Logs>,
    wires: Wires,
    held: Option<Held>,
}

impl Writer {
    async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            let pause = match self.once(&mut backoff).await {
                Ok(pause) => pause,
                Err(error) => {
                    let (what, hint) = (error.chain(), error.hint().unwrap_or_default());
                    tracing::warn!(error = what, hint, "the log is not stored");
                    let failure = palinurus_proto::failure(&error);
                    if self.wires.open.borrow().is_none() {
                        self.host.unopened.send_replace(Some(failure.clone()));
                    }
                    self.wires.status.send_modify(|status| status.failure = Some(failure));
                    self.host.storing.send_modify(|storing| storing.trouble = Some(error.chain()));
                    // What an operator must mend is not asked for every second.
                    let slow = !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict);
                    let next = backoff.next(&*self.host.seams.entropy).unwrap_or(RETRY_MAX);
                    if slow { RETRY_MAX } else { next }
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One history of the database, from the look at it to its end. Gives the pause before the next look.
    async fn once(&mut self, backoff: &mut Backoff) -> Result<Duration> {
        self.host.storing.send_replace(Storing::default());
        let looked = self.logs.look().await?;
        self.host.unopened.send_replace(None);
        let Some(history) = looked else {
            self.held = None;
            self.wires.open.send_replace(None);
            self.host.writes.send_replace(None);
            return Ok(LOOK);
        };
        let parent = |identity: &[u8]| history.parents.iter().any(|fork| fork.identity == identity);
        let held = |held: &Held| held.identity == history.identity || parent(&held.identity);
        self.held = self.held.take().filter(held);
        let over = matches!(&*self.wires.orders.borrow_and_update(), Some(Order::Revoked(_)))
            || self.held.as_ref().is_some_and(|held| is_set_back(held, &history));
        // What was granted before this look is not for what the database is now.
        if over {
            self.held = None;
        }
        let continued = self.held.is_some();
        self.wires.status.send_modify(|status| {
            (status.received, status.server_end) = (0, 0);
            if !continued {
                (status.stored, status.stored_ms) = (0, 0);
            }
        });
        self.wires.open.send_replace(Some(self.open(&history)));
        if over {
            self.changed().await?;
        }
        loop {
            let grant = self.grant().await?;
            // A parent is given up to where it was left; without that, it is the grant of before the promotion.
            let fits = grant.lineage.as_ref().is_some_and(|lineage| {
                lineage.identity == history.identity || grant.until > 0 && parent(&lineage.identity)
            });
            if !fits {
                self.changed().await?;
                continue;
            }
            let mut append =
                Append::new(&self.host, &history, &self.wires.status, &mut self.held, grant).await?;
            *backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
            match append.run(&*self.logs, &mut self.wires.orders).await? {
                End::Ordered => {}
                End::Waits => self.changed().await?,
                End::Gone | End::Away => return Ok(LOOK),
                End::Ended => return Ok(Duration::ZERO),
            }
        }
    }

    /// What is held of it, `far` knows.
    fn open(&self, history: &History) -> v1::LogOpen {
        let config = &self.host.config;
        let parents = history.parents.iter();
        v1::LogOpen {
            service: config.service.clone(),
            node: config.node.clone(),
            instance: self.host.instance.clone(),
            kind: self.logs.kind().to_owned(),
            identity: history.identity.clone().into(),
            history: parents
                .map(|fork| v1::LogFork { identity: fork.identity.clone().into(), until: fork.until })
                .collect(),
            position: history.end,
            // Not known: a slot says from where on the server keeps its WAL, and more may be there. Only a server that
            // refuses a position proves a gap.
            oldest: 0,
            segment: u32::try_from(history.segment).unwrap_or_default(),
            ..v1::LogOpen::default()
        }
    }

    /// The grant that was given last, once there is one.
    async fn grant(&mut self) -> Result<v1::LogGrant> {
        loop {
            match self.wires.orders.borrow_and_update().clone() {
                Some(Order::Grant(grant)) => return Ok(grant),
                Some(Order::Revoked(failure)) => {
                    self.held = None;
                    return Err(palinurus_proto::from_failure(&failure));
                }
                None => {}
            }
            self.changed().await?;
        }
    }

    async fn changed(&mut self) -> Result<()> {
        self.wires.orders.changed().await.map_err(|_| Error::internal("nobody gives grants any more"))
    }
}
