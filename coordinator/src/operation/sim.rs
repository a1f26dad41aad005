//! Every decider in a world that loses its leader after any action, repeats every action, and loses, delays and
//! doubles reports. Whatever happens, the operation ends, and it ends as it would have. `PROPTEST_CASES` runs more.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use palinurus_proto::v1::{self, OperationState, TaskState};
use palinurus_repository::{Epoch, Timestamp};
use proptest::prelude::*;

use super::record::{self, Detail, Patch, Recorded};
use super::{
    Action, Limits, OWN, Phase, Presence, Seen, Step, View, Work, decide, ended, finished, is_missing,
    taking_part,
};

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
    /// Longer than the patience: whoever is gone is lost.
    Long,
}

/// What is to go wrong for good.
#[derive(Clone, Debug, Default)]
struct Plan {
    fails: Option<(&'static str, Work)>,
    /// Fails so often for a store that is away.
    flaky: Option<(&'static str, Work, u32)>,
    cancel_after: Option<usize>,
    dies: Vec<(&'static str, usize)>,
    allow_partial: bool,
    /// After so many of its snapshots something has changed there.
    changes: Option<(&'static str, u32)>,
    /// Brings all of the service's data; the others bring nothing.
    primary: Option<&'static str>,
}

#[derive(Debug, Default)]
struct Agent {
    connected: bool,
    dead: bool,
    /// The last attempt of each.
    tasks: BTreeMap<Work, (u32, TaskState)>,
    unacknowledged: BTreeSet<Work>,
    holds: bool,
    started: BTreeMap<(Work, u32), u32>,
}

impl Agent {
    fn is_done(&self, work: Work) -> bool {
        self.tasks.get(&work).is_some_and(|(_, state)| *state == TaskState::TaskDone)
    }

    fn runs(&self) -> Vec<Work> {
        self.tasks.iter().filter(|(_, (_, state))| !ended(*state)).map(|(work, _)| *work).collect()
    }
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
    /// What a drill came to.
    drilled: bool,
    missing: Vec<String>,
}

fn drill() -> v1::DrillDetail {
    let part =
        |node: &str| v1::DrillPart { node: node.to_owned(), source: node.to_owned(), ..Default::default() };
    v1::DrillDetail { parts: NODES.iter().map(|node| part(node)).collect(), ..Default::default() }
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
    /// Lost while they uploaded.
    lost_uploading: usize,
    slept: bool,
}

impl World {
    fn new(mut detail: Detail, plan: Plan) -> Self {
        if let Detail::Backup(backup) = &mut detail {
            backup.allow_partial = plan.allow_partial;
        }
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
            lost_uploading: 0,
            slept: false,
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
                Step::Advance(..) | Step::Again(_) | Step::Finish(_) => {}
                Step::Without(missing) => {
                    let uploads = self.stored.phase == Phase::Upload.name()
                        && record::find(&self.stored, &missing.node, Work::Upload).is_some();
                    assert!(self.plan.allow_partial && !self.agents[missing.node.as_str()].connected);
                    self.lost_uploading += usize::from(uploads);
                }
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
            Action::Assign { node, work, attempt } => {
                self.seen.told.insert((node.clone(), *work));
                if node == OWN {
                    self.own.entry(*work).or_insert(None);
                } else {
                    self.assign(node, *work, *attempt);
                }
            }
            Action::Stop { node, work } => {
                self.seen.stopped.insert((node.clone(), *work));
                if node == OWN {
                    if let Some(result @ None) = self.own.get_mut(work) {
                        *result =
                            Some(Err(v1::Failure { kind: "cancelled".to_owned(), ..Default::default() }));
                    }
                } else if let Some((_, state)) =
                    self.agents.get_mut(node.as_str()).unwrap().tasks.get_mut(work)
                    && !ended(*state)
                {
                    *state = TaskState::TaskCancelled;
                    self.agents.get_mut(node.as_str()).unwrap().unacknowledged.insert(*work);
                }
            }
        }
    }

    fn assign(&mut self, node: &str, work: Work, attempt: u32) {
        self.barriers_hold(work);
        assert!(
            work == Work::Release || !is_missing(&self.stored, node),
            "{node} has no part in it any more"
        );
        let later = [Work::Freeze, Work::Snapshot, Work::Thaw, Work::Upload, Work::Manifest].contains(&work);
        assert!(!later || self.plan.primary.is_none_or(|primary| primary == node), "{node} brings nothing");
        let asked = record::find(&self.stored, node, work).map(|record| record.attempt);
        assert_eq!(asked, Some(attempt), "recorded before it is asked for");
        let borrows = self.stored.verify.is_none();
        let agent = self.agents.get_mut(node).unwrap();
        assert!(agent.connected, "a task for a node that is gone");
        if agent.tasks.get(&work).is_some_and(|(known, _)| *known >= attempt) {
            agent.unacknowledged.insert(work);
            return;
        }
        *agent.started.entry((work, attempt)).or_default() += 1;
        agent.unacknowledged.remove(&work);
        agent.tasks.insert(work, (attempt, TaskState::TaskRunning));
        agent.holds |= borrows;
    }

    /// Nobody is a phase ahead: whoever is asked to go on, all have finished what comes before.
    fn barriers_hold(&self, work: Work) {
        if let Some(failover) = &self.stored.failover {
            let restored = self.agents[failover.node.as_str()].is_done(Work::Restore);
            match work {
                Work::Restore => assert!(self.ledger.fenced, "restored while the old agent may come back"),
                Work::Probe => assert!(restored),
                _ => {}
            }
        }
        let order = [Work::Inspect, Work::Freeze, Work::Snapshot, Work::Thaw, Work::Upload, Work::Manifest];
        let Some(at) = order.iter().position(|each| *each == work).filter(|at| *at > 0) else { return };
        for (node, agent) in &self.agents {
            let here = taking_part(&self.stored).any(|each| each == *node);
            assert!(!here || agent.is_done(order[at - 1]), "before {work:?}");
            // Of the snapshots that are made now.
            let last = agent.tasks.get(&Work::Thaw).or(agent.tasks.get(&order[at - 1]));
            let of_now = last.is_none_or(|(attempt, _)| *attempt == self.snapshots());
            assert!(!here || at <= 3 || of_now, "{work:?} from snapshots that are over");
            let attempts = record::find(&self.stored, node, Work::Upload).map_or(0, |record| record.attempt);
            let taken_over = self.lost_uploading == 0 || attempts > 1;
            assert!(!here || work != Work::Manifest || taken_over, "{node} left chunks to a lost node");
        }
        assert!(self.ledger.begun && !self.ledger.aborted);
    }

    fn snapshots(&self) -> u32 {
        1 + self.stored.backup.as_ref().map_or(0, |backup| backup.snapshots_again)
    }

    fn work(&mut self, pick: usize) {
        let own: Vec<Work> =
            self.own.iter().filter(|(_, done)| done.is_none()).map(|(work, _)| *work).collect();
        let mut running: Vec<(&'static str, Work)> = own.into_iter().map(|work| (OWN, work)).collect();
        for (node, agent) in self.agents.iter().filter(|(_, agent)| !agent.dead) {
            running.extend(agent.runs().into_iter().map(|work| (*node, work)));
        }
        let Some((node, work)) = running.get(pick % running.len().max(1)).copied() else { return };
        if node == OWN {
            let result = self.own_deed(work);
            self.own.insert(work, Some(result));
            return;
        }
        let attempt = self.agents[node].tasks[&work].0;
        let flaky = matches!(self.plan.flaky, Some((on, what, times)) if (on, what) == (node, work) && attempt <= times);
        let fails = flaky || self.plan.fails == Some((node, work));
        let agent = self.agents.get_mut(node).unwrap();
        let state = if fails { TaskState::TaskFailed } else { TaskState::TaskDone };
        agent.tasks.insert(work, (attempt, state));
        agent.unacknowledged.insert(work);
        if work == Work::Release {
            // Asked in vain to stop for too long, a task is stopped by the release itself.
            assert!(self.slept || agent.runs().is_empty(), "released under a running task");
            for work in agent.runs() {
                agent.tasks.entry(work).and_modify(|(_, state)| *state = TaskState::TaskCancelled);
                agent.unacknowledged.insert(work);
            }
            agent.holds = false;
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
                Ok(Patch::Begun {
                    bases: Vec::new(),
                    key_epochs: Vec::new(),
                    damaged: Default::default(),
                    warnings: Vec::new(),
                })
            }
            Work::Commit => {
                assert!(self.ledger.begun && !self.ledger.aborted);
                for node in taking_part(&self.stored) {
                    assert!(self.agents[node].is_done(Work::Manifest));
                }
                let missing: Vec<String> = missing(&self.stored);
                assert!(
                    !self.ledger.committed || self.ledger.missing == missing,
                    "committed with other content"
                );
                self.ledger.committed = true;
                self.ledger.missing = missing;
                Ok(Patch::Committed { chunks_moved: 0 })
            }
            Work::Abort if self.ledger.committed => Ok(Patch::Committed { chunks_moved: 0 }),
            Work::Abort => {
                self.ledger.aborted = true;
                Ok(Patch::Nothing)
            }
            Work::Forget => {
                self.ledger.forgotten = true;
                Ok(Patch::Nothing)
            }
            Work::Rewrite => {
                assert!(self.ledger.forgotten && !self.ledger.swept);
                Ok(Patch::Rewrote(None))
            }
            Work::Sweep => {
                assert!(self.ledger.forgotten);
                self.ledger.swept = true;
                Ok(Patch::Swept(palinurus_repository::sweep::Swept { condemned: 1, ..Default::default() }))
            }
            Work::Check => Ok(Patch::Checked(v1::VerifyDetail::default())),
            Work::Mark => Ok(Patch::Marked),
            Work::Mend => Ok(Patch::Mended(v1::MendDetail::default())),
            Work::Record => {
                self.ledger.drilled = true;
                Ok(Patch::Drilled)
            }
            Work::Fence => {
                self.ledger.fenced = true;
                Ok(Patch::Fenced { told: "another holds the place".to_owned(), chosen: None })
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
        let (attempt, state) = agent.tasks[&work];
        let mut report = v1::TaskReport { task: work.name().to_owned(), attempt, ..Default::default() };
        report.set_state(state);
        if state == TaskState::TaskFailed {
            let flaky = self.plan.flaky.is_some_and(|(on, what, _)| (on, what) == (node, work));
            report.failure = Some(v1::Failure {
                kind: if flaky { "unavailable" } else { "internal" }.to_owned(),
                message: "broke".to_owned(),
                ..Default::default()
            });
        }
        if let (Work::Inspect, Some(primary)) = (work, self.plan.primary) {
            let share = if node == primary { v1::Share::Whole } else { v1::Share::Nothing };
            let inspected = v1::InspectResult { share: share.into(), ..Default::default() };
            report.result =
                Some(v1::TaskResult { result: Some(v1::task_result::Result::Inspect(inspected)) });
        }
        if let (Work::Thaw, Some((on, times))) = (work, self.plan.changes) {
            let changed = if on == node && attempt <= times { "a table was made" } else { "" };
            let thawed = v1::ThawResult { changed: changed.to_owned() };
            report.result = Some(v1::TaskResult { result: Some(v1::task_result::Result::Thaw(thawed)) });
        }
        if work == Work::Drill {
            let drilled = v1::DrillResult { rto_ms: 1, ..Default::default() };
            report.result = Some(v1::TaskResult { result: Some(v1::task_result::Result::Drill(drilled)) });
        }
        if work == Work::Upload {
            let uploaded = v1::UploadResult { borrowed: 1, ..Default::default() };
            report.result = Some(v1::TaskResult { result: Some(v1::task_result::Result::Upload(uploaded)) });
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
        self.seen.told.extend(agent.runs().into_iter().map(|work| (node.to_owned(), work)));
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
            Event::Long => {
                self.now = self.now.plus(Duration::from_secs(61));
                self.slept = true;
            }
        }
    }

    fn run(&mut self, events: &[Event]) {
        for (i, event) in events.iter().enumerate() {
            if self.plan.cancel_after == Some(i) {
                record::cancel(&mut self.stored, self.now);
            }
            for (node, _) in self.plan.dies.clone().into_iter().filter(|(_, when)| *when == i) {
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
            let running = !agent.runs().is_empty();
            // Who was away too long is owed its release: the service gives it when the node comes back.
            let release = record::find(&self.stored, node, Work::Release).map(v1::TaskRecord::state);
            let owed = self.slept && release != Some(TaskState::TaskDone);
            let holds = agent.holds || running;
            assert!(agent.dead || owed || !holds, "{node} still holds something: {agent:?}");
        }
        match self.stored.kind() {
            v1::OperationKind::Backup => {
                assert_eq!(succeeded, self.ledger.committed);
                self.check_missing();
                let closed = !self.ledger.begun || self.ledger.committed || self.ledger.aborted;
                assert!(
                    closed || self.plan.fails == Some((OWN, Work::Abort)),
                    "an open transaction stays behind"
                );
            }
            v1::OperationKind::Delete => assert_eq!(succeeded, self.ledger.swept),
            v1::OperationKind::Retention => assert!(!succeeded || self.ledger.swept),
            v1::OperationKind::Failover => {
                let failover = self.stored.failover.as_ref().unwrap();
                let probed = record::find(&self.stored, &failover.node, Work::Probe);
                assert_eq!(succeeded, probed.is_some_and(|probed| probed.state() == TaskState::TaskDone));
                assert_eq!(succeeded, failover.rto_ms > 0);
                assert!(!succeeded || self.ledger.fenced);
            }
            v1::OperationKind::Drill => {
                let drill = self.stored.drill.as_ref().unwrap();
                assert_eq!(succeeded, drill.recorded);
                assert!(!succeeded || self.ledger.drilled);
                // Each is counted once, however often it was told.
                let done = |node: &&str| {
                    record::find(&self.stored, node, Work::Drill)
                        .is_some_and(|r| r.state() == TaskState::TaskDone)
                };
                assert_eq!(drill.results.len(), NODES.iter().filter(|node| done(node)).count());
            }
            _ => {}
        }
        assert_eq!(state == OperationState::Failed, self.stored.failure.is_some());
        let plan = &self.plan;
        let flaky = plan.flaky.is_some_and(|(_, _, times)| times > 2);
        let changes = plan.changes.is_some_and(|(_, times)| times > 2);
        let lost = !plan.dies.is_empty() || self.slept || changes;
        if plan.fails.is_none() && !flaky && plan.cancel_after.is_none() && !lost {
            assert_eq!(state, OperationState::Succeeded, "{:?}", self.stored);
        }
        if let (Some((node, _)), OperationState::Failed) = (plan.fails, state) {
            assert!(lost || flaky || self.stored.failure.as_ref().unwrap().node == node);
        }
        if state == OperationState::Cancelled {
            assert!(plan.cancel_after.is_some());
        }
    }

    /// A partial backup is one by policy only, and never without saying so.
    fn check_missing(&self) {
        let missing = missing(&self.stored);
        assert!(self.plan.allow_partial || missing.is_empty());
        assert!(missing.len() < NODES.len());
        if self.ledger.committed {
            assert_eq!(self.ledger.missing, missing);
            let told = |node: &String| {
                self.stored.warnings.iter().any(|w| w.node == *node && w.message.contains("partial"))
            };
            assert!(missing.iter().all(told), "{:?}", self.stored.warnings);
            assert!(missing.is_empty() || self.stored.state() == OperationState::Warnings);
        }
        let others_work = self.plan.fails.is_none()
            && self.plan.flaky.is_none()
            && self.plan.cancel_after.is_none()
            && self.plan.changes.is_none_or(|(_, times)| times < 3);
        let whole_lives =
            self.plan.primary.is_none_or(|primary| self.plan.dies.iter().all(|(node, _)| *node != primary));
        let others_live = whole_lives && self.plan.dies.len() < NODES.len();
        if self.plan.allow_partial && others_work && !self.slept && others_live {
            assert!(self.ledger.committed, "the others could go on: {:?}", self.stored);
        }
        if let (false, Some(failure)) = (self.plan.allow_partial, &self.stored.failure)
            && failure.message.contains("lost")
        {
            assert!(failure.message.contains("without it the backup lacks"), "{failure:?}");
        }
    }
}

fn missing(operation: &v1::Operation) -> Vec<String> {
    operation.backup.iter().flat_map(|backup| &backup.missing).map(|missing| missing.node.clone()).collect()
}

fn rough_event() -> impl Strategy<Value = Event> {
    prop_oneof![24 => event(), 1 => Just(Event::Long)]
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
        1 => Just(Detail::Drill(drill())),
        1 => Just(Detail::Retention(v1::RetentionDetail::default())),
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
        ("n3", Work::Drill),
        (OWN, Work::Record),
        (OWN, Work::Begin),
        (OWN, Work::Commit),
        (OWN, Work::Abort),
        (OWN, Work::Rewrite),
        (OWN, Work::Sweep),
        (OWN, Work::Check),
        (OWN, Work::Fence),
    ]);
    let node = prop::sample::select(NODES.to_vec());
    let moves = prop::sample::select(vec![Work::Upload, Work::Manifest]);
    let dies = prop_oneof![
        6 => Just(Vec::new()),
        4 => prop::collection::vec((node.clone(), 0usize..200), 1..4),
    ];
    (
        proptest::option::weighted(0.2, works),
        proptest::option::weighted(0.2, (node.clone(), moves, 1u32..5)),
        proptest::option::weighted(0.2, 0usize..200),
        dies,
        any::<bool>(),
        proptest::option::weighted(0.3, node.clone()),
        proptest::option::weighted(0.3, (node, 1u32..4)),
    )
        .prop_map(|(fails, flaky, cancel_after, dies, allow_partial, primary, changes)| Plan {
            fails,
            flaky,
            cancel_after,
            dies,
            allow_partial,
            primary,
            changes,
        })
}

proptest! {
    #[test]
    fn every_operation_ends_and_says_how(detail in detail(), plan in plan(), events in prop::collection::vec(rough_event(), 0..250)) {
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
