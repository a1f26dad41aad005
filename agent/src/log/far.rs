//! The coordinator's side of a log: says what there is to give and how far it is, hears who may store it. A stream that
//! breaks is dialled again; meanwhile a grant stays what it is.
use std::sync::Arc;
use std::time::Duration;

use palinurus_proto::v1::fleet_client::FleetClient;
use palinurus_proto::v1::log_reply::Message as Reply;
use palinurus_proto::v1::log_request::Message as Ask;
use palinurus_proto::v1::{self, LogRequest};
use palinurus_repository::{Epoch, Error, Result};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{RETRY_MAX, RETRY_MIN};
use crate::epoch::Epochs;
use crate::host::Host;
use crate::node_epoch::NodeEpoch;
use crate::session::Backoff;

const QUEUE: usize = 16;
/// Between what is told: of what changes faster, the last.
const TELL: Duration = Duration::from_millis(200);
/// What has not changed is told again after so many of those.
const TELL_AGAIN: u32 = 15;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Order {
    Grant(v1::LogGrant),
    Revoked(v1::Failure),
}

/// Why a stream needs no other at once.
enum Over {
    Revoked,
    /// There is nothing to give any more.
    Closed,
}

#[derive(Debug)]
pub(super) struct Far {
    pub(super) host: Arc<Host>,
    pub(super) epochs: Arc<Epochs>,
    pub(super) node_epoch: Arc<NodeEpoch>,
    /// None: there is nothing to give.
    pub(super) opens: watch::Receiver<Option<v1::LogOpen>>,
    pub(super) status: watch::Receiver<v1::LogStatus>,
    pub(super) orders: watch::Sender<Option<Order>>,
}

impl Far {
    /// Until whoever writes is gone.
    pub(super) async fn run(mut self) {
        let mut leader = self.host.leader.subscribe();
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            if self.opens.wait_for(Option::is_some).await.is_err() {
                return;
            }
            let channel = match leader.wait_for(Option::is_some).await {
                Ok(channel) => channel.clone(),
                Err(_) => return,
            };
            if let Some(channel) = channel {
                let heard = self.orders.borrow().clone();
                match self.connection(channel).await {
                    // What was looked at before that may be days old, and would look like a database that was set back.
                    Ok(Over::Revoked) => {
                        if self.opens.changed().await.is_err() {
                            return;
                        }
                    }
                    Ok(Over::Closed) => {}
                    Err(error) => {
                        tracing::info!(error = %error.chain(), "the log's stream to the coordinator ended");
                    }
                }
                if heard != *self.orders.borrow() {
                    backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
                }
            }
            tokio::time::sleep(backoff.next(&*self.host.seams.entropy).unwrap_or(RETRY_MAX)).await;
        }
    }

    async fn connection(&mut self, channel: Channel) -> Result<Over> {
        let (out, outgoing) = mpsc::channel(QUEUE);
        self.tell_open(&out)?;
        let timeout = self.host.config.session.connect_timeout;
        let mut client = FleetClient::new(channel);
        let call = tokio::time::timeout(timeout, client.log(ReceiverStream::new(outgoing))).await;
        let mut incoming = call
            .map_err(|_| Error::unavailable("the coordinator does not answer the log"))?
            .map_err(palinurus_proto::from_status)?
            .into_inner();
        let mut tick = tokio::time::interval(TELL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut quiet = 0;
        loop {
            tokio::select! {
                biased;
                reply = incoming.message() => {
                    let Some(reply) = reply.map_err(palinurus_proto::from_status)? else {
                        return Err(Error::unavailable("the coordinator ended it"));
                    };
                    self.epochs.observe(&self.host.config.service, Epoch(reply.epoch))?;
                    match reply.message {
                        Some(Reply::Grant(grant)) => {
                            self.orders.send_replace(Some(Order::Grant(grant)));
                        }
                        Some(Reply::Revoked(failure)) => {
                            self.orders.send_replace(Some(Order::Revoked(failure)));
                            return Ok(Over::Revoked);
                        }
                        None => {}
                    }
                }
                changed = self.opens.changed() => {
                    changed.map_err(|_| Error::internal("the writer of the log is gone"))?;
                    if self.opens.borrow().is_none() {
                        return Ok(Over::Closed);
                    }
                    self.tell_open(&out)?;
                }
                _ = tick.tick() => {
                    quiet += 1;
                    let changed = self.status.has_changed().unwrap_or(false);
                    if changed || quiet >= TELL_AGAIN {
                        let status = self.status.borrow_and_update().clone();
                        // Without room the next tick tells what is newer.
                        let _ = out.try_send(LogRequest { message: Some(Ask::Status(status)) });
                        quiet = 0;
                    }
                }
            }
        }
    }

    fn tell_open(&mut self, out: &mpsc::Sender<LogRequest>) -> Result<()> {
        let Some(mut open) = self.opens.borrow_and_update().clone() else { return Ok(()) };
        open.epoch = self.epochs.highest(&self.host.config.service).0;
        open.node_epoch = self.node_epoch.last();
        // Told again in the middle of it: what was true when it began would look like a database that was set back. A new
        // look has taken back what was received, so that one which was set back indeed is seen.
        if let Some(Order::Grant(grant)) = &*self.orders.borrow()
            && let Some(lineage) = grant.lineage.as_ref().filter(|lineage| lineage.identity == open.identity)
        {
            open.held = lineage.id.clone();
            open.held_epoch = lineage.grants.last().map_or(0, |last| last.epoch);
            let status = self.status.borrow();
            open.position = open.position.max(status.received).max(status.server_end);
        }
        out.try_send(LogRequest { message: Some(Ask::Open(open)) })
            .map_err(|_| Error::unavailable("the coordinator does not take what it is told"))
    }
}
