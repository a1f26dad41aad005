//! What is stored already of where a database begins to send: it must send the same again.
use palinurus_repository::log::{Lineage, LogReader, LogStore, Section};
use palinurus_repository::{Error, Result};

/// Never more of it than is held at once.
const MAX: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Known {
    first: u64,
    bytes: Vec<u8>,
}

impl Known {
    pub(super) fn nothing(from: u64) -> Self {
        Self { first: from, bytes: Vec::new() }
    }

    /// From `start` to `from`, which all is stored. Nothing, where some of it is a parent's or lost.
    pub(super) async fn read(store: &LogStore, lineage: &Lineage, start: u64, from: u64) -> Result<Self> {
        let first = compared(start.max(lineage.from), from);
        if first >= from {
            return Ok(Self::nothing(from));
        }
        let chain = vec![Section { lineage: lineage.clone(), to: None }];
        let mut reader = LogReader::open(store.clone(), chain, first).await?;
        if reader.end_from(first) < from {
            return Ok(Self::nothing(from));
        }
        Ok(Self { first, bytes: reader.read(first..from).await? })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What of `bytes`, which were sent as of `position`, is not stored yet.
    pub(super) fn beyond<'b>(&mut self, position: u64, bytes: &'b [u8]) -> Result<&'b [u8]> {
        let known = self.first + self.bytes.len() as u64;
        let (from, to) = (position.max(self.first), (position + bytes.len() as u64).min(known));
        if from < to {
            let sent = &bytes[(from - position) as usize..(to - position) as usize];
            if sent != &self.bytes[(from - self.first) as usize..(to - self.first) as usize] {
                return Err(Error::corrupt("the database's log is another one than is stored of it").with_hint(
                    "its data was brought back without a new timeline: restore it with --to, or give it a new service",
                ));
            }
        }
        if to == known {
            *self = Self::nothing(known);
        }
        Ok(&bytes[(known.max(position) - position).min(bytes.len() as u64) as usize..])
    }
}

/// From where on.
fn compared(start: u64, from: u64) -> u64 {
    start.max(from.saturating_sub(MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_large_segments_only_the_end_is_compared() {
        let segment = 1 << 30;
        assert_eq!(compared(segment, segment + 5), segment);
        let first = compared(segment, 2 * segment - 1);
        assert!(first > segment && 2 * segment - 1 - first <= palinurus_repository::log::READ_MAX);
    }

    #[test]
    fn what_is_known_must_be_sent_again_and_only_the_rest_is_new() {
        let known = || Known { first: 10, bytes: vec![1, 2, 3] };
        assert_eq!(known().beyond(8, &[9, 9, 1, 2, 3, 4]).unwrap(), [4]);
        assert_eq!(known().beyond(13, &[4]).unwrap(), [4]);
        let mut in_parts = known();
        assert!(in_parts.beyond(8, &[9, 9, 1]).unwrap().is_empty() && !in_parts.is_empty());
        assert_eq!(in_parts.beyond(11, &[2, 3, 4]).unwrap(), [4]);
        assert!(in_parts.is_empty());
        known().beyond(11, &[2, 4]).unwrap_err();
    }
}
