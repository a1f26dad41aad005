//! Whether a service's log is stored as it is written, and from when on it counts that it is not. Pure.
use std::time::Duration;

use palinurus_proto::v1::{self, Health};
use palinurus_repository::{Error, Result, Timestamp};

use crate::failover::time;
use crate::settings::in_force;

/// How long the log may be behind before the service is late.
pub(crate) const SETTING: &str = "logs_patience";
const DEFAULT: Duration = Duration::from_secs(10 * 60);
const SHORTEST: Duration = Duration::from_secs(60);

/// What a leader knows of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive {
    /// At this moment all that the server has written is stored.
    pub(crate) whole: bool,
    /// Until when it was, as far as is known; at first, since when this leader listens.
    pub(crate) good: Timestamp,
    pub(crate) writer: Option<v1::LogWriterView>,
    pub(crate) failures: Vec<v1::LogFailure>,
    /// Since then a full backup is wanted, and why.
    pub(crate) wanted: Option<(Timestamp, String)>,
}

struct Behind {
    since: Timestamp,
    why: String,
    fails: bool,
}

/// None: no moment between backups is promised.
pub(crate) fn patience(service: &v1::Service) -> Option<Duration> {
    let settings = in_force(service);
    let promised = settings.get("logs")?;
    (promised != "none").then(|| read(settings.get(SETTING)).unwrap_or(DEFAULT))
}

fn read(text: Option<&String>) -> Result<Duration> {
    let Some(text) = text else { return Ok(DEFAULT) };
    let refuse = || Error::invalid(format!("{SETTING} {text:?}"));
    let patience = humantime::parse_duration(text)
        .map_err(|e| refuse().with_source(e).with_hint("such as 10m or 1h"))?;
    if patience < SHORTEST {
        return Err(refuse().with_hint("1m is the shortest: agents tell how far they are now and then"));
    }
    Ok(patience)
}

pub(crate) fn check(settings: &std::collections::HashMap<String, String>) -> Result<()> {
    read(settings.get(SETTING)).map(drop)
}

/// `newest`: when the newest backup that is whole began.
pub(super) fn health(
    archive: &Archive,
    newest: Option<Timestamp>,
    patience: Duration,
    now: Timestamp,
) -> Option<(Health, String)> {
    let behind = behind(archive, newest)?;
    (behind.since.plus(patience) <= now)
        .then_some((if behind.fails { Health::Failing } else { Health::Late }, behind.why))
}

/// When that may be another one, if nobody tells anything new.
pub(super) fn changes(
    archive: &Archive,
    newest: Option<Timestamp>,
    patience: Duration,
    now: Timestamp,
) -> Option<Timestamp> {
    let at = behind(archive, newest)?.since.plus(patience);
    (at > now).then_some(at)
}

fn behind(archive: &Archive, newest: Option<Timestamp>) -> Option<Behind> {
    let Archive { whole, good, writer, failures, wanted } = archive;
    if let Some((since, why)) =
        wanted.as_ref().filter(|(since, _)| newest.is_none_or(|newest| newest < *since))
    {
        let why = format!("a full backup is wanted for its log, and has not come: {why}");
        return Some(Behind { since: *since, why, fails: false });
    }
    if *whole {
        return None;
    }
    let told = writer.as_ref().and_then(|writer| writer.status.as_ref()?.failure.as_ref());
    let failure = told.map(|failure| failure.message.clone()).or_else(|| {
        let first = failures.first()?;
        Some(format!("{}: {}", first.node, first.failure.as_ref()?.message))
    });
    let why = match (writer, &failure) {
        (_, Some(failure)) => format!("its log is not stored since {}: {failure}", time(*good)),
        (None, None) => format!("nobody has stored its log since {}", time(*good)),
        (Some(writer), None) if !writer.streaming => {
            format!("{} has not stored its log since {}", writer.node, time(*good))
        }
        (Some(writer), None) => {
            format!(
                "its log is stored up to {}: {} is behind by {} bytes",
                time(*good),
                writer.node,
                writer.lag_bytes
            )
        }
    };
    Some(Behind { since: *good, why, fails: failure.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    fn archive(writer: Option<v1::LogWriterView>) -> Archive {
        Archive { good: Timestamp(1_000_000), writer, ..Archive::default() }
    }

    fn writer(streaming: bool, failure: Option<&str>) -> v1::LogWriterView {
        let failure = failure.map(|message| v1::Failure { message: message.into(), ..Default::default() });
        let status = v1::LogStatus { failure, ..Default::default() };
        v1::LogWriterView {
            node: "n1".into(),
            streaming,
            lag_bytes: 77,
            status: Some(status),
            ..Default::default()
        }
    }

    #[test]
    fn a_log_that_is_behind_counts_once_patience_is_over_and_says_why() {
        let failed = v1::Failure { message: "no password".into(), ..Default::default() };
        let unopened = v1::LogFailure { node: "n2".into(), failure: Some(failed) };
        let wanted = (Timestamp(1_000_000), "a hole".to_owned());
        for (archive, health_then, said) in [
            (archive(None), Health::Late, "nobody"),
            (archive(Some(writer(false, None))), Health::Late, "n1 has not"),
            (archive(Some(writer(true, None))), Health::Late, "77 bytes"),
            (archive(Some(writer(true, Some("no room")))), Health::Failing, "no room"),
            (Archive { failures: vec![unopened], ..archive(None) }, Health::Failing, "n2: no password"),
            (Archive { whole: true, wanted: Some(wanted), ..archive(None) }, Health::Late, "a hole"),
        ] {
            let end = Timestamp(1_600_000);
            let at = |now| health(&archive, None, LIMIT, now);
            assert_eq!(at(Timestamp(end.0 - 1)), None, "{said}");
            assert_eq!(changes(&archive, None, LIMIT, Timestamp(end.0 - 1)), Some(end));
            let (is, why) = at(end).unwrap();
            assert!(is == health_then && why.contains(said), "{is:?} {why}");
            assert_eq!(changes(&archive, None, LIMIT, end), None, "it is told already");
        }
    }

    #[test]
    fn what_is_stored_is_well_and_a_backup_that_came_is_wanted_no_more() {
        let whole = Archive { whole: true, ..archive(Some(writer(true, None))) };
        assert_eq!(health(&whole, None, LIMIT, Timestamp(u64::MAX)), None);
        let led = Archive { wanted: Some((Timestamp(5), "a hole".into())), ..whole };
        assert_eq!(health(&led, Some(Timestamp(6)), LIMIT, Timestamp(u64::MAX)), None);
        assert!(health(&led, Some(Timestamp(4)), LIMIT, Timestamp(u64::MAX)).is_some());
    }

    #[test]
    fn only_promised_logs_count() {
        let service = |settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            v1::Service { settings: settings.collect(), ..Default::default() }
        };
        assert_eq!(patience(&service(&[])), None);
        assert_eq!(patience(&service(&[("logs", "14d")])), Some(DEFAULT));
        assert_eq!(patience(&service(&[("logs", "14d"), (SETTING, "1h")])), Some(Duration::from_secs(3600)));
        for bad in ["soon", "59s", ""] {
            assert!(check(&service(&[(SETTING, bad)]).settings).is_err(), "{bad}");
        }
    }
}
