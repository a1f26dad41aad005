//! Random schedules over the real rules: writers with stale views, two coordinators that take the lead from each
//! other, crashes, zombies that wake up late, deletions by anybody at any time. After each step nothing may be gone
//! that a backup or an open transaction needs. Each mutant leaves a rule out, and must be caught.
use std::collections::{BTreeMap, BTreeSet};

use super::fixture::{begin_as, record};
use super::state::Rules;
use super::*;
use crate::epochs::KeyEpoch;
use crate::id::{Draw, Epoch, TransactionId, WriterId};
use crate::manifest::ManifestRef;
use crate::pack::PackId;
use crate::sweep::Kept;

mod key_epochs;

use key_epochs::Operator;

const STEPS: usize = 250;

/// What is left out. Nothing, by default.
#[derive(Clone, Copy, Default)]
struct Mutant {
    rules: Rules,
    /// Puts records without a condition: a stale writer's replaces another's.
    no_cas: bool,
    /// Reuses packs that are condemned.
    reuse_condemned: bool,
    /// Decides what to reuse on a state from before its BEGIN.
    old_views: bool,
    /// Deletes what its own SWEEP says before that is in the ledger.
    hasty_delete: bool,
    /// Who has rewritten a backup deletes its old packs there and then.
    hasty_rewrite: bool,
    /// Seals under the key epoch of a state from before its BEGIN.
    old_epochs: bool,
}

/// What must never be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Violation {
    /// A backup misses a pack or manifest.
    Backup,
    /// An open transaction misses one that it counts on.
    Transaction,
    /// A record of a lower epoch counts although a higher one leads.
    Stale,
    /// A pinned backup was forgotten.
    Pinned,
    /// Two key epochs have one number.
    KeyEpoch,
    /// A transaction's objects are sealed in another key epoch than readers look in.
    Sealed,
}

#[derive(Default)]
struct Seen {
    violations: BTreeMap<Violation, u32>,
    commits: u32,
    swept: u64,
    deleted: u32,
    fenced: u32,
    refused: u32,
    leaders: u32,
    foreign: u32,
    rewrites: u32,
    key_epochs: u32,
}

/// splitmix64: schedules are told by their seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())].clone())
    }
}

/// A backup being made, by an agent and by whichever coordinator drives it; or one that is rewritten.
struct Session {
    number: u32,
    id: TransactionId,
    epoch: u64,
    view: usize,
    /// How many records there were right after its BEGIN.
    begun: Option<usize>,
    own: PackSet,
    refs: PackSet,
    /// The manifest of an unchanged node.
    base: Option<ManifestRef>,
    manifest_put: bool,
    rewrites: Option<Rewriting>,
}

/// Chosen after its BEGIN. Chunks of the packs in `moves` go into new ones.
#[derive(Default)]
struct Rewriting {
    backup: Option<TransactionId>,
    moves: PackSet,
}

#[derive(Default)]
struct Coordinator {
    epoch: u64,
    /// Its LEADER is not in the ledger yet.
    campaigns: bool,
    view: usize,
    delete: Vec<PackId>,
}

enum Outcome {
    Done,
    /// Somebody else has the place; the view has moved on.
    Lost,
    Refused(ErrorKind),
}

struct World {
    random: Random,
    mutant: Mutant,
    log: Vec<Record>,
    /// `states[n]` is what the first n records amount to.
    states: Vec<Arc<State>>,
    store: BTreeSet<String>,
    sessions: Vec<Session>,
    zombies: Vec<Session>,
    coordinators: [Coordinator; 2],
    operators: [Operator; 2],
    /// So many masters were drawn.
    draws: u64,
    /// What each transaction that has begun seals under.
    sealed: BTreeMap<TransactionId, u32>,
    next_epoch: u64,
    next_session: u32,
    next_pack: u32,
    seen: Seen,
}

fn manifest(session: &Session) -> ManifestRef {
    ManifestRef {
        transaction: session.id,
        node: "n1".to_owned(),
        writer: WriterId([9; 8]),
        parts: 1,
        size: 100,
        tail: 50,
        root: [3; 32],
    }
}

fn commits(session: &Session, manifest: ManifestRef) -> Body {
    let node = NodeCommit { manifest, ..super::fixture::node(0, "n1") };
    Body::Commit {
        transaction: session.id,
        nodes: vec![node],
        missing: Vec::new(),
        packs: session.own.union(&session.refs),
    }
}

impl World {
    fn new(seed: u64, mutant: Mutant) -> Self {
        Self {
            random: Random(seed),
            mutant,
            log: Vec::new(),
            states: vec![Arc::new(State::with_rules(mutant.rules))],
            store: BTreeSet::new(),
            sessions: Vec::new(),
            zombies: Vec::new(),
            coordinators: Default::default(),
            operators: Default::default(),
            draws: 0,
            sealed: BTreeMap::new(),
            next_epoch: 1,
            next_session: 1,
            next_pack: 0,
            seen: Seen::default(),
        }
    }

    fn newest(&self) -> &Arc<State> {
        &self.states[self.log.len()]
    }

    fn violation(&mut self, violation: Violation) {
        *self.seen.violations.entry(violation).or_default() += 1;
    }

    /// As [`Ledger::append`] does, but for its loop: who loses may do something else first.
    fn append(&mut self, view: &mut usize, epoch: u64, body: Body) -> Outcome {
        let end = self.log.len();
        if *view < end && !self.mutant.no_cas {
            *view = self.random.between(*view + 1, end);
            return Outcome::Lost;
        }
        let record = record(epoch, body);
        if let Err(e) = self.states[*view].check(&record) {
            self.seen.fenced += u32::from(e.kind() == ErrorKind::Fenced);
            return Outcome::Refused(e.kind());
        }
        if *view < end {
            self.replace(*view, record);
            *view += 1;
            return Outcome::Done;
        }
        let (highest, _) = self.newest().leader();
        let pinned = match &record.body {
            Body::Forget { backup } => self.newest().backup(*backup).is_some_and(|it| it.pin.is_some()),
            _ => false,
        };
        let counts = self.push(record.clone());
        if counts {
            self.check_key_epoch(&record.body);
        }
        if counts && Epoch(epoch) < highest {
            self.violation(Violation::Stale);
        }
        if counts && pinned {
            self.violation(Violation::Pinned);
        }
        *view = self.log.len();
        let named = match &record.body {
            Body::Commit { nodes, packs, .. } => Some((nodes, packs)),
            Body::Rewrite { backups, .. } => backups.first().map(|to| (&to.nodes, &to.packs)),
            _ => None,
        };
        if counts && let Some((nodes, packs)) = named {
            match record.body {
                Body::Rewrite { .. } => self.seen.rewrites += 1,
                _ => self.seen.commits += 1,
            }
            let there = packs.iter().all(|pack| self.store.contains(&pack.key()))
                && nodes.iter().all(|node| self.store.contains(&node.manifest.key(0)));
            if !there {
                self.violation(Violation::Backup);
            }
        }
        Outcome::Done
    }

    /// True when the record counts.
    fn push(&mut self, record: Record) -> bool {
        let mut state = State::clone(self.newest());
        let counts = state.apply(self.log.len() as u64, &record).is_ok();
        self.log.push(record);
        self.states.push(Arc::new(state));
        counts
    }

    /// What a store does that ignores conditions.
    fn replace(&mut self, number: usize, record: Record) {
        let before = self.newest().clone();
        let rest = self.log.split_off(number);
        self.states.truncate(number + 1);
        self.push(record);
        for record in rest.into_iter().skip(1) {
            self.push(record);
        }
        let after = self.newest().clone();
        let there = |backup: &BackupRecord| backup.packs.iter().all(|pack| self.store.contains(&pack.key()));
        if before.backups().any(|backup| after.backup(backup.id).is_none())
            || !after.backups().all(|backup| there(backup))
        {
            self.violation(Violation::Backup);
        }
    }

    fn delete(&mut self, key: &str) {
        if !self.store.remove(key) {
            return;
        }
        self.seen.deleted += 1;
        let newest = self.newest().clone();
        let pack = PackId::from_key(key).ok();
        let named = |manifest: &ManifestRef| manifest.key(0) == key;
        if newest.backups().any(|backup| {
            pack.is_some_and(|pack| backup.packs.contains(&pack))
                || backup.nodes.iter().any(|node| named(&node.manifest))
        }) {
            self.violation(Violation::Backup);
        }
        // Also a zombie's: nobody can tell it from one that is slow.
        let needed = self.sessions.iter().chain(&self.zombies).any(|session| {
            newest.open_transactions().contains_key(&session.id)
                && (pack.is_some_and(|pack| session.own.contains(&pack) || session.refs.contains(&pack))
                    || session.base.as_ref().is_some_and(named)
                    || named(&manifest(session)))
        });
        if needed {
            self.violation(Violation::Transaction);
        }
    }

    fn begin_session(&mut self) {
        let end = self.log.len();
        let view = if self.random.chance(70) { end } else { self.random.between(0, end) };
        let epoch = self.coordinators[self.random.below(2)].epoch;
        let number = self.next_session;
        self.next_session += 1;
        self.sessions.push(Session {
            number,
            id: super::fixture::txn(number),
            epoch,
            view,
            begun: None,
            own: PackSet::new(),
            refs: PackSet::new(),
            base: None,
            manifest_put: false,
            rewrites: self.random.chance(25).then(Rewriting::default),
        });
    }

    /// True while the session has something left to do.
    fn session_step(&mut self, session: &mut Session) -> bool {
        let Some(begun) = session.begun else {
            let purpose = if session.rewrites.is_some() { Purpose::Rewrite } else { Purpose::Backup };
            return match self.append(&mut session.view, session.epoch, begin_as(session.number, purpose)) {
                Outcome::Done => {
                    session.begun = Some(session.view);
                    self.seals(session.id, session.view);
                    true
                }
                Outcome::Lost => true,
                Outcome::Refused(kind) => self.next_leader(session, kind),
            };
        };
        if session.rewrites.is_some() {
            return self.rewrite_step(session, begun);
        }
        match self.random.below(100) {
            0..30 => {
                let pack =
                    PackId { transaction: session.id, writer: WriterId([7; 8]), counter: self.next_pack };
                self.next_pack += 1;
                self.store.insert(pack.key());
                session.own.insert(pack);
            }
            30..60 => self.reuse(session, begun),
            60..90 => return self.commit(session),
            _ if self.random.chance(30) => {
                return false; // dies; its BEGIN stays
            }
            _ => {}
        }
        true
    }

    /// Chooses a backup and which of its packs it moves from, moves, and says so.
    fn rewrite_step(&mut self, session: &mut Session, begun: usize) -> bool {
        let Some(rewriting) = &mut session.rewrites else { return false };
        let Some(backup) = rewriting.backup else {
            let seen =
                if self.mutant.old_views { self.random.between(0, begun) } else { session.view.max(begun) };
            let backups: Vec<_> = self.states[seen].backups().cloned().collect();
            let Some(backup) = self.random.pick(&backups) else { return self.random.chance(80) };
            rewriting.backup = Some(backup.id);
            rewriting.moves = backup.packs.iter().filter(|_| self.random.chance(50)).collect();
            session.refs = backup.packs.clone();
            return true;
        };
        let moves = rewriting.moves.clone();
        if session.own.is_empty() {
            // What it moves it reads.
            if !moves.iter().all(|pack| self.store.contains(&pack.key())) {
                return false;
            }
            let pack = PackId { transaction: session.id, writer: WriterId([7; 8]), counter: self.next_pack };
            self.next_pack += 1;
            self.store.insert(pack.key());
            session.own.insert(pack);
            return true;
        }
        let manifest = manifest(session);
        if !session.manifest_put {
            self.store.insert(manifest.key(0));
            session.manifest_put = true;
            return true;
        }
        let node = NodeCommit { manifest, ..super::fixture::node(0, "n1") };
        let packs = session.refs.difference(&moves).union(&session.own);
        let backups = vec![Rewritten { backup, nodes: vec![node], packs }];
        let body = Body::Rewrite { transaction: session.id, backups };
        match self.append(&mut session.view, session.epoch, body) {
            Outcome::Done => {
                if self.mutant.hasty_rewrite {
                    moves.iter().for_each(|pack| self.delete(&pack.key()));
                }
                false
            }
            Outcome::Lost => true,
            // Forgotten meanwhile, or fenced: whoever leads ends it.
            Outcome::Refused(kind) => self.next_leader(session, kind),
        }
    }

    fn reuse(&mut self, session: &mut Session, begun: usize) {
        let mut seen = begun;
        if self.mutant.old_views {
            seen = self.random.between(0, begun);
        } else if self.random.chance(30) {
            session.view = session.view.max(self.random.between(begun, self.log.len()));
            seen = session.view;
        }
        let state = self.states[seen].clone();
        let usable = |pack: &PackId| self.mutant.reuse_condemned || state.usable(pack);
        let packs: Vec<_> = state.committed().iter().filter(usable).collect();
        if let Some(pack) = self.random.pick(&packs) {
            session.refs.insert(pack);
            self.seen.foreign += 1;
        }
        let bases: Vec<_> = state.backups().map(|backup| backup.nodes[0].manifest.clone()).collect();
        if session.base.is_none() && !session.manifest_put && self.random.chance(40) {
            session.base = self.random.pick(&bases);
        }
    }

    fn commit(&mut self, session: &mut Session) -> bool {
        let manifest = session.base.clone().unwrap_or_else(|| manifest(session));
        if session.base.is_none() && !session.manifest_put {
            self.store.insert(manifest.key(0));
            session.manifest_put = true;
        }
        let body = commits(session, manifest.clone());
        // The object is looked for first, and at some distance before the append.
        if !self.store.contains(&manifest.key(0)) {
            return false;
        }
        match self.append(&mut session.view, session.epoch, body) {
            Outcome::Done => false,
            Outcome::Lost => true,
            Outcome::Refused(kind) => {
                let state = &self.states[session.view];
                let open = state.open_transactions().contains_key(&session.id);
                self.seen.refused += u32::from(open && state.leader().0 == Epoch(session.epoch));
                self.next_leader(session, kind)
            }
        }
    }

    /// A fenced session is mostly taken over by a coordinator that leads.
    fn next_leader(&mut self, session: &mut Session, kind: ErrorKind) -> bool {
        if kind != ErrorKind::Fenced && kind != ErrorKind::Invalid {
            return false;
        }
        session.epoch = self.coordinators[self.random.below(2)].epoch;
        session.view = self.log.len();
        self.random.chance(80)
    }

    fn coordinator_step(&mut self, which: usize) {
        let mut coordinator = std::mem::take(&mut self.coordinators[which]);
        let state = self.states[coordinator.view].clone();
        if !coordinator.campaigns && self.random.chance(1) {
            self.campaign(&mut coordinator);
        }
        let body = match self.random.below(100) {
            _ if coordinator.campaigns => Some(Body::Leader { name: format!("c{which}") }),
            0..16 => {
                let open: Vec<_> = state.open_transactions().keys().copied().collect();
                self.random.pick(&open).map(|transaction| Body::Abort { transaction })
            }
            16..18 => {
                let live: Vec<_> = state.backups().map(|backup| backup.id).collect();
                self.random.pick(&live).map(|backup| Body::Pin { backup, reason: String::new() })
            }
            18..21 => {
                let pinned = state.backups().filter(|backup| backup.pin.is_some());
                let pinned: Vec<_> = pinned.map(|backup| backup.id).collect();
                self.random.pick(&pinned).map(|backup| Body::Unpin { backup })
            }
            21..42 => {
                let live: Vec<_> = state.backups().map(|backup| backup.id).collect();
                self.random.pick(&live).map(|backup| Body::Forget { backup })
            }
            42..70 => {
                let packs: PackSet = state.unreferenced().iter().filter(|_| self.random.chance(70)).collect();
                (!packs.is_empty()).then_some(Body::Condemn { packs })
            }
            _ => {
                // All that is condemned: whether it may go is for the rule to say.
                let packs: PackSet = state.condemned().iter().filter(|_| self.random.chance(80)).collect();
                (!packs.is_empty()).then_some(Body::Sweep { packs })
            }
        };
        let Some(body) = body else {
            coordinator.view = self.log.len();
            self.coordinators[which] = coordinator;
            return;
        };
        let sweeps = if let Body::Sweep { packs } = &body { packs.clone() } else { PackSet::new() };
        match self.append(&mut coordinator.view, coordinator.epoch, body) {
            Outcome::Done => {
                self.seen.leaders += u32::from(coordinator.campaigns);
                coordinator.campaigns = false;
                self.seen.swept += sweeps.len();
                coordinator.delete.extend(sweeps.iter());
            }
            Outcome::Lost if self.mutant.hasty_delete => coordinator.delete.extend(sweeps.iter()),
            Outcome::Lost => {}
            Outcome::Refused(ErrorKind::Fenced) if self.random.chance(20) => self.campaign(&mut coordinator),
            // Slow to notice, so that it is stale for a while.
            Outcome::Refused(_) if self.random.chance(50) => coordinator.view = self.log.len(),
            Outcome::Refused(_) => {}
        }
        self.coordinators[which] = coordinator;
    }

    fn campaign(&mut self, coordinator: &mut Coordinator) {
        coordinator.epoch = self.next_epoch;
        coordinator.campaigns = true;
        self.next_epoch += 1;
    }

    /// Anybody deletes, in any order, on any view, and stops anywhere.
    fn delete_step(&mut self) {
        let which = self.random.below(2);
        if self.random.chance(40) && !self.coordinators[which].delete.is_empty() {
            let at = self.random.below(self.coordinators[which].delete.len());
            let pack = self.coordinators[which].delete.swap_remove(at);
            return self.delete(&pack.key());
        }
        let view = self.random.between(0, self.log.len());
        let kept = Kept::of(&self.states[view]);
        let garbage: Vec<_> = self.store.iter().filter(|key| kept.is_garbage(key)).cloned().collect();
        for key in garbage {
            if self.random.chance(50) {
                self.delete(&key);
            }
        }
    }

    /// A zombie wakes up: it puts what it was about to put, or tries to commit.
    fn zombie_step(&mut self) {
        if self.zombies.is_empty() {
            return;
        }
        let at = self.random.below(self.zombies.len());
        let mut zombie = self.zombies.swap_remove(at);
        if self.session_step(&mut zombie) || self.random.chance(50) {
            self.zombies.push(zombie);
        }
    }

    fn run(mut self) -> Seen {
        for _ in 0..STEPS {
            match self.random.below(100) {
                0..14 if self.sessions.len() < 4 => self.begin_session(),
                0..55 if !self.sessions.is_empty() => {
                    let at = self.random.below(self.sessions.len());
                    let mut session = self.sessions.swap_remove(at);
                    if self.session_step(&mut session) {
                        self.sessions.push(session);
                    } else if session.begun.is_some() && self.random.chance(50) {
                        self.zombies.push(session);
                    }
                }
                55..60 => self.zombie_step(),
                60..91 => {
                    let which = self.random.below(2);
                    self.coordinator_step(which);
                }
                91..92 => self.operator_step(),
                _ => self.delete_step(),
            }
        }
        self.check_seals();
        self.seen
    }
}

fn explore(schedules: u64, mutant: Mutant) -> Seen {
    let mut all = Seen::default();
    for seed in 0..schedules {
        let seen = World::new(seed, mutant).run();
        for (violation, count) in seen.violations {
            *all.violations.entry(violation).or_default() += count;
        }
        all.commits += seen.commits;
        all.swept += seen.swept;
        all.deleted += seen.deleted;
        all.fenced += seen.fenced;
        all.refused += seen.refused;
        all.leaders += seen.leaders;
        all.foreign += seen.foreign;
        all.rewrites += seen.rewrites;
        all.key_epochs += seen.key_epochs;
    }
    println!(
        "{schedules} schedules: {:?}; {} commits, {} rewrites, {} key epochs, {} foreign packs, {} swept, {} deleted, {} leaders, {} fenced, {} commits refused",
        all.violations,
        all.commits,
        all.rewrites,
        all.key_epochs,
        all.foreign,
        all.swept,
        all.deleted,
        all.leaders,
        all.fenced,
        all.refused
    );
    all
}

fn rules(change: impl FnOnce(&mut Rules)) -> Mutant {
    let mut mutant = Mutant::default();
    change(&mut mutant.rules);
    mutant
}

#[test]
fn no_schedule_loses_anything() {
    let seen = explore(2000, Mutant::default());
    assert!(seen.violations.is_empty(), "{:?}", seen.violations);
    // And they were schedules in which much happens.
    assert!(
        seen.commits > 4000 && seen.foreign > 4000 && seen.swept > 1000 && seen.deleted > 4000,
        "too tame"
    );
    assert!(seen.rewrites > 500 && seen.key_epochs > 1000, "too tame");
    assert!(seen.fenced > 500 && seen.leaders > 2000, "too tame");
    assert_eq!(seen.refused, 0, "whoever keeps the rules is never refused its COMMIT");
}

#[test]
fn a_missing_rule_is_noticed() {
    use Violation::{Backup, KeyEpoch, Pinned, Sealed, Stale, Transaction};
    let no_swept = rules(|rules| rules.swept = false);
    let mutants = [
        (
            "neither barrier nor swept check",
            rules(|rules| (rules.barrier, rules.swept) = (false, false)),
            Backup,
        ),
        ("no barrier", rules(|rules| rules.barrier = false), Transaction),
        ("condemned packs reused", Mutant { reuse_condemned: true, ..no_swept }, Backup),
        ("views older than BEGIN", Mutant { old_views: true, ..no_swept }, Backup),
        ("append without conditional put", Mutant { no_cas: true, ..Mutant::default() }, Backup),
        (
            "deletion before the SWEEP is in the ledger",
            Mutant { hasty_delete: true, ..Mutant::default() },
            Backup,
        ),
        (
            "packs that were rewritten are deleted at once",
            Mutant { hasty_rewrite: true, ..Mutant::default() },
            Backup,
        ),
        ("manifests deleted at once", rules(|rules| rules.manifests = false), Backup),
        ("no fencing", rules(|rules| rules.fencing = false), Stale),
        ("pins ignored", rules(|rules| rules.pins = false), Pinned),
        ("key epochs not numbered", rules(|rules| rules.key_epochs = false), KeyEpoch),
        ("sealed as of before BEGIN", Mutant { old_epochs: true, ..Mutant::default() }, Sealed),
    ];
    for (name, mutant, violation) in mutants {
        println!("{name}");
        let seen = explore(600, mutant);
        assert!(seen.violations.contains_key(&violation), "{name} goes unnoticed: {:?}", seen.violations);
    }
}

/// The barrier and the swept check each keep backups safe alone; a rule may have a bug without a loss.
#[test]
fn the_two_nets_hold_alone() {
    let barrier_only = explore(600, rules(|rules| rules.swept = false));
    assert!(barrier_only.violations.is_empty(), "{:?}", barrier_only.violations);
    let check_only = explore(600, rules(|rules| rules.barrier = false));
    assert!(!check_only.violations.contains_key(&Violation::Backup), "{:?}", check_only.violations);
    assert!(check_only.refused > 0, "its price: commits that are refused");
}
