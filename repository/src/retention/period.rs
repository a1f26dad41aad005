//! Hours, days, weeks, months and years, as the calendar of a time zone has them.
use std::fmt;

use jiff::Timestamp as Instant;
use jiff::tz::TimeZone;

use crate::clock::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl Period {
    pub const ALL: [Self; 5] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// The setting that counts them.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Self::Hourly => "keep_hourly",
            Self::Daily => "keep_daily",
            Self::Weekly => "keep_weekly",
            Self::Monthly => "keep_monthly",
            Self::Yearly => "keep_yearly",
        }
    }

    /// The period that holds that moment. An hour that a clock change repeats is two, told apart by their offset.
    pub(super) fn name(self, at: Timestamp, zone: &TimeZone) -> String {
        let at = instant(at).to_zoned(zone.clone());
        match self {
            Self::Hourly => at.strftime("%Y-%m-%d %H:00%:z").to_string(),
            Self::Daily => at.strftime("%Y-%m-%d").to_string(),
            Self::Weekly => at.strftime("%G-W%V").to_string(),
            Self::Monthly => at.strftime("%Y-%m").to_string(),
            Self::Yearly => at.strftime("%Y").to_string(),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.setting().trim_start_matches("keep_"))
    }
}

pub(crate) fn date(at: Timestamp) -> String {
    instant(at).to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%MZ").to_string()
}

/// What the calendar has no place for becomes its last moment.
fn instant(at: Timestamp) -> Instant {
    i64::try_from(at.0).ok().and_then(|ms| Instant::from_millisecond(ms).ok()).unwrap_or(Instant::MAX)
}
