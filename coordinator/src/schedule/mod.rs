//! When a service's backups begin by themselves. Pure: no clock of its own, and chance only from the service's name.
//!
//! Times are those of the clock on the wall of a time zone. What is set to certain hours runs once for each of them: an hour
//! that a change of the clocks leaves out is made up for right after as much as it was left out by, and of one that comes
//! twice the first counts. What runs every hour runs in every hour that passes.
use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp as Instant;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use palinurus_repository::{Error, Result, Timestamp};

mod archive;
mod cron;
mod decide;
mod past;
mod standing;
#[cfg(test)]
mod tests;

pub(crate) use archive::{Archive, SETTING as LOGS_PATIENCE, check as check_archive};
use cron::{Cron, Set};
pub use decide::{Past, Run, Verdict, decide, takes_effect};
pub(crate) use past::Newest;
pub(crate) use standing::{Known, changes, of as schedule_of, standing};

/// `schedule`: `hourly`, `12-hourly`, `daily`, `off`, or a line as cron has it. `backup_hour`, `backup_minute`: when; what
/// is not said is the service's own. `time_zone` is retention's too.
pub const SETTINGS: [&str; 3] = ["schedule", "backup_hour", "backup_minute"];

/// Services of one time do not begin at once, but within that.
const SPREAD_MS: u64 = 60_000;
/// For a line of cron whose days are rare: the 29th of February on a Monday may be 40 years away.
const SEARCH_DAYS: u32 = 366 * 41;
/// A change of clocks moves a time by less.
const MOVED_DAYS: u32 = 2;

#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
    /// After the minute.
    delay: Duration,
}

impl Schedule {
    /// None: it is off, or nothing was said.
    pub fn read(service: &str, settings: &HashMap<String, String>) -> Result<Option<Self>> {
        let get = |key: &str| settings.get(key).map(|value| value.trim());
        let zone = get("time_zone").map_or(Ok(TimeZone::UTC), |name| {
            TimeZone::get(name).map_err(|_| {
                Error::invalid(format!("time_zone {name:?} is not known"))
                    .with_hint("a name of the IANA database, such as UTC or Europe/Helsinki")
            })
        })?;
        let part = |key: &str, below: u8| {
            let wrong = |text: &str| {
                Error::invalid(format!("{key} {text:?}"))
                    .with_hint(format!("a number from 0 to {}", below - 1))
            };
            let read = |text: &str| text.parse::<u8>().ok().filter(|n| *n < below).ok_or_else(|| wrong(text));
            get(key).map(read).transpose()
        };
        let (hour, minute) = (part("backup_hour", 24)?, part("backup_minute", 60)?);
        let own = chance(service);
        let text = get("schedule").unwrap_or("off");
        // Which of them the operator did not choose: they spread over the day.
        let minutes = Set::of([minute.unwrap_or((own % 60) as u8)]);
        let at = |every: u8| hour.unwrap_or((own / 60 % 24) as u8) % every;
        let cron = match text {
            "off" => {
                if hour.is_some() || minute.is_some() {
                    return Err(Error::invalid("backup_hour and backup_minute without a schedule")
                        .with_hint("schedule = \"daily\""));
                }
                return Ok(None);
            }
            "hourly" if hour.is_some() => {
                return Err(
                    Error::invalid("backup_hour with an hourly schedule").with_hint("backup_minute alone")
                );
            }
            "hourly" => Cron::daily(Set::of(0..24), minutes),
            "12-hourly" => Cron::daily(Set::of([at(12), at(12) + 12]), minutes),
            "daily" => Cron::daily(Set::of([at(24)]), minutes),
            _ if hour.is_some() || minute.is_some() => {
                return Err(Error::invalid(format!("schedule {text:?} with backup_hour or backup_minute"))
                    .with_hint("a line of cron says the time itself"));
            }
            line => Cron::parse(line)?,
        };
        let delay = Duration::from_millis(own / (24 * 60) % SPREAD_MS);
        Ok(Some(Self { cron, zone, delay }))
    }

    /// The first after that moment. None: the calendar has no place for it.
    pub fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        let at = self.instant(moment)?;
        let begin = back(self.zone.to_datetime(at).date(), MOVED_DAYS);
        let days = std::iter::successors(Some(begin), |date| date.tomorrow().ok()).take(SEARCH_DAYS as usize);
        let mut best: Option<Instant> = None;
        let mut more = MOVED_DAYS;
        for date in days {
            // A time that was moved may lie behind one of a later day.
            if best.is_some() {
                if more == 0 {
                    break;
                }
                more -= 1;
            }
            best = self.of_day(date).filter(|time| *time > at).chain(best).min();
        }
        self.timestamp(best?)
    }

    /// The last before that moment.
    pub fn before(&self, moment: Timestamp) -> Option<Timestamp> {
        let at = self.instant(moment)?;
        let begin = forward(self.zone.to_datetime(at).date(), MOVED_DAYS);
        let days =
            std::iter::successors(Some(begin), |date| date.yesterday().ok()).take(SEARCH_DAYS as usize);
        let mut best: Option<Instant> = None;
        let mut more = MOVED_DAYS;
        for date in days {
            if best.is_some() {
                if more == 0 {
                    break;
                }
                more -= 1;
            }
            best = self.of_day(date).filter(|time| *time < at).chain(best).max();
        }
        self.timestamp(best?)
    }

    fn of_day(&self, date: Date) -> impl Iterator<Item = Instant> {
        let hours = self.cron.has_day(date).then(|| self.cron.hours.all()).into_iter().flatten();
        let times = hours.flat_map(|hour| self.cron.minutes.all().map(move |minute| (hour, minute)));
        times.flat_map(move |(hour, minute)| self.instants(date.at(hour, minute, 0, 0)))
    }

    /// None, one or two.
    fn instants(&self, time: DateTime) -> impl Iterator<Item = Instant> {
        let every = self.cron.every_hour();
        let offsets = match self.zone.to_ambiguous_timestamp(time).offset() {
            AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
            AmbiguousOffset::Gap { .. } if every => [None, None],
            AmbiguousOffset::Gap { before, .. } => [Some(before), None],
            AmbiguousOffset::Fold { before, after } => [Some(before), every.then_some(after)],
        };
        offsets.into_iter().flatten().filter_map(move |offset| offset.to_timestamp(time).ok())
    }

    fn instant(&self, moment: Timestamp) -> Option<Instant> {
        let ms = i64::try_from(moment.0).ok()?.checked_sub(i64::try_from(self.delay.as_millis()).ok()?)?;
        Instant::from_millisecond(ms).ok()
    }

    fn timestamp(&self, time: Instant) -> Option<Timestamp> {
        Some(Timestamp(u64::try_from(time.as_millisecond()).ok()?).plus(self.delay))
    }
}

fn back(date: Date, days: u32) -> Date {
    (0..days).fold(date, |date, _| date.yesterday().unwrap_or(date))
}

fn forward(date: Date, days: u32) -> Date {
    (0..days).fold(date, |date, _| date.tomorrow().unwrap_or(date))
}

/// The same on every coordinator.
fn chance(service: &str) -> u64 {
    let hash = blake3::hash(service.as_bytes());
    hash.as_bytes().iter().take(7).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
