//! The lease: renewed while etcd answers, and given up here before it can have ended there.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use palinurus_repository::{Clock, Epoch, Error, ErrorKind, Result, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::client::Client;
use super::error::{self, Failed};
use crate::state::{Leader, Resign};

/// A suspended machine stops the clock that timers go by: the other one is looked at this often.
const LOOK: Duration = Duration::from_millis(100);
/// Before a renewal that was not answered is asked for again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A moment on both clocks. Either may lie: one stands still in a suspended machine, the other can be set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    instant: Instant,
    wall: Timestamp,
}

impl Moment {
    pub(super) fn now(clock: &dyn Clock) -> Self {
        Self { instant: Instant::now(), wall: clock.now() }
    }
}

/// Until when this coordinator may lead; what is over stays over.
#[derive(Debug)]
pub(super) struct Validity {
    clock: Arc<dyn Clock>,
    ttl: Duration,
    until: Mutex<Moment>,
    over: CancellationToken,
}

impl Validity {
    /// `from` is before the lease was asked for.
    pub(super) fn new(clock: Arc<dyn Clock>, from: Moment, ttl: Duration) -> Self {
        let until = Mutex::new(end(from, ttl));
        Self { clock, ttl, until, over: CancellationToken::new() }
    }

    pub(super) fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// `Fenced`, and over, once either clock says so.
    pub(super) fn check(&self) -> Result<()> {
        if self.over.is_cancelled() {
            return Err(Error::fenced("the lease is over"));
        }
        let (now, until) = (Moment::now(&*self.clock), self.until());
        if now.instant < until.instant && now.wall < until.wall {
            return Ok(());
        }
        self.over.cancel();
        Err(Error::fenced("the lease was not renewed in time"))
    }

    /// What was asked at `from` was answered. An answer that comes too late changes nothing.
    fn renew(&self, from: Moment, ttl: Duration) {
        if self.check().is_ok() {
            *self.until.lock().unwrap_or_else(PoisonError::into_inner) = end(from, ttl.min(self.ttl));
        }
    }

    fn until(&self) -> Moment {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until a clock says that it is over.
    async fn passed(&self) -> Error {
        loop {
            if let Err(e) = self.check() {
                return e;
            }
            let look = Instant::now() + LOOK;
            tokio::time::sleep_until(look.min(self.until().instant)).await;
        }
    }
}

/// A fifth earlier than etcd can end it.
fn end(from: Moment, ttl: Duration) -> Moment {
    let valid = ttl - ttl / 5;
    Moment { instant: from.instant + valid, wall: from.wall.plus(valid) }
}

/// Renews the lease. When it ends or is dropped, the lease is over.
#[derive(Debug)]
pub(super) struct Keeper {
    client: Arc<Client>,
    lease: i64,
    validity: Arc<Validity>,
    running: AbortOnDropHandle<()>,
}

impl Keeper {
    pub(super) fn start(
        client: Arc<Client>,
        lease: i64,
        epoch: Epoch,
        validity: Arc<Validity>,
        leader: watch::Receiver<Option<Leader>>,
    ) -> Self {
        // Whatever ends the task, and be it before its first step: nobody renews the lease any more.
        let over = validity.over.clone().drop_guard();
        let task = keep(client.clone(), lease, epoch, validity.clone(), leader, over);
        let running = AbortOnDropHandle::new(tokio::spawn(task));
        Self { client, lease, validity, running }
    }
}

#[async_trait]
impl Resign for Keeper {
    /// With the lease goes the leader key. Without an answer it goes by itself when its time has passed.
    async fn resign(self: Box<Self>) {
        let Self { client, lease, validity, running } = *self;
        validity.over.cancel();
        drop(running);
        revoke(&client, lease).await;
    }
}

/// As far as etcd answers at once.
pub(super) async fn revoke(client: &Client, lease: i64) {
    let revoking = client.call("give the lease back", |etcd| async move {
        let mut leases = etcd.lease_client();
        leases.revoke(lease).await
    });
    match tokio::time::timeout(client.timeout() * 2, revoking).await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => tracing::debug!(error = Error::from(e).chain(), "the lease is not given back"),
        Err(_) => tracing::debug!("the lease is not given back: no answer"),
    }
}

async fn keep(
    client: Arc<Client>,
    lease: i64,
    epoch: Epoch,
    validity: Arc<Validity>,
    leader: watch::Receiver<Option<Leader>>,
    _over: DropGuard,
) {
    let why = tokio::select! {
        biased;
        why = validity.passed() => why,
        () = validity.over.cancelled() => return,
        why = taken(leader, epoch) => why,
        why = renew(&client, lease, &validity) => why,
    };
    validity.over.cancel();
    tracing::warn!(epoch = epoch.0, why = why.chain(), "the lease is over");
}

/// Until the leader key is gone, or another's.
async fn taken(mut leader: watch::Receiver<Option<Leader>>, epoch: Epoch) -> Error {
    let mut seen = false;
    loop {
        match &*leader.borrow_and_update() {
            Some(leader) if leader.epoch == epoch => seen = true,
            Some(leader) if leader.epoch > epoch => {
                return Error::fenced(format!("{} leads with epoch {}", leader.name, leader.epoch));
            }
            None if seen => return Error::fenced("the leader key is gone"),
            _ => {}
        }
        if leader.changed().await.is_err() {
            return Error::fenced("the election was closed");
        }
    }
}

/// Until etcd says that there is no such lease.
async fn renew(client: &Client, lease: i64, validity: &Validity) -> Error {
    let mut stream = None;
    loop {
        let from = Moment::now(&*validity.clock);
        match beat(client, lease, validity.ttl, &mut stream).await {
            Ok(Duration::ZERO) => return Error::fenced("etcd has ended the lease"),
            Ok(ttl) => {
                validity.renew(from, ttl);
                tokio::time::sleep(validity.ttl / 6).await;
            }
            Err(Failed::Refused(e)) if e.kind() == ErrorKind::Fenced => return e,
            Err(e) => {
                tracing::debug!(error = Error::from(e).chain(), "the lease was not renewed, trying again");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

type Stream = (usize, LeaseKeeper, LeaseKeepAliveStream);

/// One question, one answer: a stream that missed one is not used again, so that no answer is taken for a later one.
async fn beat(
    client: &Client,
    lease: i64,
    ttl: Duration,
    stream: &mut Option<Stream>,
) -> Result<Duration, Failed> {
    const WHAT: &str = "renew the lease";
    let Some((member, mut keeper, mut answers)) = stream.take() else {
        let member = client.current();
        let asked = client.attempt(WHAT, |etcd| async move { etcd.lease_client().keep_alive(lease).await });
        let (keeper, answers) = asked.await?;
        *stream = Some((member, keeper, answers));
        return Ok(ttl);
    };
    let asking = async {
        keeper.keep_alive().await?;
        answers.message().await
    };
    match tokio::time::timeout(client.timeout(), asking).await {
        Ok(Ok(Some(answer))) => {
            *stream = Some((member, keeper, answers));
            Ok(Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or(0)))
        }
        Ok(Err(etcd_client::Error::GRpcStatus(status))) => {
            client.leave(member);
            Err(error::judge(WHAT, "the stream", status.into()))
        }
        // A closed stream: `judge` would take the sender's complaint for a lost lease.
        Ok(Ok(None) | Err(_)) | Err(_) => {
            client.leave(member);
            Err(error::late(WHAT, "the stream", client.timeout()))
        }
    }
}
