//! What of the logs may be given up: pure, from the backups that are kept and how far back any moment is to be restorable.
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
    let raised = lineages.values().filter_map(|lineage| {
        let position = floor(lineage, anchors, lineages, horizon)?;
        let pinned = pins.iter().filter(|pin| pin.lineage == lineage.id).map(|pin| pin.position);
        let position = pinned.fold(position, Position::min);
        (position > lineage.floor).then_some(At { lineage: lineage.id, position })
    });
    raised.collect()
}

fn floor(lineage: &Lineage, anchors: &[Anchor], lineages: &Lineages, horizon: Timestamp) -> Option<Position> {
    let down = |position: Position| position - position % u64::from(lineage.segment.max(1));
    let of = |id: LineageId| anchors.iter().filter(move |anchor| anchor.span.lineage == id);
    let base = |id: LineageId| of(id).filter(|it| it.committed <= horizon).max_by_key(|it| it.committed);
    // Backups inside the window need what follows each of them.
    let inside = of(lineage.id).filter(|it| it.committed > horizon).map(|it| down(it.span.start)).min();
    let children = lineages.values().filter(|child| child.parent == Some(lineage.id));
    // Once a backup of a child is as old, nobody goes through the parent any more to get there.
    let ended = children.filter(|child| base(child.id).is_some()).map(|child| child.from).max();
    let begins = match (ended, base(lineage.id)) {
        (Some(ended), base) => Some(ended.max(base.map_or(0, |base| down(base.span.start)))),
        (None, Some(base)) => Some(down(base.span.start)),
        // A backup of its parent may lead here; and a history that has just begun waits for its own.
        (None, None) => None,
    };
    match (begins, inside) {
        (Some(begins), Some(inside)) => Some(begins.min(inside)),
        (Some(begins), None) => Some(begins),
        (None, Some(inside)) if lineage.parent.is_none() => Some(inside),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests;
