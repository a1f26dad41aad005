//! A service's settings: those that are known, and those in force.
use std::collections::HashMap;

use palinurus_proto::v1;
use palinurus_repository::{Error, Result};

use crate::plans::Type;
use crate::{drill, failover, power, schedule, scrub};

/// What a service's backups may be restored for: `anything`, or `recovery` of its own nodes alone.
pub(crate) const RESTORE_FOR: &str = "restore_for";
/// `rdb` or `off`: whether a redis dumps at all.
pub(crate) const REDIS_PERSISTENCE: &str = "redis_persistence";

/// `patience`: how long a node may be gone before an operation that needs it fails. `partial`: whether a backup that
/// loses a node so goes on without it (`allow`) or fails (`refuse`, the default). `scrub`: how much of the data is read again
/// each day. `drill`: how often a backup is restored for proof. `failover*` are [`failover::Policy`]'s, and schedule and
/// retention have their own.
const OWN: [&str; 10] = [
    "patience",
    "partial",
    "failover",
    "failover_patience",
    "failover_from",
    scrub::SETTING,
    drill::SETTING,
    RESTORE_FOR,
    REDIS_PERSISTENCE,
    schedule::LOGS_PATIENCE,
];
/// Of what becomes of a service that is off; of when backups begin; and of the repository's own: what stays, and what is rewritten.
const OTHERS: [&[&str]; 4] = [
    &power::SETTINGS,
    &schedule::SETTINGS,
    &palinurus_repository::retention::SETTINGS,
    &palinurus_repository::rewrite::SETTINGS,
];

/// What its plan stands for, and over it what the operator said; of a service that is not on, what that leaves of it.
pub(crate) fn in_force(service: &v1::Service) -> HashMap<String, String> {
    let mut settings = said(service);
    if !power::is_on(service) {
        power::rest(&mut settings);
    }
    settings
}

/// As they are while it is on.
pub(crate) fn said(service: &v1::Service) -> HashMap<String, String> {
    let mut settings = service.plan_settings.clone();
    settings.extend(service.settings.iter().map(|(key, value)| (key.clone(), value.clone())));
    settings
}

/// In force for a service of that name and type.
pub(crate) fn check(service: &str, kind: &Type, settings: &HashMap<String, String>) -> Result<()> {
    let mut known = OWN.iter().chain(OTHERS.into_iter().flatten());
    for key in settings.keys() {
        if !known.clone().any(|known| known == key) {
            let all: Vec<&str> = known.by_ref().copied().collect();
            return Err(Error::invalid(format!("setting {key:?} is not known"))
                .with_hint(format!("known settings: {}", all.join(", "))));
        }
    }
    if let Some(patience) = settings.get("patience") {
        humantime::parse_duration(patience).map_err(|e| {
            Error::invalid(format!("patience {patience:?}")).with_source(e).with_hint("such as 60s or 5m")
        })?;
    }
    one_of(settings, "partial", ["allow", "refuse"])?;
    one_of(settings, RESTORE_FOR, ["anything", "recovery"])?;
    one_of(settings, REDIS_PERSISTENCE, ["rdb", "off"])?;
    if settings.contains_key(REDIS_PERSISTENCE) && kind.name != "redis" {
        return Err(Error::invalid(format!("{REDIS_PERSISTENCE} on a service of type {}", kind.name))
            .with_hint("it is a setting of redis"));
    }
    scrub::percent(settings)?;
    drill::every(settings)?;
    schedule::check_archive(settings)?;
    palinurus_repository::retention::Policy::read(settings)?;
    palinurus_repository::rewrite::Limits::read(settings)?;
    power::Policy::read(settings)?;
    failover::Policy::read(kind.name, settings)?;
    if schedule::Schedule::read(service, settings)?.is_some()
        && let Some(note) = &kind.note
    {
        return Err(Error::invalid(format!("a schedule on a service of type {}: {}", kind.name, note.why))
            .with_hint(note.instead));
    }
    Ok(())
}

fn one_of(settings: &HashMap<String, String>, key: &str, values: [&str; 2]) -> Result<()> {
    match settings.get(key) {
        Some(value) if !values.contains(&value.as_str()) => {
            Err(Error::invalid(format!("{key} {value:?}")).with_hint(values.join(" or ")))
        }
        _ => Ok(()),
    }
}

/// Why a service has no backups, and what to do instead. None: it has.
pub(crate) fn no_backups(service: &v1::Service) -> Option<Error> {
    let kind = Type::named(&service.r#type).ok()?;
    if let Some(note) = &kind.note {
        let what = format!("service {} has no backups: {}", service.name, note.why);
        return Some(Error::invalid(what).with_hint(note.instead));
    }
    let settings = in_force(service);
    let off = settings.get(REDIS_PERSISTENCE).is_some_and(|value| value == "off");
    off.then(|| {
        Error::invalid(format!(
            "service {} has no backups: {REDIS_PERSISTENCE} is off, so nothing is dumped, and its data is lost whenever it \
             is restarted or powered off",
            service.name
        ))
        .with_hint(format!("{REDIS_PERSISTENCE} = \"rdb\""))
    })
}

/// A single backup, for the service's own recovery: no forks of it, and no moments.
pub(crate) fn only_recovers(service: &v1::Service) -> bool {
    in_force(service).get(RESTORE_FOR).is_some_and(|value| value == "recovery")
}
