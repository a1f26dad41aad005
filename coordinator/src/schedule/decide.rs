//! Whether a backup is to begin now. Asked again whenever something has changed or the time that it named has come; asked twice,
//! it says the same.
use std::time::Duration;

use palinurus_repository::Timestamp;

use super::Schedule;

const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_LONGEST: Duration = Duration::from_secs(3600);
/// Clocks of two coordinators differ by less.
const SKEW: Duration = Duration::from_secs(60);

/// More are not counted.
const MISSED_MAX: u32 = 99;

/// What the service's records say of its full and incremental backups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Since when there is something to back up.
    pub created: Timestamp,
    /// Its last backup that was committed, whoever asked for it.
    pub good: Option<Timestamp>,
    /// Those that failed since, and when the last of them ended.
    pub failed: u32,
    pub failed_at: Timestamp,
    pub runs: bool,
}

/// Why one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The time that it is for.
    pub due: Timestamp,
    /// Times before that one which nothing came of; they are made up for by this run.
    pub missed: u32,
    /// From 1.
    pub attempt: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One runs: two never overlap.
    Busy,
    Begin(Run),
    Wait(Timestamp),
    /// It is never due again.
    Never,
}

pub fn decide(schedule: &Schedule, past: &Past, now: Timestamp) -> Verdict {
    if past.runs {
        return Verdict::Busy;
    }
    let Some((due, missed)) = due(schedule, past, now) else {
        return upcoming(schedule, past, now).map_or(Verdict::Never, Verdict::Wait);
    };
    // A clock that was set back since is no reason to wait for it.
    let since = if past.failed_at > now.plus(SKEW) { Timestamp(0) } else { past.failed_at };
    let again = since.plus(pause(past.failed));
    if past.failed > 0 && now < again {
        return Verdict::Wait(again);
    }
    Verdict::Begin(Run { due, missed, attempt: past.failed + 1 })
}

/// The first run from now on, as things are.
fn upcoming(schedule: &Schedule, past: &Past, now: Timestamp) -> Option<Timestamp> {
    let mut time = schedule.after(now)?;
    if is_covered(good(past, now), time, schedule.before(time)) {
        time = schedule.after(time)?;
    }
    Some(time)
}

/// The last time that has come and that no backup covers, and how many more there were.
fn due(schedule: &Schedule, past: &Past, now: Timestamp) -> Option<(Timestamp, u32)> {
    let good = good(past, now);
    let since = good.unwrap_or(past.created);
    let last = schedule.before(now.plus(Duration::from_millis(1))).filter(|last| *last > since)?;
    let mut earlier = schedule.before(last);
    if is_covered(good, last, earlier) {
        return None;
    }
    let mut missed = 0;
    while let Some(time) = earlier.filter(|time| *time > since && missed < MISSED_MAX) {
        earlier = schedule.before(time);
        if is_covered(good, time, earlier) {
            break;
        }
        missed += 1;
    }
    Some((last, missed))
}

/// A backup that began nearer to this time than to the one before does for it: one that came late, that somebody asked for, or
/// that the schedule had before it was changed.
pub(super) fn is_covered(good: Option<Timestamp>, time: Timestamp, before: Option<Timestamp>) -> bool {
    let (Some(good), Some(before)) = (good, before) else { return false };
    good > before.plus(time.since(before) / 2)
}

/// What began in the future began under a clock that was wrong: one backup too many is better than none for a year.
fn good(past: &Past, now: Timestamp) -> Option<Timestamp> {
    past.good.filter(|good| *good <= now.plus(SKEW))
}

/// After so many failures.
fn pause(failed: u32) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << failed.saturating_sub(1).min(10));
    doubled.min(RETRY_LONGEST)
}

/// When a changed schedule makes its first backup, and the time that is passed over for a backup that is recent.
pub fn takes_effect(
    schedule: &Schedule,
    past: &Past,
    now: Timestamp,
) -> Option<(Timestamp, Option<Timestamp>)> {
    let first = schedule.after(now)?;
    let from = upcoming(schedule, past, now)?;
    Some((from, (from != first).then_some(first)))
}
