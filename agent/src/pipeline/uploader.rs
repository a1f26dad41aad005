//! Puts sealed packs: several at a time, each journaled when it is durable, then told to the coordinator.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use palinurus_repository::pack::{PackSummary, SealedPack};
use palinurus_repository::storage::put_own;
use palinurus_repository::{Error, Result, Storage};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::claims::Claims;
use super::journal::PackJournal;
use super::pool::{Lent, Pool};
use crate::pace::Pace;
use crate::progress::Counters;

#[derive(Debug)]
pub(crate) struct Uploader {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) journal: PackJournal,
    pub(crate) claims: Claims,
    pub(crate) pace: Arc<Pace>,
    pub(crate) progress: Arc<Counters>,
    pub(crate) at_once: usize,
}

impl Uploader {
    /// Runs until the senders are gone and all packs are durable. When the run ends before that, what is being put is
    /// given up: a store that is down would hold it for minutes.
    pub(crate) async fn run(
        mut self,
        mut packs: mpsc::Receiver<SealedPack>,
        ending: CancellationToken,
    ) -> Result<()> {
        let given_up = || Error::unavailable("the run ended before its packs were stored");
        let mut puts: JoinSet<Result<PackSummary>> = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = ending.cancelled() => return Err(given_up()),
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
        while let Some(done) = ending.run_until_cancelled(puts.join_next()).await.ok_or_else(given_up)? {
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
        let (storage, pace) = (self.storage.clone(), self.pace.clone());
        let SealedPack { summary, buffer, len } = pack;
        let body = Bytes::from_owner(Lent::new(self.pool.clone(), buffer, len));
        async move {
            // Outside of all tries, whose patience is for the store.
            pace.send.take(body.len() as u64).await;
            put_own(storage.as_ref(), &summary.pack.key(), body).await?;
            Ok(summary)
        }
    }
}
