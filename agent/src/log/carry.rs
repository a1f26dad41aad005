//! What was stored under a grant, beyond where the next one begins: it counts no more, and the database may have let go of
//! it. It is put again under the new grant.
use palinurus_repository::Result;
use palinurus_repository::log::{Counted, Grant, Lineage, LogStore, Piece, Trail, seal};

use super::Held;
use crate::host::Host;

/// Up to where everything is stored under the last grant. Short of what was stored before, when some of that has been deleted
/// meanwhile.
pub(super) async fn carry(host: &Host, store: &LogStore, lineage: &Lineage, held: &Held) -> Result<u64> {
    let Some((last, before)) = lineage.grants.split_last() else { return Ok(held.stored) };
    let mut position = last.from;
    if !is_own(held, last, before) || held.stored <= position {
        return Ok(position);
    }
    // As it was when they counted.
    let then: Vec<Grant> = before.iter().filter(|grant| grant.epoch <= held.epoch).cloned().collect();
    let then = Lineage { grants: then, ..lineage.clone() };
    let stored = store.list_from(&then, position).await?;
    let coverage = then.coverage(stored.into_iter().map(|stored| stored.piece));
    let Some(parts) = coverage.pick(position, held.stored.min(coverage.end_from(position))) else {
        return Ok(position);
    };
    for part in parts {
        let key_epoch = then.grant(part.piece.epoch).and_then(|grant| grant.key_epoch);
        let (trail, plain) = store.read(&part.piece, key_epoch).await?;
        let (start, end) = (part.from - part.piece.from, part.to - part.piece.from);
        let bytes = plain.get(start as usize..end as usize).unwrap_or_default().to_vec();
        let piece = Piece { epoch: last.epoch, from: part.from, to: part.to, whole: false, ..part.piece };
        let (keys, key_epoch, level) = (store.keys().clone(), last.key_epoch, host.config.limits.zstd_level);
        let trail = cut(trail, &part);
        let sealing = move || seal(&keys, key_epoch, &piece, &trail, &bytes, level);
        store.put(&piece, key_epoch, host.seams.blocking.run(sealing).await?).await?;
        position = part.to;
    }
    tracing::info!(lineage = %lineage.id, grant = last.epoch, from = last.from, to = position, "what was stored of the log is put under the new grant");
    Ok(position)
}

/// Nobody else wrote in between: what this process has stored is what the database holds.
fn is_own(held: &Held, last: &Grant, before: &[Grant]) -> bool {
    before.iter().any(|grant| grant.epoch == held.epoch)
        && before
            .iter()
            .chain([last])
            .filter(|grant| grant.epoch >= held.epoch)
            .all(|grant| grant.node == last.node)
}

/// What a piece says of itself is true of a part of it only where that can be seen.
fn cut(trail: Trail, part: &Counted) -> Trail {
    if (part.from, part.to) == (part.piece.from, part.piece.to) {
        return trail;
    }
    let mut points = trail.points;
    points.retain(|point| part.from < point.position && point.position <= part.to);
    Trail { points, ..Trail::default() }
}
