use std::collections::BTreeSet;

use palinurus_proto::v1::{OperationState, PowerState};
use proptest::prelude::*;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn policy(automatic: bool) -> Policy {
    Policy { after: DAY * 180, grace: DAY * 30, automatic }
}

fn was_off(days: u32) -> v1::Power {
    off(&v1::Power::default(), String::new(), Timestamp(NOW.0 - (DAY * days).as_millis() as u64))
}

/// What is stored and told until there is nothing to do but wait, or to delete.
fn settle(power: &mut v1::Power, policy: Policy, now: Timestamp) -> (u32, Verdict) {
    let mut told = 0;
    for _ in 0..10 {
        match review(power, policy, now) {
            Verdict::Note(next) => *power = next,
            Verdict::Tell(next) => {
                told += 1;
                *power = next;
            }
            done => return (told, done),
        }
    }
    panic!("it never settles: {power:?}")
}

#[test]
fn a_service_is_listed_after_its_time_and_its_owner_told_once() {
    let mut power = was_off(179);
    assert_eq!(settle(&mut power, policy(false), NOW), (0, Verdict::Wait(NOW.plus(DAY))));
    let later = NOW.plus(DAY);
    let (told, verdict) = settle(&mut power, policy(false), later);
    assert_eq!((told, power.review_ms, power.told_ms, power.deletes_ms), (1, later.0, later.0, 0));
    assert_eq!(verdict, Verdict::Wait(later.plus(DAY)));
    // Whatever time passes, somebody has to say so.
    assert!(matches!(settle(&mut power, policy(false), later.plus(DAY * 4000)), (0, Verdict::Wait(_))));
    // The policy is changed: told anew, and the whole grace from then on.
    let changed = later.plus(DAY * 4001);
    assert_eq!(settle(&mut power, policy(true), changed).0, 1);
    assert_eq!(power.deletes_ms, changed.plus(DAY * 30).0);
    // Its time is made longer: it is not listed any more.
    let longer = Policy { after: DAY * 9000, ..policy(true) };
    assert!(matches!(settle(&mut power, longer, changed), (0, Verdict::Wait(_))));
    assert_eq!((power.review_ms, power.told_ms, power.days), (0, 0, 0));
}

#[test]
fn powering_on_and_off_again_begins_anew() {
    let mut power = was_off(200);
    settle(&mut power, policy(true), NOW);
    assert!(power.review_ms > 0);
    let up = starting(&power, false, NOW);
    assert_eq!(up.off_ms, power.off_ms, "it is not on yet");
    let back = still_off(&up, "no".to_owned(), NOW);
    assert_eq!((back.off_ms, back.review_ms), (power.off_ms, power.review_ms));
    let again = off(&up, String::new(), NOW);
    assert_eq!((again.off_ms, again.review_ms, again.told_ms), (NOW.0, 0, 0));
    let on = on(&up, String::new(), NOW);
    assert_eq!((on.state(), on.off_ms), (PowerState::PowerOn, 0));
    let numbers: BTreeSet<u64> = [&power, &up, &back].map(|power| power.since_ms).into();
    assert_eq!(numbers.len(), 3, "changes of one moment are told apart");
}

#[test]
fn who_is_told_has_the_whole_grace_and_is_deleted_after_it() {
    let mut power = was_off(180);
    let mut now = NOW;
    settle(&mut power, policy(true), now);
    for day in 0..30 {
        let (told, verdict) = settle(&mut power, policy(true), now);
        assert!(
            told == 0 && matches!(verdict, Verdict::Wait(until) if until > now),
            "day {day}: {verdict:?}"
        );
        now = now.plus(DAY);
    }
    assert_eq!(settle(&mut power, policy(true), now), (0, Verdict::Delete));
    // Away for all of the grace: the days were not seen.
    let mut power = was_off(180);
    settle(&mut power, policy(true), NOW);
    assert!(matches!(settle(&mut power, policy(true), NOW.plus(DAY * 400)).1, Verdict::Wait(_)));
    assert_eq!(power.days, 1);
}

proptest! {
    /// Looks at honest times, and by clocks that are set: each look makes a day at most, and nothing goes that its owner was
    /// not told of, or whose policy is not `automatic`.
    #[test]
    fn no_clock_deletes_a_service(
        steps in prop::collection::vec((0u64..60 * 24, -4000i64..4000, prop::bool::weighted(0.1), prop::bool::weighted(0.9)), 1..120),
    ) {
        let mut power = was_off(100);
        let (mut honest, mut ahead) = (NOW.0, 0i64);
        let (mut looks, mut jumped) = (0u32, false);
        for (hours, jump, jumps, automatic) in steps {
            honest += hours * 3_600_000;
            if jumps {
                ahead = jump * DAY.as_millis() as i64;
                jumped = true;
            }
            let now = Timestamp((honest as i64 + ahead).max(0) as u64);
            looks += 1;
            let (told, verdict) = settle(&mut power, policy(automatic), now);
            if told > 0 || power.deletes_ms == 0 {
                looks = 0;
            }
            if verdict == Verdict::Delete {
                prop_assert!(automatic && power.told_ms > 0);
                prop_assert!(looks >= 30, "{looks} looks");
                prop_assert!(jumped || honest >= NOW.0 + (DAY * 110).as_millis() as u64);
                break;
            }
        }
    }

    /// Leaders end before and after each step, steps are lost, and operations end as they end.
    #[test]
    fn a_change_comes_to_its_end_whatever_is_lost(
        wanted in 0u8..3,
        no_backup: bool,
        fates in prop::collection::vec((prop::bool::weighted(0.3), prop::bool::weighted(0.8), any::<bool>()), 200),
        set_back in 0u64..1_000_000_000,
    ) {
        let before = was_off(3);
        let mut now = NOW;
        let mut power = match wanted {
            0 => stopping(&on(&before, String::new(), now), no_backup, now),
            1 => starting(&before, false, now),
            _ => deleting(&before, now),
        };
        let number = power.since_ms;
        let mut operations: Vec<v1::Operation> = Vec::new();
        // The next leader's clock.
        now = Timestamp(now.0 - set_back);
        let mut gone = false;
        for (lost, good, runs) in fates {
            let running = operations.iter_mut().find(|it| !crate::operation::finished(it.state()));
            if let Some(running) = running.filter(|_| runs) {
                now = now.plus(Duration::from_secs(5));
                end(running, good, now);
            }
            let own: Vec<_> = operations.iter().filter(|it| it.power_ms == power.since_ms).cloned().collect();
            let view = View {
                power: &power, operations: &own, busy: None, tail: Tail::Told(now, 0), replicated: false, empty: &[], now,
            };
            let step = decide(view);
            prop_assert_eq!(&decide(view), &step);
            now = now.plus(Duration::from_secs(5));
            if lost {
                continue;
            }
            match step {
                Step::Wait(until, _) => now = until.unwrap_or(now).max(now),
                Step::BackUp => operations.push(begun(v1::OperationKind::Backup, number, now)),
                Step::Restore => operations.push(begun(v1::OperationKind::Restore, number, now)),
                Step::Erase => operations.push(begun(v1::OperationKind::Retention, number, now)),
                Step::Set(next) => { power = next; break; }
                Step::Gone => { gone = true; break; }
                Step::Follow(_) => prop_assert!(false, "nobody follows"),
            }
        }
        let made = operations.last().is_none_or(|last| last.state() == OperationState::Succeeded);
        match wanted {
            0 => prop_assert_eq!(power.state(), if made { PowerState::PowerOff } else { PowerState::PowerOn }),
            1 => prop_assert_eq!(power.state(), if made { PowerState::PowerOn } else { PowerState::PowerOff }),
            _ => prop_assert!(gone && made),
        }
        if wanted != 2 {
            prop_assert!(operations.len() <= 1, "one of a kind");
            prop_assert_eq!(power.why.is_empty(), made);
        }
    }
}

fn begun(kind: v1::OperationKind, power_ms: u64, now: Timestamp) -> v1::Operation {
    let mut operation =
        v1::Operation { id: "1".to_owned(), power_ms, created_ms: now.0, ..Default::default() };
    operation.set_kind(kind);
    operation.set_state(OperationState::Running);
    match kind {
        v1::OperationKind::Backup => operation.backup = Some(v1::BackupDetail::default()),
        _ => operation.retention = Some(v1::RetentionDetail { all: true, ..Default::default() }),
    }
    operation
}

fn end(operation: &mut v1::Operation, good: bool, now: Timestamp) {
    operation.set_state(if good { OperationState::Succeeded } else { OperationState::Failed });
    operation.finished_ms = now.0;
    if let Some(backup) = operation.backup.as_mut() {
        backup.committed = good;
    }
}

fn view<'a>(power: &'a v1::Power, operations: &'a [v1::Operation]) -> View<'a> {
    View { power, operations, busy: None, tail: Tail::NoLog, replicated: false, empty: &[], now: NOW }
}

#[test]
fn the_end_of_the_log_is_waited_for_and_not_for_ever() {
    let power = stopping(&v1::Power::default(), false, Timestamp(NOW.0 - 20_000));
    let mut made = begun(v1::OperationKind::Backup, power.since_ms, NOW);
    end(&mut made, true, Timestamp(NOW.0 - 5_000));
    let operations = [made];
    let of = |tail, ms: u64| {
        decide(View { tail, now: NOW.plus(Duration::from_millis(ms)), ..view(&power, &operations) })
    };
    let is_off = |step: Step| matches!(step, Step::Set(next) if next.state() == PowerState::PowerOff);
    assert!(is_off(of(Tail::NoLog, 0)));
    // What was told before the backup ended says nothing.
    for tail in [Tail::Told(Timestamp(NOW.0 - 6_000), 0), Tail::Told(NOW, 7), Tail::Unheard] {
        assert!(matches!(of(tail, 0), Step::Wait(Some(_), _)), "{tail:?}");
        assert!(is_off(of(tail, 120_000)), "{tail:?}");
    }
    assert!(is_off(of(Tail::Told(NOW, 0), 0)));
    let busy = decide(View { busy: Some("x"), ..view(&power, &[]) });
    assert!(matches!(busy, Step::Wait(None, why) if why.contains("operation x")));
}

#[test]
fn replicas_are_made_of_the_first_that_is_up() {
    let power = starting(&was_off(3), false, NOW);
    let mut first = begun(v1::OperationKind::Failover, power.since_ms, NOW);
    let empty = ["n2".to_owned()];
    let of = |operations: &[v1::Operation], empty: &[String], ms| {
        decide(View {
            replicated: true,
            empty,
            now: NOW.plus(Duration::from_millis(ms)),
            ..view(&power, operations)
        })
    };
    assert_eq!(of(&[], &empty, 0), Step::Restore);
    end(&mut first, true, NOW);
    assert_eq!(of(&[first.clone()], &empty, 0), Step::Follow("n2".to_owned()));
    assert!(matches!(of(&[first.clone()], &[], 0), Step::Set(on) if on.state() == PowerState::PowerOn));
    // It is of use without its replica.
    let Step::Set(up) = of(&[first.clone()], &empty, 600_000) else { panic!() };
    assert!(up.state() == PowerState::PowerOn && up.why.contains("n2 stays empty"), "{up:?}");
    let mut second = begun(v1::OperationKind::Failover, power.since_ms, NOW);
    end(&mut second, false, NOW);
    let Step::Set(up) = of(&[first, second.clone()], &empty, 0) else { panic!() };
    assert!(up.state() == PowerState::PowerOn && up.why.contains("palinurus failover apply"), "{up:?}");
    let Step::Set(down) = of(&[second], &empty, 0) else { panic!() };
    assert!(down.state() == PowerState::PowerOff && down.off_ms == power.off_ms, "{down:?}");
}

#[test]
fn what_a_deletion_could_not_take_is_waited_for_or_stops_it() {
    let power = deleting(&was_off(3), NOW);
    let run = |change: fn(&mut v1::RetentionDetail)| {
        let mut run = begun(v1::OperationKind::Retention, power.since_ms, NOW);
        end(&mut run, true, NOW);
        change(run.retention.as_mut().unwrap());
        run
    };
    let of =
        |run: v1::Operation, days: u32| decide(View { now: NOW.plus(DAY * days), ..view(&power, &[run]) });
    assert_eq!(of(run(|_| {}), 0), Step::Gone);
    let locked = run(|it| (it.objects_locked, it.locked_until_ms) = (2, NOW.plus(DAY * 5).0));
    assert!(matches!(of(locked.clone(), 4), Step::Wait(Some(until), _) if until == NOW.plus(DAY * 5)));
    assert_eq!(of(locked, 5), Step::Erase);
    let pinned = run(|it| (it.forget, it.backups_forgotten) = (vec!["a".to_owned(), "b".to_owned()], 1));
    let Step::Set(back) = of(pinned, 0) else { panic!() };
    assert!(back.state() == PowerState::PowerOff && back.why.contains("pinned"), "{back:?}");
}

fn node(name: &str, connected: bool, data_empty: bool) -> v1::Node {
    v1::Node { name: name.to_owned(), connected, data_empty, ..Default::default() }
}

#[test]
fn each_part_has_its_node_or_it_is_said_who_is_missing() {
    let of = |nodes: &[v1::Node], sources: &[&str], delta| match assign(
        nodes,
        &sources.iter().copied().collect(),
        delta,
    ) {
        Fit::Ready(pairs) => {
            pairs.iter().map(|(node, source)| format!("{node}={source}")).collect::<Vec<_>>().join(" ")
        }
        Fit::Waits(why) => format!("waits: {why}"),
        Fit::Never(why) => format!("never: {why}"),
    };
    let both = [node("n1", true, true), node("n2", true, true)];
    assert_eq!(of(&both, &["n1", "n2"], false), "n1=n1 n2=n2");
    // Others' names, in the order of the names; who is there comes before who is not.
    let other =
        [node("x", false, true), node("z", true, true), node("y", true, true), node("n1", true, true)];
    assert_eq!(of(&other, &["n1", "n2", "n3"], false), "n1=n1 y=n2 z=n3");
    let took = v1::Node { succeeds: vec!["n2".to_owned()], ..node("s", true, true) };
    assert_eq!(of(&[node("n1", true, true), took], &["n1", "n2"], false), "n1=n1 s=n2");
    let away = [node("n1", true, true), node("n2", false, true)];
    assert_eq!(of(&away, &["n1", "n2"], false), "waits: 1 of 2 nodes missing: n2 is not connected");
    let full = [node("n1", true, true), node("n2", true, false)];
    assert!(of(&full, &["n1", "n2"], false).contains("directory of n2 holds data"));
    assert_eq!(of(&full, &["n1", "n2"], true), "n1=n1 n2=n2");
    let spare = v1::Node { spare: true, ..node("s", true, true) };
    let few = of(&[node("n1", true, true), spare], &["n1", "n2"], false);
    assert!(few.starts_with("never: the backup has 2 nodes (n1, n2)") && few.ends_with("1 more"), "{few}");
}

#[test]
fn a_service_that_is_not_on_rests_and_keeps_everything() {
    let settings = [
        ("schedule", "daily"),
        ("backup_hour", "3"),
        ("drill", "weekly"),
        ("scrub", "5%"),
        ("keep_last", "1"),
        ("logs", "2d"),
        ("failover", "automatic"),
        ("partial", "allow"),
    ];
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let on = v1::Service { settings: settings.into(), r#type: "files".to_owned(), ..Default::default() };
    let off = v1::Service { power: Some(was_off(1)), ..on.clone() };
    assert!(is_on(&on) && crate::schedule::schedule_of(&on).is_some());
    let in_force = settings::in_force(&off);
    let rests = crate::retention::policy(&in_force);
    assert!(rests.is_empty() && rests.logs.is_none() && rests.interval.is_none(), "{rests:?}");
    assert!(crate::schedule::schedule_of(&off).is_none());
    assert_eq!(crate::failover::Policy::of(&off).mode, crate::failover::Mode::Off);
    assert!(
        !in_force.contains_key("drill") && !in_force.contains_key("scrub") && in_force["partial"] == "allow"
    );
    assert_eq!(settings::said(&off), settings::in_force(&on));
    assert!(must_be_on(&on).is_ok());
    assert!(must_be_on(&off).unwrap_err().hint().unwrap().contains("service power-on"));
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let read = |key: &str, value: &str| Policy::read(&[(key.to_owned(), value.to_owned())].into());
    assert_eq!(Policy::read(&HashMap::new()).unwrap(), policy(false));
    assert!(read("power_off_policy", "automatic").unwrap().automatic);
    for (key, value) in
        [("power_off_policy", "yes"), ("review_after", "soon"), ("review_grace", "0s"), ("review_grace", "x")]
    {
        let error = read(key, value).unwrap_err();
        assert!(error.what().contains(key) && error.hint().is_some(), "{error:?}");
    }
}
