//! Rewrites packs of which little is used any more: what is used moves into new packs, and the old ones become garbage that the
//! next sweep takes. The process that leads reads and writes the bytes; a budget bounds them.
use std::collections::BTreeSet;

use crate::commit::Repository;
use crate::entropy::Entropy;
use crate::error::Result;
use crate::id::{BackupId, ChunkId, Epoch, TransactionId};
use crate::ledger::{PackSet, Purpose, Rewritten, State};
use crate::relocate::{PACKS_AT_ONCE, Pausing, Relocation};

mod choice;
mod waste;

pub use choice::{Limits, SETTINGS, Used, choose};
use waste::{measure, sizes};

/// What one run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Packs whose use was counted, and what lies unused in those that are over the limit.
    pub measured: u64,
    pub wasted: u64,
    /// Packs that no backup needs any more, their bytes, and what of them was written anew.
    pub packs: u64,
    pub bytes_moved: u64,
    pub bytes_freed: u64,
    pub backups: u64,
    /// Stopped for something more urgent, or for the budget: there is more to do.
    pub unfinished: bool,
}

/// Packs that a listed backup wrote are used as a whole. Only what outlived the backup that wrote it may be partly used.
pub fn candidates(state: &State) -> PackSet {
    let written: BTreeSet<BackupId> = state.backups().map(|backup| backup.id).collect();
    let damaged = state.damaged().packs; // a repair's to move
    let mut packs = PackSet::new();
    for backup in state.backups() {
        packs.extend(&backup.packs);
    }
    packs.iter().filter(|pack| !written.contains(&pack.transaction) && !damaged.contains(pack)).collect()
}

/// Packs that may be partly used, by the ledger and by listing names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    pub packs: u64,
    pub bytes: u64,
}

/// As of the last refresh. How much of them is used only the manifests know.
pub async fn partial(repository: &Repository) -> Result<Partial> {
    let packs = repository.read(candidates).await;
    let bytes = sizes(repository, &packs).await?.values().sum();
    Ok(Partial { packs: packs.len(), bytes })
}

/// Ends rewrites that somebody began who is gone. To be called by who holds the service's exclusive slot.
pub async fn abandon(repository: &Repository, epoch: Epoch) -> Result<u64> {
    repository.refresh().await?;
    let left = |state: &State| -> Vec<TransactionId> {
        let open = state.open_transactions().iter();
        open.filter(|(_, open)| open.purpose == Purpose::Rewrite).map(|(id, _)| *id).collect()
    };
    let left = repository.read(left).await;
    for transaction in &left {
        tracing::warn!(%transaction, "ending a rewrite that was left behind");
        repository.abort(epoch, *transaction).await?;
    }
    Ok(left.len() as u64)
}

/// Counts, chooses and moves. May be stopped anywhere, and done again goes on.
pub async fn rewrite(
    repository: &Repository,
    epoch: Epoch,
    entropy: &dyn Entropy,
    limits: &Limits,
    give_way: &(dyn Fn() -> bool + Sync),
) -> Result<Moved> {
    let (mut done, pausing) = (Moved::default(), Pausing(give_way));
    repository.refresh().await?;
    let packs = repository.read(candidates).await;
    if packs.is_empty() {
        return Ok(done);
    }
    let measured = match measure(repository, &packs, limits, pausing).await {
        Err(_) if pausing.now() => return Ok(Moved { unfinished: true, ..done }),
        other => other?,
    };
    done.measured = packs.len();
    done.wasted = measured.wasted;
    let chosen = choose(&measured.used, measured.wasted, measured.total, limits);
    done.unfinished = measured.more;
    let mut backups = BTreeSet::new();
    for some in chosen.chunks(PACKS_AT_ONCE) {
        let away: PackSet = some.iter().copied().collect();
        let used = away.iter().filter_map(|pack| measured.chunks.get(&pack));
        let wanted: BTreeSet<ChunkId> = used.flatten().copied().collect();
        match step(repository, epoch, entropy, &away, &wanted, pausing).await {
            Err(_) if pausing.now() => {
                done.unfinished = true;
                break;
            }
            other => backups.extend(other?),
        }
        // What stayed needed after all was not freed.
        let gone = repository.read(|state| away.intersection(&state.unreferenced())).await;
        for used in measured.used.iter().filter(|used| gone.contains(&used.pack)) {
            done.packs += 1;
            done.bytes_moved += used.live;
            done.bytes_freed += used.size;
        }
    }
    done.backups = backups.len() as u64;
    Ok(done)
}

async fn step(
    repository: &Repository,
    epoch: Epoch,
    entropy: &dyn Entropy,
    away: &PackSet,
    wanted: &BTreeSet<ChunkId>,
    pausing: Pausing<'_>,
) -> Result<Vec<TransactionId>> {
    let begun = Relocation::begin(repository, epoch, entropy, away, pausing).await?;
    let Some(mut relocation) = begun else { return Ok(Vec::new()) };
    let moved = moved(&mut relocation, wanted).await;
    relocation.end(moved).await
}

async fn moved(relocation: &mut Relocation<'_>, wanted: &BTreeSet<ChunkId>) -> Result<Vec<Rewritten>> {
    let places = relocation.carry(wanted).await?;
    relocation.backups(places).await
}
