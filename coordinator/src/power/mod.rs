//! Services that are not in use: what a change of a service's power does next, and when one that stays off is given up. Pure,
//! from the service's record and its operations: whoever leads next decides the same.
use std::collections::HashMap;
use std::time::Duration;

use palinurus_proto::v1::{self, OperationKind, PowerState};
use palinurus_repository::{Error, Result, Timestamp};

use crate::settings;

mod assign;
mod change;
mod review;
#[cfg(test)]
mod tests;

pub(crate) use assign::{Fit, assign};
pub(crate) use change::{Step, Tail, View, decide};
pub(crate) use review::{Verdict, review};

/// `review_after`: how long a service may be off before it is listed for review and its owner told. `review_grace`: how much
/// longer it is kept. `power_off_policy`: whether it is deleted then by itself (`automatic`), or when an operator says so
/// (`review`, the default).
pub(crate) const SETTINGS: [&str; 3] = ["review_after", "review_grace", "power_off_policy"];
const AFTER: Duration = Duration::from_secs(180 * 24 * 3600);
const GRACE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Stands in the settings in force of a service that is not on.
const RESTS: &str = "power";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) after: Duration,
    pub(crate) grace: Duration,
    pub(crate) automatic: bool,
}

impl Policy {
    pub(crate) fn read(settings: &HashMap<String, String>) -> Result<Self> {
        let span = |key: &str, default: Duration| {
            settings.get(key).map_or(Ok(default), |text| {
                let wrong = || Error::invalid(format!("{key} {text:?}")).with_hint("such as 180d");
                humantime::parse_duration(text).map_err(|e| wrong().with_source(e))
            })
        };
        let automatic = match settings.get("power_off_policy").map(String::as_str) {
            None | Some("review") => false,
            Some("automatic") => true,
            Some(other) => {
                return Err(
                    Error::invalid(format!("power_off_policy {other:?}")).with_hint("review or automatic")
                );
            }
        };
        let grace = span("review_grace", GRACE)?;
        if grace.is_zero() {
            return Err(Error::invalid("review_grace is zero")
                .with_hint("who is told that a service goes needs time to keep it: such as 30d"));
        }
        Ok(Self { after: span("review_after", AFTER)?, grace, automatic })
    }

    /// A service whose settings were stored was valid then; what is not understood now deletes nothing.
    pub(crate) fn of(service: &v1::Service) -> Self {
        let kept = Self { after: AFTER, grace: GRACE, automatic: false };
        Self::read(&settings::said(service)).unwrap_or(kept)
    }
}

pub(crate) fn state(service: &v1::Service) -> PowerState {
    service.power.as_ref().map_or(PowerState::PowerOn, v1::Power::state)
}

pub(crate) fn is_on(service: &v1::Service) -> bool {
    state(service) == PowerState::PowerOn
}

/// Nothing begins by itself any more, and everything is kept.
pub(crate) fn rest(settings: &mut HashMap<String, String>) {
    let others = [&palinurus_repository::retention::SETTINGS[..], &crate::schedule::SETTINGS];
    for key in others.into_iter().flatten().chain(&[crate::scrub::SETTING, crate::drill::SETTING]) {
        settings.remove(*key);
    }
    for (key, value) in [("failover", "off"), ("retention_interval", "off"), (RESTS, "off")] {
        settings.insert(key.to_owned(), value.to_owned());
    }
}

pub(crate) fn rests(settings: &HashMap<String, String>) -> bool {
    settings.contains_key(RESTS)
}

/// What is for services that are on.
pub(crate) fn must_be_on(service: &v1::Service) -> Result<()> {
    let name = &service.name;
    let (what, hint) = match state(service) {
        PowerState::PowerOn => return Ok(()),
        PowerState::PowerOff => ("is off", format!("palinurus service power-on {name}")),
        PowerState::PowerStopping => {
            ("is being powered off", format!("palinurus service show {name} says what that waits for"))
        }
        PowerState::PowerStarting => {
            ("is being powered on", format!("palinurus service show {name} says what that waits for"))
        }
        PowerState::PowerDeleting => ("is being deleted", "there is no way back".to_owned()),
    };
    Err(Error::conflict(format!("service {name} {what}")).with_hint(hint))
}

/// Told apart from all changes before it, on whatever clock.
fn since(power: &v1::Power, now: Timestamp) -> u64 {
    now.0.max(power.since_ms.saturating_add(1))
}

pub(crate) fn stopping(power: &v1::Power, no_backup: bool, now: Timestamp) -> v1::Power {
    let power = v1::Power { since_ms: since(power, now), no_backup, ..Default::default() };
    with(power, PowerState::PowerStopping)
}

/// From now on.
pub(crate) fn off(power: &v1::Power, why: String, now: Timestamp) -> v1::Power {
    let power = v1::Power { since_ms: since(power, now), off_ms: now.0, why, ..Default::default() };
    with(power, PowerState::PowerOff)
}

/// As long as before: it never came to be on, or to be deleted.
pub(crate) fn still_off(power: &v1::Power, why: String, now: Timestamp) -> v1::Power {
    with(v1::Power { since_ms: since(power, now), why, delta: false, ..power.clone() }, PowerState::PowerOff)
}

pub(crate) fn starting(power: &v1::Power, delta: bool, now: Timestamp) -> v1::Power {
    let power = v1::Power { since_ms: since(power, now), delta, why: String::new(), ..power.clone() };
    with(power, PowerState::PowerStarting)
}

pub(crate) fn on(power: &v1::Power, why: String, now: Timestamp) -> v1::Power {
    v1::Power { since_ms: since(power, now), why, ..Default::default() }
}

pub(crate) fn deleting(power: &v1::Power, now: Timestamp) -> v1::Power {
    let power = v1::Power { since_ms: since(power, now), why: String::new(), ..power.clone() };
    with(power, PowerState::PowerDeleting)
}

fn with(mut power: v1::Power, state: PowerState) -> v1::Power {
    power.set_state(state);
    power
}

/// Whether an operation that begins now is one of a change of the service's power: then that change's number.
pub(crate) fn number(service: &v1::Service, kind: OperationKind) -> u64 {
    let Some(power) = &service.power else { return 0 };
    match (power.state(), kind) {
        (PowerState::PowerStopping, OperationKind::Backup)
        | (PowerState::PowerStarting, OperationKind::Restore | OperationKind::Failover)
        | (PowerState::PowerDeleting, OperationKind::Retention) => power.since_ms,
        _ => 0,
    }
}

/// Whether its log is taken in.
pub(crate) fn takes_log(service: &v1::Service) -> bool {
    !matches!(state(service), PowerState::PowerOff | PowerState::PowerDeleting)
}

/// How a service that is not on stands, in words.
pub(crate) fn told(service: &v1::Service) -> Option<String> {
    let power = service.power.as_ref().filter(|_| !is_on(service))?;
    let time = |at: u64| crate::failover::time(Timestamp(at));
    let mut parts = vec![match power.state() {
        PowerState::PowerStopping => "it is being powered off".to_owned(),
        PowerState::PowerStarting => "it is being powered on".to_owned(),
        PowerState::PowerDeleting => "it is being deleted, with its backups".to_owned(),
        PowerState::PowerOn | PowerState::PowerOff => format!("off since {}", time(power.off_ms)),
    }];
    if !power.why.is_empty() {
        parts.push(power.why.clone());
    }
    if power.state() == PowerState::PowerOff && power.review_ms > 0 {
        let name = &service.name;
        parts.push(match power.deletes_ms {
            0 => format!(
                "listed for review since {}: `palinurus service delete {name}` deletes it with its backups, powering it on and \
                 off again keeps it",
                time(power.review_ms)
            ),
            at => format!(
                "listed for review since {}: it is deleted with its backups {}, unless it is powered on before",
                time(power.review_ms),
                time(at)
            ),
        });
    }
    Some(parts.join("; "))
}
