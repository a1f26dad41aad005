//! What a check has found, added to what others did.
use bytes::Bytes;
use palinurus_proto::v1;
use palinurus_repository::ledger::Objects;

pub(crate) const DAMAGES_KEPT: usize = 1000;
const LOGS_KEPT: usize = 100;

pub(super) fn verify(operation: &mut v1::Operation, found: v1::VerifyDetail) {
    let Some(verify) = &mut operation.verify else { return };
    verify.packs_checked = verify.packs_checked.max(found.packs_checked);
    verify.backups_checked = verify.backups_checked.max(found.backups_checked);
    verify.damaged = joined(&verify.damaged, &found.damaged);
    verify.whole = joined(&verify.whole, &found.whole);
    logs(&mut verify.logs, found.logs);
    let unlisted = found.damage_count.saturating_sub(found.damages.len() as u64);
    verify.damage_count += unlisted;
    for damage in found.damages {
        if verify.damages.iter().any(|known| known.object == damage.object && known.what == damage.what) {
            continue;
        }
        verify.damage_count += 1;
        if verify.damages.len() < DAMAGES_KEPT {
            verify.damages.push(damage);
        }
    }
}

/// Of each lineage, by who missed more of it.
fn logs(known: &mut Vec<v1::LogChecked>, found: Vec<v1::LogChecked>) {
    let id = |log: &v1::LogChecked| log.lineage.as_ref().map(|lineage| lineage.id.clone());
    let lost = |log: &v1::LogChecked| log.lost.iter().map(|it| it.to.saturating_sub(it.from)).sum::<u64>();
    for log in found {
        match known.iter().position(|other| id(other) == id(&log)) {
            Some(at) if lost(&known[at]) < lost(&log) => known[at] = log,
            Some(_) => {}
            None if known.len() < LOGS_KEPT => known.push(log),
            None => {}
        }
    }
}

/// Both lists of objects. What does not decode says nothing.
fn joined(one: &Bytes, other: &Bytes) -> Bytes {
    let mut all = Objects::decode(one).unwrap_or_default();
    all.extend(&Objects::decode(other).unwrap_or_default());
    if all.is_empty() { Bytes::new() } else { all.encode().into() }
}
