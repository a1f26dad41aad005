//! Times against a search through every minute, and a scheduler against years in which much goes wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]
use std::collections::BTreeSet;

use palinurus_repository::ErrorKind;
use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

fn read(settings: &[(&str, &str)]) -> Result<Option<Schedule>> {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Schedule::read("shop", &settings.collect())
}

/// On the minute, so that it can be compared with a clock.
fn exact(settings: &[(&str, &str)]) -> Schedule {
    Schedule { delay: Duration::ZERO, ..read(settings).unwrap().unwrap() }
}

fn at(text: &str, zone: &str) -> Timestamp {
    let time: DateTime = text.parse().unwrap();
    Timestamp(time.in_tz(zone).unwrap().timestamp().as_millisecond() as u64)
}

fn times(schedule: &Schedule, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let first = schedule.after(Timestamp(from.0 - 1));
    std::iter::successors(first, |last| schedule.after(*last)).take_while(|time| *time < until).collect()
}

/// Minutes after UTC that the zone's clocks show.
fn offset(zone: &TimeZone, ms: u64) -> i64 {
    i64::from(zone.to_offset(Instant::from_millisecond(ms as i64).unwrap()).seconds()) / 60
}

/// By trying each offset that the zone has around that day.
fn wall(zone: &TimeZone, date: Date, minute_of_day: i64) -> u64 {
    let midnight = date.at(0, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap().timestamp().as_millisecond();
    let (before, after) = (offset(zone, midnight as u64 - 2 * DAY), offset(zone, midnight as u64 + 3 * DAY));
    let of = |offset: i64| (midnight + (minute_of_day - offset) * MINUTE as i64) as u64;
    let fits: BTreeSet<u64> =
        [before, after].into_iter().filter(|o| offset(zone, of(*o)) == *o).map(of).collect();
    fits.first().copied().unwrap_or_else(|| of(before))
}

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Helsinki",
    "America/New_York",
    "Australia/Lord_Howe", // half an hour
    "Asia/Kathmandu",      // three quarters
    "America/Santiago",    // at midnight
];

#[test]
fn a_daily_time_comes_once_a_day_whatever_the_clocks_do() {
    for zone in ZONES {
        for (hour, minute) in [(0, 0), (0, 30), (1, 45), (2, 15), (2, 30), (3, 0), (13, 7), (23, 59)] {
            let (h, m) = (hour.to_string(), minute.to_string());
            let settings =
                [("schedule", "daily"), ("backup_hour", &*h), ("backup_minute", &*m), ("time_zone", zone)];
            let found = times(&exact(&settings), at("2027-01-01T00:00", zone), at("2029-01-01T00:00", zone));
            let tz = TimeZone::get(zone).unwrap();
            let days = std::iter::successors(Some(Date::constant(2027, 1, 1)), |date| date.tomorrow().ok());
            let days = days.take_while(|date| date.year() < 2029);
            let expected: Vec<Timestamp> =
                days.map(|date| Timestamp(wall(&tz, date, hour * 60 + minute))).collect();
            assert_eq!(found, expected, "{zone} {hour}:{minute}");
            assert_eq!(found.len(), 731, "2028 has a leap day");
        }
    }
}

#[test]
fn an_hourly_time_comes_in_every_hour_that_passes() {
    for zone in ZONES {
        let schedule = exact(&[("schedule", "hourly"), ("backup_minute", "40"), ("time_zone", zone)]);
        let tz = TimeZone::get(zone).unwrap();
        for (from, until) in
            [("2027-03-10T00:00", "2027-04-10T00:00"), ("2027-09-01T00:00", "2027-11-10T00:00")]
        {
            let (from, until) = (at(from, zone), at(until, zone));
            let minutes = (from.0..until.0).step_by(MINUTE as usize);
            let expected =
                minutes.filter(|ms| ((ms / MINUTE) as i64 + offset(&tz, *ms)).rem_euclid(60) == 40);
            let found: Vec<u64> = times(&schedule, from, until).iter().map(|time| time.0).collect();
            assert_eq!(found, expected.collect::<Vec<_>>(), "{zone}");
        }
    }
}

#[test]
fn a_time_that_is_left_out_is_made_up_for_and_one_that_comes_twice_counts_once() {
    let schedule = exact(&[
        ("schedule", "daily"),
        ("backup_hour", "3"),
        ("backup_minute", "30"),
        ("time_zone", "Europe/Helsinki"),
    ]);
    let show = |from: &str| {
        let time = schedule.after(at(from, "Europe/Helsinki")).unwrap();
        Instant::from_millisecond(time.0 as i64).unwrap().to_string()
    };
    assert_eq!(show("2027-03-27T12:00"), "2027-03-28T01:30:00Z", "the clock says 4:30");
    assert_eq!(show("2027-10-30T12:00"), "2027-10-31T00:30:00Z", "the first 3:30");
    assert_eq!(show("2027-10-31T12:00"), "2027-11-01T01:30:00Z");
    let leap = exact(&[("schedule", "0 4 29 feb mon")]);
    let day = |from: &str| Instant::from_millisecond(leap.after(at(from, "UTC")).unwrap().0 as i64).unwrap();
    assert_eq!(
        day("2027-01-31T00:00").to_string(),
        "2027-02-01T04:00:00Z",
        "either day or weekday, as cron has it"
    );
    let rare = exact(&[("schedule", "0 4 29 feb *")]);
    assert_eq!(rare.after(at("2097-01-01T00:00", "UTC")), Some(at("2104-02-29T04:00", "UTC")));
}

#[test]
fn what_can_never_be_is_refused() {
    for (settings, told) in [
        (&[("schedule", "0 0 30 2 *")][..], "no day is ever like that"),
        (&[("schedule", "0 0 31 4,6,9,11 *")], "no day is ever like that"),
        (&[("schedule", "0 24 * * *")], "hour \"24\""),
        (&[("schedule", "60 * * * *")], "minute \"60\""),
        (&[("schedule", "* * 0 * *")], "day \"0\""),
        (&[("schedule", "* * * 13 *")], "month \"13\""),
        (&[("schedule", "* * * * 8")], "weekday \"8\""),
        (&[("schedule", "*/0 * * * *")], "minute"),
        (&[("schedule", "5-1 * * * *")], "minute"),
        (&[("schedule", "+5 * * * *")], "minute"),
        (&[("schedule", ", * * * *")], "minute"),
        (&[("schedule", "0 3 * *")], "five parts"),
        (&[("schedule", "weekly")], "five parts"),
        (&[("schedule", "daily"), ("backup_hour", "24")], "backup_hour"),
        (&[("schedule", "daily"), ("backup_minute", "-1")], "backup_minute"),
        (&[("schedule", "hourly"), ("backup_hour", "3")], "backup_hour"),
        (&[("schedule", "0 3 * * *"), ("backup_hour", "3")], "backup_hour"),
        (&[("backup_hour", "3")], "without a schedule"),
        (&[("schedule", "daily"), ("time_zone", "Europe/Atlantis")], "Atlantis"),
    ] {
        let error = read(settings).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.hint().is_some(), "{settings:?}");
        assert!(error.what().contains(told), "{settings:?}: {error:?}");
    }
    assert_eq!(read(&[]).unwrap(), None);
    assert_eq!(read(&[("schedule", "off")]).unwrap(), None);
}

#[test]
fn services_spread_over_the_day_and_each_keeps_its_time() {
    let daily = [("schedule".to_owned(), "daily".to_owned())].into();
    let (from, until) = (at("2027-05-01T00:00", "UTC"), at("2027-05-02T00:00", "UTC"));
    let mut minutes = BTreeSet::new();
    for n in 0..200 {
        let schedule = Schedule::read(&format!("s{n}"), &daily).unwrap().unwrap();
        let times = times(&schedule, from, until);
        assert_eq!(times.len(), 1);
        assert_eq!(Schedule::read(&format!("s{n}"), &daily).unwrap().unwrap(), schedule);
        minutes.insert(times[0].0 / MINUTE);
    }
    assert!(minutes.len() > 150, "{}", minutes.len());
}

/// Read anew and tried minute by minute.
fn matches(text: &str, low: u64, high: u64, number: u64) -> bool {
    text.split(',').any(|part| {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
            None if range == "*" => (low, high),
            None if part.contains('/') => (range.parse().unwrap(), high),
            None => (range.parse().unwrap(), range.parse().unwrap()),
        };
        (from..=to).contains(&number) && (number - from).is_multiple_of(step.parse().unwrap())
    })
}

fn is_time(parts: &[String], ms: u64) -> bool {
    let time = Instant::from_millisecond(ms as i64).unwrap().to_zoned(TimeZone::UTC);
    let n = |number: i8| u64::try_from(number).unwrap();
    let weekday = n(time.weekday().to_sunday_zero_offset());
    let day = matches(&parts[2], 1, 31, n(time.day()));
    let week = matches(&parts[4], 0, 7, weekday) || (weekday == 0 && matches(&parts[4], 0, 7, 7));
    let days = match parts[2].starts_with('*') || parts[4].starts_with('*') {
        true => day && week,
        false => day || week,
    };
    matches(&parts[0], 0, 59, n(time.minute()))
        && matches(&parts[1], 0, 23, n(time.hour()))
        && matches(&parts[3], 1, 12, n(time.month()))
        && days
}

fn part(low: u8, high: u8) -> impl Strategy<Value = String> {
    let number = low..=high;
    let range = (number.clone(), number.clone()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    let one = prop_oneof![
        Just("*".to_owned()),
        number.clone().prop_map(|n| n.to_string()),
        range.clone(),
        (range, 1u8..20).prop_map(|(range, step)| format!("{range}/{step}")),
        (1u8..20).prop_map(|step| format!("*/{step}")),
        (number, 1u8..20).prop_map(|(n, step)| format!("{n}/{step}")),
    ];
    proptest::collection::vec(one, 1..3).prop_map(|parts| parts.join(","))
}

fn cron() -> impl Strategy<Value = [String; 5]> {
    (part(0, 59), part(0, 23), part(1, 31), Just("*".to_owned()), part(0, 7))
        .prop_map(|(minute, hour, day, month, weekday)| [minute, hour, day, month, weekday])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_line_of_cron_is_what_a_search_through_the_minutes_finds(parts in cron(), start in 0..700 * DAY) {
        let line = parts.join(" ");
        let Ok(Some(_)) = read(&[("schedule", &line)]) else { return Ok(()) };
        let schedule = exact(&[("schedule", &line)]);
        let from = Timestamp(at("2027-01-01T00:00", "UTC").0 + start);
        let first = from.0 / MINUTE * MINUTE + MINUTE;
        let searched = (first..first + 20 * DAY).step_by(MINUTE as usize).find(|ms| is_time(&parts, *ms));
        match (schedule.after(from), searched) {
            (found, Some(ms)) => prop_assert_eq!(found, Some(Timestamp(ms)), "{}", line),
            (found, None) => prop_assert!(found.is_none_or(|found| found.0 >= first + 20 * DAY), "{}", line),
        }
    }

    #[test]
    fn before_and_after_are_one_another_s_mirror(parts in cron(), zone in 0..ZONES.len(), start in 0..700 * DAY) {
        let (line, zone) = (parts.join(" "), ZONES[zone]);
        let Ok(Some(schedule)) = read(&[("schedule", &line), ("time_zone", zone)]) else { return Ok(()) };
        let from = Timestamp(at("2027-01-01T00:00", "UTC").0 + start);
        let Some(next) = schedule.after(from) else { return Ok(()) };
        prop_assert!(next > from);
        prop_assert_eq!(schedule.before(Timestamp(next.0 + 1)), Some(next));
        if let Some(last) = schedule.before(next) {
            prop_assert!(last <= from, "nothing between");
            prop_assert_eq!(schedule.after(last), Some(next));
        }
    }
}

fn past(good: Option<Timestamp>) -> Past {
    Past { created: at("2027-01-01T00:00", "UTC"), good, ..Past::default() }
}

fn run(due: Timestamp, missed: u32, attempt: u32) -> Verdict {
    Verdict::Begin(Run { due, missed, attempt })
}

/// The seed: a recent backup may make the new time wait for one cycle.
#[test]
fn a_time_that_is_moved_takes_effect_when_no_backup_is_recent() {
    let daily = |hour| exact(&[("schedule", "daily"), ("backup_hour", hour), ("backup_minute", "0")]);
    let utc = |text: &str| at(text, "UTC");
    let (good, now) = (Some(utc("2027-05-01T03:00")), utc("2027-05-01T04:00"));
    // Twenty hours later: today. Two hours later: tomorrow, as the one at 3 does for today.
    let moved = |hour| takes_effect(&daily(hour), &past(good), now).unwrap();
    assert_eq!(moved("23"), (utc("2027-05-01T23:00"), None));
    assert_eq!(moved("5"), (utc("2027-05-02T05:00"), Some(utc("2027-05-01T05:00"))));
    assert_eq!(moved("2"), (utc("2027-05-02T02:00"), None));
    let at_five = decide(&daily("5"), &past(good), utc("2027-05-01T05:00"));
    assert_eq!(at_five, Verdict::Wait(utc("2027-05-02T05:00")));
    assert_eq!(decide(&daily("5"), &past(good), utc("2027-05-02T05:00")), run(utc("2027-05-02T05:00"), 0, 1));
}

#[test]
fn missed_times_are_made_up_for_once_and_failures_tried_again_ever_later() {
    let schedule = exact(&[("schedule", "12-hourly"), ("backup_hour", "3"), ("backup_minute", "0")]);
    let utc = |text: &str| at(text, "UTC");
    let down = past(Some(utc("2027-05-01T03:00")));
    let back = utc("2027-05-04T14:59");
    assert_eq!(decide(&schedule, &down, back), run(utc("2027-05-04T03:00"), 5, 1));
    // What came so late does for the time that is a minute away too.
    assert_eq!(
        decide(&schedule, &past(Some(back)), back.plus(Duration::from_secs(60))),
        Verdict::Wait(utc("2027-05-05T03:00"))
    );
    assert_eq!(decide(&schedule, &Past { runs: true, ..down.clone() }, back), Verdict::Busy);
    let mut pauses = Vec::new();
    for failed in 1..9 {
        let failing = Past { failed, failed_at: back, ..down.clone() };
        let Verdict::Wait(again) = decide(&schedule, &failing, back) else { panic!() };
        pauses.push(again.since(back).as_secs() / 60);
        assert_eq!(
            decide(&schedule, &failing, again),
            run(
                schedule.before(Timestamp(again.0 + 1)).unwrap(),
                if again >= utc("2027-05-04T15:00") { 6 } else { 5 },
                failed + 1
            )
        );
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    // A clock that was wrong is no reason to wait until it would have been right.
    let future =
        Past { failed: 1, failed_at: utc("2028-01-01T00:00"), ..past(Some(utc("2028-01-01T00:00"))) };
    assert!(matches!(decide(&schedule, &future, back), Verdict::Begin(_)));
    let fresh = Past { created: back, ..Past::default() };
    assert_eq!(decide(&schedule, &fresh, back), Verdict::Wait(utc("2027-05-04T15:00")));
}

#[derive(Clone, Debug)]
enum Event {
    /// Nobody looks for so long.
    Down(u64),
    Fails,
    Asked,
    /// A clock is set: back or on by so much.
    Set(i64),
    /// Runs for so long.
    Long(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..5 * DAY).prop_map(Event::Down),
        3 => Just(Event::Fails),
        2 => Just(Event::Asked),
        1 => (-(3 * DAY as i64)..400 * DAY as i64).prop_map(Event::Set),
        2 => (0..30 * HOUR).prop_map(Event::Long),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Years in which coordinators are away, backups fail or take long, operators ask for some, and clocks are set.
    #[test]
    fn whatever_happens_each_time_has_its_backup_and_no_more_than_that(
        events in proptest::collection::vec(proptest::option::weighted(0.15, event()), 40..100),
        kind in 0..4usize,
        zone in 0..ZONES.len(),
    ) {
        let text = ["hourly", "12-hourly", "daily", "15 2 * * 1-5"][kind];
        let schedule = read(&[("schedule", text), ("time_zone", ZONES[zone])]).unwrap().unwrap();
        let mut now = at("2027-03-20T00:00", "UTC");
        let mut past = Past { created: now, ..Past::default() };
        for event in events {
            let mut length = 5 * MINUTE;
            let mut fails = false;
            match event {
                Some(Event::Down(ms)) => now = Timestamp(now.0 + ms),
                Some(Event::Fails) => fails = true,
                Some(Event::Long(ms)) => length = ms,
                Some(Event::Set(ms)) => now = Timestamp(now.0.saturating_add_signed(ms)),
                Some(Event::Asked) => {
                    past = Past { good: Some(now), failed: 0, ..past };
                    now = Timestamp(now.0 + length);
                }
                None => {}
            }
            let verdict = decide(&schedule, &past, now);
            prop_assert_eq!(&decide(&schedule, &past, now), &verdict);
            match verdict {
                Verdict::Begin(run) => {
                    prop_assert!(run.due <= now);
                    if let Some(good) = past.good.filter(|good| *good <= now) {
                        let before = schedule.before(run.due).unwrap();
                        prop_assert!(good < run.due, "one time, one backup");
                        prop_assert!(good.0 <= before.0 + run.due.since(before).as_millis() as u64 / 2);
                    }
                    prop_assert_eq!(decide(&schedule, &Past { runs: true, ..past.clone() }, now), Verdict::Busy);
                    let began = now;
                    now = Timestamp(now.0 + length);
                    past = match fails {
                        true => Past { failed: past.failed + 1, failed_at: now, ..past },
                        false => Past { good: Some(began), failed: 0, ..past },
                    };
                }
                Verdict::Wait(until) => {
                    prop_assert!(until > now);
                    let early = decide(&schedule, &past, Timestamp(until.0 - 1));
                    prop_assert_eq!(early, Verdict::Wait(until));
                    // Not beyond the second time from now, nor the longest pause.
                    let second = schedule.after(schedule.after(now).unwrap()).unwrap();
                    prop_assert!(until <= second || until.since(now) <= Duration::from_secs(3600));
                    now = until;
                }
                Verdict::Busy | Verdict::Never => prop_assert!(false, "nothing runs, and there is always a next"),
            }
        }
    }
}
