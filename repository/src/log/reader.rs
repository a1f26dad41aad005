//! Reads a log along a chain of lineages, as a recovery does.
use std::ops::Range;

use futures::future::try_join_all;

use super::{Coverage, LogStore, Position, Section};
use crate::error::{Error, ErrorKind, Result};

/// One read gives at most so much.
pub const READ_MAX: u64 = 64 << 20;
/// Objects read at once.
const PARALLEL: usize = 4;

/// Ancestors first. What is covered is as of the last listing.
#[derive(Clone, Debug)]
pub struct LogReader {
    store: LogStore,
    first: Position,
    parts: Vec<(Section, Coverage)>,
}

impl LogReader {
    /// For positions from `first` on. Gets the masters that are needed, and lists.
    pub async fn open(store: LogStore, chain: Vec<Section>, first: Position) -> Result<Self> {
        Section::check_chain(&chain)?;
        let grants = chain.iter().flat_map(|section| &section.lineage.grants);
        // Collected: a lazy iterator held over the wait would make this future's `Send` depend on a lifetime.
        let key_epochs: Vec<_> = grants.filter_map(|grant| grant.key_epoch).collect();
        store.learn(key_epochs).await?;
        let parts = chain.into_iter().map(|section| (section, Coverage::default())).collect();
        let mut reader = Self { store, first, parts };
        reader.refresh().await?;
        Ok(reader)
    }

    pub async fn refresh(&mut self) -> Result<()> {
        for (section, coverage) in &mut self.parts {
            if section.to.is_some_and(|to| to <= self.first) {
                continue;
            }
            *coverage = self.store.coverage(&section.lineage, self.first).await?;
        }
        Ok(())
    }

    /// How far the log goes from there along the chain without a hole; that position itself, when nothing of it is there.
    pub fn end_from(&self, position: Position) -> Position {
        let mut end = position;
        for (section, coverage) in &self.parts {
            let to = section.to.unwrap_or(Position::MAX);
            if end < to {
                end = coverage.end_from(end).min(to);
                if end < to {
                    break;
                }
            }
        }
        end
    }

    /// Something is covered behind that position: if it itself is not, there is a hole.
    pub fn goes_on_behind(&self, position: Position) -> bool {
        let ends = self.parts.iter().filter_map(|(section, coverage)| {
            let to = section.to.unwrap_or(Position::MAX);
            coverage.end().map(|end| end.min(to))
        });
        ends.max().is_some_and(|end| end > position)
    }

    /// Exactly these bytes: `NotFound` when the log ends before them, `Corrupt` when it has a hole there. Lists again
    /// when it seems so, or when objects have gone because others took their place.
    pub async fn read(&mut self, range: Range<Position>) -> Result<Vec<u8>> {
        match self.try_read(range.clone()).await {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.refresh().await?;
                self.try_read(range.clone()).await
            }
            other => other,
        }
        .map_err(|e| match e.kind() {
            ErrorKind::NotFound if self.goes_on_behind(self.end_from(range.start)) => {
                Error::corrupt(format!("the log has a hole at {:x}", self.end_from(range.start)))
                    .with_source(e)
            }
            _ => e,
        })
    }

    async fn try_read(&self, range: Range<Position>) -> Result<Vec<u8>> {
        let length = range.end.saturating_sub(range.start);
        if length > READ_MAX {
            return Err(Error::invalid(format!("{length} bytes of a log at once")));
        }
        let missing = || Error::not_found(format!("the log does not reach {:x}", range.end));
        let mut parts = Vec::new();
        let mut position = range.start;
        for (section, coverage) in &self.parts {
            let to = section.to.unwrap_or(Position::MAX).min(range.end);
            if position < to {
                let picked = coverage.pick(position, to).ok_or_else(missing)?;
                parts.extend(picked.into_iter().map(|part| (section, part)));
                position = to;
            }
        }
        let mut bytes = Vec::with_capacity(length as usize);
        for some in parts.chunks(PARALLEL) {
            let read = some.iter().map(|(section, part)| async move {
                let grant = section.lineage.grant(part.piece.epoch);
                let key_epoch = grant.and_then(|grant| grant.key_epoch);
                let (_, plain) = self.store.read(&part.piece, key_epoch).await?;
                Ok::<_, Error>((part, plain))
            });
            for (part, plain) in try_join_all(read).await? {
                let start = part.from - part.piece.from;
                let end = part.to - part.piece.from;
                let taken = plain.get(start as usize..end as usize);
                bytes.extend_from_slice(taken.ok_or_else(|| Error::internal("a piece's part lies outside"))?);
            }
        }
        Ok(bytes)
    }
}
