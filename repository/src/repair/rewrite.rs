//! Gives backups that need damaged packs manifests that name the same chunks where they lie whole.
use std::collections::BTreeSet;

use super::sources::elsewhere;
use crate::commit::Repository;
use crate::entropy::Entropy;
use crate::error::Result;
use crate::id::{ChunkId, Epoch, TransactionId};
use crate::ledger::{PackSet, Rewritten};
use crate::relocate::{PACKS_AT_ONCE, Pausing, Relocation};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrote {
    pub backups: u64,
    pub manifests: u64,
    /// Chunks of damaged packs that lie whole elsewhere now, and those that nobody has any more.
    pub chunks: u64,
    pub chunks_lost: u64,
    /// Backups that need something damaged still.
    pub spoiled: u64,
}

/// Mends what can be mended without a copy. Done again it goes on, or finds nothing to do. Each step ends in one REWRITE.
pub async fn rewrite(repository: &Repository, epoch: Epoch, entropy: &dyn Entropy) -> Result<Rewrote> {
    let mut done = Rewrote::default();
    repository.refresh().await?;
    let damaged = repository.read(|state| state.damaged().packs).await;
    let packs: Vec<_> = damaged.iter().collect();
    let mut backups = BTreeSet::new();
    for some in packs.chunks(PACKS_AT_ONCE) {
        let some: PackSet = some.iter().copied().collect();
        backups.extend(step(repository, epoch, entropy, &some, &mut done).await?);
    }
    done.backups = backups.len() as u64;
    done.spoiled = repository
        .read(|state| state.backups().filter(|backup| state.is_spoiled(backup)).count() as u64)
        .await;
    Ok(done)
}

async fn step(
    repository: &Repository,
    epoch: Epoch,
    entropy: &dyn Entropy,
    damaged: &PackSet,
    done: &mut Rewrote,
) -> Result<Vec<TransactionId>> {
    let begun = Relocation::begin(repository, epoch, entropy, damaged, Pausing::NEVER).await?;
    let Some(mut relocation) = begun else { return Ok(Vec::new()) };
    let moved = mend(&mut relocation, done).await;
    relocation.end(moved).await
}

async fn mend(relocation: &mut Relocation<'_>, done: &mut Rewrote) -> Result<Vec<Rewritten>> {
    let wanted = relocation.contents.ids();
    let mut places = elsewhere(relocation.repository, &relocation.state, &wanted).await?;
    let missing: BTreeSet<ChunkId> = wanted.iter().filter(|id| !places.contains_key(*id)).copied().collect();
    places.extend(relocation.carry(&missing).await?);
    done.chunks += places.len() as u64;
    done.chunks_lost += (wanted.len() - places.len()) as u64;
    let rewritten = relocation.backups(places).await?;
    done.manifests += relocation.manifests;
    Ok(rewritten)
}
