//! What of logs may be deleted: what ends at a floor, what does not count, and what a whole has taken the place of; and
//! the accounts of histories that are over. Names alone decide, a page of them at a time.
use crate::commit::Repository;
use crate::error::Result;
use crate::id::LineageId;
use crate::ledger::State;
use crate::log::{Coverage, Piece, Position, history_key, prefix};
use crate::storage::Object;

use super::PAGE;

/// Goes through all lineages.
pub(super) struct Garbage<'a> {
    repository: &'a Repository,
    state: &'a State,
    left: Vec<LineageId>,
    at: Option<At>,
}

struct At {
    lineage: LineageId,
    after: Option<String>,
    /// By the grant's epoch, some thousand at a time.
    wholes: Vec<(u32, Coverage)>,
    history: Option<Object>,
    /// A piece stays.
    lives: bool,
}

impl<'a> Garbage<'a> {
    pub(super) fn of(repository: &'a Repository, state: &'a State) -> Self {
        Self { repository, state, left: state.lineages().keys().rev().copied().collect(), at: None }
    }

    /// That of the next page of names, which may be none; or there are no more pages.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Object>>> {
        let mut at = match self.at.take() {
            Some(at) => at,
            None => match self.left.pop() {
                Some(lineage) => self.begin(lineage).await?,
                None => return Ok(None),
            },
        };
        let storage = self.repository.storage();
        let page = storage.list(&prefix(at.lineage), at.after.as_deref(), PAGE).await?;
        let more = page.len() == PAGE;
        at.after = page.last().map(|object| object.key.clone());
        let mut found = Vec::new();
        for object in page {
            match Piece::from_key(&object.key) {
                Ok(piece) if self.state.is_spare(&piece) || at.is_replaced(&piece) => found.push(object),
                Ok(_) => at.lives = true,
                Err(_) if object.key == history_key(at.lineage) => at.history = Some(object),
                Err(_) => {}
            }
        }
        if more {
            self.at = Some(at);
        } else if !at.lives && self.state.is_over(at.lineage) {
            found.extend(at.history);
        }
        Ok(Some(found))
    }

    async fn begin(&self, lineage: LineageId) -> Result<At> {
        let known = self.state.lineage(lineage);
        let wholes = match known {
            Some(known) => self.repository.logs().wholes(known).await?,
            None => Vec::new(),
        };
        Ok(At { lineage, after: None, wholes, history: None, lives: false })
    }
}

impl At {
    fn is_replaced(&self, piece: &Piece) -> bool {
        let first = self.wholes.partition_point(|(epoch, _)| *epoch < piece.epoch);
        let of = self.wholes[first..].iter().take_while(|(epoch, _)| *epoch == piece.epoch);
        let mut wholes = of.filter_map(|(_, wholes)| wholes.walk(piece.from, Position::MAX).next());
        !piece.whole && wholes.any(|whole| whole.piece.replaces(piece))
    }
}
