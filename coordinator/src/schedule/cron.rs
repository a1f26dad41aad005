//! Which minutes of which days: a line as cron has it, `minute hour day month weekday`.
use jiff::civil::Date;
use palinurus_repository::{Error, Result};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// After so many the calendar repeats itself, weekdays too.
const CYCLE_DAYS: i32 = 146_097;

/// A set of numbers below 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    pub(super) fn of(numbers: impl IntoIterator<Item = u8>) -> Self {
        Self(numbers.into_iter().fold(0, |set, number| set | 1 << number))
    }

    pub(super) fn has(self, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|number| number < 64 && self.0 >> number & 1 == 1)
    }

    pub(super) fn all(self) -> impl Iterator<Item = i8> {
        (0..64).filter(move |number| self.has(*number))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    pub(super) minutes: Set,
    pub(super) hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
    /// As cron has it: where both day and weekday are restricted, either will do.
    either: bool,
}

impl Cron {
    /// At these minutes of these hours, every day.
    pub(super) fn daily(hours: Set, minutes: Set) -> Self {
        let (days, months, weekdays) = (Set::of(1..=31), Set::of(1..=12), Set::of(0..=6));
        Self { minutes, hours, days, months, weekdays, either: false }
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = |why: String| {
            Error::invalid(format!("schedule {text:?}: {why}")).with_hint(
                "hourly, 12-hourly, daily, off, or a line as cron has it, such as \"30 3 * * mon-fri\"",
            )
        };
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let &[minute, hour, day, month, weekday] = parts.as_slice() else {
            return Err(wrong("it has not five parts".to_owned()));
        };
        let part = |what: &str, text: &str, low, high, names: &[&str], first| {
            numbers(text, low, high, names, first).ok_or_else(|| wrong(format!("{what} {text:?}")))
        };
        let weekdays = part("weekday", weekday, 0, 7, &WEEKDAYS, 0)?;
        let cron = Self {
            minutes: part("minute", minute, 0, 59, &[], 0)?,
            hours: part("hour", hour, 0, 23, &[], 0)?,
            days: part("day", day, 1, 31, &[], 1)?,
            months: part("month", month, 1, 12, &MONTHS, 1)?,
            // Sunday is 0 and 7.
            weekdays: Set((weekdays.0 | weekdays.0 >> 7) & 0x7f),
            either: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        let mut date = Date::constant(2000, 1, 1);
        for _ in 0..CYCLE_DAYS {
            if cron.has_day(date) {
                return Ok(cron);
            }
            let Ok(next) = date.tomorrow() else { break };
            date = next;
        }
        Err(wrong("no day is ever like that".to_owned()))
    }

    pub(super) fn has_day(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        self.months.has(date.month()) && if self.either { day || weekday } else { day && weekday }
    }

    /// It means every hour that passes, and not certain ones of a day.
    pub(super) fn every_hour(&self) -> bool {
        self.hours == Set::of(0..=23)
    }
}

/// `*`, `5`, `1-5`, `*/15`, `mon,wed-fri`, `8-18/2`.
fn numbers(text: &str, low: u8, high: u8, names: &[&str], first: u8) -> Option<Set> {
    let number = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = match named {
            Some(at) => u8::try_from(at).ok()? + first,
            None => text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))?,
        };
        (low..=high).contains(&number).then_some(number)
    };
    let mut set = Set(0);
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, number_above_zero(step)?),
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (number(from)?, number(to)?),
            // As cron has it: `5/15` begins there and goes on to the end.
            None if part.contains('/') => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return None;
        }
        set.0 |= Set::of((from..=to).step_by(step)).0;
    }
    Some(set)
}

fn number_above_zero(text: &str) -> Option<usize> {
    text.parse().ok().filter(|step| (1..64).contains(step))
}
