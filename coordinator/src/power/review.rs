//! A service that stays off: listed for review, its owner told, and given up after a grace where its policy says so.
//!
//! Nothing is deleted by a clock alone. The grace counts from when the owner was told, and each of its days has to be seen to
//! pass: a clock that is set ahead, however far, makes one day of it, and one that is set back makes none.
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_repository::Timestamp;

use super::Policy;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Asked again then, or when the settings change.
    Wait(Timestamp),
    /// Stored, and asked again.
    Note(v1::Power),
    /// The owner is told; once that is done, this is stored.
    Tell(v1::Power),
    Delete,
}

/// Of a service that is off.
pub(crate) fn review(power: &v1::Power, policy: Policy, now: Timestamp) -> Verdict {
    let due = Timestamp(power.off_ms).plus(policy.after);
    if now < due {
        // Its time was made longer, or a clock was ahead.
        return match power.review_ms {
            0 => Verdict::Wait(due),
            _ => Verdict::Note(begun(power, 0)),
        };
    }
    if power.review_ms == 0 {
        return Verdict::Note(begun(power, now.0));
    }
    // Whoever was told that it waits for an operator is told anew.
    if power.told_ms == 0 || (policy.automatic && power.deletes_ms == 0) {
        let deletes_ms = if policy.automatic { now.plus(policy.grace).0 } else { 0 };
        return Verdict::Tell(v1::Power {
            told_ms: now.0,
            deletes_ms,
            days: 0,
            day_ms: now.0,
            ..power.clone()
        });
    }
    if !policy.automatic {
        return match power.deletes_ms {
            0 => Verdict::Wait(now.plus(DAY)),
            _ => Verdict::Note(v1::Power { deletes_ms: 0, days: 0, ..power.clone() }),
        };
    }
    let last = Timestamp(power.day_ms);
    if last > now.plus(DAY) {
        return Verdict::Note(v1::Power { day_ms: now.0, ..power.clone() });
    }
    if now >= last.plus(DAY) {
        return Verdict::Note(v1::Power {
            days: power.days.saturating_add(1),
            day_ms: now.0,
            ..power.clone()
        });
    }
    let end = Timestamp(power.deletes_ms).max(Timestamp(power.told_ms).plus(policy.grace));
    let seen = u64::from(power.days) >= policy.grace.as_secs() / DAY.as_secs();
    if seen && now >= end {
        return Verdict::Delete;
    }
    Verdict::Wait(if seen { end.min(now.plus(DAY)) } else { last.plus(DAY) })
}

fn begun(power: &v1::Power, review_ms: u64) -> v1::Power {
    v1::Power { review_ms, told_ms: 0, days: 0, day_ms: 0, deletes_ms: 0, ..power.clone() }
}
