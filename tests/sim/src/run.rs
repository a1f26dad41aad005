//! One seed, from its beginning to its end: hosts are run in turn, each no further than a tick ahead of the others,
//! and at once when something arrives for them.
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::mutant::{self, Mutant};
use palinurus_repository::{Error, KeyFile, Result};

use crate::chance::Chance;
use crate::chaos::{Chaos, Deed};
use crate::fleet::{self, Fleet, Role};
use crate::host::Host;
use crate::invariant::{Invariant, Violation};
use crate::log;
use crate::mover::BLOCKS;
use crate::operator::Operator;
use crate::trace::Log;
use crate::world::{self, HostId, Order, World};

/// No host lags behind the others by more, in milliseconds.
const TICK: u64 = 250;
/// A run that takes longer has not settled.
const LONGEST: u64 = 900_000;
/// Whoever ends by itself is started again, as by systemd.
const AGAIN: u64 = 2000;

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Say every line of the trace as it happens.
    pub tell: bool,
    /// A planted bug.
    pub mutant: Option<Mutant>,
    /// Two leaders at once in every run, not only in those that draw it.
    pub two_leaders: bool,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<Violation>,
    /// Two runs of a seed have the same.
    pub trace: u64,
    pub lines: u64,
    /// The last lines.
    pub last: Vec<String>,
    /// How long the fleet lived, in milliseconds.
    pub lived: u64,
    pub backups: usize,
}

/// Runs one seed. Nothing but the seed decides what happens.
pub fn run(seed: u64, options: Options) -> Result<Outcome> {
    crate::panics();
    let directory = tempfile::Builder::new().prefix("palinurus-sim-").tempdir_in(fast());
    let directory = directory.map_err(|e| Error::io("make a directory", e))?;
    let chance = Chance::new(seed);
    let fleet = Arc::new(Fleet::draw(&mut chance.named("fleet"), options.two_leaders));
    let key = KeyFile::generate(&SeededEntropy::new(seed))?;
    key.write(&directory.path().join("key"))?;
    let buffers = crate::BUFFERS.with(|kept| kept.take());
    let world = World::new(seed, options.tell, fleet.names(), directory.path().to_owned(), key, buffers);
    world::enter(Some(world.clone()));
    let planted = mutant::plant(options.mutant);
    let lived = tracing::subscriber::with_default(Log, || {
        Run::new(&world, &fleet, options.two_leaders).into_its_end()
    });
    mutant::plant(planted);
    let backups = world.committed();
    world::enter(None);
    crate::BUFFERS.with(|kept| kept.replace(std::mem::take(&mut *world::lock(&world.buffers))));
    let trace = world.trace();
    Ok(Outcome {
        seed,
        violations: world.violations(),
        trace: trace.sum(),
        lines: trace.count,
        last: trace.last(),
        lived,
        backups,
    })
}

/// Where files cost nothing, when there is such a place.
fn fast() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

struct Run<'a> {
    world: &'a Arc<World>,
    fleet: &'a Arc<Fleet>,
    hosts: Vec<Host>,
    chaos: Chaos,
    healed: Arc<AtomicBool>,
    lives: u64,
    now: u64,
    tick: u64,
}

impl<'a> Run<'a> {
    fn new(world: &'a Arc<World>, fleet: &'a Arc<Fleet>, two_leaders: bool) -> Self {
        let mut chance = world.chance.named("disks");
        for service in &fleet.services {
            // Replicas begin with much in common.
            let same = chance.draw();
            for host in
                service.nodes.iter().filter_map(|node| fleet.machines(&service.name, node).first().copied())
            {
                let mut files = Chance::new(same);
                world.disk(host, |disk| (0..3).for_each(|_| disk.change(&mut files, BLOCKS)));
                world.disk(host, |disk| disk.change(&mut chance, BLOCKS));
            }
            if service.logged {
                log::begin(world, fleet, service);
            }
        }
        Self {
            world,
            fleet,
            hosts: fleet
                .roles
                .iter()
                .enumerate()
                .map(|(id, role)| Host::new(id, !role.is_stored()))
                .collect(),
            chaos: Chaos::new(world.chance.named("chaos"), two_leaders),
            healed: Arc::default(),
            lives: 0,
            now: 0,
            tick: 0,
        }
    }

    fn into_its_end(mut self) -> u64 {
        loop {
            let next = self.tick.min(self.chaos.next()).min(self.world.network().next().unwrap_or(u64::MAX));
            self.now = self.now.max(next);
            self.world.set_now(self.now);
            if self.now >= self.chaos.end && !self.healed.load(Ordering::SeqCst) {
                self.heal();
            }
            for deed in self.chaos.act(self.world, self.fleet, self.now) {
                self.do_to(deed);
            }
            if self.now >= self.tick {
                self.tick = self.now + TICK;
                self.all();
                if !self.hosts[0].runs() {
                    break;
                }
            } else {
                let concerned = self.world.network().deliver(self.now);
                for host in concerned {
                    let to = self.now.max(self.hosts[host].reached()) + 1;
                    self.one(host, to);
                }
            }
            if self.now > LONGEST {
                self.world.violate(Invariant::I4Ends, "the run does not end");
            }
            if self.world.broken() {
                break;
            }
        }
        for host in &mut self.hosts {
            host.kill(self.world, false);
        }
        self.now
    }

    /// Everybody catches up; who is down and due starts again, who is paused and due goes on.
    fn all(&mut self) {
        for id in 0..self.hosts.len() {
            if self.hosts[id].down_until.is_some_and(|until| until <= self.now) {
                self.start(id);
            }
            if self.hosts[id].paused_until.is_some_and(|until| until <= self.now) {
                self.hosts[id].wake(self.now);
            }
            self.one(id, self.now);
        }
        let orders = std::mem::take(&mut *world::lock(&self.world.orders));
        orders.into_iter().for_each(|order| self.carry_out(order));
        let stands: Vec<bool> = self.hosts.iter().map(Host::stands).collect();
        let leads_on = world::lock(&self.world.registry).watch(|host| stands[host]);
        if let Some(what) = leads_on {
            self.world.violate(Invariant::I2OneEpoch, what);
        }
    }

    fn one(&mut self, id: HostId, to: u64) {
        if self.hosts[id].run(to) {
            world::trace(&format!("{} ended by itself", self.world.hosts[id]));
            self.hosts[id].kill(self.world, false);
            self.hosts[id].down_until = (id != 0).then_some(self.now + AGAIN);
        }
    }

    fn start(&mut self, id: HostId) {
        self.lives += 1;
        let mut chance = self.world.chance.named(&format!("life {id} {}", self.lives));
        let odd = id != 0 && chance.percent(12) && !self.healed.load(Ordering::SeqCst);
        let rates = [500, 900, 1100, 2000];
        self.hosts[id].rate = if odd { *chance.pick(&rates).unwrap_or(&1000) } else { 1000 };
        let world = self.world.clone();
        let coordinators = self.fleet.coordinators();
        match self.fleet.roles[id].clone() {
            Role::Operator => {
                let operator = Operator::new;
                let (fleet, healed) = (self.fleet.clone(), self.healed.clone());
                self.hosts[id].start(self.world, self.now, || async move {
                    operator(&world, id, &fleet, &healed).run().await
                });
            }
            Role::Coordinator => {
                self.hosts[id].start(self.world, self.now, || fleet::coordinator(world, id, chance));
            }
            Role::Agent { service, node, .. } => {
                let logged = self.fleet.is_logged(&service);
                let place = (service, node);
                self.hosts[id].start(self.world, self.now, || {
                    fleet::agent(world, id, place, coordinators, logged, chance)
                });
            }
        }
    }

    fn do_to(&mut self, deed: Deed) {
        match deed {
            // Who is gone for good has nothing to lose.
            Deed::Kill { host, .. } | Deed::Replace { host, .. } if self.hosts[host].is_gone() => {}
            Deed::Kill { host, dark, until } => {
                self.hosts[host].kill(self.world, dark);
                self.hosts[host].down_until = Some(until);
            }
            Deed::Pause { host, until } => {
                if self.hosts[host].runs() {
                    world::trace(&format!("{} is paused", self.world.hosts[host]));
                    self.hosts[host].paused_until = Some(until);
                }
            }
            Deed::Replace { host, state } => {
                self.hosts[host].kill(self.world, true);
                self.empty(host, state);
                self.hosts[host].down_until = Some(self.now + AGAIN);
            }
            Deed::Lose { host } => self.carry_out(Order::Lose(host)),
            Deed::Arrive { host } => self.carry_out(Order::Start(host)),
        }
    }

    fn carry_out(&mut self, order: Order) {
        let (Order::Lose(host) | Order::Start(host) | Order::Renew(host) | Order::Retire(host)) = order;
        world::trace(&format!("{order:?}: {}", self.world.hosts[host]));
        match order {
            Order::Lose(_) => world::lock(&self.world.lost).insert(host),
            _ => world::lock(&self.world.lost).remove(&host),
        };
        if order == Order::Start(host) {
            if self.hosts[host].is_gone() {
                self.hosts[host].down_until = Some(self.now);
            }
            return;
        }
        self.hosts[host].kill(self.world, true);
        self.hosts[host].down_until = (order == Order::Renew(host)).then_some(self.now);
        if order != Order::Lose(host) {
            self.empty(host, true);
        }
    }

    fn empty(&mut self, host: HostId, state: bool) {
        self.world.disk(host, |disk| *disk = crate::disk::Disk::default());
        if state {
            let _ = std::fs::remove_dir_all(fleet::state_of(self.world, host));
            self.world.forget(host);
        }
    }

    fn heal(&mut self) {
        self.chaos.heal(self.world);
        self.healed.store(true, Ordering::SeqCst);
        for id in 0..self.hosts.len() {
            if self.hosts[id].paused_until.is_some() {
                self.hosts[id].paused_until = Some(self.now);
            }
            if self.hosts[id].down_until.is_some() {
                self.hosts[id].down_until = Some(self.now);
            }
            // Who runs by a wrong clock would do so for ever.
            if self.hosts[id].rate != 1000 {
                self.hosts[id].kill(self.world, false);
                self.hosts[id].down_until = Some(self.now);
            }
        }
    }
}
