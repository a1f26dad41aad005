//! Standing for election, and keeping the lease that was won.
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palinurus_repository::{Epoch, Result};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::link::{Link, Reach};
use super::store::MemoryStore;
use super::{Access, MemoryState};
use crate::state::{Election, Leader, Lease, Reader, Resign};

/// A lease is renewed so often while it lasts.
const RENEWALS: u32 = 6;
/// So much of a lease is not used: one part in so many.
pub(super) const MARGIN: u32 = 5;

/// One coordinator's part in the election.
#[derive(Debug)]
pub struct MemoryElection {
    name: String,
    ttl: Duration,
    access: Access,
    leader: watch::Sender<Option<Leader>>,
    _following: AbortOnDropHandle<()>,
}

impl MemoryElection {
    /// Within a runtime.
    pub fn new(store: &Arc<MemoryStore>, name: &str, ttl: Duration) -> Self {
        let access = Access { store: store.clone(), link: Link::default() };
        let leader = watch::Sender::new(None);
        let following = tokio::spawn(follow_leader(access.clone(), leader.clone()));
        let _following = AbortOnDropHandle::new(following);
        Self { name: name.to_owned(), ttl, access, leader, _following }
    }

    pub fn link(&self) -> Link {
        self.access.link.clone()
    }

    fn lease(&self, epoch: Epoch, began: Instant) -> Lease {
        let over = CancellationToken::new();
        let access = self.access.clone();
        let keeping = keep(access.clone(), epoch, self.ttl, began, over.clone());
        let keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
        let state = MemoryState { access: access.clone(), epoch, over: over.clone() };
        Lease { state: Arc::new(state), over, resign: Box::new(Held { access, epoch, keeping }) }
    }
}

#[async_trait]
impl Election for MemoryElection {
    async fn campaign(&self, address: &str) -> Result<Lease> {
        let Access { store, link } = &self.access;
        let mut written = store.written.subscribe();
        loop {
            link.awake().await;
            link.whole().await;
            written.borrow_and_update();
            let began = store.now();
            if let Some(epoch) = store.take(&self.name, address, self.ttl) {
                return Ok(self.lease(epoch, began));
            }
            let until = store.holder().map_or(began, |holder| holder.until);
            tokio::select! {
                biased;
                _ = written.changed() => {}
                () = store.until(until) => {}
            }
        }
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.access.clone())
    }

    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}

/// Nobody, while the store cannot be asked.
async fn follow_leader(access: Access, leader: watch::Sender<Option<Leader>>) {
    let (mut written, mut reach) = (access.store.written.subscribe(), access.link.reach.subscribe());
    loop {
        written.borrow_and_update();
        let whole = *reach.borrow_and_update() == Reach::Whole;
        let holder = access.store.holder().filter(|_| whole);
        let until = holder.as_ref().map(|holder| holder.until);
        let known = holder.map(|holder| holder.leader);
        leader.send_if_modified(|told| std::mem::replace(told, known.clone()) != known);
        tokio::select! {
            biased;
            _ = written.changed() => {}
            _ = reach.changed() => {}
            () = access.store.until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
        }
    }
}

/// Renews the lease, and ends it before the store can have given it to another.
async fn keep(access: Access, epoch: Epoch, ttl: Duration, began: Instant, over: CancellationToken) {
    let Access { store, link } = access;
    let usable = ttl - ttl / MARGIN;
    let mut until = began + usable;
    while store.now() < until {
        // Counted from before the call: the store's own count cannot have begun earlier.
        let sent = store.now();
        match link.call("renew the lease", || store.renew(epoch, ttl)) {
            Ok(true) => until = sent + usable,
            Ok(false) => break,
            Err(_) => {}
        }
        tokio::select! {
            biased;
            () = store.until(until) => {}
            () = sleep(ttl / RENEWALS) => {}
        }
        link.awake().await;
    }
    over.cancel();
}

#[derive(Debug)]
struct Held {
    access: Access,
    epoch: Epoch,
    keeping: AbortOnDropHandle<()>,
}

#[async_trait]
impl Resign for Held {
    async fn resign(self: Box<Self>) {
        let Self { access: Access { store, link }, epoch, keeping } = *self;
        drop(keeping);
        let _ = link.call("resign", || store.release(epoch));
    }
}
