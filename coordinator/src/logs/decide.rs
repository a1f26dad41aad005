//! Who may append to which lineage, and from where: decided purely, from what the ledger and a listing say.
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::log::{Coverage, Lineage, Lineages, Position};
use palinurus_repository::{Error, LineageId, Result};

/// The first bytes of an identity say which cluster it is of: in PostgreSQL the system identifier.
const CLUSTER_LEN: usize = 8;

pub(crate) type Gap = (Position, Position);

/// A log as its writer tells of it. Checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) node: String,
    /// Of its place.
    pub(crate) node_epoch: u64,
    pub(crate) kind: String,
    pub(crate) identity: Vec<u8>,
    /// Parents, the oldest first, and where each ends.
    pub(crate) history: Vec<(Vec<u8>, Position)>,
    pub(crate) position: Position,
    /// 0: not known.
    pub(crate) oldest: Position,
    pub(crate) segment: u32,
    /// The grant that this very process has.
    pub(crate) held: Option<(LineageId, u32)>,
    /// It is in the middle of it: `position` is as it was told last.
    pub(crate) goes_on: bool,
}

/// What is next for who has opened a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The grant that it has is still the newest.
    Keep(LineageId),
    Grant {
        lineage: LineageId,
        from: Position,
        /// A parent: it is given up to there, and then the step after.
        until: Option<Position>,
        /// What nobody can give any more.
        lost: Vec<Gap>,
    },
    /// Make this lineage known, and decide again. What is lost is the parent's.
    Begin { parent: Option<LineageId>, from: Position, identity: Vec<u8>, lost: Vec<Gap> },
}

impl Opening {
    pub(crate) fn of(open: &v1::LogOpen, node_epoch: u64) -> Result<Self> {
        let held = (!open.held.is_empty())
            .then(|| Ok::<_, Error>((LineageId::from_slice(&open.held)?, open.held_epoch)))
            .transpose()?;
        let history = open.history.iter().map(|fork| (fork.identity.to_vec(), fork.until));
        let opening = Self {
            node: open.node.clone(),
            node_epoch,
            kind: open.kind.clone(),
            identity: open.identity.to_vec(),
            history: history.collect(),
            position: open.position,
            oldest: open.oldest,
            segment: open.segment,
            held,
            goes_on: false,
        };
        if opening.history.windows(2).any(|two| two[0].1 > two[1].1) {
            return Err(Error::invalid("the log's parents end in disorder"));
        }
        if opening.history.last().is_some_and(|last| last.1 > opening.position) {
            return Err(Error::invalid("the log ends before it begins"));
        }
        // Bounds, as the ledger will hold it to them.
        let like = |identity: &[u8]| opening.lineage(None, 0, identity.to_vec()).check();
        like(&opening.identity)?;
        opening.history.iter().try_for_each(|(identity, _)| like(identity))?;
        if opening.identity.len() < CLUSTER_LEN {
            return Err(Error::invalid("a log's identity begins with its cluster's, of 8 bytes"));
        }
        Ok(opening)
    }

    /// One that it would write, or a parent of it.
    pub(crate) fn lineage(&self, parent: Option<LineageId>, from: Position, identity: Vec<u8>) -> Lineage {
        Lineage {
            id: LineageId([0; 16]),
            parent,
            from,
            kind: self.kind.clone(),
            identity,
            segment: self.segment,
            grants: Vec::new(),
            floor: 0,
            number: 0,
        }
    }

    fn down(&self, position: Position) -> Position {
        position - position % u64::from(self.segment)
    }

    pub(crate) fn up(&self, position: Position) -> Position {
        let segment = u64::from(self.segment);
        position.checked_next_multiple_of(segment).unwrap_or(Position::MAX - Position::MAX % segment)
    }
}

/// The lineage that this is, or the nearest ancestor that is known, with how many of its history lie below it.
pub(crate) fn known<'a>(opening: &Opening, lineages: &'a Lineages) -> Option<(&'a Arc<Lineage>, usize)> {
    let depth = opening.history.len();
    (0..=depth).rev().find_map(|at| {
        let identity = opening.history.get(at).map_or(&opening.identity, |(identity, _)| identity);
        // Of a parent that was first stored behind where this one left it, nothing leads here.
        let until = opening.history.get(at).map_or(Position::MAX, |(_, until)| *until);
        let like = lineages.values().filter(|it| it.kind == opening.kind && it.identity == *identity);
        let like = like.filter(|it| it.from <= until);
        let same = like.filter(|it| follows(it, &opening.history[..at], lineages));
        same.max_by_key(|it| it.number).map(|it| (it, depth - at))
    })
}

/// Its parents are those, as far as both know them.
fn follows(lineage: &Lineage, history: &[(Vec<u8>, Position)], lineages: &Lineages) -> bool {
    match (lineage.parent.and_then(|parent| lineages.get(&parent)), history.split_last()) {
        (None, _) => lineage.parent.is_none(),
        (Some(_), None) => false,
        (Some(parent), Some(((identity, until), before))) => {
            parent.identity == *identity && lineage.from == *until && follows(parent, before, lineages)
        }
    }
}

/// `covered` is of the lineage that [`known`] finds.
pub(crate) fn decide(opening: &Opening, lineages: &Lineages, covered: &Coverage) -> Result<Step> {
    let Some((lineage, below)) = known(opening, lineages) else {
        return first(opening, lineages);
    };
    let (end, mut lost) = end(lineage, covered);
    if below > 0 {
        let at = opening.history.len() - below;
        let until = opening.history[at].1;
        let identity =
            opening.history.get(at + 1).map_or(&opening.identity, |(identity, _)| identity).clone();
        // What the writer still has behind a gap leads on from a backup that was made there.
        let from = if opening.oldest > end { opening.up(opening.oldest) } else { end };
        if from < until {
            lost.extend((end < from).then_some((end, from)));
            return Ok(Step::Grant { lineage: lineage.id, from, until: Some(until), lost });
        }
        lost.retain(|(from, _)| *from < until);
        lost.extend((end < until).then_some((end, until)));
        return Ok(Step::Begin { parent: Some(lineage.id), from: until, identity, lost });
    }
    if let (Some((held, epoch)), Some(last)) = (opening.held, lineage.last_grant())
        && (held, epoch, &opening.node) == (lineage.id, last.epoch, &last.node)
    {
        // It may have put more since it looked at its position.
        return Ok(Step::Keep(held));
    }
    if opening.position < end && !opening.goes_on {
        // It is behind what it has written before: it was set back, and writes another history under the same name.
        let from = opening.down(opening.position);
        return Ok(Step::Begin { parent: None, from, identity: opening.identity.clone(), lost: Vec::new() });
    }
    let gap = (opening.oldest > end).then(|| (end, opening.up(opening.oldest)));
    lost.extend(gap);
    Ok(Step::Grant { lineage: lineage.id, from: gap.map_or(end, |(_, to)| to), until: None, lost })
}

/// Where the next grant begins, and the holes before it. Never in a hole, even if the writer could fill it: what lies
/// behind would not count any more, and the next sweep would delete it.
pub(crate) fn end(lineage: &Lineage, covered: &Coverage) -> (Position, Vec<Gap>) {
    let begun = lineage.begun();
    (covered.end().map_or(begun, |end| end.max(begun)), covered.holes_from(begun))
}

/// Of no known parent.
fn first(opening: &Opening, lineages: &Lineages) -> Result<Step> {
    let last = lineages.values().max_by_key(|lineage| lineage.number);
    if let Some(last) = last.filter(|last| last.kind == opening.kind)
        && last.identity.get(..CLUSTER_LEN) != opening.identity.get(..CLUSTER_LEN)
    {
        return Err(Error::conflict(
            "the log is another cluster's than the one that this service has logs of",
        )
        .with_hint("another cluster is another service, with a repository of its own"));
    }
    let from = if opening.oldest > 0 { opening.up(opening.oldest) } else { opening.down(opening.position) };
    let begins = opening.history.last().map_or(0, |(_, until)| opening.down(*until));
    let from = from.max(begins).min(opening.down(opening.position));
    Ok(Step::Begin { parent: None, from, identity: opening.identity.clone(), lost: Vec::new() })
}

#[cfg(test)]
mod tests;
