//! Types of services and their plans: how often a backup is made, and what stays. Data and words only; what is to be done
//! follows from the settings that a plan stands for, by the same rules as if an operator had written them.
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use palinurus_repository::{Error, Result};

mod configured;
mod table;
#[cfg(test)]
mod tests;

pub use configured::Plans;

pub const TIERS: [&str; 4] = ["hobbyist", "startup", "business", "premium"];

#[derive(Clone, Debug)]
pub struct Type {
    pub name: &'static str,
    /// In the order of [`TIERS`]; none: there is no such plan.
    plans: [Option<Backups>; 4],
    /// What the database itself offers to get data out. It is no snapshot of the service.
    pub export: Option<&'static str>,
    /// None: it has backups.
    pub note: Option<Note>,
    /// One node's data is all of the service's, and the others' follow it.
    pub(crate) replicated: bool,
    /// Nodes of one shard have the same data, and each shard its own.
    pub(crate) sharded: bool,
}

/// Why there are no backups of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub why: &'static str,
    pub instead: &'static str,
}

/// What a plan promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backups {
    Nothing,
    Kept { every: Every, keep: Keep },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    Hour,
    HalfDay,
    Day,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// One, for disaster recovery only.
    Single,
    /// One day's.
    SingleDay,
    /// As long as it is at most that much older than the newest.
    Within(Duration),
    /// Each of the last 24 hours', then one of each day.
    HourlyThenDaily { days: u32 },
    /// Any moment of so many days can be restored.
    AnyMoment { days: u32 },
}

impl Type {
    const fn new(name: &'static str, plans: [Option<Backups>; 4]) -> Self {
        Self { name, plans, export: None, note: None, replicated: false, sharded: false }
    }

    const fn exported(self, tool: &'static str) -> Self {
        Self { export: Some(tool), ..self }
    }

    const fn noted(self, why: &'static str, instead: &'static str) -> Self {
        Self { note: Some(Note { why, instead }), ..self }
    }

    const fn replicated(self) -> Self {
        Self { replicated: true, ..self }
    }

    const fn sharded(self) -> Self {
        Self { sharded: true, ..self }
    }

    pub fn all() -> &'static [Type] {
        &table::TYPES
    }

    pub fn named(name: &str) -> Result<&'static Self> {
        Self::all().iter().find(|known| known.name == name).ok_or_else(|| {
            let known: Vec<&str> = Self::all().iter().map(|known| known.name).collect();
            Error::invalid(format!("type {name:?} is not known"))
                .with_hint(format!("known types: {}", known.join(", ")))
        })
    }

    /// Those that there are, the smallest first.
    pub fn plans(&self) -> impl Iterator<Item = (&'static str, &Backups)> {
        TIERS.into_iter().zip(&self.plans).filter_map(|(tier, backups)| Some((tier, backups.as_ref()?)))
    }

    /// What a plan of it stands for.
    pub fn settings(&self, tier: &str, backups: &Backups) -> HashMap<String, String> {
        let mut settings = backups.settings();
        if self.replicated && *backups != Backups::Nothing {
            let from = if matches!(tier, "business" | "premium") { "replica" } else { "backup" };
            settings.push(("failover_from", from.to_owned()));
        }
        // What the single backup leads along, and not what lies before it.
        if self.replicated && matches!(backups, Backups::Kept { keep: Keep::Single, .. }) {
            settings.push(("logs", "1s".to_owned()));
        }
        settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// A plan's name without its size.
fn base(name: &str) -> Option<&str> {
    let (base, size) = name.split_once('-').map_or((name, None), |(base, size)| (base, Some(size)));
    let usable = |part: &str| {
        (1..=16).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (usable(base) && size.is_none_or(usable)).then_some(base)
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.instead)
    }
}

impl Backups {
    /// The settings of a service that keep the promise; what the operator sets goes over them.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let Self::Kept { every, keep } = self else { return vec![("schedule", "off".to_owned())] };
        let mut settings = vec![("schedule", every.schedule().to_owned())];
        settings.extend(match keep {
            Keep::Single => {
                vec![("keep_last", "1".to_owned()), ("restore_for", "recovery".to_owned())]
            }
            Keep::SingleDay => vec![("keep_daily", "1".to_owned())],
            Keep::Within(span) => vec![("keep_within", span_text(*span))],
            Keep::HourlyThenDaily { days } => {
                vec![("keep_hourly", "24".to_owned()), ("keep_daily", days.to_string())]
            }
            Keep::AnyMoment { days } => {
                vec![("keep_within", format!("{days}d")), ("logs", format!("{days}d"))]
            }
        });
        settings
    }
}

impl Every {
    pub fn schedule(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::HalfDay => "12-hourly",
            Self::Day => "daily",
        }
    }
}

/// As a setting.
fn span_text(span: Duration) -> String {
    format!("{}h", span.as_secs() / 3600)
}

impl fmt::Display for Backups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Kept { every, keep } = self else { return f.write_str("no backups") };
        let how_often = every.schedule();
        match keep {
            Keep::Single => f.write_str("a single backup, only for disaster recovery"),
            Keep::SingleDay => write!(f, "{how_often}, of a single day"),
            Keep::Within(span) if span.as_secs() < 24 * 3600 => {
                write!(f, "{how_often}, up to {} hours", span.as_secs() / 3600)
            }
            Keep::Within(span) => {
                let days = span.as_secs_f64() / (24.0 * 3600.0);
                write!(f, "{how_often}, up to {days} day{}", if days > 1.0 { "s" } else { "" })
            }
            Keep::HourlyThenDaily { days } => write!(f, "hourly for 24 hours, then daily for {days} days"),
            Keep::AnyMoment { days } => write!(f, "{how_often}, and any moment of {days} days (PITR)"),
        }
    }
}
