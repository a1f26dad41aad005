//! How a service stands by its schedule: when the next backup begins, and whether what there is protects it. Pure.
use palinurus_proto::v1::{self, Health};
use palinurus_repository::Timestamp;

use super::decide::{is_covered, takes_effect};
use super::past::{Newest, failed};
use super::{Archive, Past, Schedule, Verdict, archive, decide};
use crate::failover::time;
use crate::plans::Type;
use crate::power;
use crate::settings::{in_force, no_backups};

/// What is known of a service's backups and of its log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) newest: Newest,
    /// Only who leads hears of it.
    pub(crate) archive: Option<Archive>,
}

/// `known`: none where the ledger could not be asked. `operations` are the service's.
pub(crate) fn standing<'a>(
    service: &v1::Service,
    known: Option<&Known>,
    operations: impl Iterator<Item = &'a v1::Operation> + Clone,
    now: Timestamp,
) -> v1::Standing {
    let newest = known.map(|known| known.newest);
    let none = no_backups(service);
    let past = Past::of(service, newest.unwrap_or_default(), operations.clone());
    let schedule = of(service);
    let next = schedule.as_ref().map(|schedule| next(schedule, &past, now)).unwrap_or_default();
    let (health, why) = match (&none, newest) {
        _ if !power::is_on(service) => (Health::Off, power::told(service).unwrap_or_default()),
        (Some(none), _) => (Health::Unprotected, none.what().to_owned()),
        (None, None) => (Health::Unspecified, "its repository is not open".to_owned()),
        (None, Some(newest)) => {
            let last = failed(operations, past.good).max_by_key(|it| it.finished_ms);
            let why = last.and_then(|it| it.failure.as_ref()).map(|failure| failure.message.as_str());
            let archive = known.and_then(|known| known.archive.as_ref()).zip(archive::patience(service));
            let log = archive.and_then(|(log, patience)| archive::health(log, newest.whole, patience, now));
            health(schedule.as_ref(), newest.whole, (past.failed, why.unwrap_or_default()), log, now)
        }
    };
    let kind = Type::named(&service.r#type).ok();
    v1::Standing {
        health: health.into(),
        why,
        newest_ms: newest.and_then(|newest| newest.whole).map_or(0, |at| at.0),
        failures: past.failed,
        next_ms: next.0.map_or(0, |at| at.0),
        passed_over_ms: next.1.map_or(0, |at| at.0),
        no_backups: none.map(|none| said(&none)).unwrap_or_default(),
        export: kind.and_then(|kind| kind.export).unwrap_or_default().to_owned(),
    }
}

/// When the health may be another one, if nothing happens until then.
pub(crate) fn changes(service: &v1::Service, known: &Known, now: Timestamp) -> Option<Timestamp> {
    let late = of(service).and_then(|schedule| late_at(&schedule, now));
    let archive = known.archive.as_ref().zip(archive::patience(service));
    let log = archive.and_then(|(log, patience)| archive::changes(log, known.newest.whole, patience, now));
    late.into_iter().chain(log).min()
}

/// The next moment at which a backup that is not there makes late.
fn late_at(schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
    let late = |due| Some(half(schedule, due)?).filter(|at| *at > now);
    let last = schedule.before(Timestamp(now.0.saturating_add(1))).and_then(late);
    last.or_else(|| schedule.after(now).and_then(late))
}

/// Half of the way to the next time after it.
fn half(schedule: &Schedule, due: Timestamp) -> Option<Timestamp> {
    Some(due.plus(schedule.after(due)?.since(due) / 2))
}

/// A service whose settings were stored was valid then; what is not understood now begins nothing.
pub(crate) fn of(service: &v1::Service) -> Option<Schedule> {
    if no_backups(service).is_some() {
        return None;
    }
    Schedule::read(&service.name, &in_force(service)).ok().flatten()
}

fn said(error: &palinurus_repository::Error) -> String {
    error.hint().map_or_else(|| error.what().to_owned(), |hint| format!("{}; {hint}", error.what()))
}

/// When one begins, and the time before that which is passed over for a backup that is recent.
fn next(schedule: &Schedule, past: &Past, now: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
    match decide(schedule, past, now) {
        Verdict::Begin(_) => (Some(now), None),
        Verdict::Never => (None, None),
        Verdict::Wait(until) => match takes_effect(schedule, past, now) {
            Some((first, passed)) if first == until => (Some(until), passed),
            // Tried again before.
            _ => (Some(until), None),
        },
        // As it will be when that one has succeeded.
        Verdict::Busy => match takes_effect(schedule, &Past { good: Some(now), ..past.clone() }, now) {
            Some((first, passed)) => (Some(first), passed),
            None => (None, None),
        },
    }
}

fn health(
    schedule: Option<&Schedule>,
    whole: Option<Timestamp>,
    (failures, last): (u32, &str),
    log: Option<(Health, String)>,
    now: Timestamp,
) -> (Health, String) {
    let failing = match failures {
        0 => String::new(),
        1 => format!("the last backup failed: {last}"),
        failures => format!("the last {failures} backups failed, the last of them: {last}"),
    };
    let Some(whole) = whole else {
        let none = "there is no backup that is complete and whole".to_owned();
        return (Health::Unprotected, if failures == 0 { none } else { format!("{none}; {failing}") });
    };
    if failures > 0 {
        return (Health::Failing, failing);
    }
    // What fails is worse than what is late.
    if let Some(log) = log.clone().filter(|(log, _)| *log == Health::Failing) {
        return log;
    }
    if let Some(due) = schedule.and_then(|schedule| overdue(schedule, whole, now)) {
        let why = format!("the newest began {}, and one was due {}", time(whole), time(due));
        return (Health::Late, why);
    }
    match (log, schedule) {
        (Some(log), _) => log,
        (None, None) => (Health::Unspecified, "nothing begins backups by itself".to_owned()),
        (None, Some(_)) => (Health::Protected, String::new()),
    }
}

/// A time that no backup covers, half of the way to the next one after it.
fn overdue(schedule: &Schedule, whole: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let last = schedule.before(Timestamp(now.0.saturating_add(1)))?;
    let due = if half(schedule, last)? <= now { last } else { schedule.before(last)? };
    (whole < due && !is_covered(Some(whole), due, schedule.before(due))).then_some(due)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: u64 = 3600 * 1000;

    fn daily() -> Schedule {
        let settings = [("schedule", "daily"), ("backup_hour", "3"), ("backup_minute", "0")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Schedule::read("s", &settings).unwrap().unwrap()
    }

    #[test]
    fn a_service_is_late_when_half_the_interval_has_passed_without_its_backup() {
        let schedule = daily();
        let first = schedule.after(Timestamp(1_772_000_000_000)).unwrap();
        let at = |hours: u64| Timestamp(first.0 + hours * HOUR);
        let state = |whole: u64, now: u64| health(Some(&schedule), Some(at(whole)), (0, ""), None, at(now)).0;
        assert_eq!(state(0, 0), Health::Protected);
        // The next was due after 24 hours: it may take until 36.
        assert_eq!(state(0, 35), Health::Protected);
        assert_eq!(state(0, 36), Health::Late);
        assert_eq!(state(14, 36), Health::Protected, "it does for the time after it");
        assert_eq!(state(25, 36), Health::Protected);
        let told = health(Some(&schedule), Some(at(0)), (0, ""), None, at(80)).1;
        assert!(told.contains(&time(at(72))) || told.contains(&time(at(48))), "{told}");
    }

    /// Asked at that moment, the health is another one, and at none before it.
    #[test]
    fn it_is_known_when_a_service_becomes_late() {
        let schedule = daily();
        let first = schedule.after(Timestamp(1_772_000_000_000)).unwrap();
        let is = |now| health(Some(&schedule), Some(first), (0, ""), None, now).0;
        let mut now = first;
        while is(now) == Health::Protected {
            let next = late_at(&schedule, now).unwrap();
            assert!(next > now);
            assert_eq!(is(Timestamp(next.0 - 1)), Health::Protected);
            now = next;
        }
        assert_eq!((is(now), now), (Health::Late, Timestamp(first.0 + 36 * HOUR)));
    }

    #[test]
    fn what_is_worst_is_told() {
        let schedule = daily();
        let now = Timestamp(1_772_000_000_000);
        let good = Some(Timestamp(now.0 - HOUR));
        let of = |schedule, whole, failures| health(schedule, whole, (failures, "no room"), None, now);
        assert_eq!(of(None, None, 0).0, Health::Unprotected);
        let (state, why) = of(Some(&schedule), None, 2);
        assert!(state == Health::Unprotected && why.contains("no room"), "{why}");
        let (state, why) = of(Some(&schedule), good, 2);
        assert!(
            state == Health::Failing && why.contains("last 2 backups") && why.contains("no room"),
            "{why}"
        );
        assert_eq!(of(None, good, 1).0, Health::Failing);
        assert_eq!(of(None, good, 0).0, Health::Unspecified);
        assert_eq!(of(Some(&schedule), good, 0).0, Health::Protected);
        let log = |is| Some((is, "the log".to_owned()));
        let with = |schedule, failures, log| health(schedule, good, (failures, "no room"), log, now);
        assert_eq!(with(Some(&schedule), 0, log(Health::Late)), (Health::Late, "the log".to_owned()));
        assert_eq!(with(None, 0, log(Health::Failing)).0, Health::Failing);
        assert!(with(Some(&schedule), 1, log(Health::Late)).1.contains("no room"));
        assert_eq!(health(Some(&schedule), None, (0, ""), log(Health::Late), now).0, Health::Unprotected);
    }

    #[test]
    fn what_comes_next_is_told_also_while_one_runs_or_is_tried_again() {
        let schedule = daily();
        let due = schedule.after(Timestamp(1_772_000_000_000)).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let past = Past { good: Some(due), ..Past::default() };
        let noon = due.plus(day / 2);
        assert_eq!(next(&schedule, &past, noon), (Some(due.plus(day)), None));
        let recent = Past { good: Some(due.plus(day * 3 / 4)), ..Past::default() };
        let shown = next(&schedule, &recent, due.plus(day * 4 / 5));
        assert_eq!(shown, (Some(due.plus(day * 2)), Some(due.plus(day))));
        let runs = Past { runs: true, ..past.clone() };
        assert_eq!(next(&schedule, &runs, due.plus(day)).0, Some(due.plus(day * 2)));
        let failed_at = due.plus(day);
        let failed = Past { failed: 1, failed_at, ..past };
        assert_eq!(
            next(&schedule, &failed, failed_at),
            (Some(failed_at.plus(Duration::from_secs(60))), None)
        );
    }
}
