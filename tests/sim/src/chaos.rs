//! What goes wrong, and when it is well again. Faults come only where the world is: power, clocks, network, store,
//! state, disks and engines.
use std::collections::BTreeMap;

use crate::chance::Chance;
use crate::fleet::{Fleet, Wanted};
use crate::world::{HostId, World, lock, trace};

/// What the run is to do to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Kill {
        host: HostId,
        dark: bool,
        until: u64,
    },
    Pause {
        host: HostId,
        until: u64,
    },
    /// Its disk is another, empty one; with `state`, the agent's own directory too.
    Replace {
        host: HostId,
        state: bool,
    },
    /// It goes for good: at the end an operator may bring it back.
    Lose {
        host: HostId,
    },
    /// A machine that was stored is started.
    Arrive {
        host: HostId,
    },
}

#[derive(Debug)]
pub(crate) struct Chaos {
    chance: Chance,
    /// Of places that another agent is to take.
    losses: Chance,
    next: u64,
    pub(crate) end: u64,
    due: BTreeMap<(u64, u64), Later>,
    count: u64,
    /// Nothing but two leaders at once.
    split: bool,
}

#[derive(Clone, Copy, Debug)]
enum Later {
    Host(HostId),
    Network,
    Blind(HostId),
    Alone(HostId),
    /// Agents lose whoever leads now, and reach this one again.
    Turn(HostId),
}

impl Chaos {
    pub(crate) fn new(chance: Chance, two_leaders: bool) -> Self {
        let mut chance = chance;
        let losses = chance.named("losses");
        let calm = chance.percent(5);
        let end = if calm { 5_000 } else { chance.between(12_000, 60_000) };
        let split = chance.percent(25) || two_leaders;
        Self { next: chance.between(1500, 5000), chance, losses, end, due: BTreeMap::new(), count: 0, split }
    }

    pub(crate) fn next(&self) -> u64 {
        let due = self.due.keys().next().map_or(u64::MAX, |(at, _)| *at);
        self.next.min(due)
    }

    /// What is due: done here, or told to be done.
    pub(crate) fn act(&mut self, world: &World, fleet: &Fleet, now: u64) -> Vec<Deed> {
        while let Some(((at, id), later)) = self.due.first_key_value().map(|(at, later)| (*at, *later)) {
            if at > now {
                break;
            }
            self.due.remove(&(at, id));
            match later {
                Later::Host(host) => world.set_faults(host, |faults| {
                    *faults = crate::world::Faults { skew: faults.skew, ..Default::default() };
                }),
                Later::Blind(host) => {
                    trace(&format!("chaos: {} does not see that its lease ends", world.hosts[host]));
                    world.set_faults(host, |faults| (faults.lease_blind, faults.state_away) = (true, true));
                }
                Later::Alone(host) => part(world, fleet, |coordinator| coordinator == host),
                Later::Network => world.network().unblock(),
                Later::Turn(old) => {
                    world.network().unblock();
                    part(world, fleet, |coordinator| coordinator != old);
                }
            }
        }
        if now < self.next {
            return Vec::new();
        }
        self.next = now + self.chance.between(200, 5000);
        if now >= self.end {
            self.next = u64::MAX;
            return Vec::new();
        }
        if self.split && fleet.coordinators().len() > 1 {
            self.two_leaders(world, now);
            return Vec::new();
        }
        if self.losses.percent(12) {
            return self.loss(fleet, now);
        }
        self.fault(world, fleet, now)
    }

    /// A machine goes for long or for good, and another may come in its place: at once, or while it is still there.
    fn loss(&mut self, fleet: &Fleet, now: u64) -> Vec<Deed> {
        let open: Vec<&Wanted> = fleet.services.iter().filter(|service| service.mode() != "off").collect();
        let Some(service) = self.losses.pick(&open).copied() else { return Vec::new() };
        let stored = fleet.machines_of(&service.name).into_iter().find(|host| fleet.roles[*host].is_stored());
        let Some(node) = self.losses.pick(&service.nodes) else { return Vec::new() };
        let Some(host) = fleet.machines(&service.name, node).first().copied() else { return Vec::new() };
        let arrives = stored.map(|host| Deed::Arrive { host });
        let until = now + self.losses.between(5_000, 60_000);
        let goes = match self.losses.below(10) {
            0..=2 => Some(Deed::Lose { host }),
            3..=4 => Some(Deed::Kill { host, dark: self.losses.percent(50), until }),
            5..=6 => Some(Deed::Pause { host, until }),
            7..=8 => return vec![Deed::Replace { host, state: self.losses.percent(70) }],
            _ => None,
        };
        goes.into_iter().chain(arrives.filter(|_| self.losses.percent(60))).collect()
    }

    /// A leader that sees neither the state nor its lease's end goes on while another leads. Agents may lose it, hear
    /// the other, and then reach the first again; its store is slow, so that what it began ends late.
    fn two_leaders(&mut self, world: &World, now: u64) {
        let Some(old) = lock(&world.registry).leads_at() else { return };
        // What is on its way to a slow store when the lease ends arrives after it.
        let blind = now + if self.chance.percent(60) { self.chance.between(500, 4000) } else { 0 };
        let slow = if blind > now { self.chance.between(500, 8000) } else { 0 };
        world.set_faults(old, |faults| faults.store_slow = slow);
        let turn = blind + self.chance.between(5000, 12_000);
        let end = turn + self.chance.between(2000, 15_000);
        let mut later = vec![(blind, Later::Blind(old)), (end, Later::Host(old)), (end, Later::Network)];
        if self.chance.percent(60) {
            later.extend([(blind, Later::Alone(old)), (turn, Later::Turn(old))]);
        }
        for (at, later) in later {
            self.count += 1;
            self.due.insert((at, self.count), later);
        }
        self.next = end + self.chance.between(500, 5000);
    }

    /// All is well again, but for clocks.
    pub(crate) fn heal(&mut self, world: &World) {
        (self.next, self.due) = (u64::MAX, BTreeMap::new());
        world.network().unblock();
        for host in 0..world.hosts.len() {
            world.set_faults(host, |faults| {
                *faults = crate::world::Faults { skew: faults.skew, ..Default::default() };
            });
        }
    }

    fn until(&mut self, now: u64, later: Later, longest: u64) {
        self.count += 1;
        let at = now + self.chance.between(300, longest);
        self.due.insert((at, self.count), later);
    }

    fn fault(&mut self, world: &World, fleet: &Fleet, now: u64) -> Vec<Deed> {
        let (coordinators, agents) = (fleet.coordinators(), fleet.agents());
        let Some(c) = self.chance.pick(&coordinators).copied() else { return Vec::new() };
        let Some(a) = self.chance.pick(&agents).copied() else { return Vec::new() };
        let any = if self.chance.percent(50) { c } else { a };
        let what = self.chance.below(100);
        trace(&format!("chaos: {what} for {} and {}", world.hosts[c], world.hosts[a]));
        match what {
            0..=13 => {
                let host = if self.chance.percent(60) { c } else { a };
                let dark = self.chance.percent(30);
                let until = now + self.chance.between(200, 12_000);
                return vec![Deed::Kill { host, dark, until }];
            }
            14..=27 => {
                let host = if self.chance.percent(70) { c } else { a };
                let until = now + self.chance.between(500, 14_000);
                return vec![Deed::Pause { host, until }];
            }
            28..=30 => return vec![Deed::Replace { host: a, state: self.chance.percent(50) }],
            31..=38 => {
                world.set_faults(c, |faults| faults.state_away = true);
                self.until(now, Later::Host(c), 12_000);
            }
            39..=41 => {
                let share = self.chance.between(5, 60);
                world.set_faults(c, |faults| faults.state_unanswered = share);
                self.until(now, Later::Host(c), 8000);
            }
            42..=44 => {
                world.set_faults(c, |faults| faults.lease_blind = true);
                self.until(now, Later::Host(c), 12_000);
            }
            45..=58 => {
                let (one, other) = if self.chance.percent(50) { (c, a) } else { (a, c) };
                world.network().block(one, other);
                if self.chance.percent(60) {
                    world.network().block(other, one);
                }
                self.until(now, Later::Network, 14_000);
            }
            59..=65 => world.network().cut(c, a),
            66..=69 => {
                let slow = self.chance.between(50, 2500);
                world.network().slow.insert(any, slow);
                self.until(now, Later::Network, 8000);
            }
            70..=75 => {
                world.set_faults(any, |faults| faults.store_away = true);
                self.until(now, Later::Host(any), 20_000);
            }
            76..=87 => {
                let (refuses, unanswered, slow) =
                    (self.chance.below(40), self.chance.below(30), self.chance.below(800));
                world.set_faults(any, |faults| {
                    (faults.store_refuses, faults.store_unanswered, faults.store_slow) =
                        (refuses, unanswered, slow);
                });
                self.until(now, Later::Host(any), 10_000);
            }
            88..=92 => {
                let share = self.chance.between(5, 60);
                world.set_faults(a, |faults| faults.engine = share);
                self.until(now, Later::Host(a), 15_000);
            }
            93..=97 => {
                let skew = self.chance.between(0, 7_200_000) as i64 - 3_600_000;
                world.set_faults(any, |faults| faults.skew = skew);
            }
            _ => {
                trace("the state is lost");
                lock(&world.registry).lose();
            }
        }
        Vec::new()
    }
}

/// Between these coordinators and the agents nothing arrives any more, and connections are gone.
fn part(world: &World, fleet: &Fleet, these: impl Fn(HostId) -> bool) {
    let mut network = world.network();
    for coordinator in fleet.coordinators().into_iter().filter(|host| these(*host)) {
        for agent in fleet.agents() {
            network.cut(coordinator, agent);
            network.block(coordinator, agent);
            network.block(agent, coordinator);
        }
    }
}
