//! Damage is told to the ledger, so that nothing new is built on it: a damaged chunk that lived on by deduplication
//! would spoil every later backup. What was damaged and is whole again is told as well.
use crate::commit::Repository;
use crate::error::{ErrorKind, Result};
use crate::id::Epoch;
use crate::ledger::{Body, Objects, State};
use crate::verify::Report;

/// How often a decision is made anew because somebody else's record came first.
const ATTEMPTS: usize = 8;

/// Writes what the ledger does not say yet of `damaged` and `whole`; true when that was anything.
pub async fn mark(repository: &Repository, epoch: Epoch, damaged: &Objects, whole: &Objects) -> Result<bool> {
    let mut attempt = 1;
    loop {
        repository.refresh().await?;
        let (found, whole) = repository.read(|state| news(state, damaged, whole)).await;
        if found.is_empty() && whole.is_empty() {
            return Ok(false);
        }
        match repository.append(epoch, Body::Damage { found, whole }).await {
            Ok(_) => return Ok(true),
            // Swept meanwhile.
            Err(e) if e.kind() == ErrorKind::Conflict && attempt < ATTEMPTS => attempt += 1,
            Err(e) => return Err(e),
        }
    }
}

/// `mark` of all that a check has found.
pub async fn mark_found(repository: &Repository, epoch: Epoch, report: &Report) -> Result<bool> {
    mark(repository, epoch, &report.damaged, &report.whole).await
}

/// Only what is in the repository still, and known otherwise.
fn news(state: &State, damaged: &Objects, whole: &Objects) -> (Objects, Objects) {
    let known = state.damaged();
    let packs = damaged.packs.intersection(state.committed());
    let found = Objects {
        packs: packs.difference(&known.packs),
        manifests: damaged.manifests.difference(&known.manifests).cloned().collect(),
    };
    let whole = Objects {
        packs: whole.packs.intersection(&known.packs),
        manifests: whole.manifests.intersection(&known.manifests).cloned().collect(),
    };
    (found, whole)
}
