//! What a decision frees, and what is to be done at all: by the ledger, and by listing names. No tree is walked.
use std::collections::BTreeSet;

use crate::commit::Repository;
use crate::error::Result;
use crate::id::{BackupId, TransactionId};
use crate::ledger::{PackSet, Purpose, State};
use crate::pack::PackId;
use crate::storage::list_all;
use crate::sweep::{self, Deleted};

/// Packs that go when those backups are forgotten, those that are garbage already included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    pub packs: u64,
    /// Of the objects that are there.
    pub bytes: u64,
    /// Condemned, while a transaction is open that may use them.
    pub waiting: u64,
    pub waits_for: Vec<TransactionId>,
}

/// As of the last refresh. One LIST for each thousand packs of the transactions concerned.
pub async fn freed(repository: &Repository, forget: &BTreeSet<BackupId>) -> Result<Freed> {
    let (packs, waiting, waits_for) = repository
        .read(|state| {
            let (_, later, waits) = state.sweepable();
            (unneeded(state, forget), later.len(), waits)
        })
        .await;
    let mut freed = Freed { packs: packs.len(), bytes: 0, waiting, waits_for };
    let transactions: BTreeSet<TransactionId> = packs.writers().map(|(transaction, _)| transaction).collect();
    for transaction in transactions {
        for object in list_all(&**repository.storage(), &format!("t/{transaction}/p/")).await? {
            if PackId::from_key(&object.key).is_ok_and(|pack| packs.contains(&pack)) {
                freed.bytes += object.size;
            }
        }
    }
    Ok(freed)
}

fn unneeded(state: &State, forget: &BTreeSet<BackupId>) -> PackSet {
    let mut kept = PackSet::new();
    state
        .backups()
        .filter(|backup| !forget.contains(&backup.id))
        .for_each(|backup| kept.extend(&backup.packs));
    state.committed().difference(&kept)
}

/// What there is to do when nothing is to be forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chores {
    /// Transactions that nobody ends any more, as nothing runs.
    pub abandoned: u64,
    /// Packs to condemn or to sweep.
    pub packs: u64,
    pub leftovers: Deleted,
}

impl Chores {
    pub fn is_empty(&self) -> bool {
        self.abandoned == 0 && self.packs == 0 && self.leftovers.objects == 0
    }
}

/// To be asked while no operation runs. Removes the temporaries of writers that died on the way: they are no objects,
/// and nothing hangs on them.
pub async fn chores(repository: &Repository) -> Result<Chores> {
    let (abandoned, packs) = repository
        .read(|state| {
            let open = state.open_transactions().values().filter(|open| open.purpose != Purpose::Pin);
            (open.count() as u64, state.unreferenced().len() + state.sweepable().0.len())
        })
        .await;
    let mut leftovers = sweep::leftovers(repository).await?;
    leftovers.temporaries = repository.storage().tidy().await?;
    Ok(Chores { abandoned, packs, leftovers })
}
