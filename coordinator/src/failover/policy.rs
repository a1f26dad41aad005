//! A service's settings for failover.
use std::collections::HashMap;
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_repository::{Error, Result};

use crate::plans::Type;
use crate::settings;

pub(crate) const PATIENCE: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    Off,
    #[default]
    Manual,
    Automatic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) mode: Mode,
    /// How long a node may be gone before a spare takes its place.
    pub(crate) patience: Duration,
    /// One node's data is all of the service's, and the others' follow it.
    pub(crate) replicated: bool,
    /// Where one node's data is all of the service's, and the node that was written is lost: from the backup and the log behind
    /// it, whatever the others have. Else somebody is to promote one of them.
    pub(crate) from_backup: bool,
    pub(crate) rebuild: Rebuild,
}

/// Where a lost node's data comes from if others of its shard have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// Nobody has.
    #[default]
    Alone,
    /// From the backup, and from them what that lacks.
    Backup,
    /// From them, and from the backup what they lack.
    Peers,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            patience: PATIENCE,
            replicated: false,
            from_backup: false,
            rebuild: Rebuild::Alone,
        }
    }
}

impl Policy {
    /// A service whose settings were stored was valid then; what is not understood now is left alone.
    pub(crate) fn of(service: &v1::Service) -> Self {
        Self::read(&service.r#type, &settings::in_force(service))
            .unwrap_or_else(|_| Self::of_type(&service.r#type))
    }

    fn of_type(engine: &str) -> Self {
        let is = |of: fn(&Type) -> bool| Type::named(engine).is_ok_and(of);
        let rebuild = if is(|kind| kind.sharded) { Rebuild::Backup } else { Rebuild::Alone };
        Self { replicated: is(|kind| kind.replicated), rebuild, ..Self::default() }
    }

    pub(crate) fn read(engine: &str, settings: &HashMap<String, String>) -> Result<Self> {
        let mut policy = Self::of_type(engine);
        if let Some(mode) = settings.get("failover") {
            policy.mode = match mode.as_str() {
                "off" => Mode::Off,
                "manual" => Mode::Manual,
                "automatic" => Mode::Automatic,
                other => {
                    return Err(Error::invalid(format!("failover {other:?} is not known"))
                        .with_hint("off, manual or automatic"));
                }
            };
        }
        if let Some(patience) = settings.get("failover_patience") {
            policy.patience = humantime::parse_duration(patience).map_err(|e| {
                Error::invalid(format!("failover_patience {patience:?}"))
                    .with_source(e)
                    .with_hint("such as 90s or 5m")
            })?;
            if policy.patience.is_zero() {
                return Err(Error::invalid("failover_patience is zero")
                    .with_hint("a node whose agent restarts is gone for a moment: allow at least that"));
            }
        }
        match settings.get("failover_from").map(String::as_str) {
            None => Ok(policy),
            Some("backup") => Ok(Self { from_backup: policy.replicated, ..policy }),
            Some("replica") if policy.replicated => Ok(policy),
            Some("replica") if policy.rebuild != Rebuild::Alone => {
                Ok(Self { rebuild: Rebuild::Peers, ..policy })
            }
            Some("replica") => Err(Error::invalid(format!(
                "failover_from = replica: the engine {engine} has no replicas to rebuild a node from"
            ))
            .with_hint("leave it at backup")),
            Some(other) => Err(Error::invalid(format!("failover_from {other:?} is not known"))
                .with_hint("backup or replica")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Policy> {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Policy::read("files", &settings.collect())
    }

    #[test]
    fn who_is_preferred_is_said_where_nodes_have_the_same_data() {
        let of = |engine: &str, from: &str| {
            Policy::read(engine, &[("failover_from".to_owned(), from.to_owned())].into())
        };
        assert!(of("postgresql", "backup").unwrap().from_backup);
        assert!(!of("postgresql", "replica").unwrap().from_backup);
        assert!(!of("files", "backup").unwrap().from_backup);
        assert!(!Policy::read("postgresql", &HashMap::new()).unwrap().from_backup);
        assert!(of("files", "replica").is_err());
        assert_eq!(of("clickhouse", "replica").unwrap().rebuild, Rebuild::Peers);
        assert_eq!(of("clickhouse", "backup").unwrap().rebuild, Rebuild::Backup);
        assert_eq!(Policy::read("clickhouse", &HashMap::new()).unwrap().rebuild, Rebuild::Backup);
    }

    #[test]
    fn what_is_not_said_is_manual_and_what_cannot_be_is_refused() {
        assert_eq!(read(&[]).unwrap(), Policy::default());
        let automatic = read(&[("failover", "automatic"), ("failover_patience", "90s")]).unwrap();
        assert_eq!((automatic.mode, automatic.patience), (Mode::Automatic, Duration::from_secs(90)));
        assert_eq!(read(&[("failover", "off"), ("failover_from", "backup")]).unwrap().mode, Mode::Off);
        for (key, value, told) in [
            ("failover", "yes", "yes"),
            ("failover_patience", "soon", "soon"),
            ("failover_patience", "0s", "zero"),
            ("failover_from", "replica", "no replicas"),
            ("failover_from", "luck", "luck"),
        ] {
            assert!(read(&[(key, value)]).unwrap_err().what().contains(told), "{key}");
        }
    }
}
