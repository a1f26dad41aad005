//! Every decider in a world that loses its leader after any action, repeats every action, and loses, delays and
//! doubles reports. Whatever happens, the operation ends, and it ends as it would have. `PROPTEST_CASES` runs more.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use palinurus_proto::v1::{self, OperationState, TaskState};
use palinurus_repository::{Epoch, Timestamp};
use proptest::prelude::*;

use super::record::{self, ATTEMPT, Detail, Patch, Recorded};
use super::{Action, Limits, OWN, Phase, Presence, Seen, Step, View, Work, decide, ended, finished};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const LIMITS: Limits = Limits { patience: Duration::from_secs(60), cancel: Duration::from_secs(30) };

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    /// The leader decides; it dies before its action of this number, if it has so many.
    Turn {
        dies_before: Option<usize>,
    },
    /// A task runs on; of the coordinator's own, the deed happens but nobody hears of it yet.
    Work(usize),
    /// A report arrives and is acknowledged, or the acknowledgement is lost.
    Report {
        task: usize,
        acknowledged: bool,
    },
    /// A report of the past arrives once more.
    Echo(usize),
    Break(usize),
    Connect(usize),
    Tick,
}

/// What is to go wrong for good.
#[derive(Clone, Debug, Default)]
struct Plan {
    fails: Option<(&'static str, Work)>,
    cancel_after: Option<usize>,
    dies: Option<(&'static str, usize)>,
}

#[derive(Debug, Default)]
struct Agent {
    connected: bool,
    dead: bool,
    tasks: BTreeMap<Work, TaskState>,
    unacknowledged: BTreeSet<Work>,
    holds: bool,
    started: BTreeMap<Work, u32>,
}

/// What stands in the ledger.
#[derive(Debug, Default, PartialEq)]
struct Ledger {
    begun: bool,
    committed: bool,
    aborted: bool,
    forgotten: bool,
    swept: bool,
    /// Not in the ledger: the place is another agent's.
    fenced: bool,
}

struct World {
    plan: Plan,
    now: Timestamp,
    stored: v1::Operation,
    seen: Seen,
    own: BTreeMap<Work, Option<Result<Patch, v1::Failure>>>,
    agents: BTreeMap<&'static str, Agent>,
    ledger: Ledger,
    echoes: Vec<(&'static str, v1::TaskReport)>,
}

impl World {
    fn new(detail: Detail, plan: Plan) -> Self {
        let nodes = match &detail {
            Detail::Failover(failover) => vec![failover.node.clone()],
            _ => NODES.map(str::to_owned).to_vec(),
        };
        let now = Timestamp(1_000_000);
        let mut world = Self {
            plan,
            now,
            stored: record::create("o".to_owned(), "s", nodes, Epoch(1), now, detail),
            seen: Seen::default(),
            own: BTreeMap::new(),
            agents: NODES.map(|node| (node, Agent::default())).into(),
            ledger: Ledger::default(),
            echoes: Vec::new(),
        };
        world.lead();
        world
    }

    /// A new leader knows what is stored and nothing else.
    fn lead(&mut self) {
        self.own.clear();
        self.seen = Seen::default();
        for node in NODES {
            self.seen.nodes.insert(node.to_owned(), Presence::Gone(self.now));
            self.agents.get_mut(node).unwrap().connected = false;
        }
    }

    fn turn(&mut self, dies_before: Option<usize>) {
        let mut performed = 0;
        for _ in 0..1000 {
            if finished(self.stored.state()) {
                return;
            }
            let step =
                decide(View { operation: &self.stored, seen: &self.seen, limits: LIMITS, now: self.now });
            record::apply(&mut self.stored, &step, self.now);
            match step {
                Step::Wait(_) => return,
                Step::Advance(..) | Step::Finish(_) => {}
                Step::Do(actions) => {
                    for action in actions {
                        if dies_before == Some(performed) {
                            return self.lead();
                        }
                        performed += 1;
                        self.perform(&action);
                        self.perform(&action);
                    }
                }
            }
        }
        panic!("the decider goes round in circles: {:?}", self.stored);
    }

    fn perform(&mut self, action: &Action) {
        match action {
            Action::Assign { node, work } => {
                self.seen.told.insert((node.clone(), *work));
                if node == OWN {
                    self.own.entry(*work).or_insert(None);
                } else {
                    self.assign(node, *work);
                }
            }
            Action::Stop { node, work } => {
                self.seen.stopped.insert((node.clone(), *work));
                if node == OWN {
                    if let Some(result @ None) = self.own.get_mut(work) {
                        *result =
                            Some(Err(v1::Failure { kind: "cancelled".to_owned(), ..Default::default() }));
                    }
                } else if let Some(state) = self.agents.get_mut(node.as_str()).unwrap().tasks.get_mut(work)
                    && !ended(*state)
                {
                    *state = TaskState::TaskCancelled;
                    self.agents.get_mut(node.as_str()).unwrap().unacknowledged.insert(*work);
                }
            }
        }
    }

    fn assign(&mut self, node: &str, work: Work) {
        self.barriers_hold(work);
        let borrows = self.stored.verify.is_none();
        let agent = self.agents.get_mut(node).unwrap();
        assert!(agent.connected, "a task for a node that is gone");
        if agent.tasks.contains_key(&work) {
            agent.unacknowledged.insert(work);
            return;
        }
        *agent.started.entry(work).or_default() += 1;
        agent.tasks.insert(work, TaskState::TaskRunning);
        agent.holds |= borrows;
    }

    /// Nobody is a phase ahead: whoever is asked to go on, all have finished what comes before.
    fn barriers_hold(&self, work: Work) {
        if let Some(failover) = &self.stored.failover {
            let restored = self.agents[failover.node.as_str()].tasks.get(&Work::Restore);
            match work {
                Work::Restore => assert!(self.ledger.fenced, "restored while the old agent may come back"),
                Work::Probe => assert_eq!(restored, Some(&TaskState::TaskDone)),
                _ => {}
            }
        }
        let order = [Work::Inspect, Work::Freeze, Work::Snapshot, Work::Thaw, Work::Upload, Work::Manifest];
        let Some(at) = order.iter().position(|each| *each == work).filter(|at| *at > 0) else { return };
        for agent in self.agents.values() {
            assert_eq!(agent.tasks.get(&order[at - 1]), Some(&TaskState::TaskDone), "before {work:?}");
        }
        assert!(self.ledger.begun && !self.ledger.aborted);
    }

    fn work(&mut self, pick: usize) {
        let own: Vec<Work> =
            self.own.iter().filter(|(_, done)| done.is_none()).map(|(work, _)| *work).collect();
        let mut running: Vec<(&'static str, Work)> = own.into_iter().map(|work| (OWN, work)).collect();
        for (node, agent) in self.agents.iter().filter(|(_, agent)| !agent.dead) {
            running.extend(
                agent.tasks.iter().filter(|(_, state)| !ended(**state)).map(|(work, _)| (*node, *work)),
            );
        }
        let Some((node, work)) = running.get(pick % running.len().max(1)).copied() else { return };
        if node == OWN {
            let result = self.own_deed(work);
            self.own.insert(work, Some(result));
            return;
        }
        let fails = self.plan.fails == Some((node, work));
        let agent = self.agents.get_mut(node).unwrap();
        agent.tasks.insert(work, if fails { TaskState::TaskFailed } else { TaskState::TaskDone });
        agent.unacknowledged.insert(work);
        if work == Work::Release {
            agent.holds = agent.tasks.values().any(|state| !ended(*state));
            assert!(!agent.holds, "released under a running task");
        }
    }

    fn own_deed(&mut self, work: Work) -> Result<Patch, v1::Failure> {
        if self.plan.fails == Some((OWN, work)) {
            return Err(v1::Failure {
                kind: "unavailable".to_owned(),
                message: "store".to_owned(),
                ..Default::default()
            });
        }
        match work {
            Work::Begin => {
                self.ledger.begun = true;
                Ok(Patch::Begun { bases: Vec::new(), warnings: Vec::new() })
            }
            Work::Commit => {
                assert!(self.ledger.begun && !self.ledger.aborted);
                for agent in self.agents.values() {
                    assert_eq!(agent.tasks.get(&Work::Manifest), Some(&TaskState::TaskDone));
                }
                self.ledger.committed = true;
                Ok(Patch::Committed)
            }
            Work::Abort if self.ledger.committed => Ok(Patch::Committed),
            Work::Abort => {
                self.ledger.aborted = true;
                Ok(Patch::Nothing)
            }
            Work::Forget => {
                self.ledger.forgotten = true;
                Ok(Patch::Nothing)
            }
            Work::Sweep => {
                assert!(self.ledger.forgotten);
                self.ledger.swept = true;
                Ok(Patch::Swept { condemned: 1, swept: 1, objects: 1 })
            }
            Work::Check => Ok(Patch::Checked(v1::VerifyDetail::default())),
            Work::Fence => {
                self.ledger.fenced = true;
                Ok(Patch::Fenced("another holds the place".to_owned()))
            }
            other => panic!("{other:?} is no work of the coordinator's"),
        }
    }

    fn report(&mut self, pick: usize, acknowledged: bool) {
        let mut waiting: Vec<(&'static str, Work)> =
            self.own.iter().filter(|(_, done)| done.is_some()).map(|(work, _)| (OWN, *work)).collect();
        for (node, agent) in self.agents.iter().filter(|(_, agent)| agent.connected) {
            waiting.extend(agent.unacknowledged.iter().map(|work| (*node, *work)));
        }
        let Some((node, work)) = waiting.get(pick % waiting.len().max(1)).copied() else { return };
        if node == OWN {
            if let Some(Some(result)) = self.own.remove(&work) {
                self.seen.told.remove(&(OWN.to_owned(), work));
                record::own(&mut self.stored, work, result, self.now);
            }
            return;
        }
        let agent = self.agents.get_mut(node).unwrap();
        let mut report =
            v1::TaskReport { task: work.name().to_owned(), attempt: ATTEMPT, ..Default::default() };
        report.set_state(agent.tasks[&work]);
        if agent.tasks[&work] == TaskState::TaskFailed {
            report.failure = Some(v1::Failure {
                kind: "internal".to_owned(),
                message: "broke".to_owned(),
                ..Default::default()
            });
        }
        if acknowledged {
            agent.unacknowledged.remove(&work);
        }
        self.echoes.push((node, report.clone()));
        self.hear(node, &report);
    }

    fn hear(&mut self, node: &str, report: &v1::TaskReport) {
        if finished(self.stored.state()) {
            return;
        }
        let before = self.stored.clone();
        if record::report(&mut self.stored, node, report, self.now) == Recorded::Nothing {
            assert_eq!(before, self.stored);
        }
    }

    fn connect(&mut self, node: &'static str) {
        let agent = self.agents.get_mut(node).unwrap();
        if agent.dead || agent.connected {
            return;
        }
        agent.connected = true;
        self.seen.nodes.insert(node.to_owned(), Presence::Connected);
        // Its Hello: what runs, and what ended unacknowledged.
        let running: Vec<Work> =
            agent.tasks.iter().filter(|(_, state)| !ended(**state)).map(|(work, _)| *work).collect();
        self.seen.told.extend(running.into_iter().map(|work| (node.to_owned(), work)));
    }

    fn gone(&mut self, node: &'static str) {
        let agent = self.agents.get_mut(node).unwrap();
        if agent.connected {
            agent.connected = false;
            self.seen.nodes.insert(node.to_owned(), Presence::Gone(self.now));
            self.seen.told.retain(|(each, _)| each != node);
            self.seen.stopped.retain(|(each, _)| each != node);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn { dies_before } => self.turn(dies_before),
            Event::Work(pick) => self.work(pick),
            Event::Report { task, acknowledged } => self.report(task, acknowledged),
            Event::Echo(pick) => {
                if let Some((node, report)) = self.echoes.get(pick % self.echoes.len().max(1)).cloned() {
                    self.hear(node, &report);
                }
            }
            Event::Break(pick) => self.gone(NODES[pick % NODES.len()]),
            Event::Connect(pick) => self.connect(NODES[pick % NODES.len()]),
            Event::Tick => self.now = self.now.plus(Duration::from_millis(100)),
        }
    }

    fn run(&mut self, events: &[Event]) {
        for (i, event) in events.iter().enumerate() {
            if self.plan.cancel_after == Some(i) {
                record::cancel(&mut self.stored, self.now);
            }
            if let Some((node, when)) = self.plan.dies
                && when == i
            {
                self.gone(node);
                self.agents.get_mut(node).unwrap().dead = true;
            }
            self.happen(*event);
        }
        // From here on the world is kind: everything happens, and time passes when nothing does.
        for round in 0..300 {
            for node in NODES {
                self.connect(node);
            }
            self.turn(None);
            for _ in 0..8 {
                self.work(0);
                self.report(0, true);
            }
            if round % 10 == 9 {
                self.now = self.now.plus(Duration::from_secs(61));
            }
            let at_rest = self.agents.values().all(|agent| agent.unacknowledged.is_empty() || agent.dead);
            if finished(self.stored.state()) && at_rest {
                return;
            }
        }
        panic!("does not end: {:?}", self.stored);
    }

    fn check(&self) {
        let state = self.stored.state();
        let succeeded = matches!(state, OperationState::Succeeded | OperationState::Warnings);
        assert_eq!(self.stored.phase, Phase::Done.name());
        for (node, agent) in &self.agents {
            assert!(agent.started.values().all(|times| *times == 1), "{node} did something twice: {agent:?}");
            let running = agent.tasks.values().any(|state| !ended(*state));
            assert!(agent.dead || !(agent.holds || running), "{node} still holds something: {agent:?}");
        }
        match self.stored.kind() {
            v1::OperationKind::Backup => {
                assert_eq!(succeeded, self.ledger.committed);
                let closed = !self.ledger.begun || self.ledger.committed || self.ledger.aborted;
                assert!(
                    closed || self.plan.fails == Some((OWN, Work::Abort)),
                    "an open transaction stays behind"
                );
            }
            v1::OperationKind::Delete => assert_eq!(succeeded, self.ledger.swept),
            v1::OperationKind::Failover => {
                let failover = self.stored.failover.as_ref().unwrap();
                let probed = record::find(&self.stored, &failover.node, Work::Probe);
                assert_eq!(succeeded, probed.is_some_and(|probed| probed.state() == TaskState::TaskDone));
                assert_eq!(succeeded, failover.rto_ms > 0);
                assert!(!succeeded || self.ledger.fenced);
            }
            _ => {}
        }
        assert_eq!(state == OperationState::Failed, self.stored.failure.is_some());
        let plan = &self.plan;
        if plan.fails.is_none() && plan.cancel_after.is_none() && plan.dies.is_none() {
            assert_eq!(state, OperationState::Succeeded, "{:?}", self.stored);
        }
        if let (Some((node, _)), OperationState::Failed) = (plan.fails, state) {
            assert!(plan.dies.is_some() || self.stored.failure.as_ref().unwrap().node == node);
        }
        if state == OperationState::Cancelled {
            assert!(plan.cancel_after.is_some());
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => proptest::option::weighted(0.3, 0usize..6).prop_map(|dies_before| Event::Turn { dies_before }),
        6 => (0usize..16).prop_map(Event::Work),
        6 => (0usize..16, any::<bool>()).prop_map(|(task, acknowledged)| Event::Report { task, acknowledged }),
        2 => (0usize..64).prop_map(Event::Echo),
        1 => (0usize..3).prop_map(Event::Break),
        3 => (0usize..3).prop_map(Event::Connect),
        1 => Just(Event::Tick),
    ]
}

fn detail() -> impl Strategy<Value = Detail> {
    prop_oneof![
        3 => Just(Detail::Backup(v1::BackupDetail::default())),
        1 => Just(Detail::Restore(v1::RestoreDetail::default())),
        1 => Just(Detail::Verify(v1::VerifyDetail { node: "n2".to_owned(), read_data: true, ..Default::default() })),
        1 => Just(Detail::Delete(v1::DeleteDetail::default())),
        1 => Just(Detail::Failover(v1::FailoverDetail { node: "n2".to_owned(), ..Default::default() })),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let works = prop::sample::select(vec![
        ("n1", Work::Inspect),
        ("n2", Work::Freeze),
        ("n3", Work::Snapshot),
        ("n1", Work::Upload),
        ("n2", Work::Manifest),
        ("n1", Work::Restore),
        ("n2", Work::Restore),
        ("n2", Work::Probe),
        ("n2", Work::Verify),
        (OWN, Work::Begin),
        (OWN, Work::Commit),
        (OWN, Work::Abort),
        (OWN, Work::Sweep),
        (OWN, Work::Check),
        (OWN, Work::Fence),
    ]);
    let node = prop::sample::select(NODES.to_vec());
    (
        proptest::option::weighted(0.3, works),
        proptest::option::weighted(0.3, 0usize..200),
        proptest::option::weighted(0.2, (node, 0usize..200)),
    )
        .prop_map(|(fails, cancel_after, dies)| Plan { fails, cancel_after, dies })
}

proptest! {
    #[test]
    fn every_operation_ends_and_says_how(detail in detail(), plan in plan(), events in prop::collection::vec(event(), 0..250)) {
        let mut world = World::new(detail, plan);
        world.run(&events);
        world.check();
    }

    /// Without anything wrong for good, no order of crashes, losses and delays changes the end.
    #[test]
    fn disturbed_or_not_the_end_is_the_same(detail in detail(), events in prop::collection::vec(event(), 0..250)) {
        let mut quiet = World::new(detail.clone(), Plan::default());
        quiet.run(&[]);
        let mut disturbed = World::new(detail, Plan::default());
        disturbed.run(&events);
        disturbed.check();
        prop_assert_eq!(&disturbed.ledger, &quiet.ledger);
        let tasks = |world: &World| -> BTreeSet<(String, String, i32)> {
            world.stored.tasks.iter().map(|task| (task.node.clone(), task.name.clone(), task.state)).collect()
        };
        prop_assert_eq!(tasks(&disturbed), tasks(&quiet));
    }
}
