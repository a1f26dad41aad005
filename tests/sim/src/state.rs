//! What etcd is in production: records, a lease, and links to it that break. Each coordinator has an election of its
//! own, whose clock is its host's; the registry has the run's.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use palinurus_coordinator::state::{Change, Election, Expect, Leader, Lease, Reader, Record, Resign, State};
use palinurus_proto::v1;
use palinurus_repository::{Epoch, Error, Result};
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::chance::Chance;
use crate::place;
use crate::world::{self, HostId, World, lock};

const TTL: u64 = 3000;
/// So much of it a leader uses.
const USABLE: u64 = 2400;
const RENEW: u64 = 500;
const LOOK: u64 = 300;
/// A leader has no longer for stepping down, its actors' time for ending included.
const STEP_DOWN: u64 = 45_000;

#[derive(Debug, Default)]
pub(crate) struct Registry {
    records: BTreeMap<String, Record>,
    revision: u64,
    /// Whose it is, by process: after a loss epochs begin anew, and an old one must not pass for a new one.
    holder: Option<(Leader, u64, HostId)>,
    given: Vec<Given>,
}

/// A lease that was given out, until it is given back or its holder's process is gone.
#[derive(Debug)]
struct Given {
    host: HostId,
    epoch: Epoch,
    over: CancellationToken,
    since: Option<u64>,
}

impl Registry {
    fn holder(&self) -> Option<&Leader> {
        let holder = self.holder.as_ref().filter(|(_, until, _)| *until > world::now());
        holder.map(|(leader, ..)| leader)
    }

    /// Where the leader runs.
    pub(crate) fn leads_at(&self) -> Option<HostId> {
        self.holder().and(self.holder.as_ref()).map(|(.., host)| *host)
    }

    fn leads(&self, host: HostId, epoch: Epoch) -> bool {
        let holds = self.holder.as_ref().is_some_and(|(.., holder)| *holder == host);
        holds && self.holder().is_some_and(|leader| leader.epoch == epoch)
    }

    fn take(&mut self, host: HostId, name: &str, address: &str) -> Option<Epoch> {
        if self.holder().is_some() {
            return None;
        }
        self.revision += 1;
        let epoch = Epoch(self.revision);
        let leader = Leader { name: name.to_owned(), address: address.to_owned(), epoch };
        self.holder = Some((leader, world::now() + TTL, host));
        Some(epoch)
    }

    fn renew(&mut self, host: HostId, epoch: Epoch) -> bool {
        let holds = self.leads(host, epoch);
        if holds && let Some((_, until, _)) = &mut self.holder {
            *until = world::now() + TTL;
        }
        holds
    }

    fn write(
        &mut self,
        (host, epoch): (HostId, Epoch),
        key: &str,
        value: Option<Bytes>,
        expect: Expect,
    ) -> Result<u64> {
        if !self.leads(host, epoch) {
            return Err(Error::fenced(format!("write {key}: epoch {epoch} leads no longer")));
        }
        let found = self.records.get(key).map(|record| record.revision);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::At(revision) => found == Some(revision),
        };
        if !holds {
            return Err(Error::conflict(format!("write {key}: it is at {found:?}, not {expect:?}")));
        }
        self.revision += 1;
        match value {
            Some(value) => {
                let record = Record { value, revision: self.revision };
                drop(self.records.insert(key.to_owned(), record));
            }
            None => drop(self.records.remove(key)),
        }
        Ok(self.revision)
    }

    fn list(&self, prefix: &str) -> Vec<(String, Record)> {
        let found = self.records.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        found.map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    pub(crate) fn value(&self, key: &str) -> Option<Bytes> {
        self.records.get(key).map(|record| record.value.clone())
    }

    pub(crate) fn values(&self, prefix: &str) -> Vec<Bytes> {
        self.list(prefix).into_iter().map(|(_, record)| record.value).collect()
    }

    /// All records of operations.
    pub(crate) fn operations(&self) -> Vec<v1::Operation> {
        self.values("operation/").into_iter().filter_map(|value| v1::Operation::decode(value).ok()).collect()
    }

    /// Everything, the count of revisions included.
    pub(crate) fn lose(&mut self) {
        (self.records, self.revision, self.holder) = (BTreeMap::new(), 0, None);
    }

    /// That process is gone, with what it held.
    pub(crate) fn gone(&mut self, host: HostId) {
        self.given.retain(|given| given.host != host);
    }

    /// Whoever leads on without a lease (I2). `stands`: hosts that are paused.
    pub(crate) fn watch(&mut self, stands: impl Fn(HostId) -> bool) -> Option<String> {
        let now = world::now();
        for given in &mut self.given {
            if !given.over.is_cancelled() || stands(given.host) {
                given.since = None;
                continue;
            }
            let since = *given.since.get_or_insert(now);
            if now - since > STEP_DOWN {
                given.since = Some(now);
                return Some(format!("epoch {} leads on, {} ms after its lease", given.epoch, now - since));
            }
        }
        None
    }
}

/// One coordinator's way there.
#[derive(Clone, Debug)]
struct Link {
    world: Arc<World>,
    host: HostId,
    chance: Arc<std::sync::Mutex<Chance>>,
}

impl Link {
    async fn call<T>(&self, what: &str, work: impl FnOnce(&mut Registry) -> T) -> Result<T> {
        let faults = self.world.faults(self.host);
        let (wait, unanswered) = {
            let mut chance = lock(&self.chance);
            (chance.between(1, 3), chance.percent(faults.state_unanswered))
        };
        if faults.state_away {
            world::pause(400).await;
            return Err(Error::unavailable(format!("{what}: the state cannot be reached")));
        }
        world::pause(wait).await;
        let done = work(&mut lock(&self.world.registry));
        world::pause(1).await;
        if unanswered {
            world::pause(400).await;
            return Err(Error::unavailable(format!("{what}: the state does not answer")));
        }
        Ok(done)
    }
}

#[derive(Debug)]
pub(crate) struct SimElection {
    name: String,
    link: Link,
    leader: watch::Sender<Option<Leader>>,
    _following: AbortOnDropHandle<()>,
}

impl SimElection {
    /// Within the host's runtime.
    pub(crate) fn new(world: &Arc<World>, host: HostId, chance: Chance) -> Self {
        let chance = Arc::new(std::sync::Mutex::new(chance));
        let link = Link { world: world.clone(), host, chance };
        let leader = watch::Sender::new(None);
        let following = tokio::spawn(follow_leader(link.clone(), leader.clone()));
        let name = world.hosts[host].clone();
        Self { name, link, leader, _following: AbortOnDropHandle::new(following) }
    }
}

async fn follow_leader(link: Link, leader: watch::Sender<Option<Leader>>) {
    loop {
        let known = link.call("look who leads", |registry| registry.holder().cloned()).await.ok().flatten();
        leader.send_if_modified(|told| std::mem::replace(told, known.clone()) != known);
        world::pause(LOOK).await;
    }
}

#[async_trait]
impl Election for SimElection {
    async fn campaign(&self, address: &str) -> Result<Lease> {
        loop {
            let began = Instant::now();
            let taken = self
                .link
                .call("campaign", |registry| registry.take(self.link.host, &self.name, address))
                .await;
            if let Ok(Some(epoch)) = taken {
                world::trace(&format!("state: {} leads with {epoch}", self.name));
                let over = CancellationToken::new();
                let given = Given { host: self.link.host, epoch, over: over.clone(), since: None };
                lock(&self.link.world.registry).given.push(given);
                let keeping = keep(self.link.clone(), epoch, began, over.clone());
                let keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
                let state = SimState { link: self.link.clone(), epoch, over: over.clone() };
                let resign = Box::new(Held { link: self.link.clone(), epoch, keeping });
                return Ok(Lease { state: Arc::new(state), over, resign });
            }
            world::pause(LOOK).await;
        }
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.link.clone())
    }

    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    fn kind(&self) -> &'static str {
        "simulated"
    }
}

/// Renews the lease, and ends it before it can be another's: by this host's clock, which may be wrong.
async fn keep(link: Link, epoch: Epoch, began: Instant, over: CancellationToken) {
    let mut until = began + Duration::from_millis(USABLE);
    while Instant::now() < until {
        let sent = Instant::now();
        let renewed =
            tokio::time::timeout_at(until, link.call("renew", |registry| registry.renew(link.host, epoch)))
                .await;
        match renewed {
            Ok(Ok(true)) => until = sent + Duration::from_millis(USABLE),
            Ok(Ok(false)) => break,
            _ => {}
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => {}
            () = world::pause(RENEW) => {}
        }
        while link.world.faults(link.host).lease_blind {
            world::pause(RENEW).await;
        }
    }
    over.cancel();
}

#[derive(Debug)]
struct Held {
    link: Link,
    epoch: Epoch,
    keeping: AbortOnDropHandle<()>,
}

#[async_trait]
impl Resign for Held {
    async fn resign(self: Box<Self>) {
        let Self { link, epoch, keeping } = *self;
        drop(keeping);
        lock(&link.world.registry).given.retain(|given| (given.host, given.epoch) != (link.host, epoch));
        let give = link.call("resign", |registry| {
            if registry.leads(link.host, epoch) {
                registry.holder = None;
                registry.revision += 1;
            }
        });
        let _ = give.await;
    }
}

#[async_trait]
impl Reader for Link {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        self.call("read a record", |registry| registry.records.get(key).cloned()).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>> {
        self.call("list records", |registry| registry.list(prefix)).await
    }

    fn follow(&self, prefix: &str) -> BoxStream<'static, Change> {
        let begun = (self.clone(), prefix.to_owned(), None::<Vec<(String, Record)>>);
        futures::stream::unfold(begun, async |(link, prefix, told)| {
            loop {
                match link.list(&prefix).await {
                    Err(e) => return Some((Change::Away(e), (link, prefix, None))),
                    Ok(all) if told.as_ref() != Some(&all) => {
                        return Some((Change::All(all.clone()), (link, prefix, Some(all))));
                    }
                    Ok(_) => world::pause(LOOK).await,
                }
            }
        })
        .boxed()
    }
}

/// Writes as one leader.
#[derive(Debug)]
struct SimState {
    link: Link,
    epoch: Epoch,
    over: CancellationToken,
}

impl SimState {
    async fn write(&self, key: &str, value: Option<Bytes>, expect: Expect) -> Result<u64> {
        let size = value.as_ref().map(Bytes::len);
        let told = value.clone();
        let written = self.link.call("write a record", |registry| {
            registry.write((self.link.host, self.epoch), key, value, expect)
        });
        let written = written.await?;
        match &written {
            Ok(revision) => {
                told.iter().for_each(|value| place::wrote(&self.link.world, key, value));
                world::trace(&format!("state: {key} = {size:?} bytes at {revision} by {}", self.epoch));
            }
            Err(e) => {
                world::trace(&format!("state: {}", e.what()));
                if e.kind() == palinurus_repository::ErrorKind::Fenced {
                    self.over.cancel();
                }
            }
        }
        written
    }
}

#[async_trait]
impl Reader for SimState {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        self.link.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>> {
        self.link.list(prefix).await
    }

    fn follow(&self, prefix: &str) -> BoxStream<'static, Change> {
        self.link.follow(prefix)
    }
}

#[async_trait]
impl State for SimState {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        self.write(key, Some(value), expect).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.write(key, None, expect).await.map(drop)
    }
}
