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
    mends: BTreeMap<(u64, u64), Mend>,
    count: u64,
    /// Nothing but what makes two leaders meet.
    split: bool,
}

#[derive(Clone, Copy, Debug)]
enum Mend {
    Host(HostId),
    Network,
}

impl Chaos {
    pub(crate) fn new(chance: Chance) -> Self {
        let mut chance = chance;
        let losses = chance.named("losses");
        let calm = chance.percent(5);
        let end = if calm { 5_000 } else { chance.between(12_000, 60_000) };
        let split = chance.percent(25);
        Self {
            next: chance.between(1500, 5000),
            chance,
            losses,
            end,
            mends: BTreeMap::new(),
            count: 0,
            split,
        }
    }

    pub(crate) fn next(&self) -> u64 {
        let mend = self.mends.keys().next().map_or(u64::MAX, |(at, _)| *at);
        self.next.min(mend)
    }

    /// What is due: done here, or told to be done.
    pub(crate) fn act(&mut self, world: &World, fleet: &Fleet, now: u64) -> Vec<Deed> {
        while let Some(((at, id), mend)) = self.mends.first_key_value().map(|(at, mend)| (*at, *mend)) {
            if at > now {
                break;
            }
            self.mends.remove(&(at, id));
            match mend {
                Mend::Host(host) => world.set_faults(host, |faults| {
                    *faults = crate::world::Faults { skew: faults.skew, ..Default::default() };
                }),
                Mend::Network => world.network().unblock(),
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
        if !self.split && self.losses.percent(12) {
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

    /// All is well again, but for clocks.
    pub(crate) fn heal(&mut self, world: &World) {
        (self.next, self.mends) = (u64::MAX, BTreeMap::new());
        world.network().unblock();
        for host in 0..world.hosts.len() {
            world.set_faults(host, |faults| {
                *faults = crate::world::Faults { skew: faults.skew, ..Default::default() };
            });
        }
    }

    fn until(&mut self, now: u64, mend: Mend, longest: u64) {
        self.count += 1;
        let at = now + self.chance.between(300, longest);
        self.mends.insert((at, self.count), mend);
    }

    fn fault(&mut self, world: &World, fleet: &Fleet, now: u64) -> Vec<Deed> {
        let (coordinators, agents) = (fleet.coordinators(), fleet.agents());
        let Some(c) = self.chance.pick(&coordinators).copied() else { return Vec::new() };
        let Some(a) = self.chance.pick(&agents).copied() else { return Vec::new() };
        let any = if self.chance.percent(50) { c } else { a };
        let splits = [20, 43, 43, 50, 50, 60];
        let any_of = if self.split { self.chance.pick(&splits).copied() } else { None };
        let what = any_of.unwrap_or_else(|| self.chance.below(100));
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
                self.until(now, Mend::Host(c), 12_000);
            }
            39..=41 => {
                let share = self.chance.between(5, 60);
                world.set_faults(c, |faults| faults.state_unanswered = share);
                self.until(now, Mend::Host(c), 8000);
            }
            42..=44 => {
                world.set_faults(c, |faults| faults.lease_blind = true);
                self.until(now, Mend::Host(c), 12_000);
            }
            45..=58 => {
                let (one, other) = if self.chance.percent(50) { (c, a) } else { (a, c) };
                world.network().block(one, other);
                if self.chance.percent(60) {
                    world.network().block(other, one);
                }
                self.until(now, Mend::Network, 14_000);
            }
            59..=65 => world.network().cut(c, a),
            66..=69 => {
                let slow = self.chance.between(50, 2500);
                world.network().slow.insert(any, slow);
                self.until(now, Mend::Network, 8000);
            }
            70..=75 => {
                world.set_faults(any, |faults| faults.store_away = true);
                self.until(now, Mend::Host(any), 20_000);
            }
            76..=87 => {
                let (refuses, unanswered, slow) =
                    (self.chance.below(40), self.chance.below(30), self.chance.below(800));
                world.set_faults(any, |faults| {
                    (faults.store_refuses, faults.store_unanswered, faults.store_slow) =
                        (refuses, unanswered, slow);
                });
                self.until(now, Mend::Host(any), 10_000);
            }
            88..=92 => {
                let share = self.chance.between(5, 60);
                world.set_faults(a, |faults| faults.engine = share);
                self.until(now, Mend::Host(a), 15_000);
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
