//! Index segments for packs that no node lists: of a node that was lost, or put by an agent that died before it had
//! journaled them. Without one, what they hold would be stored again once this coordinator's index is gone.
use futures::future::try_join_all;
use palinurus_repository::index::IndexSegment;
use palinurus_repository::ledger::PackSet;
use palinurus_repository::pack::{PackId, PackSummary};
use palinurus_repository::storage::list_all;
use palinurus_repository::verify::read_trailer;
use palinurus_repository::{ErrorKind, Result, TransactionId, WriterId};

use crate::vault::Vault;

/// Trailers read side by side.
const AT_ONCE: usize = 16;
/// A segment is closed at this many packs or chunks.
const PACKS: usize = 512;
const CHUNKS: usize = 200_000;

impl Vault {
    /// Of those packs, the transaction's own. Done again, it finds nothing to do.
    pub(crate) async fn list_unlisted(&self, transaction: TransactionId, packs: &PackSet) -> Result<()> {
        let (own, _) = packs.split(transaction);
        if own.is_empty() {
            return Ok(());
        }
        let unlisted: Vec<PackId> = own.difference(&self.listed(transaction).await?).iter().collect();
        if unlisted.is_empty() {
            return Ok(());
        }
        tracing::info!(%transaction, packs = unlisted.len(), "lists packs of agents that did not");
        let writer = WriterId(self.entropy.array()?);
        let mut number = 0;
        let mut held: Vec<PackSummary> = Vec::new();
        for some in unlisted.chunks(AT_ONCE) {
            held.extend(try_join_all(some.iter().map(|pack| self.summary(*pack))).await?);
            let chunks: usize =
                held.iter().flat_map(|pack| &pack.frames).map(|frame| frame.chunks.len()).sum();
            if held.len() >= PACKS || chunks >= CHUNKS {
                self.put_segment(transaction, writer, number, std::mem::take(&mut held)).await?;
                number += 1;
            }
        }
        if held.is_empty() { Ok(()) } else { self.put_segment(transaction, writer, number, held).await }
    }

    /// What segments list by now. One that cannot be read lists nothing.
    async fn listed(&self, transaction: TransactionId) -> Result<PackSet> {
        let storage = self.repository.storage();
        let mut listed = PackSet::new();
        for segment in list_all(&**storage, &format!("t/{transaction}/x/")).await? {
            let object = storage.get(&segment.key, None).await?;
            let (keys, key) = (self.repository.keys().clone(), segment.key);
            let packs = self.blocking.run(move || match IndexSegment::open(&keys, &key, &object) {
                Err(e) if e.kind() == ErrorKind::Corrupt => Ok(Vec::new()),
                other => other,
            });
            listed.extend(&packs.await?.into_iter().map(|summary| summary.pack).collect());
        }
        Ok(listed)
    }

    async fn summary(&self, pack: PackId) -> Result<PackSummary> {
        let storage = self.repository.storage();
        let size = storage.size(&pack.key()).await?;
        read_trailer(&**storage, self.repository.keys(), pack, size).await.map(|(summary, _)| summary)
    }

    async fn put_segment(
        &self,
        transaction: TransactionId,
        writer: WriterId,
        number: u32,
        packs: Vec<PackSummary>,
    ) -> Result<()> {
        let keys = self.repository.keys().clone();
        let sealed =
            self.blocking.run(move || IndexSegment::seal(&keys, transaction, writer, number, &packs));
        let (key, body) = sealed.await?;
        self.repository.storage().put_new(&key, body).await
    }
}
