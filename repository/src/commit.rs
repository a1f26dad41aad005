//! A repository, and how a backup comes to be in it. Start here.
//!
//! # Objects
//!
//! ```text
//! repo                                   what this is; write-once
//! keys/<key id>                          the root key, wrapped for one operator key; all else derives from the root
//! labels/<key id>                        what that operator key is called
//! masters/<number>-<draw>/<key id>       the masters of the key epochs up to one, sealed for one operator key
//! ledger/<n>                             the history: records, each created only if absent, never deleted
//! t/<transaction>/p/<writer>-<counter>   packs: the data, in sealed frames          (pack.rs)
//! t/<transaction>/x/<writer>-<n>         index segments: which chunk lies where     (index.rs)
//! t/<transaction>/m/<node>-<writer>-<part>   manifests: one node's files, and where their bytes lie (manifest/)
//! ```
//! All are sealed. None but `keys/*` and `labels/*` is ever written twice, and no name is used again.
//!
//! # The order of writing
//!
//! 1. `BEGIN(transaction)` is appended to the ledger. From here on nothing that the backup can see is swept.
//! 2. Packs are put.
//! 3. Index segments are put: their packs are there.
//! 4. Manifests are put: what they name is there.
//! 5. `COMMIT(transaction)` is appended: the manifests are there.
//!
//! The conditional put of step 5 is the moment the backup exists. Whatever dies before it leaves no backup, only
//! garbage under its own `t/<transaction>/`, which [`crate::sweep`] removes once the transaction is aborted.
//!
//! # The order of reading
//!
//! The ledger, folded, gives the backups; a backup names its manifests; a manifest names packs, frames and offsets.
//! A restore needs nothing else. Indexes serve deduplication only and can be rebuilt from the packs.
//!
//! # Who may write
//!
//! Each record carries its writer's epoch. Once a `LEADER` record with a higher one is in the ledger, records with
//! lower ones are refused, and void where they come nevertheless: a leader that was paused can neither commit nor
//! sweep when it wakes up, whatever its clock says.
use std::fmt;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};

use tokio::sync::Mutex;

use crate::blocking::Blocking;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::id::{Epoch, RepositoryId, TransactionId};
use crate::keyfile::KeyFile;
use crate::keys::{Keys, RootKey};
use crate::ledger::{BackupRecord, Body, Ledger, MissingNode, NodeCommit, PackSet, Purpose, Record, State};
use crate::manifest::ManifestRef;
use crate::mutant::{self, Mutant};
use crate::storage::Storage;

mod access;
mod check;
mod header;
mod keep;
mod key_epoch;
mod open;
mod operators;
mod proof;

pub use key_epoch::Begun;
pub use operators::WrappedKey;

pub(crate) use proof::{
    OPERATOR_OBJECT_MAX, OPERATORS, header_id, operator_of, prove_header, prove_operator,
};

/// An open repository. Shared by reference; only the ledger is behind a lock.
pub struct Repository {
    id: RepositoryId,
    storage: Arc<dyn Storage>,
    /// The one of the keys given that fitted.
    opened_by: KeyFile,
    root: RootKey,
    keys: Keys,
    ledger: Mutex<Ledger>,
    clock: Arc<dyn Clock>,
    blocking: Blocking,
    writer: SyncMutex<String>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({} in {:?})", self.id, self.storage)
    }
}

impl Repository {
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    #[must_use]
    pub fn with_blocking(mut self, blocking: Blocking) -> Self {
        self.blocking = blocking;
        self
    }

    pub fn blocking(&self) -> Blocking {
        self.blocking
    }

    pub fn id(&self) -> RepositoryId {
        self.id
    }

    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Reads what others have appended to the ledger.
    pub async fn refresh(&self) -> Result<()> {
        self.ledger.lock().await.refresh().await
    }

    /// Looks at the state as of the last refresh or append.
    pub async fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(self.ledger.lock().await.state())
    }

    /// The ledger's last record: its number and hash.
    pub async fn head(&self) -> Option<(u64, [u8; 32])> {
        self.ledger.lock().await.head()
    }

    /// Ledger records that the rules refuse. There should be none.
    pub async fn void_records(&self) -> Vec<u64> {
        self.ledger.lock().await.voids().to_vec()
    }

    /// All backups in the order of their commits, as of the last refresh.
    pub async fn backups(&self) -> Vec<Arc<BackupRecord>> {
        self.read(|state| state.backups().cloned().collect()).await
    }

    /// The backup whose id begins with `text`, or the `latest`.
    pub async fn find_backup(&self, text: &str) -> Result<Arc<BackupRecord>> {
        let backups = self.backups().await;
        if text == "latest" {
            let last = backups.last().cloned();
            return last.ok_or_else(|| Error::not_found("this repository holds no backup yet"));
        }
        let prefix = text.to_ascii_lowercase();
        let mut found =
            backups.iter().filter(|backup| !prefix.is_empty() && backup.id.to_string().starts_with(&prefix));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(one), Some(two)) => Err(Error::invalid(format!(
                "{text:?} names more than one backup, such as {} and {}",
                one.id, two.id
            ))
            .with_hint("give more digits")),
            (None, _) => Err(Error::not_found(format!("no backup's id begins with {text:?}"))
                .with_hint("`palinurus backup list` shows the ids; `latest` is the newest")),
        }
    }

    /// Makes `epoch` the one that may write; every lower one is fenced from here on. Asking again changes nothing.
    pub async fn lead(&self, epoch: Epoch, name: &str) -> Result<()> {
        name.clone_into(&mut self.writer.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ledger = self.ledger.lock().await;
        ledger.refresh().await?;
        if ledger.state().leader() == (epoch, name) {
            return Ok(());
        }
        ledger.append_next(self.record(epoch, Body::Leader { name: name.to_owned() })).await.map(|_| ())
    }

    /// Step 1. Asking again for the same transaction changes nothing.
    pub async fn begin(&self, epoch: Epoch, transaction: TransactionId, purpose: Purpose) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        ledger.refresh().await?;
        let open = ledger.state().open_transactions().get(&transaction);
        if open.is_some_and(|open| open.purpose == purpose && open.epoch == epoch) {
            return Ok(());
        }
        ledger.append_next(self.record(epoch, Body::Begin { transaction, purpose })).await.map(|_| ())
    }

    /// Step 5. `packs` are all that the manifests name, of whichever transaction. With nodes `missing` the backup is
    /// partial, and says so for ever. Asking again with the same content answers the same: who does not know whether
    /// a commit got through commits again.
    pub async fn commit(
        &self,
        epoch: Epoch,
        transaction: TransactionId,
        nodes: Vec<NodeCommit>,
        missing: Vec<MissingNode>,
        packs: PackSet,
    ) -> Result<Arc<BackupRecord>> {
        let body = Body::Commit {
            transaction,
            nodes: nodes.clone(),
            missing: missing.clone(),
            packs: packs.clone(),
        };
        let record = self.record(epoch, body);
        let same = |backup: &Arc<BackupRecord>| same(backup, &nodes, &missing, &packs);
        let unchanged;
        {
            let mut ledger = self.ledger.lock().await;
            ledger.refresh().await?;
            if let Some(backup) = ledger.state().backup(transaction) {
                return same(backup);
            }
            // Asked first, so that a stale leader is told so, and not of objects that are gone by now.
            if !mutant::on(Mutant::UnguardedAppend) {
                ledger.state().check(&record)?;
            }
            unchanged = as_before(ledger.state(), nodes.iter().map(|node| &node.manifest));
        }
        // What is there now is there at the COMMIT: as long as the transaction is open nobody deletes it.
        self.check_own_packs(transaction, &packs).await?;
        if unchanged.as_ref() != Some(&packs) {
            self.check_manifests(&nodes, &packs).await?;
        }
        let mut ledger = self.ledger.lock().await;
        let appended = ledger.append_next(record).await;
        match ledger.state().backup(transaction) {
            // Also when a second caller with the same commit was faster.
            Some(backup) => same(backup),
            None => Err(appended.err().unwrap_or_else(|| {
                Error::internal(format!("the COMMIT of {transaction} is in the ledger, but void"))
            })),
        }
    }

    /// The packs of the listed backup that is made of these very manifests, as of the last refresh: each was checked
    /// when that backup was committed, and each node has read its own again to find that nothing has changed.
    pub async fn packs_as_before(&self, manifests: &[&ManifestRef]) -> Option<PackSet> {
        self.read(|state| as_before(state, manifests.iter().copied())).await
    }

    /// Ends a transaction without a backup. Of one that has ended so already, nothing is left to do.
    pub async fn abort(&self, epoch: Epoch, transaction: TransactionId) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        ledger.refresh().await?;
        if ledger.state().is_closed(transaction) && ledger.state().backup(transaction).is_none() {
            return Ok(());
        }
        ledger.append_next(self.record(epoch, Body::Abort { transaction })).await.map(|_| ())
    }

    /// Appends any record, checked by the rules; returns its number.
    pub async fn append(&self, epoch: Epoch, body: Body) -> Result<u64> {
        self.ledger.lock().await.append(self.record(epoch, body)).await
    }

    fn record(&self, epoch: Epoch, body: Body) -> Record {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Record { epoch, at: self.clock.now(), writer, body }
    }
}

fn as_before<'a>(state: &State, manifests: impl Iterator<Item = &'a ManifestRef>) -> Option<PackSet> {
    let mut manifests: Vec<_> = manifests.map(ManifestRef::encode).collect();
    manifests.sort_unstable();
    // No more and no fewer: a manifest's packs are not told apart from its neighbours'.
    let is_same = |backup: &&Arc<BackupRecord>| {
        let mut theirs: Vec<_> = backup.nodes.iter().map(|node| node.manifest.encode()).collect();
        theirs.sort_unstable();
        theirs == manifests
    };
    state.backups().rev().find(is_same).map(|backup| backup.packs.clone())
}

fn same(
    backup: &Arc<BackupRecord>,
    nodes: &[NodeCommit],
    missing: &[MissingNode],
    packs: &PackSet,
) -> Result<Arc<BackupRecord>> {
    if backup.nodes == nodes && backup.missing == missing && backup.packs == *packs {
        return Ok(backup.clone());
    }
    Err(Error::conflict(format!("transaction {} is committed already, with other content", backup.id)))
}

#[cfg(test)]
mod tests;
