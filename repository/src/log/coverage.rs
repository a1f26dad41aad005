//! What of a lineage is covered, by the names of the objects that there are. Pure.
//!
//! A piece a second is half a million names a week: of pieces that follow each other only their ends are kept, four
//! bytes each.
use std::cmp::Reverse;

use super::{Lineage, Piece, Position};
use crate::id::LineageId;

/// A piece, and which part of it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    pub from: Position,
    pub to: Position,
    pub piece: Piece,
}

/// Stretches are in the order of positions, and neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// By where they begin to count.
    runs: Vec<Run>,
    /// How far any run up to that one goes.
    reach: Vec<Position>,
    stretches: Vec<(Position, Position)>,
}

/// Pieces of one grant and kind that follow each other. All of them count, the first and the last perhaps in part.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    lineage: LineageId,
    epoch: u32,
    whole: bool,
    from: Position,
    /// Behind `from`.
    ends: Vec<u32>,
    /// What of the grant counts.
    lower: Position,
    upper: Position,
}

/// Coverage that is being gathered, name by name. Names in the order of a listing take the least memory.
#[derive(Debug)]
pub struct Gathering<'a> {
    lineage: &'a Lineage,
    runs: Vec<Run>,
}

impl<'a> Gathering<'a> {
    pub fn new(lineage: &'a Lineage) -> Self {
        Self { lineage, runs: Vec::new() }
    }

    /// The part that counts, if any: from its grant's `from` to the next grant's and nowhere else; and nothing that
    /// ends below the floor, for that may be gone at any moment.
    pub fn add(&mut self, piece: Piece) -> Option<Counted> {
        let lineage = self.lineage;
        let at = lineage.grants.binary_search_by_key(&piece.epoch, |grant| grant.epoch).ok()?;
        let lower = lineage.grants[at].from;
        let upper = lineage.grants.get(at + 1).map_or(Position::MAX, |next| next.from);
        let (from, to) = (piece.from.max(lower), piece.to.min(upper));
        let counts = from < to && piece.to > lineage.floor && piece.lineage == lineage.id;
        if !counts || piece.check().is_err() {
            return None;
        }
        let follows = |run: &&mut Run| {
            (run.epoch, run.whole, run.end()) == (piece.epoch, piece.whole, piece.from)
                && piece.to - run.from <= Position::from(u32::MAX)
        };
        match self.runs.last_mut().filter(follows) {
            Some(run) => run.ends.push((piece.to - run.from) as u32),
            None => self.runs.push(Run {
                lineage: piece.lineage,
                epoch: piece.epoch,
                whole: piece.whole,
                from: piece.from,
                ends: vec![(piece.to - piece.from) as u32],
                lower,
                upper,
            }),
        }
        Some(Counted { from, to, piece })
    }

    pub fn done(mut self) -> Coverage {
        self.runs.sort_by_key(|run| (run.start(), run.stop(), run.epoch, run.whole, run.from));
        let mut coverage = Coverage::default();
        for run in &mut self.runs {
            run.ends.shrink_to_fit();
            coverage.reach.push(coverage.reach.last().copied().unwrap_or_default().max(run.stop()));
            match coverage.stretches.last_mut() {
                Some(last) if run.start() <= last.1 => last.1 = last.1.max(run.stop()),
                _ => coverage.stretches.push((run.start(), run.stop())),
            }
        }
        Coverage { runs: self.runs, ..coverage }
    }
}

impl Run {
    fn end(&self) -> Position {
        self.from + Position::from(self.ends.last().copied().unwrap_or_default())
    }

    fn start(&self) -> Position {
        self.from.max(self.lower)
    }

    fn stop(&self) -> Position {
        self.end().min(self.upper)
    }

    fn counted(&self, n: usize) -> Option<Counted> {
        let at = |n: usize| self.ends.get(n).map(|end| self.from + Position::from(*end));
        let from = if n == 0 { self.from } else { at(n - 1)? };
        let Self { lineage, epoch, whole, .. } = *self;
        let piece = Piece { lineage, epoch, from, to: at(n)?, whole };
        Some(Counted { from: from.max(self.lower), to: piece.to.min(self.upper), piece })
    }

    /// The piece that has the byte there.
    fn at(&self, position: Position) -> Option<Counted> {
        let offset = position.checked_sub(self.from)?;
        let n = self.ends.partition_point(|end| Position::from(*end) <= offset);
        self.counted(n).filter(|counted| counted.from <= position && position < counted.to)
    }
}

impl Coverage {
    pub fn of(lineage: &Lineage, pieces: impl IntoIterator<Item = Piece>) -> Self {
        let mut gathering = Gathering::new(lineage);
        for piece in pieces {
            gathering.add(piece);
        }
        gathering.done()
    }

    /// Every piece that counts, and as far as it does.
    pub fn counted(&self) -> impl Iterator<Item = Counted> + '_ {
        self.runs.iter().flat_map(|run| (0..run.ends.len()).filter_map(|n| run.counted(n)))
    }

    /// Bytes of memory that it takes.
    pub fn held(&self) -> usize {
        let ends: usize = self.runs.iter().map(|run| run.ends.capacity()).sum();
        ends * size_of::<u32>()
            + self.runs.len() * (size_of::<Run>() + size_of::<Position>())
            + self.stretches.len() * size_of::<(Position, Position)>()
    }

    pub fn stretches(&self) -> &[(Position, Position)] {
        &self.stretches
    }

    /// Between the first and the last position that are covered.
    pub fn holes(&self) -> impl Iterator<Item = (Position, Position)> + '_ {
        self.stretches.windows(2).map(|two| (two[0].1, two[1].0))
    }

    /// How far it goes from there without a hole; that position itself, when nothing of it is covered.
    pub fn end_from(&self, position: Position) -> Position {
        let stretch = self.stretches.iter().find(|(from, to)| *from <= position && position < *to);
        stretch.map_or(position, |(_, to)| *to)
    }

    /// The highest position that is covered, whatever lies before.
    pub fn end(&self) -> Option<Position> {
        self.stretches.last().map(|(_, to)| *to)
    }

    /// What is not covered from there on, before something that is.
    pub fn holes_from(&self, position: Position) -> Vec<(Position, Position)> {
        let (mut at, mut holes) = (position, Vec::new());
        for (from, to) in self.stretches.iter().filter(|(_, to)| *to > position) {
            if *from > at {
                holes.push((at, *from));
            }
            at = *to;
        }
        holes
    }

    pub fn covers(&self, from: Position, to: Position) -> bool {
        from >= to || self.end_from(from) >= to
    }

    /// What to read for a range, in order and without overlap: the longest that goes on is taken. None when some of it
    /// is not covered.
    pub fn pick(&self, from: Position, to: Position) -> Option<Vec<Counted>> {
        let picked: Vec<Counted> = self.walk(from, to).collect();
        let end = picked.last().map_or(from, |last| last.to);
        (end >= to).then_some(picked)
    }

    /// As [`Self::pick`], one after the other, up to the first hole.
    pub fn walk(&self, from: Position, to: Position) -> impl Iterator<Item = Counted> + '_ {
        let mut position = from;
        std::iter::from_fn(move || {
            let part = self.longest(position).filter(|_| position < to)?;
            let picked = Counted { from: position, to: part.to.min(to), ..part };
            position = part.to;
            Some(picked)
        })
    }

    /// Of all that have the byte before that position, what goes back the furthest; all of it that counts.
    pub fn before(&self, position: Position) -> Option<Counted> {
        let last = position.checked_sub(1)?;
        self.having(last).min_by_key(|counted| (counted.from, !counted.piece.whole, *counted))
    }

    /// What goes on the furthest of all that have the byte there.
    fn longest(&self, position: Position) -> Option<Counted> {
        self.having(position).max_by_key(|counted| (counted.to, counted.piece.whole, Reverse(*counted)))
    }

    fn having(&self, position: Position) -> impl Iterator<Item = Counted> + '_ {
        let begun = self.runs.partition_point(|run| run.start() <= position);
        let reaching = (0..begun).rev().take_while(move |n| self.reach[*n] > position);
        reaching.filter_map(move |n| self.runs[n].at(position))
    }
}
