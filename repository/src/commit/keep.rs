//! Which backups stay: given up, pinned, or held until a date.
use super::Repository;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{BackupId, Epoch};
use crate::ledger::{Body, Proof, State};

impl Repository {
    /// Gives a backup up. What only it needed is garbage from here on.
    pub async fn forget(&self, epoch: Epoch, backup: BackupId) -> Result<()> {
        self.append(epoch, Body::Forget { backup }).await.map(|_| ())
    }

    /// The same, if `still` agrees with the very state that the record follows.
    pub(crate) async fn forget_if(
        &self,
        epoch: Epoch,
        backup: BackupId,
        still: &(dyn Fn(&State) -> Result<()> + Send + Sync),
    ) -> Result<()> {
        let record = self.record(epoch, Body::Forget { backup });
        let mut ledger = self.ledger.lock().await;
        ledger.refresh().await?;
        ledger.append_if(record, still).await.map(|_| ())
    }

    /// By the clock that dates the records.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Keeps a backup until it is unpinned. Pinned again, it has the new reason.
    pub async fn pin(&self, epoch: Epoch, backup: BackupId, reason: &str) -> Result<()> {
        self.append(epoch, Body::Pin { backup, reason: reason.to_owned() }).await.map(|_| ())
    }

    /// Says what a restore of these nodes for proof has come to.
    pub async fn drill(
        &self,
        epoch: Epoch,
        backup: BackupId,
        operation: &str,
        proofs: Vec<Proof>,
    ) -> Result<()> {
        let proofs = proofs.into_iter().map(Proof::cut).collect();
        self.append(epoch, Body::Drill { backup, operation: operation.to_owned(), proofs }).await.map(|_| ())
    }

    pub async fn unpin(&self, epoch: Epoch, backup: BackupId) -> Result<()> {
        self.append(epoch, Body::Unpin { backup }).await.map(|_| ())
    }

    /// Keeps a backup until that time at the earliest.
    pub async fn hold(&self, epoch: Epoch, backup: BackupId, until: Timestamp, reason: &str) -> Result<()> {
        let reason = reason.to_owned();
        self.append(epoch, Body::Hold { backup, until, reason }).await.map(|_| ())
    }

    pub async fn unhold(&self, epoch: Epoch, backup: BackupId) -> Result<()> {
        self.append(epoch, Body::Unhold { backup }).await.map(|_| ())
    }
}
