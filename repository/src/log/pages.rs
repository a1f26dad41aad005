//! The names of a lineage's pieces, a page at a time.
use std::ops::Range;

use super::{Piece, Position, Stored, WHOLE_MAX, prefix};
use crate::error::Result;
use crate::id::LineageId;
use crate::storage::Storage;

const PAGE: usize = 1000;

pub(crate) struct Pages {
    prefix: String,
    range: Range<Position>,
    after: Option<String>,
    ended: bool,
}

impl Pages {
    /// Of all grants, known or not.
    pub(crate) fn all(lineage: LineageId, whole: bool) -> Self {
        let prefix = if whole { format!("{}whole/", prefix(lineage)) } else { prefix(lineage) };
        Self { prefix, range: 0..Position::MAX, after: None, ended: false }
    }

    pub(super) fn of(lineage: LineageId, epoch: u32, whole: bool, range: Range<Position>) -> Self {
        let kind = if whole { "whole/" } else { "" };
        let prefix = format!("{}{kind}{epoch:010}/", prefix(lineage));
        // The longest that reaches the range begins so far before it.
        let after = format!("{prefix}{:016x}", range.start.saturating_sub(WHOLE_MAX as u64));
        Self { prefix, range, after: Some(after), ended: false }
    }

    /// Those of the next page that may hold something of the range; there may be none among them.
    pub(crate) async fn next(&mut self, storage: &dyn Storage) -> Result<Option<Vec<Stored>>> {
        if self.ended {
            return Ok(None);
        }
        let page = storage.list(&self.prefix, self.after.as_deref(), PAGE).await?;
        let stored = |key: &str, size| Some(Stored { piece: Piece::from_key(key).ok()?, size });
        let mut found: Vec<Stored> =
            page.iter().filter_map(|object| stored(&object.key, object.size)).collect();
        let beyond = found.last().is_some_and(|last| last.piece.from >= self.range.end);
        self.ended = page.len() < PAGE || beyond;
        self.after = page.last().map(|last| last.key.clone());
        found.retain(|it| it.piece.to > self.range.start && it.piece.from < self.range.end);
        Ok(Some(found))
    }
}
