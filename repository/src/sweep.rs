//! Takes away what no backup needs: condemn, wait, sweep, delete. The rules are in [`crate::ledger`]'s `state.rs`.
//!
//! What is deleted is decided by facts that never change again: a transaction that has ended stays ended, and a pack
//! or manifest that is not kept by then never comes back. So any process may delete at any time, also one whose view
//! of the ledger is old, and as often as it likes.
use std::collections::HashSet;

use crate::clock::Timestamp;
use crate::commit::Repository;
use crate::error::{ErrorKind, Result};
use crate::id::{Epoch, TransactionId};
use crate::ledger::{Body, PackSet, State};
use crate::mutant::{self, Mutant};
use crate::pack::PackId;
use crate::storage::{Object, Storage, delete_unlocked};

mod logs;

const PAGE: usize = 1000;
/// How often a decision is made anew because somebody else's record came first.
const ATTEMPTS: usize = 8;

/// What one sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Packs condemned now.
    pub condemned: u64,
    /// Packs that a SWEEP gave up now.
    pub packs: u64,
    /// Packs that are condemned and must wait.
    pub waiting: u64,
    /// The open transactions that they wait for.
    pub waits_for: Vec<TransactionId>,
    pub deleted: Deleted,
    /// Stopped before everything was deleted that may be.
    pub gave_way: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    pub objects: u64,
    pub bytes: u64,
    /// Leftovers of writers that died, outside of any object.
    pub temporaries: u64,
    /// Objects that the store keeps for now: a later sweep deletes them.
    pub locked: u64,
    /// When the last of these may go, as far as that is known.
    pub locked_until: Option<Timestamp>,
}

impl Deleted {
    fn add(&mut self, objects: &[Object]) {
        self.objects += objects.len() as u64;
        self.bytes += objects.iter().map(|object| object.size).sum::<u64>();
    }
}

/// Condemns what no backup references, sweeps what may be swept, deletes what nothing keeps.
pub async fn sweep(repository: &Repository, epoch: Epoch) -> Result<Swept> {
    sweep_until(repository, epoch, &|| false).await
}

/// As [`sweep`], and stops after any thousand objects when it is to give way.
pub async fn sweep_until(
    repository: &Repository,
    epoch: Epoch,
    give_way: &(dyn Fn() -> bool + Sync),
) -> Result<Swept> {
    let condemned = condemn(repository, epoch).await?.len();
    let mut swept = Swept { condemned, ..Swept::default() };
    let packs = append_decided(repository, epoch, |state| {
        let (now, later, waits) = state.sweepable();
        swept.waiting = later.len();
        swept.waits_for = waits;
        (!now.is_empty()).then(|| (Body::Sweep { packs: now.clone() }, now))
    })
    .await?;
    swept.packs = packs.len();
    (swept.deleted, swept.gave_way) = delete(repository, give_way).await?;
    Ok(swept)
}

/// Condemns the packs that no backup references, and says which: none when there are none.
pub async fn condemn(repository: &Repository, epoch: Epoch) -> Result<PackSet> {
    append_decided(repository, epoch, |state| {
        let packs = state.unreferenced();
        (!packs.is_empty()).then(|| (Body::Condemn { packs: packs.clone() }, packs))
    })
    .await
}

/// Decides on the newest state, and again when another record made the decision wrong.
async fn append_decided(
    repository: &Repository,
    epoch: Epoch,
    mut decide: impl FnMut(&State) -> Option<(Body, PackSet)>,
) -> Result<PackSet> {
    let mut attempt = 1;
    loop {
        repository.refresh().await?;
        let Some((body, packs)) = repository.read(&mut decide).await else { return Ok(PackSet::new()) };
        match repository.append(epoch, body).await {
            Ok(_) => return Ok(packs),
            Err(e) if e.kind() == ErrorKind::Conflict && attempt < ATTEMPTS => attempt += 1,
            Err(e) => return Err(e),
        }
    }
}

/// Deletes every object of ended transactions that nothing keeps. Needs no epoch: it decides nothing.
pub async fn delete_leftovers(repository: &Repository) -> Result<Deleted> {
    delete(repository, &|| false).await.map(|(deleted, _)| deleted)
}

/// What it would delete: objects, and their bytes.
pub async fn leftovers(repository: &Repository) -> Result<Deleted> {
    let kept = repository.read(Kept::of).await;
    let (mut found, mut after) = (Deleted::default(), None);
    loop {
        let (garbage, last) = garbage(repository, &kept, &mut after).await?;
        found.add(&garbage);
        if last {
            let mut logs = logs::Garbage::of(repository, &kept.state);
            while let Some(garbage) = logs.next().await? {
                found.add(&garbage);
            }
            return Ok(found);
        }
    }
}

/// That of the next page.
async fn garbage(
    repository: &Repository,
    kept: &Kept,
    after: &mut Option<String>,
) -> Result<(Vec<Object>, bool)> {
    let page = repository.storage().list("t/", after.as_deref(), PAGE).await?;
    let last = page.len() < PAGE;
    *after = page.last().map(|object| object.key.clone());
    Ok((page.into_iter().filter(|object| kept.is_garbage(&object.key)).collect(), last))
}

async fn delete(repository: &Repository, give_way: &(dyn Fn() -> bool + Sync)) -> Result<(Deleted, bool)> {
    repository.refresh().await?;
    let kept = repository.read(Kept::of).await;
    let storage = repository.storage();
    let mut deleted = Deleted { temporaries: storage.tidy().await?, ..Deleted::default() };
    let mut after = None;
    let mut gave_way;
    loop {
        gave_way = give_way();
        if gave_way {
            break;
        }
        let (garbage, last) = garbage(repository, &kept, &mut after).await?;
        delete_some(&**storage, &garbage, &mut deleted).await?;
        if last {
            break;
        }
    }
    let mut logs = logs::Garbage::of(repository, &kept.state);
    while !gave_way && let Some(garbage) = logs.next().await? {
        delete_some(&**storage, &garbage, &mut deleted).await?;
        gave_way = give_way();
    }
    if deleted.objects > 0 {
        tracing::info!(objects = deleted.objects, bytes = deleted.bytes, "deleted what no backup needs");
    }
    if deleted.locked > 0 {
        let until = deleted.locked_until.map_or(0, |until| until.0);
        tracing::info!(objects = deleted.locked, until_ms = until, "left what the store keeps locked");
    }
    Ok((deleted, gave_way))
}

async fn delete_some(storage: &dyn Storage, garbage: &[Object], deleted: &mut Deleted) -> Result<()> {
    let keys = garbage.iter().map(|object| object.key.clone()).collect();
    let locked = delete_unlocked(storage, keys).await?;
    deleted.locked += locked.len() as u64;
    deleted.locked_until = deleted.locked_until.max(locked.iter().filter_map(|each| each.until).max());
    let stay: HashSet<_> = locked.into_iter().map(|locked| locked.key).collect();
    for object in garbage.iter().filter(|object| !stay.contains(&object.key)) {
        deleted.objects += 1;
        deleted.bytes += object.size;
    }
    Ok(())
}

/// What a state keeps, in a form that answers quickly for each object.
pub(crate) struct Kept {
    state: State,
    manifests: HashSet<String>,
}

impl Kept {
    pub(crate) fn of(state: &State) -> Self {
        Self { state: state.clone(), manifests: state.kept_manifests() }
    }

    /// Only of ended transactions, and only of kinds that this version knows.
    pub(crate) fn is_garbage(&self, key: &str) -> bool {
        let mut parts = key.splitn(4, '/');
        let (Some("t"), Some(transaction), Some(kind), Some(name)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let Ok(transaction) = transaction.parse::<TransactionId>() else { return false };
        if !self.state.is_closed(transaction) && !mutant::on(Mutant::SweepIgnoresOpen) {
            return false;
        }
        match kind {
            "p" => PackId::from_key(key).is_ok_and(|pack| !self.state.committed().contains(&pack)),
            // An index segment may go with the last of its packs: it can be made again from the rest.
            "x" => !self.state.committed().has_transaction(transaction),
            "m" => name.rsplit_once('-').is_some_and(|(manifest, _)| {
                !self.manifests.contains(&format!("t/{transaction}/m/{manifest}"))
            }),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
