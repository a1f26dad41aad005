//! What of a lineage is covered, by the names of the objects that there are. Pure.
use super::{Grant, Lineage, Piece, Position};

/// A piece, and which part of it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    pub from: Position,
    pub to: Position,
    pub piece: Piece,
}

/// In the order of positions. Stretches neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counted: Vec<Counted>,
    stretches: Vec<(Position, Position)>,
}

impl Coverage {
    pub fn of(lineage: &Lineage, pieces: impl IntoIterator<Item = Piece>) -> Self {
        let pieces = pieces.into_iter().filter(|piece| piece.lineage == lineage.id);
        let mut counted: Vec<Counted> = pieces.filter_map(|piece| count(lineage, piece)).collect();
        counted.sort_unstable();
        Self { stretches: merge(&counted), counted }
    }

    /// Every piece that counts, and as far as it does.
    pub fn counted(&self) -> &[Counted] {
        &self.counted
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
        let mut picked = Vec::new();
        let mut position = from;
        let mut next = 0;
        let mut best: Option<Counted> = None;
        while position < to {
            while let Some(counted) = self.counted.get(next).filter(|counted| counted.from <= position) {
                if best.is_none_or(|best| (counted.to, counted.piece.whole) > (best.to, best.piece.whole)) {
                    best = Some(*counted);
                }
                next += 1;
            }
            let part = best.filter(|best| best.to > position)?;
            picked.push(Counted { from: position, to: part.to.min(to), ..part });
            position = part.to;
        }
        Some(picked)
    }
}

/// From its grant's `from` to the next grant's and nowhere else; and nothing that ends below the floor, for that may be
/// gone at any moment.
fn count(lineage: &Lineage, piece: Piece) -> Option<Counted> {
    let at = lineage.grants.iter().position(|grant| grant.epoch == piece.epoch)?;
    let upper = lineage.grants.get(at + 1).map_or(Position::MAX, |next: &Grant| next.from);
    let from = piece.from.max(lineage.grants[at].from);
    let to = piece.to.min(upper);
    (from < to && piece.to > lineage.floor && piece.check().is_ok()).then_some(Counted { from, to, piece })
}

fn merge(counted: &[Counted]) -> Vec<(Position, Position)> {
    let mut merged: Vec<(Position, Position)> = Vec::new();
    for Counted { from, to, .. } in counted {
        match merged.last_mut() {
            Some(last) if *from <= last.1 => last.1 = last.1.max(*to),
            _ => merged.push((*from, *to)),
        }
    }
    merged
}
