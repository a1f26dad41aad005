//! What of logs may be deleted: what ends at a floor, what does not count, and what a whole has taken the place of.
use std::collections::BTreeMap;

use crate::commit::Repository;
use crate::error::Result;
use crate::ledger::State;
use crate::log::{Piece, Stored};
use crate::storage::Object;

/// Of all lineages. Names alone decide.
pub(super) async fn garbage(repository: &Repository, state: &State) -> Result<Vec<Object>> {
    let mut found = Vec::new();
    for id in state.lineages().keys() {
        let stored = repository.logs().list(*id).await?;
        found.extend(spare(state, &stored).map(|it| Object { key: it.piece.key(), size: it.size }));
    }
    Ok(found)
}

fn spare<'a>(state: &'a State, stored: &'a [Stored]) -> impl Iterator<Item = &'a Stored> {
    // The wholes of one grant, by their beginning: equal ends are no reason to delete the longer one.
    let mut wholes: BTreeMap<(u32, u64), Piece> = BTreeMap::new();
    for Stored { piece, .. } in stored.iter().filter(|it| it.piece.whole) {
        let longest = wholes.entry((piece.epoch, piece.from)).or_insert(*piece);
        if piece.to > longest.to {
            *longest = *piece;
        }
    }
    let covered = move |piece: &Piece| {
        let before = wholes.range((piece.epoch, 0)..=(piece.epoch, piece.from));
        before.rev().take(2).any(|(_, whole)| whole.replaces(piece))
    };
    stored.iter().filter(move |it| state.is_spare(&it.piece) || (!it.piece.whole && covered(&it.piece)))
}
