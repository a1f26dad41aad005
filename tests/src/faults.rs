//! What may befall a fleet, drawn from a seed: what, whom, when and for how long.
use std::fmt;
use std::time::Duration;

use crate::fleet::{COORDINATORS, Fleet, LEASE, MEMBERS};
use crate::seeded::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillLeader,
    KillCoordinator(usize),
    KillAgent(usize),
    KillMember(usize),
    /// SIGTERM: the leader gives its lease back.
    StopLeader,
    StopAgent(usize),
    PauseLeader,
    PauseAgent(usize),
    PauseMember(usize),
    /// No etcd member hears the leader, or it hears none, or both.
    CutLeaderFromEtcd {
        there: bool,
        back: bool,
    },
    /// The agents do not hear the leader, or it does not hear them.
    CutLeaderFromAgents {
        there: bool,
        back: bool,
    },
    UnplugLeader,
    UnplugAgent(usize),
    UnplugMember(usize),
    /// Another machine comes in its place, with nothing on it.
    ReplaceAgent(usize),
    /// Its machine is gone for good.
    LoseAgent(usize),
    /// All members at once: no quorum until it ends.
    PauseEtcd,
    KillEtcd,
    Slow,
}

/// One fault of a round.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub after: Duration,
    pub fault: Fault,
    pub lasts: Duration,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {:?} {:?} for {:?}", self.after, self.fault, self.lasts)
    }
}

/// One to three faults of one round.
pub fn plan(random: &mut Random) -> Vec<Planned> {
    let mut planned: Vec<Planned> = (0..1 + random.below(3))
        .map(|i| {
            // The first one meets the backup, which is a short one.
            let after = Duration::from_millis(random.below([700, 2000][usize::from(i > 0)]));
            let fault = draw(random);
            // Half of them outlast the lease.
            let limit = 2 * LEASE.as_millis() as u64;
            Planned { after, fault, lasts: Duration::from_millis(200 + random.below(limit)) }
        })
        .collect();
    planned.sort_by_key(|planned| planned.after);
    planned
}

fn draw(random: &mut Random) -> Fault {
    let whom = random.below(3) as usize;
    let (there, back) = [(true, true), (true, false), (false, true)][random.below(3) as usize];
    match random.below(22) {
        0..=2 => Fault::KillLeader,
        3 => Fault::KillCoordinator(whom),
        4..=5 => Fault::KillAgent(whom),
        6 => Fault::KillMember(whom),
        7..=9 => Fault::PauseLeader,
        10 => Fault::PauseAgent(whom),
        11 => Fault::PauseMember(whom),
        12..=13 => Fault::CutLeaderFromEtcd { there, back },
        14 => Fault::CutLeaderFromAgents { there, back },
        15 => Fault::UnplugLeader,
        16 => Fault::UnplugAgent(whom),
        17 => Fault::UnplugMember(whom),
        18 => [Fault::PauseEtcd, Fault::KillEtcd][random.below(2) as usize],
        19 => Fault::StopLeader,
        20 => Fault::StopAgent(whom),
        _ => Fault::Slow,
    }
}

/// The same, with a node that loses its data or goes for good. Which node that is.
pub fn plan_loss(random: &mut Random) -> (Vec<Planned>, Fault) {
    let node = random.below(3) as usize;
    let fault = [Fault::ReplaceAgent(node), Fault::LoseAgent(node)][random.below(2) as usize];
    let loss = Planned { after: Duration::from_millis(random.below(2500)), fault, lasts: Duration::ZERO };
    let mut planned = plan(random);
    // It would be started again by what ends the fault.
    planned.retain(|planned| !matches!(planned.fault, Fault::KillAgent(_) | Fault::StopAgent(_)));
    planned.push(loss);
    planned.sort_by_key(|planned| planned.after);
    (planned, fault)
}

/// Lets the planned faults happen, each ending when its time is over; in the end everything is whole again.
pub async fn happen(fleet: &mut Fleet, planned: &[Planned]) {
    let began = tokio::time::Instant::now();
    let mut ends: Vec<(Duration, Option<Ended>)> = Vec::new();
    let mut coming = planned.iter().peekable();
    loop {
        let next_end = ends.iter().map(|(at, _)| *at).min();
        let next_fault = coming.peek().map(|planned| planned.after);
        let Some(next) = next_end.into_iter().chain(next_fault).min() else { break };
        tokio::time::sleep_until(began + next).await;
        if next_fault == Some(next) {
            let planned = coming.next().expect("peeked");
            let ended = begin(fleet, planned.fault).await;
            ends.push((began.elapsed() + planned.lasts, Some(ended)));
        }
        let now = began.elapsed();
        for (at, ended) in &mut ends {
            if *at <= now
                && let Some(ended) = ended.take()
            {
                end(fleet, ended);
            }
        }
        ends.retain(|(_, ended)| ended.is_some());
    }
    fleet.heal();
}

/// What brings back what a fault took.
enum Ended {
    Start(Vec<&'static str>),
    Resume(Vec<&'static str>),
    Nothing,
    /// The network as a whole is mended: whoever else was cut off is back, too.
    Heal,
}

async fn begin(fleet: &mut Fleet, fault: Fault) -> Ended {
    let nodes = fleet.nodes();
    match fault {
        Fault::KillLeader => {
            let leader = leader(fleet).await;
            kill(fleet, vec![leader])
        }
        Fault::KillCoordinator(i) => kill(fleet, vec![COORDINATORS[i]]),
        Fault::KillAgent(i) => kill(fleet, vec![nodes[i]]),
        Fault::ReplaceAgent(i) => {
            fleet.renew(nodes[i]);
            Ended::Nothing
        }
        Fault::LoseAgent(i) => {
            fleet.lose(nodes[i]);
            Ended::Nothing
        }
        Fault::KillMember(i) => kill(fleet, vec![MEMBERS[i]]),
        Fault::KillEtcd => kill(fleet, MEMBERS.into()),
        Fault::StopLeader => {
            let leader = leader(fleet).await;
            fleet.stop(leader).await;
            Ended::Start(vec![leader])
        }
        Fault::StopAgent(i) => {
            fleet.stop(nodes[i]).await;
            Ended::Start(vec![nodes[i]])
        }
        Fault::PauseLeader => {
            let leader = leader(fleet).await;
            pause(fleet, vec![leader])
        }
        Fault::PauseAgent(i) => pause(fleet, vec![nodes[i]]),
        Fault::PauseMember(i) => pause(fleet, vec![MEMBERS[i]]),
        Fault::PauseEtcd => pause(fleet, MEMBERS.into()),
        Fault::CutLeaderFromEtcd { there, back } => cut(fleet, MEMBERS, there, back).await,
        Fault::CutLeaderFromAgents { there, back } => cut(fleet, nodes, there, back).await,
        Fault::UnplugLeader => {
            let leader = leader(fleet).await;
            unplug(fleet, leader)
        }
        Fault::UnplugAgent(i) => unplug(fleet, nodes[i]),
        Fault::UnplugMember(i) => unplug(fleet, MEMBERS[i]),
        Fault::Slow => {
            for name in MEMBERS.into_iter().chain(COORDINATORS).chain(nodes) {
                fleet.net.slow(name);
            }
            Ended::Heal
        }
    }
}

fn end(fleet: &mut Fleet, ended: Ended) {
    match ended {
        Ended::Start(names) => names.into_iter().for_each(|name| fleet.start(name)),
        Ended::Resume(names) => names.into_iter().for_each(|name| fleet.resume(name)),
        Ended::Nothing => {}
        Ended::Heal => fleet.net.heal(),
    }
}

/// Whoever says so; while nobody does, the first one.
async fn leader(fleet: &Fleet) -> &'static str {
    let leader = fleet.operator.leaders().await.pop();
    let leader = COORDINATORS.into_iter().find(|name| leader.as_deref() == Some(*name));
    leader.unwrap_or(COORDINATORS[0])
}

fn kill(fleet: &mut Fleet, names: Vec<&'static str>) -> Ended {
    names.iter().for_each(|name| fleet.kill(name));
    Ended::Start(names)
}

fn pause(fleet: &mut Fleet, names: Vec<&'static str>) -> Ended {
    names.iter().for_each(|name| fleet.pause(name));
    Ended::Resume(names)
}

fn unplug(fleet: &mut Fleet, name: &str) -> Ended {
    fleet.net.unplug(name);
    Ended::Heal
}

async fn cut(fleet: &mut Fleet, others: [&'static str; 3], there: bool, back: bool) -> Ended {
    let leader = leader(fleet).await;
    for other in others {
        if there {
            fleet.net.cut(leader, other);
        }
        if back {
            fleet.net.cut(other, leader);
        }
    }
    Ended::Heal
}
