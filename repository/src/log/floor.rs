//! What of the logs may be given up: pure, from the backups that are kept and how far back any moment is to be restorable.
use std::collections::BTreeMap;
use std::time::Duration;

use super::{Anchor, At, Lineage, Lineages, Position};
use crate::clock::Timestamp;
use crate::id::LineageId;

/// Floors that can be raised. From the newest backup before now − `keep` on, everything stays; older backups keep their
/// own moment. `pins` are what readers keep.
pub fn floors(
    anchors: &[Anchor],
    lineages: &Lineages,
    pins: &[At],
    now: Timestamp,
    keep: Duration,
) -> Vec<At> {
    let horizon = Timestamp(now.0.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX)));
    let needed = needed(anchors, lineages, horizon);
    let raised = lineages.values().filter_map(|lineage| {
        let position = match needed.get(&lineage.id) {
            Some(position) => *position,
            None => left(lineage, anchors, lineages, horizon)?,
        };
        let pinned = pins.iter().filter(|pin| pin.lineage == lineage.id).map(|pin| pin.position);
        let position = pinned.fold(position, Position::min);
        (position > lineage.floor).then_some(At { lineage: lineage.id, position })
    });
    raised.collect()
}

/// From where on each lineage is read by a restore to a moment behind the horizon, of whatever lineage: 0 is all of it.
fn needed(anchors: &[Anchor], lineages: &Lineages, horizon: Timestamp) -> BTreeMap<LineageId, Position> {
    let mut needed = BTreeMap::new();
    for lineage in lineages.values() {
        let ways = anchors.iter().filter_map(|anchor| Some((anchor, way(anchor, lineage, lineages)?)));
        let ways: Vec<_> = ways.collect();
        let before = ways.iter().map(|(anchor, _)| anchor.committed).filter(|at| *at <= horizon);
        let base = before.max();
        for (anchor, way) in ways {
            if anchor.committed <= horizon && Some(anchor.committed) != base {
                continue;
            }
            let of = lineages.get(&anchor.span.lineage);
            let segment = of.map_or(1, |of| u64::from(of.segment.max(1)));
            let start = anchor.span.start - anchor.span.start % segment;
            let least = needed.entry(anchor.span.lineage).or_insert(start);
            *least = start.min(*least);
            needed.extend(way.into_iter().map(|id| (id, 0)));
        }
    }
    needed
}

/// The lineages behind the backup's own through which it leads to that one, when it does.
fn way(anchor: &Anchor, to: &Lineage, lineages: &Lineages) -> Option<Vec<LineageId>> {
    let (mut at, mut way) = (to, Vec::new());
    while at.id != anchor.span.lineage {
        if at.from < anchor.span.stop {
            return None;
        }
        way.push(at.id);
        at = lineages.get(&at.parent?)?;
    }
    Some(way)
}

/// No backup leads here. A history that has just begun waits for its own; one whose child has a backup as old as the
/// horizon was there before, and whatever backup it gets yet ends behind where the child began.
fn left(lineage: &Lineage, anchors: &[Anchor], lineages: &Lineages, horizon: Timestamp) -> Option<Position> {
    let old = |id: LineageId| anchors.iter().any(|it| it.span.lineage == id && it.committed <= horizon);
    let children = lineages.values().filter(|child| child.parent == Some(lineage.id) && old(child.id));
    children.map(|child| child.from).max()
}

#[cfg(test)]
mod tests;
