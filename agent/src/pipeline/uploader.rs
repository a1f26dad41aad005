//! Puts sealed packs: several at a time, each journaled when it is durable, then told to the coordinator.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use palinurus_repository::pack::{PackSummary, SealedPack};
use palinurus_repository::{Error, ErrorKind, Result, Storage};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::claims::Claims;
use super::journal::PackJournal;
use super::pool::{Lent, Pool};
use crate::progress::Counters;

/// Tries of one put before the run gives up: about a minute in all.
const TRIES: u32 = 9;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Uploader {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) journal: PackJournal,
    pub(crate) claims: Claims,
    pub(crate) progress: Arc<Counters>,
    pub(crate) at_once: usize,
}

impl Uploader {
    /// Runs until the senders are gone and all packs are durable. Returns the journal for the next phase.
    pub(crate) async fn run(mut self, mut packs: mpsc::Receiver<SealedPack>) -> Result<()> {
        let mut puts: JoinSet<Result<PackSummary>> = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(done) = puts.join_next() => {
                    let summary = done.map_err(|e| Error::internal("a put was lost").with_source(e))??;
                    self.stored(summary).await?;
                }
                pack = packs.recv(), if puts.len() < self.at_once => match pack {
                    Some(pack) => { puts.spawn(self.put(pack)); }
                    None => break,
                },
            }
        }
        while let Some(done) = puts.join_next().await {
            let summary = done.map_err(|e| Error::internal("a put was lost").with_source(e))??;
            self.stored(summary).await?;
        }
        Ok(())
    }

    /// The record before the word: a pack that others may use is in the journal.
    async fn stored(&mut self, summary: PackSummary) -> Result<()> {
        self.progress.bytes_stored.fetch_add(summary.size, Ordering::Relaxed);
        let encoded = Bytes::from(summary.encode());
        self.journal.append(encoded.clone()).await?;
        self.claims.stored(encoded).await
    }

    fn put(&self, pack: SealedPack) -> impl Future<Output = Result<PackSummary>> + use<> {
        let storage = self.storage.clone();
        let SealedPack { summary, buffer, len } = pack;
        let body = Bytes::from_owner(Lent::new(self.pool.clone(), buffer, len));
        async move {
            put_new(storage.as_ref(), &summary.pack.key(), body).await?;
            Ok(summary)
        }
    }
}

/// Creates an object whose name only we can have drawn: so when an answer was lost, a conflict on a later try
/// is our own first try, and its length proves it.
pub async fn put_new(storage: &dyn Storage, key: &str, body: Bytes) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match storage.put_new(key, body.clone()).await {
            Err(e) if e.kind() == ErrorKind::Conflict && attempt > 1 => {
                return match storage.size(key).await? {
                    size if size == body.len() as u64 => Ok(()),
                    size => Err(Error::corrupt(format!("{key} has {size} bytes, we wrote {}", body.len()))),
                };
            }
            Err(e) if e.kind() == ErrorKind::Unavailable && attempt < TRIES && !e.is_full() => {
                tracing::warn!(key, attempt, error = %e.chain(), "put failed, trying again");
            }
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Err(Error::internal("unreachable: the last try returns"))
}
