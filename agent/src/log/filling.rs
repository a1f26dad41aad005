//! A piece while it is filled: bytes that follow each other, and what is known of them. Pure.
use palinurus_repository::Timestamp;
use palinurus_repository::log::{PIECE_MAX, RestorePoint, Trail};
use tokio::time::Instant;

use crate::engine::{Mark, Marked, ServerEnd};

/// No more is read into a piece that has so much. What comes at once must fit behind it.
pub(super) const ENOUGH: usize = 4 << 20;
const AT_ONCE_MAX: usize = PIECE_MAX - ENOUGH;

#[derive(Debug)]
pub(super) struct Filling {
    pub(super) from: u64,
    pub(super) bytes: Vec<u8>,
    /// Its *as of* is 0 unless the database's end was this piece's.
    trail: Trail,
    /// The last time at which nothing was missing here.
    complete: Timestamp,
    /// When its first byte came.
    pub(super) since: Option<Instant>,
}

impl Filling {
    /// `complete`: when the database's end was not beyond `from`, in ms since 1970.
    pub(super) fn new(from: u64, complete: Timestamp) -> Self {
        Self { from, bytes: Vec::new(), trail: Trail::default(), complete, since: None }
    }

    pub(super) fn to(&self) -> u64 {
        self.from + self.bytes.len() as u64
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= ENOUGH
    }

    pub(super) fn complete(&self) -> Timestamp {
        self.complete
    }

    /// What follows; false when it is more than a piece may have.
    pub(super) fn push(&mut self, bytes: &[u8], now: Instant) -> bool {
        if bytes.is_empty() {
            return true;
        }
        if self.is_full() || bytes.len() > AT_ONCE_MAX {
            return false;
        }
        self.since.get_or_insert(now);
        self.bytes.extend_from_slice(bytes);
        // What was heard before was not heard of these: a backup that stops in them would look older than it is.
        self.trail.as_of = Timestamp(0);
        true
    }

    /// Marks that end in this piece or before it; those before it are a piece's that is stored.
    pub(super) fn mark(&mut self, marks: Vec<Mark>) {
        for mark in marks.into_iter().filter(|mark| mark.end > self.from) {
            match mark.what {
                Marked::End(at) => {
                    let trail = &mut self.trail;
                    trail.first_commit = Some(trail.first_commit.map_or(at, |first| first.min(at)));
                    trail.last_commit = Some(trail.last_commit.map_or(at, |last| last.max(at)));
                }
                Marked::Name(name) => self.trail.points.push(RestorePoint { name, position: mark.end }),
            }
        }
    }

    /// What the database said, when all that is here had come: only an end that is not beyond it is a proof.
    pub(super) fn heard(&mut self, server: ServerEnd) {
        if server.position <= self.to() {
            self.complete = self.complete.max(Timestamp(server.ms));
            self.trail.as_of = self.complete;
        }
    }

    /// The piece, and an empty one behind it.
    pub(super) fn take(&mut self) -> (u64, Vec<u8>, Trail) {
        let next = Self::new(self.to(), self.complete);
        let full = std::mem::replace(self, next);
        (full.from, full.bytes, full.trail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(end: u64, at: i64) -> Mark {
        Mark { end, what: Marked::End(at) }
    }

    #[tokio::test]
    async fn a_piece_knows_what_ends_in_it_and_until_when_that_was_all() {
        let now = Instant::now();
        let mut filling = Filling::new(100, Timestamp(5));
        assert!(filling.push(&[1; 50], now));
        filling.mark(vec![end(90, 1), end(120, 30), end(150, 20)]);
        filling.heard(ServerEnd { position: 151, ms: 9 });
        assert_eq!(filling.complete(), Timestamp(5), "the database was further");
        filling.heard(ServerEnd { position: 150, ms: 8 });
        let (from, bytes, trail) = filling.take();
        assert_eq!((from, bytes.len(), trail.as_of), (100, 50, Timestamp(8)));
        assert_eq!((trail.first_commit, trail.last_commit), (Some(20), Some(30)));
        assert_eq!((filling.from, filling.to(), filling.complete()), (150, 150, Timestamp(8)));
        assert!(filling.since.is_none());
        let name = Mark { end: 160, what: Marked::Name("x".into()) };
        assert!(filling.push(&[1; 50], now));
        filling.mark(vec![name]);
        let trail = filling.take().2;
        assert_eq!(trail.points, [RestorePoint { name: "x".into(), position: 160 }]);
        assert_eq!(trail.as_of, Timestamp(0), "nobody said when it ended");
        filling.heard(ServerEnd { position: 200, ms: 10 });
        assert!(filling.push(&[1; 10], now));
        filling.heard(ServerEnd { position: 300, ms: 11 });
        assert_eq!(filling.take().2.as_of, Timestamp(0), "heard of what came before");
        assert_eq!(filling.complete(), Timestamp(10));
    }

    #[tokio::test]
    async fn it_has_a_bound() {
        let mut filling = Filling::new(0, Timestamp(0));
        assert!(!filling.push(&vec![0; AT_ONCE_MAX + 1], Instant::now()));
        while !filling.is_full() {
            assert!(filling.push(&[0; 128 << 10], Instant::now()));
        }
        assert!(!filling.push(&[0], Instant::now()) && filling.bytes.len() <= PIECE_MAX);
    }
}
