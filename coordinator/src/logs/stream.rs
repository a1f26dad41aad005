//! One log stream: a grant is told once it is in the ledger, and taken back when it is not the newest any more.
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use palinurus_proto::v1::{self, log_reply, log_request};
use palinurus_proto::{failure, from_status};
use palinurus_repository::{Clock, Error, Result};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::decide::Opening;
use super::desk::{Desk, Granted, Standing};
use crate::bound;

pub(crate) type Replies = mpsc::Sender<Result<v1::LogReply, Status>>;

/// How often it is looked whether the grant still stands.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many looks go by between two that read the ledger.
const REFRESH_EVERY: u32 = 60;

/// What a stream belongs to.
pub(crate) struct Stream<'a> {
    pub(crate) desk: Arc<Desk>,
    /// Drawn by the desk.
    pub(crate) number: u64,
    pub(crate) epoch: u64,
    pub(crate) repository: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) replies: &'a Replies,
    /// A full backup is wanted.
    pub(crate) backup: &'a (dyn Fn(String) + Send + Sync),
    /// Whether that agent may open logs now, and the node epoch of its place.
    pub(crate) may: &'a (dyn Fn(v1::LogOpen) -> BoxFuture<'a, Result<u64>> + Send + Sync),
}

impl Stream<'_> {
    /// Until the agent closes it, or its grant is over, which it is told.
    pub(crate) async fn run(
        &self,
        first: v1::LogOpen,
        mut requests: Streaming<v1::LogRequest>,
    ) -> Result<()> {
        let mut opening = Opening::of(&first, (self.may)(first.clone()).await?)?;
        let mut granted = self.grant(self.desk.open(&opening).await?, &opening).await?;
        let ended = self.serve(&mut opening, &mut granted, &mut requests, &first).await;
        self.desk.ends(self.number, &opening.node, self.clock.now());
        match ended {
            Ok(Some(over)) => {
                self.send(log_reply::Message::Revoked(failure(&over))).await;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Says why the grant is over, or nothing when the agent has closed the stream.
    async fn serve(
        &self,
        opening: &mut Opening,
        granted: &mut Granted,
        requests: &mut Streaming<v1::LogRequest>,
        first: &v1::LogOpen,
    ) -> Result<Option<Error>> {
        let (mut looks, mut slot_lost) = (0, false);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let heard = tokio::select! {
                biased;
                _ = look.tick() => None,
                heard = requests.next() => Some(heard.transpose().map_err(from_status)?),
            };
            match heard {
                None => {
                    looks += 1;
                    if looks % REFRESH_EVERY == 0 {
                        self.desk.refresh().await?;
                    }
                }
                Some(None) => return Ok(None),
                Some(Some(v1::LogRequest { message: Some(log_request::Message::Status(status)) })) => {
                    if status.slot_lost && !std::mem::replace(&mut slot_lost, status.slot_lost) {
                        (self.backup)("what kept the log on the server is gone".to_owned());
                    }
                    slot_lost = status.slot_lost;
                    if let Some(next) = self.status(opening, granted, status).await? {
                        *granted = next;
                    }
                }
                Some(Some(v1::LogRequest { message: Some(log_request::Message::Open(open)) })) => {
                    if (&open.service, &open.node, &open.instance)
                        != (&first.service, &first.node, &first.instance)
                    {
                        return Err(Error::invalid("a log stream is of one agent"));
                    }
                    *opening = Opening::of(&open, (self.may)(open.clone()).await?)?;
                    *granted = self.grant(self.desk.open(opening).await?, opening).await?;
                }
                Some(Some(_)) => return Err(Error::invalid("a log request of a kind that is not known")),
            }
            match self.desk.stands(granted).await {
                Standing::Good => {}
                Standing::Over(node) => return Ok(Some(over(opening, &node))),
                Standing::Closed => return Ok(Some(Error::conflict("the service is powered off"))),
                Standing::Outdated => {
                    *granted = self.anew(opening).await?;
                }
            }
        }
    }

    /// What follows from it: a grant beyond a gap, or of the child when a parent is whole.
    async fn status(
        &self,
        opening: &mut Opening,
        granted: &Granted,
        mut status: v1::LogStatus,
    ) -> Result<Option<Granted>> {
        bound::log_status(&mut status)?;
        opening.position = opening.position.max(status.server_end).max(status.stored);
        let (gap, stored) = (status.gap.take(), status.stored);
        self.desk.tells(self.number, &opening.node, status, self.clock.now());
        // Where it ends, a log file begins: what the server refuses is gone with the rest of its file. Told again, it is
        // the gap that the grant begins behind.
        let gap = gap.map(|gap| opening.up(gap.to.max(gap.from.saturating_add(1))));
        let begun = granted.lineage.grant(granted.epoch).map_or(0, |grant| grant.from);
        if let Some(to) = gap.filter(|to| *to > begun) {
            opening.oldest = opening.oldest.max(to);
            return self.anew(opening).await.map(Some);
        }
        if granted.until.is_some_and(|until| stored >= until) {
            return self.anew(opening).await.map(Some);
        }
        Ok(None)
    }

    /// Another grant for who goes on.
    async fn anew(&self, opening: &mut Opening) -> Result<Granted> {
        (opening.held, opening.goes_on) = (None, true);
        self.grant(self.desk.open(opening).await?, opening).await
    }

    async fn grant(&self, granted: Granted, opening: &Opening) -> Result<Granted> {
        self.desk.writes(self.number, opening, &granted, self.clock.now());
        self.send(log_reply::Message::Grant(granted.to_wire(&self.repository))).await;
        match self.desk.wish(&granted).await {
            Ok(why) => why.into_iter().for_each(self.backup),
            Err(e) => tracing::warn!(error = e.chain(), "it is not known whether a backup leads to the log"),
        }
        Ok(granted)
    }

    /// Whoever does not listen any more is noticed when the next request is read.
    async fn send(&self, message: log_reply::Message) {
        let _ = self.replies.send(Ok(v1::LogReply { epoch: self.epoch, message: Some(message) })).await;
    }
}

fn over(opening: &Opening, node: &str) -> Error {
    Error::fenced(format!("node {} writes the log no longer: {node} does", opening.node))
        .with_hint("if this server is still in use, see `palinurus logs show`: two servers write one log")
}
