//! The log of a simulated database as its engine gives it out, and what must be true of what is stored of it: whatever the
//! database was told to let go of is there for good, of one history, and leads to every moment that is shown.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_agent::engine::{
    History, LogStream, Logs, Mark, Marked, Next, Plan, ServerEnd, Target, Wanted,
};
use palinurus_proto::v1;
use palinurus_repository::log::{Lineages, LogReader, LogStore, Section};
use palinurus_repository::{Blocking, Clock, Error, LineageId, Result};

use crate::chance::Chance;
use crate::fleet::{self, Fleet};
use crate::invariant::Invariant;
use crate::place;
use crate::store::{SCHEME, Vault, at_once};
use crate::wal::{Dropped, SEGMENT, Wal};
use crate::world::{HostId, WallClock, World, lock, pause, trace};

/// At once, so that there are many pieces.
const GIVEN: u64 = 400;

#[derive(Debug)]
pub(crate) struct SimLogs {
    pub(crate) world: Arc<World>,
    pub(crate) host: HostId,
    pub(crate) service: String,
    pub(crate) chance: Mutex<Chance>,
}

impl SimLogs {
    async fn work(&self) -> Result<()> {
        let (wait, fails) = {
            let mut chance = lock(&self.chance);
            (chance.between(1, 40), chance.percent(self.world.faults(self.host).engine))
        };
        pause(wait).await;
        if fails { Err(Error::unavailable("the database does not answer")) } else { Ok(()) }
    }

    fn wal(&self) -> Option<Wal> {
        self.world.disk(self.host, |disk| disk.wal.clone().filter(|_| disk.half.is_none()))
    }
}

#[async_trait]
impl Logs for SimLogs {
    fn kind(&self) -> &'static str {
        "sim"
    }

    fn is_stored(&self) -> bool {
        true
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(300)
    }

    async fn look(&self) -> Result<Option<History>> {
        self.work().await?;
        Ok(self.wal().map(|wal| wal.told()))
    }

    async fn open(&self, identity: &[u8], position: u64) -> Result<Box<dyn LogStream>> {
        self.work().await?;
        let wal = self.wal().ok_or_else(|| Error::unavailable("the database is not there"))?;
        let history = wal.at(identity).ok_or_else(|| Error::conflict("it has no such history"))?;
        if !position.is_multiple_of(SEGMENT) {
            return Err(Error::internal("a log is opened in the middle of a file"));
        }
        let chance = lock(&self.chance).named(&format!("stream {position}"));
        Ok(Box::new(SimStream {
            world: self.world.clone(),
            host: self.host,
            service: self.service.clone(),
            chance,
            stamp: wal.stamp(),
            identity: identity.to_vec(),
            history,
            position,
        }))
    }

    fn wanted(&self, _: &str, _: &Plan) -> Wanted {
        Wanted::Absent
    }

    fn following(&self, _: &str, _: &Plan) -> Vec<String> {
        Vec::new()
    }

    /// Recovery itself is when the data is whole: see [`recover`].
    async fn prepare(&self, plan: &Plan, _: &[String]) -> Result<()> {
        self.work().await?;
        self.world.disk(self.host, |disk| disk.plan = Some(plan.clone()));
        Ok(())
    }

    fn user(&self) -> Option<(u32, u32)> {
        None
    }

    /// It has recovered when it is there again.
    fn recovers(&self) -> bool {
        self.world.disk(self.host, |disk| disk.plan.is_some() || disk.half.is_some())
    }
}

#[derive(Debug)]
struct SimStream {
    world: Arc<World>,
    host: HostId,
    service: String,
    chance: Chance,
    stamp: u64,
    identity: Vec<u8>,
    history: usize,
    position: u64,
}

impl SimStream {
    fn wal(&self) -> Result<Wal> {
        let wal = self.world.disk(self.host, |disk| disk.wal.clone());
        let wal = wal.filter(|wal| wal.at(&self.identity) == Some(self.history));
        // Its own history may have ended meanwhile, and is given to its end; another database is another.
        let same = |wal: &Wal| wal.descends(self.stamp);
        wal.filter(same).ok_or_else(|| Error::unavailable("the database is another one"))
    }
}

#[async_trait]
impl LogStream for SimStream {
    async fn next(&mut self) -> Result<Next> {
        let wait = self.chance.between(5, 200);
        pause(wait).await;
        if self.chance.percent(self.world.faults(self.host).engine / 4) {
            return Err(Error::unavailable("the database ends the stream"));
        }
        let wal = self.wal()?;
        if self.position < wal.kept {
            return Ok(Next::Gone("it was given up".to_owned()));
        }
        let ms = WallClock { world: self.world.clone(), host: self.host }.now().0;
        let server = ServerEnd { position: wal.end, ms };
        let (end, ended) = wal.end_of(self.history);
        if self.position >= end {
            return Ok(if ended {
                Next::Ended
            } else {
                Next::Quiet { server, asks: self.chance.percent(20) }
            });
        }
        let to = end.min(self.position + self.chance.between(1, GIVEN));
        let bytes = Bytes::from(wal.bytes(self.position, to));
        self.position = to;
        let marks = vec![Mark { end: to, what: Marked::End(ms as i64 * 1000) }];
        Ok(Next::Bytes { bytes, marks, server })
    }

    async fn release(&mut self, position: u64) -> Result<()> {
        let wal = self.wal()?;
        released(&self.world, self.host, &self.service, &wal, self.history, position);
        self.world.disk(self.host, |disk| {
            if let Some(wal) = &mut disk.wal {
                wal.release(position);
            }
        });
        Ok(())
    }
}

/// The database of a service begins, on the first of its nodes.
pub(crate) fn begin(world: &World, fleet: &Fleet, service: &fleet::Wanted) {
    let first = service.nodes.first().and_then(|node| fleet.machines(&service.name, node).first().copied());
    let Some(host) = first else { return };
    let wal = Wal::new(&service.name, &mut world.chance.named(&format!("wal {}", service.name)));
    lock(&world.wals).entry(service.name.clone()).or_default().note(&wal);
    world.disk(host, |disk| disk.wal = Some(wal));
}

/// What happens to the databases of a service, on these machines, between two things that the operator does.
pub(crate) fn happens(world: &World, service: &str, hosts: &[HostId], chance: &mut Chance) {
    let writes: Vec<HostId> =
        hosts.iter().copied().filter(|host| world.disk(*host, |disk| disk.wal.is_some())).collect();
    for host in &writes {
        let more = chance.between(0, 600);
        world.disk(*host, |disk| disk.wal.as_mut().map(|wal| wal.end += more));
    }
    let Some(host) = chance.pick(&writes).copied() else { return };
    let name = &world.hosts[host];
    match chance.below(100) {
        0..=3 => {
            trace(&format!("{name} gives up what is not stored"));
            world.disk(host, |disk| disk.wal.as_mut().map(|wal| wal.give_up(chance)));
        }
        4..=8 => {
            trace(&format!("{name} begins another history"));
            promote(world, service, (host, host), chance);
        }
        9..=13 => {
            let other = |other: &HostId| {
                world.disk(*other, |disk| disk.wal.is_none() && disk.half.is_none() && !disk.files.is_empty())
            };
            let standbys: Vec<HostId> = hosts.iter().copied().filter(other).collect();
            let Some(standby) = chance.pick(&standbys).copied() else { return };
            trace(&format!("{} is promoted, and {name} is not primary any more", world.hosts[standby]));
            promote(world, service, (host, standby), chance);
        }
        14..=30 => {
            // Whoever was left behind hears of it, some time.
            for host in writes {
                world.disk(host, |disk| drop(disk.wal.take_if(|wal| wal.left)));
            }
        }
        _ => {}
    }
}

/// A standby has what its primary had some moments ago; a primary that promotes itself has all.
fn promote(world: &World, service: &str, (from, onto): (HostId, HostId), chance: &mut Chance) {
    let mut wals = lock(&world.wals);
    let wals = wals.entry(service.to_owned()).or_default();
    let number = wals.numbers().max().unwrap_or_default() + 1;
    let Some(wal) = world.disk(from, |disk| disk.wal.clone().filter(|wal| !wal.left)) else { return };
    let behind = if from == onto { 0 } else { chance.below(500) };
    let at = (wal.end - behind.min(wal.end)).max(wal.kept);
    let new = wal.forked(at, number, chance.draw());
    wals.note(&new);
    if from != onto {
        world.disk(from, |disk| disk.wal.as_mut().map(|wal| wal.left = true));
    }
    world.disk(onto, |disk| disk.wal = Some(new));
}

/// Not stored yet, of the database on that machine.
pub(crate) fn owed(world: &World, host: HostId) -> Option<(u64, u64)> {
    let wal = world.disk(host, |disk| disk.wal.clone())?;
    (!wal.left && wal.released < wal.end).then_some((wal.released, wal.end))
}

/// What the database lets go of now, it can give nobody again.
fn released(world: &World, host: HostId, service: &str, wal: &Wal, history: usize, position: u64) {
    let (end, _) = wal.end_of(history);
    if position > end {
        let what = format!("{} is told that {position} is safe, and has written {end}", world.hosts[host]);
        world.violate(Invariant::I10Log, what);
        return;
    }
    // Where another has taken the place, that one has what counts, and stores it.
    if wal.left || place::shut_out(world, service, host) || place::stood_down(world, host) {
        return;
    }
    let dropped = Dropped { from: wal.kept.max(wal.released), to: position, history, wal: wal.clone() };
    if dropped.from >= dropped.to {
        return;
    }
    // Its grant has just gone to another node, which has the same and gives it, or says that there is a gap. Where it has one
    // anew itself, it has until the end to put this again.
    let other = |node: String| !is_node(&world.hosts[host], service, &node);
    if is_stored(world, service, &dropped).is_err() && granted(world, service, &dropped).is_some_and(other) {
        return;
    }
    lock(&world.wals).entry(service.to_owned()).or_default().dropped.push(dropped);
}

/// Who may append to that history.
fn granted(world: &World, service: &str, dropped: &Dropped) -> Option<String> {
    let identity = dropped.wal.identity_of(dropped.wal.histories[dropped.history].number);
    let mut vaults = lock(&world.vaults);
    let lineages =
        vaults.get_mut(&format!("{SCHEME}{service}"))?.read(&world.key, |state| state.lineages().clone())?;
    let last = lineages.values().filter(|it| it.identity == identity).max_by_key(|it| it.number)?;
    last.last_grant().map(|grant| grant.node.clone())
}

/// One of its machines.
fn is_node(host: &str, service: &str, node: &str) -> bool {
    [format!("{service}.{node}"), format!("{service}.{node}b")].iter().any(|name| name == host)
}

/// Some lineage that is that history, or a parent of it, has those bytes.
fn is_stored(world: &World, service: &str, dropped: &Dropped) -> std::result::Result<(), String> {
    let mut vaults = lock(&world.vaults);
    let Some(vault) = vaults.get_mut(&format!("{SCHEME}{service}")) else {
        return Err("no store".to_owned());
    };
    let lineages = vault.read(&world.key, |state| state.lineages().clone());
    let lineages = lineages.ok_or("the ledger cannot be read")?;
    let Dropped { wal, history, from, to } = dropped;
    let identity = wal.identity_of(wal.histories[*history].number);
    let mut said = "its history is not known".to_owned();
    for lineage in lineages.values().rev().filter(|lineage| lineage.identity == identity) {
        let chain = chain(&lineages, lineage.id);
        // What was written before anything was stored was never asked for.
        let from = chain.first().map_or(*from, |first| first.lineage.from.max(*from));
        if from >= *to {
            return Ok(());
        }
        match read(vault, world, chain, from, *to) {
            Ok(bytes) if bytes == wal.bytes(from, *to) => return Ok(()),
            Ok(_) => said = format!("{from} to {to} of {} is something else", lineage.id),
            Err(e) => said = format!("{from} to {to} of {}: {}", lineage.id, e.chain()),
        }
    }
    Err(said)
}

fn chain(lineages: &Lineages, last: LineageId) -> Vec<Section> {
    let mut chain: Vec<Section> = Vec::new();
    let mut next = Some(last);
    while let Some(lineage) = next.and_then(|id| lineages.get(&id)) {
        let to = chain.last().map(|child: &Section| child.lineage.from);
        chain.push(Section { lineage: (**lineage).clone(), to });
        next = lineage.parent;
    }
    chain.reverse();
    chain
}

fn read(vault: &mut Vault, world: &World, chain: Vec<Section>, from: u64, to: u64) -> Result<Vec<u8>> {
    let objects = vault.objects.clone();
    let keys = vault.oracle(&world.key).map(|oracle| oracle.keys().clone());
    let store = LogStore::new(objects, keys.ok_or_else(|| Error::internal("no keys"))?)
        .with_blocking(Blocking::Inline);
    at_once(async {
        let mut reader = LogReader::open(store, chain, from).await?;
        reader.read(from..to).await
    })
    .ok_or_else(|| Error::internal("memory waits"))?
}

/// The data is whole: the database recovers along what was prepared, and goes on as a history of its own.
pub(crate) fn recover(world: &World, service: &str, saved: Option<Wal>, plan: Option<Plan>) -> Option<Wal> {
    let (saved, plan) = (saved?, plan?);
    let mut wals = lock(&world.wals);
    let wals = wals.entry(service.to_owned()).or_default();
    let mut from = saved.clone();
    if plan.target != Target::Immediate && !plan.chain.is_empty() {
        let mut vaults = lock(&world.vaults);
        let vault = vaults.get_mut(&format!("{SCHEME}{service}"))?;
        let number = plan.chain.last().map(|section| Wal::number(&section.lineage.identity))?;
        match read(vault, world, plan.chain.clone(), plan.first, plan.end) {
            Ok(bytes) => match wals.of(number, plan.first, &bytes) {
                Some(wal) => (from, from.end, from.kept) = (wal.clone(), plan.end, plan.end),
                None => {
                    let what = format!("{service}: {} to {} is of no history {number}", plan.first, plan.end);
                    world.violate(Invariant::I10Log, what);
                }
            },
            Err(e) => {
                let what = format!("{service} does not recover to {}: {}", plan.end, e.chain());
                world.violate(Invariant::I10Log, what);
            }
        }
    }
    // A database calls its new history by a number that nobody has told it of.
    let told = plan.known.iter().map(|identity| Wal::number(identity));
    let own = from.histories.iter().map(|told| told.number);
    let number = told.chain(own).max().unwrap_or_default() + 1;
    let stamp = world.chance.named(&format!("recovery {service} {}", wals.count())).draw();
    let mut wal = from.forked(from.end, number, stamp);
    // What lies before it came from the backup and the store, and some of it may be in neither: nobody is owed it.
    wal.released = wal.end;
    trace(&format!("{service} goes on as history {number} from {}", wal.end));
    wals.note(&wal);
    Some(wal)
}

/// What was let go of is still there; and every window leads where it says.
pub(crate) fn all(world: &World) {
    let services: Vec<_> =
        lock(&world.wals).iter().map(|(name, wals)| (name.clone(), wals.dropped.clone())).collect();
    for (service, dropped) in services {
        for dropped in dropped {
            if let Err(why) = is_stored(world, &service, &dropped) {
                world.violate(Invariant::I10Log, format!("{service}: what was let go of is lost: {why}"));
                return;
            }
        }
    }
}

/// A window that is shown can be read from its beginning to its end (I9).
pub(crate) fn shown(world: &World, service: &str, logs: &v1::Logs) {
    let mut vaults = lock(&world.vaults);
    let Some(vault) = vaults.get_mut(&format!("{SCHEME}{service}")) else { return };
    let Some(lineages) = vault.read(&world.key, |state| state.lineages().clone()) else { return };
    for window in &logs.windows {
        let last = window.chain.last().and_then(|id| LineageId::from_slice(id).ok());
        let Some(last) = last else { continue };
        if let Err(e) = read(vault, world, chain(&lineages, last), window.from, window.to) {
            let what = format!("{service}: a window from {} to {}: {}", window.from, window.to, e.chain());
            world.violate(Invariant::I9Listed, what);
        }
    }
}
