use std::time::Duration;

use palinurus_proto::v1::{OperationKind, OperationState};
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(100_000_000);
const PATIENCE: Duration = Duration::from_secs(300);

fn ago(seconds: u64) -> Timestamp {
    Timestamp(NOW.0 - seconds * 1000)
}

/// Of a node whose agent is there, with its data.
fn here(name: &str) -> Place {
    let instance = format!("agent-{name}");
    let node = v1::Node {
        name: name.to_owned(),
        connected: true,
        holder: instance.clone(),
        instance,
        node_epoch: 1,
        last_seen_ms: NOW.0,
        ..Default::default()
    };
    Place { node, gone_since: None }
}

fn gone(name: &str, seconds: u64) -> Place {
    let mut place = here(name);
    place.node.connected = false;
    place.node.holder_gone_ms = ago(seconds).0;
    place.gone_since = Some(ago(seconds));
    place
}

fn replaced(name: &str) -> Place {
    let mut place = here(name);
    place.node.instance = "another".to_owned();
    place.node.data_empty = true;
    place.node.holder_gone_ms = ago(10).0;
    place
}

fn spare_node(name: &str) -> Place {
    let mut place = here(name);
    (place.node.spare, place.node.data_empty) = (true, true);
    place
}

fn source(node: &str) -> Source {
    Source {
        backup_id: format!("backup-of-{node}"),
        node: node.to_owned(),
        shard: String::new(),
        manifest: format!("manifest-of-{node}").into_bytes().into(),
        moment: ago(3600),
        files: 1,
        bytes: 2,
        key_epochs: Vec::new(),
    }
}

struct Fixture {
    policy: Policy,
    places: Vec<Place>,
    sources: Sources,
    past: Past,
    running: Option<String>,
}

impl Fixture {
    fn new(places: Vec<Place>) -> Self {
        let sources = Sources::with(places.iter().map(|place| source(&place.node.name)));
        let policy = Policy { mode: Mode::Automatic, patience: PATIENCE, ..Policy::default() };
        Self { policy, places, sources, past: Past::default(), running: None }
    }

    fn view(&self) -> View<'_> {
        View {
            policy: self.policy,
            places: &self.places,
            sources: &self.sources,
            past: &self.past,
            running: self.running.as_deref(),
            now: NOW,
        }
    }

    fn took(&self) -> Option<v1::FailoverDetail> {
        consider(self.view()).into_iter().find_map(|verdict| match verdict {
            Verdict::Take(candidate) => Some(candidate.detail),
            Verdict::Wait { .. } => None,
        })
    }

    fn waits(&self) -> (String, Option<Timestamp>) {
        match consider(self.view()).as_slice() {
            [Verdict::Wait { why, until, .. }] => (why.clone(), *until),
            other => panic!("{other:?}"),
        }
    }
}

fn ended(id: &str, state: OperationState, seconds: u64, detail: &v1::FailoverDetail) -> v1::Operation {
    let mut operation = v1::Operation {
        id: id.to_owned(),
        created_ms: ago(seconds + 1).0,
        finished_ms: ago(seconds).0,
        failover: Some(detail.clone()),
        ..Default::default()
    };
    operation.set_kind(OperationKind::Failover);
    operation.set_state(state);
    operation.failure = (state == OperationState::Failed)
        .then(|| v1::Failure { message: "disk on fire".to_owned(), ..Default::default() });
    operation
}

#[test]
fn a_replacement_is_restored_at_once() {
    let fixture = Fixture::new(vec![here("n1"), replaced("n2")]);
    let Verdict::Take(candidate) = &consider(fixture.view())[0] else { panic!() };
    let detail = &candidate.detail;
    assert_eq!((detail.lost.as_str(), detail.node.as_str()), ("n2", "n2"));
    assert_eq!((detail.instance.as_str(), detail.fenced.as_str()), ("another", "agent-n2"));
    assert_eq!((detail.node_epoch, detail.gone_ms, detail.backup_ms), (2, ago(10).0, ago(3600).0));
    assert_eq!(detail.data_age_ms, 3590 * 1000);
    assert!(detail.automatic && detail.manifest.as_ref().unwrap().backup_id == "backup-of-n2");
    let reasons = candidate.reasons.join("\n");
    assert!(reasons.contains("another") && reasons.contains("backup-of-n2"), "{reasons}");
}

#[test]
fn a_spare_takes_the_place_when_patience_is_over() {
    let mut fixture = Fixture::new(vec![here("n1"), gone("n2", 299), spare_node("s1"), spare_node("s2")]);
    let (why, until) = fixture.waits();
    assert!(why.contains("patience of 5m"), "{why}");
    assert_eq!(until, Some(NOW.plus(Duration::from_secs(1))));
    fixture.places[1] = gone("n2", 300);
    let took = fixture.took().unwrap();
    assert_eq!((took.lost.as_str(), took.node.as_str(), took.instance.as_str()), ("n2", "s1", "agent-s1"));
    assert_eq!((took.fenced.as_str(), took.manifest.unwrap().node.as_str()), ("agent-n2", "s1"));
    // One of the same zone is nearer.
    fixture.places[1].node.zone = "b".to_owned();
    fixture.places[3].node.zone = "b".to_owned();
    assert_eq!(fixture.took().unwrap().node, "s2");
    for (spoil, told) in [
        (|place: &mut Place| place.node.data_empty = false, "no spare"),
        (|place: &mut Place| place.gone_since = Some(ago(1)), "no spare"),
        (|place: &mut Place| place.node.spare = false, "no spare"),
    ] as [(fn(&mut Place), &str); 3]
    {
        let mut fixture = Fixture::new(vec![gone("n2", 300), spare_node("s1")]);
        spoil(&mut fixture.places[1]);
        let told_so = consider(fixture.view()).iter().any(
            |verdict| matches!(verdict, Verdict::Wait { node, why, .. } if node == "n2" && why.contains(told)),
        );
        assert!(told_so && fixture.took().is_none());
    }
}

#[test]
fn its_own_agent_with_an_empty_directory_is_for_the_operator() {
    let mut fixture = Fixture::new(vec![here("n2")]);
    fixture.places[0].node.data_empty = true;
    assert!(fixture.waits().0.contains("failover apply"));
    fixture.sources = Sources::default();
    assert_eq!(consider(fixture.view()), [], "a service that is new has nothing to lose");
}

#[test]
fn without_a_backup_or_with_another_operation_it_waits() {
    let mut fixture = Fixture::new(vec![replaced("n2")]);
    fixture.running = Some("op7".to_owned());
    assert!(fixture.waits().0.contains("op7"));
    fixture.running = None;
    fixture.sources = Sources::default();
    assert!(fixture.waits().0.contains("no backup has n2"));
}

#[test]
fn failures_are_tried_again_later_and_later_with_the_same_backup() {
    let mut place = replaced("n2");
    let detail = Fixture::new(vec![place.clone()]).took().unwrap();
    // As the fence has left it.
    place.node.holder = place.node.instance.clone();
    place.node.node_epoch = 2;
    let mut fixture = Fixture::new(vec![place]);
    for (failures, pause) in [(1, 60), (2, 120), (3, 240), (7, 3600), (40, 3600)] {
        let past: Vec<v1::Operation> = (0..failures)
            .map(|i| ended(&format!("op{i:02}"), OperationState::Failed, 10 + failures - i, &detail))
            .collect();
        fixture.past = Past::of(past.iter());
        let (why, until) = fixture.waits();
        assert_eq!(until, Some(ago(11).plus(Duration::from_secs(pause))), "{why}");
        assert!(why.contains("disk on fire"), "{why}");
        let old = ended("op", OperationState::Failed, 4000, &detail);
        fixture.past = Past::of([&old].into_iter());
    }
    fixture.sources.add(Source { backup_id: "newer".to_owned(), ..source("n2") });
    let again = fixture.took().unwrap();
    assert_eq!(again.manifest, detail.manifest, "its directory holds a part of that one");
    assert_eq!((again.fenced.as_str(), again.node_epoch, again.gone_ms), ("", 3, detail.gone_ms));
    let cancelled = ended("op9", OperationState::Cancelled, 4000, &detail);
    fixture.past = Past::of([&cancelled].into_iter());
    assert!(fixture.waits().0.contains("op9 was cancelled"));
    let done = ended("op9", OperationState::Succeeded, 4000, &detail);
    fixture.past = Past::of([&done].into_iter());
    assert!(fixture.waits().0.contains("failover apply"), "emptied after it was restored");
}

#[test]
fn a_plan_says_what_stands_against_it() {
    let plan = |fixture: &Fixture, node: &str, onto: &str| {
        manual::plan(fixture.view(), "s", node, onto, None).unwrap()
    };
    let mut fixture = Fixture::new(vec![here("n1"), gone("n2", 30), spare_node("s1"), replaced("n3")]);
    fixture.policy.mode = Mode::Manual;
    let good = plan(&fixture, "n2", "");
    assert_eq!(good.refusals, Vec::<String>::new());
    assert!(good.warnings[0].contains("stand down") && good.automatic.contains("manual"), "{good:?}");
    assert_eq!(good.failover.unwrap().node, "s1");
    assert_eq!(plan(&fixture, "n3", "").failover.unwrap().node, "n3");
    for (node, onto, told) in [
        ("n1", "", "holds data"),
        ("n2", "n1", "no spare"),
        ("n2", "n2", "no agent is connected"),
        ("n3", "s1", "n3 is connected"),
        ("s1", "", "is a spare"),
    ] {
        let refusals = plan(&fixture, node, onto).refusals.join("; ");
        assert!(refusals.contains(told), "{node} onto {onto:?}: {refusals}");
    }
    assert!(manual::plan(fixture.view(), "s", "n9", "", None).is_err());
    fixture.policy.mode = Mode::Off;
    assert!(plan(&fixture, "n2", "").refusals[0].contains("off"));
    fixture.policy.mode = Mode::Automatic;
    fixture.running = Some("op7".to_owned());
    assert!(plan(&fixture, "n2", "").refusals[0].contains("op7"));
    fixture.running = None;
    fixture.sources = Sources::default();
    assert!(plan(&fixture, "n2", "").refusals[0].contains("no backup has n2"));
}

#[test]
fn a_lost_standby_becomes_one_again_and_a_lost_primary_waits_for_a_standbys_data() {
    let mut fixture = Fixture::new(vec![here("n1"), replaced("n2")]);
    fixture.policy.replicated = true;
    fixture.sources = Sources::with([source("n2"), source("n1")]);
    assert!(fixture.waits().0.contains("n1 has the service's data"), "{:?}", fixture.waits());
    fixture.places[0].node.primary = true;
    let Verdict::Take(candidate) = &consider(fixture.view())[0] else { panic!() };
    assert_eq!(candidate.detail.follows, "n1");
    assert_eq!(
        candidate.detail.manifest.as_ref().unwrap().backup_id,
        "backup-of-n1",
        "no backup has its name"
    );
    assert!(candidate.reasons.join("\n").contains("n1 is the primary"));
    // It was the primary, and is gone with its data.
    fixture.places[0].gone_since = Some(ago(1));
    assert!(consider(fixture.view()).iter().all(|verdict| matches!(verdict, Verdict::Wait { .. })));
    // Its plan may say that nobody waits for a replica.
    let mut backup = Fixture::new(vec![here("n1"), gone("n2", 400), spare_node("s1")]);
    backup.policy.replicated = true;
    backup.sources = Sources::with([source("n1")]);
    backup.places[1].node.holder_primary = true;
    assert!(backup.waits().0.contains("n1 has the service's data"), "{:?}", backup.waits());
    backup.policy.from_backup = true;
    let Verdict::Take(candidate) = &consider(backup.view())[0] else { panic!() };
    assert_eq!((candidate.detail.node.as_str(), candidate.detail.follows.as_str()), ("s1", ""));
    assert!(candidate.reasons.join("\n").contains("failover_from is backup"), "{:?}", candidate.reasons);
    // Its replacement is there already.
    let mut same = Fixture::new(vec![here("n1"), replaced("n2")]);
    (same.policy, same.sources) = (backup.policy, Sources::with([source("n1")]));
    same.places[1].node.holder_primary = true;
    assert_eq!(same.took().unwrap().follows, "");
    backup.places[1].node.holder_primary = false;
    assert!(
        backup.waits().0.contains("n1 has the service's data"),
        "a standby is made none: {:?}",
        backup.waits()
    );
    // The operator knows better.
    let plan = manual::plan(fixture.view(), "s", "n2", "", None).unwrap();
    assert!(plan.refusals.is_empty() && plan.warnings.iter().any(|text| text.contains("newer")), "{plan:?}");
    assert_eq!(plan.failover.unwrap().follows, "");
    // Its data is lost too.
    fixture.places[0] = replaced("n1");
    assert_eq!(fixture.took().unwrap().follows, "");
    // Two that are written: nobody is followed.
    let mut fixture = Fixture::new(vec![here("n1"), here("n2"), replaced("n3")]);
    fixture.policy.replicated = true;
    (fixture.places[0].node.primary, fixture.places[1].node.primary) = (true, true);
    assert!(fixture.waits().0.contains("n1 and n2"), "{:?}", fixture.waits());
}

#[test]
fn a_replica_of_a_shard_is_rebuilt_as_its_policy_says_while_others_are_there() {
    let mut fixture = Fixture::new(vec![here("a1"), replaced("a2"), here("b1")]);
    let of = |node: &str| Source { shard: node[..1].to_owned(), ..source(node) };
    fixture.sources = Sources::with(["a1", "a2", "b1"].map(of));
    let took = |fixture: &Fixture| {
        let taken = |verdict| if let Verdict::Take(candidate) = verdict { Some(candidate) } else { None };
        let candidate = consider(fixture.view()).into_iter().find_map(taken).unwrap();
        (candidate.detail.from_peers, candidate.reasons.join("\n"))
    };
    assert!(!took(&fixture).0, "nodes of this type share nothing");
    fixture.policy.rebuild = Rebuild::Backup;
    let (from_peers, why) = took(&fixture);
    assert!(!from_peers && why.contains("failover_from is backup"), "{why}");
    fixture.policy.rebuild = Rebuild::Peers;
    let (from_peers, why) = took(&fixture);
    assert!(from_peers && why.contains("a1 of shard a is there"), "{why}");
    let plan = manual::plan(fixture.view(), "s", "a2", "", None).unwrap();
    assert!(plan.failover.unwrap().from_peers && plan.reasons.join("\n").contains("a1 of shard a"));
    fixture.places[0] = gone("a1", 1);
    let (from_peers, why) = took(&fixture);
    assert!(!from_peers && why.contains("no other node of shard a is there"), "{why}");
}

fn place() -> impl Strategy<Value = Place> {
    let gone = proptest::option::of(0u64..1000);
    (gone, any::<[bool; 4]>(), 0u64..4).prop_map(|(gone, [own, data_empty, spare, held], node_epoch)| {
        let node = v1::Node {
            connected: gone.is_none(),
            instance: if own { "holder".to_owned() } else { "another".to_owned() },
            holder: if held { "holder".to_owned() } else { String::new() },
            data_empty,
            spare,
            node_epoch,
            ..Default::default()
        };
        Place { node, gone_since: gone.map(ago) }
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Off, Mode::Manual, Mode::Automatic])
}

proptest! {
    #[test]
    fn nothing_is_lost_by_a_failover(
        mut places in prop::collection::vec(place(), 1..6),
        backed_up in any::<[bool; 6]>(),
        mode in mode(),
        running in any::<bool>(),
        states in prop::collection::vec((0usize..6, 0usize..3, 0u64..5000), 0..8),
    ) {
        for (i, place) in places.iter_mut().enumerate() {
            place.node.name = format!("n{i}");
        }
        let mut fixture = Fixture::new(places);
        let with = fixture.places.iter().enumerate().filter(|(i, _)| backed_up[*i]);
        fixture.sources = Sources::with(with.map(|(_, place)| source(&place.node.name)));
        fixture.policy.mode = mode;
        fixture.running = running.then(|| "op".to_owned());
        let past: Vec<v1::Operation> = states.iter().enumerate().map(|(i, (place, state, seconds))| {
            let state = [OperationState::Failed, OperationState::Cancelled, OperationState::Succeeded][*state];
            let node = format!("n{place}");
            let detail = v1::FailoverDetail { lost: node.clone(), node, instance: "holder".to_owned(), ..Default::default() };
            ended(&format!("op{i}"), state, *seconds, &detail)
        }).collect();
        fixture.past = Past::of(past.iter());
        let verdicts = consider(fixture.view());
        let taken: Vec<&Candidate> = verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::Take(candidate) => Some(&**candidate),
            Verdict::Wait { .. } => None,
        }).collect();
        prop_assert!(taken.len() <= 1, "never two at once");
        prop_assert!(taken.is_empty() || (mode == Mode::Automatic && !running));
        prop_assert!(mode == Mode::Automatic || verdicts.is_empty());
        for candidate in taken {
            let detail = &candidate.detail;
            let find = |name: &str| fixture.places.iter().find(|place| place.node.name == name).unwrap();
            let (lost, onto) = (find(&detail.lost), find(&detail.node));
            prop_assert!(onto.gone_since.is_none() && onto.node.data_empty, "onto data");
            prop_assert!(fixture.sources.newest(&lost.node).is_some(), "without a backup");
            prop_assert!(detail.node_epoch > lost.node.node_epoch.max(onto.node.node_epoch));
            // Whoever held the place is shut out, unless it is the one that is restored.
            prop_assert_eq!(detail.fenced.is_empty(), lost.node.holder == detail.instance);
            match lost.gone_since {
                Some(since) => prop_assert!(onto.node.spare && NOW >= since.plus(PATIENCE)),
                None => prop_assert!(lost.node.name == onto.node.name),
            }
            prop_assert!(!lost.node.spare);
        }
        for verdict in &verdicts {
            if let Verdict::Wait { until: Some(until), .. } = verdict {
                prop_assert!(*until > NOW, "a timer that goes round in circles");
            }
        }
    }
}
