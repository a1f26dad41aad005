//! The table against the words that it was promised in, and each plan through years against sets that are found another way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]
use std::collections::HashMap;

use jiff::Timestamp as Instant;
use jiff::tz::TimeZone;
use palinurus_repository::retention::{self, Candidate, Policy};
use palinurus_repository::{BackupId, Timestamp};

use super::*;
use crate::schedule::{Past, Schedule, Verdict};

const DR: &str = "Single backup only for disaster recovery";
const NOT: &str = "Plan not available";
const NO: &str = "No backups";

/// As it was promised: `type: hobbyist | startup | business | premium`.
const PROMISED: [(&str, [&str; 4]); 13] = [
    ("kafka", [NO, NO, NO, NO]),
    ("postgresql", [DR, "2 days with PITR", "14 days with PITR", "30 days with PITR"]),
    ("mysql", [DR, "2 days with PITR", "14 days with PITR", "30 days with PITR"]),
    (
        "opensearch",
        [
            DR,
            "Hourly backup for 24 hours and Daily backup for 3 days",
            "Hourly backup for 24 hours and Daily backup for 14 days",
            "Hourly backup for 24 hours and Daily backup for 30 days",
        ],
    ),
    ("cassandra", [NOT, "Single day backup", "Single day backup", "Single day backup"]),
    (
        "redis",
        [
            DR,
            "Backup every 12 hours up to 1 day",
            "Backup every 12 hours up to 3 days",
            "Backup every 12 hours up to 13 days",
        ],
    ),
    ("influxdb", [NOT, "Backup every 12 hours up to 2.5 days", NOT, NOT]),
    ("flink", [NOT, "Hourly backup up to 2 hours", "Hourly backup up to 2 hours", NOT]),
    ("m3", [NOT, "Single day backup", "Daily backup up to 6 days", "Daily backup up to 13 days"]),
    ("m3-aggregator", [NOT, NOT, NO, NO]),
    ("m3-coordinator", [NOT, NOT, NO, NO]),
    ("grafana", [NOT, "Backup every 1 hour up to 1 day", NOT, NOT]),
    (
        "clickhouse",
        [
            "Daily backups up to 2 days",
            "Daily backups up to 2 days",
            "Daily backups up to 14 days",
            "Daily backups up to 30 days",
        ],
    ),
];

/// Hours between two, and the words that are left.
fn rhythm(words: &str) -> (u64, &str) {
    let known = [
        ("Backup every 12 hours ", 12),
        ("Backup every 1 hour ", 1),
        ("Hourly backup ", 1),
        ("Daily backups ", 24),
        ("Daily backup ", 24),
    ];
    let found = known.iter().find_map(|(begin, hours)| Some((*hours, words.strip_prefix(begin)?)));
    found.unwrap_or((24, words))
}

#[test]
fn the_table_is_the_one_that_was_promised() {
    for (name, row) in PROMISED {
        let kind = Type::named(name).unwrap();
        for (tier, words) in TIERS.into_iter().zip(row) {
            let (hours, rest) = rhythm(words);
            let number =
                |text: &str| text.split(' ').find_map(|word| word.parse::<f64>().ok()).unwrap_or_default();
            let expected = match rest {
                NOT => {
                    assert!(kind.plans().all(|(known, _)| known != tier), "{name} {tier}");
                    continue;
                }
                NO => vec!["schedule=off".to_owned()],
                DR => vec!["keep_last=1".to_owned(), "restore_for=recovery".to_owned()],
                "Single day backup" => vec!["keep_daily=1".to_owned()],
                _ if rest.ends_with("PITR") => {
                    vec![format!("keep_within={}d", number(rest)), format!("logs={}d", number(rest))]
                }
                _ if rest.starts_with("for 24 hours and Daily backup for ") => {
                    let days = number(rest.strip_prefix("for 24 hours and Daily backup for ").unwrap());
                    vec!["keep_daily=".to_owned() + &days.to_string(), "keep_hourly=24".to_owned()]
                }
                _ => {
                    let unit = if rest.contains("day") { 24.0 } else { 1.0 };
                    vec![format!("keep_within={}h", number(rest) * unit)]
                }
            };
            let there = kind.plans().find(|(known, _)| *known == tier);
            let mut found: Vec<String> = there
                .unwrap_or_else(|| panic!("{name} {tier}"))
                .1
                .settings()
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            if rest != NO {
                let rhythm = ["schedule=hourly", "schedule=12-hourly", "schedule=daily"][match hours {
                    1 => 0,
                    12 => 1,
                    _ => 2,
                }];
                assert_eq!(found.remove(0), rhythm, "{name} {tier}");
            }
            found.sort();
            assert_eq!(found, expected, "{name} {tier}");
        }
    }
    let promised: Vec<&str> = PROMISED.iter().map(|(name, _)| *name).collect();
    let ours: Vec<&str> = Type::all().iter().map(|kind| kind.name).filter(|name| *name != "files").collect();
    assert_eq!(ours, promised);
}

#[test]
fn what_there_is_not_is_refused_with_what_there_is() {
    let influx = Type::named("influxdb").unwrap();
    let plans = Plans::default();
    let refused = plans.find(influx, "premium-16").unwrap_err();
    assert!(refused.hint().unwrap().contains("there is startup;"), "{refused:?}");
    assert_eq!(plans.find(influx, "startup-4").unwrap(), plans.find(influx, "startup").unwrap());
    for wrong in ["", "enterprise", "startup-", "startup-8 gb", "Startup"] {
        assert!(plans.find(influx, wrong).unwrap_err().hint().unwrap().contains("startup"), "{wrong}");
    }
    assert!(Type::named("oracle").unwrap_err().hint().unwrap().contains("postgresql"));
    for kind in Type::all() {
        let none = kind.plans().any(|(_, backups)| *backups == Backups::Nothing);
        assert_eq!(none, kind.note.is_some(), "{}: who has no backups says why", kind.name);
    }
}

/// Repeatable chance.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What of all that was ever committed is there, by the promise's own words; ages are counted from the newest.
fn promised(keep: &Keep, all: &[Timestamp], zone: &TimeZone) -> Vec<Timestamp> {
    let newest = *all.last().unwrap();
    let young = |span: Duration| all.iter().copied().filter(move |at| newest.since(*at) <= span);
    let local = |at: Timestamp| Instant::from_millisecond(at.0 as i64).unwrap().to_zoned(zone.clone());
    // The last of each stretch of equal names, the youngest stretches first.
    let last_of_each = |name: &dyn Fn(Timestamp) -> String, count: usize| {
        let mut found: Vec<Timestamp> = Vec::new();
        for at in all.iter().rev() {
            if found.last().is_none_or(|last| name(*last) != name(*at)) {
                found.push(*at);
            }
        }
        let short = found.len() < count;
        found.truncate(count);
        found.extend(short.then_some(all[0]));
        found
    };
    let day = |at: Timestamp| local(at).date().to_string();
    // An hour by when it began: the one that comes twice is two.
    let hour = |at: Timestamp| {
        let zoned = local(at);
        (zoned.timestamp().as_second() - i64::from(zoned.minute()) * 60 - i64::from(zoned.second()))
            .to_string()
    };
    let mut kept = match keep {
        Keep::Single => vec![newest],
        Keep::SingleDay => last_of_each(&day, 1),
        Keep::Within(span) => young(*span).collect(),
        Keep::HourlyThenDaily { days } => {
            let mut kept = last_of_each(&hour, 24);
            kept.extend(last_of_each(&day, *days as usize));
            kept
        }
        Keep::AnyMoment { days } => {
            let span = Duration::from_secs(u64::from(*days) * 24 * 3600);
            let base = all.iter().copied().rfind(|at| newest.since(*at) >= span).unwrap_or(all[0]);
            young(span).chain([base]).collect()
        }
    };
    kept.sort();
    kept.dedup();
    kept
}

/// A service's life under a plan: schedule and retention together, with downtime, failures and backups that somebody asks for.
fn live(name: &str, backups: &Backups, days: u64) {
    let Backups::Kept { every, keep } = backups else { return };
    let hours = match every {
        Every::Hour => 1,
        Every::HalfDay => 12,
        Every::Day => 24,
    };
    let zone = "Europe/Berlin";
    let mut settings: HashMap<String, String> =
        backups.settings().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    settings.insert("time_zone".to_owned(), zone.to_owned());
    let (policy, zone) = (Policy::read(&settings).unwrap(), TimeZone::get(zone).unwrap());
    let schedule = Schedule::read(name, &settings).unwrap().unwrap();
    let mut dice = Dice(days ^ name.len() as u64);
    let start = Timestamp(1_772_000_000_000); // February 2026
    let (mut now, mut number) = (start, 0_u32);
    let mut past = Past { created: now, ..Past::default() };
    let (mut all, mut there): (Vec<Timestamp>, Vec<Candidate>) = (Vec::new(), Vec::new());
    while now.since(start) < Duration::from_secs(days * 24 * 3600) {
        let asked = dice.below(40) == 0;
        let began = match crate::schedule::decide(&schedule, &past, now) {
            Verdict::Wait(until) if asked => Timestamp(now.0 + dice.below(until.0 - now.0)),
            Verdict::Wait(until) => {
                // Every two months nobody is there for up to four days.
                let away = dice.below(60 * 24 / hours) == 0;
                let away = if away { dice.below(4 * 24 * 3600) } else { 0 };
                now = until.plus(Duration::from_secs(away));
                continue;
            }
            Verdict::Begin(_) => now,
            other => panic!("{other:?}"),
        };
        now = began.plus(Duration::from_secs(20 + dice.below(900)));
        if dice.below(25) == 0 {
            past = Past { failed: past.failed + 1, failed_at: now, ..past };
            continue;
        }
        past = Past { good: Some(began), failed: 0, ..past };
        number += 1;
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let log = matches!(keep, Keep::AnyMoment { .. });
        there.push(Candidate {
            id: BackupId::from(palinurus_repository::TransactionId(id)),
            at: now,
            complete: true,
            log,
            kept_by: Vec::new(),
        });
        all.push(now);
        let verdicts = retention::decide(&there, &policy);
        let mut verdicts = verdicts.iter();
        there.retain(|_| verdicts.next().unwrap().keeps());
        let found: Vec<Timestamp> = there.iter().map(|backup| backup.at).collect();
        assert_eq!(found, promised(keep, &all, &zone), "{name}: {backups} after {number} backups");
        // What is long gone decides nothing any more.
        if all.len() > 1500 {
            all.drain(..all.len() - 1000);
        }
    }
    let expected = days * 24 / hours;
    assert!(
        u64::from(number) > expected * 3 / 4 && u64::from(number) < expected * 5 / 4,
        "{name}: {number} of {expected}"
    );
}

/// `PLAN_DAYS=1100` for years of all of them.
#[test]
fn every_plan_keeps_what_it_promises_through_the_years() {
    let asked: Option<u64> = std::env::var("PLAN_DAYS").ok().map(|days| days.parse().unwrap());
    for kind in Type::all() {
        for (tier, backups) in kind.plans() {
            let hourly = matches!(backups, Backups::Kept { every: Every::Hour, .. });
            // One change of the clocks at least.
            let days = asked.unwrap_or(if hourly { 40 } else { 400 });
            live(&format!("{}-{tier}", kind.name), backups, days);
        }
    }
}

#[test]
fn a_lost_node_is_rebuilt_as_its_plan_says() {
    let postgresql = Type::named("postgresql").unwrap();
    for (tier, from) in
        [("hobbyist", "backup"), ("startup", "backup"), ("business", "replica"), ("premium", "replica")]
    {
        let settings = Plans::default().find(postgresql, tier).unwrap().settings;
        assert_eq!(settings["failover_from"], from);
        crate::settings::check("s", postgresql, &settings).unwrap();
    }
    for kind in Type::all() {
        for plan in Plans::default().list(kind.name).unwrap() {
            crate::settings::check("s", kind, &plan.settings).unwrap();
            let from = plan.settings.contains_key("failover_from");
            assert!(!from || ["postgresql", "mysql"].contains(&kind.name), "{}", kind.name);
        }
    }
}

#[test]
fn a_coordinator_s_settings_add_plans_and_replace_them() {
    let parse = |text: &str| crate::Config::parse(&format!("keys = ['k']\n{text}"));
    let text = "[plans.postgresql.business]\nschedule = 'hourly'\nkeep_last = 9\n[plans.influxdb.gold]\nkeep_daily = '4'";
    let plans = parse(text).unwrap().plans;
    let of = |kind: &str, name: &str| plans.find(Type::named(kind).unwrap(), name);
    let business = of("postgresql", "business-8").unwrap();
    assert!(business.configured && business.settings.len() == 2 && business.settings["keep_last"] == "9");
    assert_eq!(of("influxdb", "gold").unwrap().settings["keep_daily"], "4");
    assert!(!of("influxdb", "startup").unwrap().configured);
    assert!(of("influxdb", "silver").unwrap_err().hint().unwrap().contains("startup, gold"));
    assert_eq!(plans.list("").unwrap().len(), Plans::default().list("").unwrap().len() + 1);
    for (wrong, told) in [
        ("[plans.oracle.gold]\nkeep_last = 1", "oracle"),
        ("[plans.files.gold-8]\nkeep_last = 1", "gold-8"),
        ("[plans.files.gold]\nkeep_lsat = 1", "keep_lsat"),
        ("[plans.files.gold]\nschedule = '0 0 30 2 *'", "no day is ever like that"),
        ("[plans.kafka.gold]\nschedule = 'daily'", "kafka"),
    ] {
        let error = parse(wrong).unwrap_err();
        assert!(error.what().contains(told) && error.hint().is_some(), "{wrong}: {error:?}");
    }
}
