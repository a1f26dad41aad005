//! The rules one by one, and any history against an oracle that is written another way.
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::id::TransactionId;

fn at(text: &str, zone: &str) -> Timestamp {
    let civil: DateTime = text.parse().unwrap();
    Timestamp(civil.in_tz(zone).unwrap().timestamp().as_millisecond() as u64)
}

fn backup(n: u8, at: Timestamp) -> Candidate {
    Candidate { id: TransactionId([n; 16]), at, complete: true, log: false, kept_by: Vec::new() }
}

/// One each day at noon, from the first on.
fn daily(days: u8) -> Vec<Candidate> {
    let first = at("2026-10-01T12:00", "UTC");
    (0..days).map(|day| backup(day, first.plus(Duration::from_secs(u64::from(day) * 86_400)))).collect()
}

fn policy(settings: &[(&str, &str)]) -> Policy {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Policy::read(&settings.collect()).unwrap()
}

fn kept(backups: &[Candidate], settings: &[(&str, &str)]) -> Vec<u8> {
    let verdicts = decide(backups, &policy(settings));
    verdicts.iter().filter(|verdict| verdict.keeps()).map(|verdict| verdict.backup.0[0]).collect()
}

fn why(backups: &[Candidate], settings: &[(&str, &str)], n: u8) -> String {
    let verdicts = decide(backups, &policy(settings));
    let of = verdicts.iter().find(|verdict| verdict.backup.0[0] == n).unwrap();
    of.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[test]
fn an_empty_policy_keeps_all() {
    assert_eq!(kept(&daily(5), &[]), [0, 1, 2, 3, 4]);
    assert_eq!(why(&daily(5), &[], 2), "no policy: everything is kept");
    assert!(decide(&[], &policy(&[("keep_last", "1")])).is_empty());
}

#[test]
fn the_first_moment_of_the_log_has_its_backup() {
    let mut backups = daily(20);
    let settings = [("keep_last", "1"), ("logs", "7d")];
    assert_eq!(kept(&backups, &settings), [19], "nothing has a log");
    backups.iter_mut().skip(15).for_each(|backup| backup.log = true);
    assert_eq!(kept(&backups, &settings), [15, 19], "the log is younger than that");
    backups.iter_mut().for_each(|backup| backup.log = true);
    assert_eq!(kept(&backups, &settings), [12, 19]);
    assert_eq!(why(&backups, &settings, 12), "needed by the log after it");
    // After a week without a backup the log's moments still lead on from the last one before.
    backups.drain(11..19);
    assert_eq!(kept(&backups, &settings), [10, 19]);
    backups[10].complete = false;
    assert_eq!(kept(&backups, &settings), [9, 19], "a partial one takes nobody's place");
}

#[test]
fn each_rule_keeps_the_newest_of_its_periods_and_says_so() {
    let backups = daily(70); // 1 October to 9 December
    let settings = [("keep_last", "2"), ("keep_daily", "3"), ("keep_weekly", "3"), ("keep_monthly", "2")];
    // 9, 8, 7 December; 6 December and 29 November are Sundays; 30 November ends its month.
    assert_eq!(kept(&backups, &settings), [59, 60, 66, 67, 68, 69]);
    assert_eq!(
        why(&backups, &settings, 69),
        "last 1, daily 2026-12-09, weekly 2026-W50, monthly 2026-12, the newest complete backup is never forgotten"
    );
    assert_eq!(why(&backups, &settings, 60), "monthly 2026-11");
    assert_eq!(why(&backups, &settings, 59), "weekly 2026-W48");
    assert_eq!(why(&backups, &settings, 50), "");
}

#[test]
fn periods_without_a_backup_cost_nothing_and_the_oldest_fills_a_rule_that_has_room() {
    let days = ["2020-01-01T00:00", "2020-06-01T00:00", "2023-03-01T00:00", "2026-03-01T00:00"];
    let backups: Vec<_> = (0..).zip(days).map(|(n, day)| backup(n, at(day, "UTC"))).collect();
    assert_eq!(kept(&backups, &[("keep_yearly", "3")]), [1, 2, 3]);
    assert_eq!(kept(&backups, &[("keep_yearly", "4")]), [0, 1, 2, 3]);
    assert_eq!(why(&backups, &[("keep_yearly", "4")], 0), "yearly: the oldest there is");
}

#[test]
fn a_day_is_the_zones_day() {
    let backups = [
        backup(0, at("2026-11-20T23:30", "Europe/Helsinki")),
        backup(1, at("2026-11-21T00:30", "Europe/Helsinki")),
        backup(2, at("2026-11-21T12:00", "Europe/Helsinki")),
    ];
    assert_eq!(kept(&backups, &[("keep_daily", "2"), ("time_zone", "Europe/Helsinki")]), [0, 2]);
    // In UTC the first two are of one day.
    assert_eq!(kept(&backups, &[("keep_daily", "2"), ("time_zone", "UTC")]), [1, 2]);
    assert_eq!(why(&backups, &[("keep_daily", "9")], 0), "daily: the oldest there is");
    // The hour that a clock change repeats is two hours.
    let first = at("2026-10-25T03:30", "Europe/Helsinki");
    let twice = [backup(0, first), backup(1, first.plus(Duration::from_secs(3600)))];
    assert_eq!(kept(&twice, &[("keep_hourly", "2"), ("time_zone", "Europe/Helsinki")]), [0, 1]);
}

#[test]
fn within_counts_from_the_newest_backup_and_the_minimum_is_never_undercut() {
    let backups = daily(10);
    assert_eq!(kept(&backups, &[("keep_within", "2d")]), [7, 8, 9]);
    assert_eq!(kept(&backups, &[("keep_within", "2d"), ("keep_minimum", "5")]), [5, 6, 7, 8, 9]);
    assert_eq!(why(&backups, &[("keep_within", "2d"), ("keep_minimum", "5")], 5), "minimum 5");
    assert_eq!(kept(&backups, &[("keep_last", "4"), ("keep_minimum", "2")]), [6, 7, 8, 9]);
    assert_eq!(kept(&backups, &[("keep_last", "all")]).len(), 10);
}

#[test]
fn partial_backups_push_nothing_out() {
    let mut backups = daily(6);
    for n in [2, 4, 5] {
        backups[n].complete = false;
    }
    assert_eq!(kept(&backups, &[("keep_last", "2")]), [1, 3, 4, 5]);
    assert_eq!(
        why(&backups, &[("keep_last", "2")], 3),
        "last 1, the newest complete backup is never forgotten"
    );
    assert_eq!(kept(&backups, &[("keep_last", "2"), ("keep_minimum", "3")]), [0, 1, 3, 4, 5]);
    for backup in &mut backups {
        backup.complete = false;
    }
    assert_eq!(kept(&backups, &[("keep_last", "1")]), [5]);
    assert!(why(&backups, &[("keep_last", "1")], 5).ends_with("none is complete"));
}

#[test]
fn pins_holds_and_needs_stand_above_the_policy() {
    let mut backups = daily(4);
    backups[0].kept_by = vec![Reason::Pin("release 7".to_owned())];
    backups[1].kept_by = vec![Reason::Hold { until: at("2030-01-02T00:00", "UTC"), reason: String::new() }];
    backups[2].kept_by = vec![Reason::Needed("the log stream wal".to_owned())];
    let one = [("keep_last", "1")];
    assert_eq!(kept(&backups, &one), [0, 1, 2, 3]);
    assert_eq!(why(&backups, &one, 0), "pin: release 7");
    assert_eq!(why(&backups, &one, 1), "held until 2030-01-02 00:00Z");
    assert_eq!(why(&backups, &one, 2), "needed by the log stream wal");
}

#[test]
fn settings_are_read_and_what_cannot_be_is_refused() {
    let read = |key: &str, value: &str| Policy::read(&[(key.to_owned(), value.to_owned())].into());
    assert_eq!(read("keep_daily", "all").unwrap().count(Period::Daily), u32::MAX);
    assert_eq!(read("retention_interval", "off").unwrap().interval, None);
    assert_eq!(read("patience", "soon").unwrap(), Policy::default());
    for (key, value, told) in [
        ("keep_last", "-1", "keep_last"),
        ("keep_daily", "many", "many"),
        ("keep_within", "0s", "keep_within"),
        ("keep_within", "long", "long"),
        ("keep_minimum", "3", "without another rule"),
        ("time_zone", "Mars/Base", "Mars/Base"),
        ("retention_interval", "often", "often"),
    ] {
        let error = read(key, value).unwrap_err();
        assert!(error.what().contains(told) || error.hint().is_some_and(|hint| hint.contains(told)), "{key}");
    }
}

/// For each backup on its own: how many periods of its kind have a newer backup, and is it the newest of its own?
fn oracle(backups: &[Candidate], policy: &Policy) -> Vec<bool> {
    let judged = |i: usize, among: &[usize]| {
        let newer = among.iter().filter(|j| **j > i).count() as u32;
        let newest = among.iter().map(|j| backups[*j].at).max().unwrap();
        let by_period = Period::ALL.iter().any(|period| {
            let name = |j: usize| period.name(backups[j].at, &policy.zone);
            let newer: BTreeSet<String> = among.iter().filter(|j| **j > i).map(|j| name(*j)).collect();
            let ahead = newer.len() as u32;
            let first = !newer.contains(&name(i));
            ahead < policy.count(*period) && (first || among.iter().all(|j| *j >= i))
        });
        let within = policy.within.as_ref().is_some_and(|(span, _)| newest.since(backups[i].at) <= *span);
        newer < policy.last || by_period || within
    };
    let all: Vec<usize> = (0..backups.len()).collect();
    let complete: Vec<usize> = all.iter().copied().filter(|i| backups[*i].complete).collect();
    let mut keep: Vec<bool> = all
        .iter()
        .map(|i| {
            policy.is_empty()
                || !backups[*i].kept_by.is_empty()
                || judged(*i, if backups[*i].complete { &complete } else { &all })
        })
        .collect();
    if let Some(newest) = complete.last().or(all.last()) {
        keep[*newest] = true;
    }
    for i in complete.iter().rev() {
        let kept = complete.iter().filter(|j| keep[**j]).count();
        if kept < policy.minimum as usize {
            keep[*i] = true;
        }
    }
    keep
}

fn histories() -> impl Strategy<Value = Vec<Candidate>> {
    // Minutes to weeks apart; now and then a clock that goes back.
    let gap = prop_oneof![0i64..120, 600i64..5000, 10_000i64..60_000, -300i64..0];
    let one = (gap, prop::bool::weighted(0.8), prop::bool::weighted(0.1));
    prop::collection::vec(one, 0..40).prop_map(|history| {
        let mut at = 1_700_000_000_000i64;
        let candidates = (0..).zip(history).map(|(n, (minutes, complete, pinned))| {
            at += minutes * 60_000;
            let kept_by = if pinned { vec![Reason::Pin(String::new())] } else { Vec::new() };
            Candidate { complete, kept_by, ..backup(n, Timestamp(at as u64)) }
        });
        candidates.collect()
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let count = || prop_oneof![3 => Just(0u32), 3 => 1u32..6, 1 => Just(u32::MAX)];
    let within = prop::option::weighted(0.3, 1u64..2_000_000);
    (count(), [count(), count(), count(), count(), count()], within, 0u32..6, 0usize..3).prop_map(
        |(last, counts, within, minimum, zone)| Policy {
            last,
            counts,
            within: within.map(|seconds| (Duration::from_secs(seconds), "some".to_owned())),
            minimum,
            zone: TimeZone::get(["UTC", "America/St_Johns", "Europe/Berlin"][zone]).unwrap(),
            ..Policy::default()
        },
    )
}

proptest! {
    #[test]
    fn it_is_what_the_oracle_says(backups in histories(), policy in policies()) {
        let verdicts = decide(&backups, &policy);
        let kept: Vec<bool> = verdicts.iter().map(Verdict::keeps).collect();
        prop_assert_eq!(kept, oracle(&backups, &policy));
    }

    /// A run that died after some of its FORGETs goes on with the same end: what was to be kept still is.
    #[test]
    fn forgetting_some_dooms_no_other(backups in histories(), policy in policies(), some in any::<u64>()) {
        let verdicts = decide(&backups, &policy);
        let kept: Vec<BackupId> = verdicts.iter().filter(|v| v.keeps()).map(|v| v.backup).collect();
        let rest: Vec<Candidate> = (0..)
            .zip(&backups)
            .filter(|(i, backup)| kept.contains(&backup.id) || some >> (i % 64) & 1 == 1)
            .map(|(_, backup)| backup.clone())
            .collect();
        for verdict in decide(&rest, &policy) {
            prop_assert!(verdict.keeps() || !kept.contains(&verdict.backup), "{}", verdict.backup);
        }
    }
}
