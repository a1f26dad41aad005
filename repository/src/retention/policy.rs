//! A service's settings for retention.
use std::collections::HashMap;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::Period;
use crate::error::{Error, Result};

/// `keep_*`: which backups stay. `retention_interval`: how often the leader looks (`off`: never by itself).
/// `logs`: for how long any moment can be restored.
pub const SETTINGS: [&str; 11] = [
    "keep_last",
    "keep_hourly",
    "keep_daily",
    "keep_weekly",
    "keep_monthly",
    "keep_yearly",
    "keep_within",
    "keep_minimum",
    "time_zone",
    "retention_interval",
    "logs",
];

const INTERVAL: Duration = Duration::from_secs(3600);
const SHORTEST: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub last: u32,
    /// By period, in the order of [`Period::ALL`].
    pub counts: [u32; 5],
    /// Counted back from the newest backup; with its text.
    pub within: Option<(Duration, String)>,
    /// So many complete backups stay, whatever the other rules say.
    pub minimum: u32,
    pub zone: TimeZone,
    /// None: nothing happens by itself.
    pub interval: Option<Duration>,
    /// For so long any moment stays restorable, where logs are kept. None: for ever.
    pub logs: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            last: 0,
            counts: [0; 5],
            within: None,
            minimum: 0,
            zone: TimeZone::UTC,
            interval: Some(INTERVAL),
            logs: None,
        }
    }
}

impl Policy {
    /// Settings of other things are passed over.
    pub fn read(settings: &HashMap<String, String>) -> Result<Self> {
        let get = |key: &str| settings.get(key).map(|value| value.trim());
        let mut policy = Self::default();
        if let Some(text) = get("keep_last") {
            policy.last = count("keep_last", text)?;
        }
        for (period, slot) in Period::ALL.into_iter().zip(&mut policy.counts) {
            if let Some(text) = get(period.setting()) {
                *slot = count(period.setting(), text)?;
            }
        }
        if let Some(text) = get("keep_within") {
            policy.within = Some((duration("keep_within", text)?, text.to_owned()));
        }
        if let Some(text) = get("keep_minimum") {
            policy.minimum = count("keep_minimum", text)?;
        }
        if let Some(text) = get("time_zone") {
            policy.zone = TimeZone::get(text).map_err(|_| {
                Error::invalid(format!("time_zone {text:?} is not known"))
                    .with_hint("a name of the IANA database, such as UTC or Europe/Helsinki")
            })?;
        }
        if let Some(text) = get("retention_interval") {
            policy.interval = match text {
                "off" => None,
                text => Some(duration("retention_interval", text)?.max(SHORTEST)),
            };
        }
        if let Some(text) = get("logs") {
            policy.logs = Some(duration("logs", text)?);
        }
        if policy.is_empty() && policy.minimum > 0 {
            return Err(Error::invalid("keep_minimum without another rule").with_hint(
                "without a rule everything is kept: add keep_last, keep_daily, … or keep_within",
            ));
        }
        Ok(policy)
    }

    /// Without a rule everything is kept.
    pub fn is_empty(&self) -> bool {
        self.last == 0 && self.counts == [0; 5] && self.within.is_none()
    }

    pub fn count(&self, period: Period) -> u32 {
        Period::ALL.iter().position(|each| *each == period).map_or(0, |at| self.counts[at])
    }
}

fn count(key: &str, text: &str) -> Result<u32> {
    let counted = if text == "all" { Some(u32::MAX) } else { text.parse().ok() };
    counted.ok_or_else(|| {
        Error::invalid(format!("{key} {text:?}")).with_hint("a number of backups, such as 7, or \"all\"")
    })
}

fn duration(key: &str, text: &str) -> Result<Duration> {
    let wrong = || Error::invalid(format!("{key} {text:?}")).with_hint("such as 90m, 12h or 30d");
    let parsed = humantime::parse_duration(text).map_err(|e| wrong().with_source(e))?;
    if parsed.is_zero() { Err(wrong()) } else { Ok(parsed) }
}
