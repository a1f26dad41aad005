//! The state in this process's memory, for tests and the simulation: several coordinators, each with an election of its
//! own over one store, which it reaches over a link that can be cut. Time is tokio's, so it may be paused.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use palinurus_repository::{Epoch, Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Change, Election, Expect, Leader, Lease, Reader, Record, Resign, State};

/// A lease is renewed so often while it lasts.
const RENEWALS: u32 = 6;
/// So much of a lease is not used: one part in so many.
const MARGIN: u32 = 5;

/// What all coordinators share.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inside: Mutex<Inside>,
    /// The revision; carries no data.
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inside {
    records: BTreeMap<String, Record>,
    /// Counts the writes, of records and of who leads.
    revision: u64,
    holder: Option<Holder>,
}

#[derive(Clone, Debug)]
struct Holder {
    leader: Leader,
    until: Instant,
}

impl MemoryStore {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the store sees it: whose lease has passed does not lead, whatever it believes.
    fn holder(&self) -> Option<Holder> {
        self.inside().holder.clone().filter(|holder| holder.until > Instant::now())
    }

    /// None while another holds the lease.
    fn take(&self, name: &str, address: &str, ttl: Duration) -> Option<Epoch> {
        if self.holder().is_some() {
            return None;
        }
        let mut inside = self.inside();
        let epoch = Epoch(self.count(&mut inside));
        let leader = Leader { name: name.to_owned(), address: address.to_owned(), epoch };
        inside.holder = Some(Holder { leader, until: Instant::now() + ttl });
        Some(epoch)
    }

    /// False when it is lost.
    fn renew(&self, epoch: Epoch, ttl: Duration) -> bool {
        let now = Instant::now();
        let mut inside = self.inside();
        let held = inside.holder.as_mut().filter(|holder| holder.leader.epoch == epoch && holder.until > now);
        held.map(|holder| holder.until = now + ttl).is_some()
    }

    fn release(&self, epoch: Epoch) {
        let mut inside = self.inside();
        if inside.holder.as_ref().is_some_and(|holder| holder.leader.epoch == epoch) {
            inside.holder = None;
            self.count(&mut inside);
        }
    }

    fn count(&self, inside: &mut Inside) -> u64 {
        inside.revision += 1;
        self.written.send_replace(inside.revision);
        inside.revision
    }

    fn get(&self, key: &str) -> Option<Record> {
        self.inside().records.get(key).cloned()
    }

    fn list(&self, prefix: &str) -> BTreeMap<String, Record> {
        let inside = self.inside();
        let found = inside.records.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        found.map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    /// Writes the value, or deletes the record.
    fn write(&self, epoch: Epoch, key: &str, value: Option<Bytes>, expect: Expect) -> Result<u64> {
        if self.holder().is_none_or(|holder| holder.leader.epoch != epoch) {
            return Err(Error::fenced(format!("write the record {key}: epoch {epoch} leads no longer")));
        }
        let mut inside = self.inside();
        let found = inside.records.get(key).map(|record| record.revision);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::At(revision) => found == Some(revision),
        };
        if !holds {
            return Err(Error::conflict(format!(
                "write the record {key}: it is at revision {found:?}, not {expect:?}"
            )));
        }
        let revision = self.count(&mut inside);
        match value {
            Some(value) => drop(inside.records.insert(key.to_owned(), Record { value, revision })),
            None => drop(inside.records.remove(key)),
        }
        Ok(revision)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reach {
    #[default]
    Whole,
    /// Calls arrive, answers do not.
    Unanswered,
    Cut,
}

/// One coordinator's way to the store, which a test may break. Calls over a broken one end in `Unavailable`.
#[derive(Clone, Debug, Default)]
pub struct Link {
    reach: Arc<watch::Sender<Reach>>,
    asleep: Arc<watch::Sender<bool>>,
}

impl Link {
    /// Nothing arrives any more.
    pub fn cut(&self) {
        self.reach.send_replace(Reach::Cut);
    }

    /// What is asked is carried out, and who asked does not hear of it.
    pub fn cut_answers(&self) {
        self.reach.send_replace(Reach::Unanswered);
    }

    pub fn mend(&self) {
        self.reach.send_replace(Reach::Whole);
    }

    /// The lease is neither renewed nor seen to end, as in a process that is paused; all else goes on, which is worse
    /// than a pause.
    pub fn doze(&self) {
        self.asleep.send_replace(true);
    }

    pub fn wake(&self) {
        self.asleep.send_replace(false);
    }

    async fn awake(&self) {
        let _ = self.asleep.subscribe().wait_for(|asleep| !asleep).await;
    }

    async fn whole(&self) {
        let _ = self.reach.subscribe().wait_for(|reach| *reach == Reach::Whole).await;
    }

    fn call<T>(&self, what: &str, work: impl FnOnce() -> T) -> Result<T> {
        let reach = *self.reach.borrow();
        let done = (reach != Reach::Cut).then(work);
        done.filter(|_| reach == Reach::Whole).ok_or_else(|| away(what))
    }
}

fn away(what: &str) -> Error {
    Error::unavailable(format!("{what}: the store cannot be reached"))
}

/// One coordinator's part in the election.
#[derive(Debug)]
pub struct MemoryElection {
    name: String,
    ttl: Duration,
    access: Access,
    leader: watch::Sender<Option<Leader>>,
    _following: AbortOnDropHandle<()>,
}

impl MemoryElection {
    /// Within a runtime.
    pub fn new(store: &Arc<MemoryStore>, name: &str, ttl: Duration) -> Self {
        let access = Access { store: store.clone(), link: Link::default() };
        let leader = watch::Sender::new(None);
        let following = tokio::spawn(follow_leader(access.clone(), leader.clone()));
        let _following = AbortOnDropHandle::new(following);
        Self { name: name.to_owned(), ttl, access, leader, _following }
    }

    pub fn link(&self) -> Link {
        self.access.link.clone()
    }

    fn lease(&self, epoch: Epoch, began: Instant) -> Lease {
        let over = CancellationToken::new();
        let access = self.access.clone();
        let keeping = keep(access.clone(), epoch, self.ttl, began, over.clone());
        let keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
        let state = MemoryState { access: access.clone(), epoch, over: over.clone() };
        Lease { state: Arc::new(state), over, resign: Box::new(Held { access, epoch, keeping }) }
    }
}

#[async_trait]
impl Election for MemoryElection {
    async fn campaign(&self, address: &str) -> Result<Lease> {
        let Access { store, link } = &self.access;
        let mut written = store.written.subscribe();
        loop {
            link.awake().await;
            link.whole().await;
            written.borrow_and_update();
            let began = Instant::now();
            if let Some(epoch) = store.take(&self.name, address, self.ttl) {
                return Ok(self.lease(epoch, began));
            }
            let until = store.holder().map_or(began, |holder| holder.until);
            tokio::select! {
                biased;
                _ = written.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.access.clone())
    }

    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}

/// Nobody, while the store cannot be asked.
async fn follow_leader(access: Access, leader: watch::Sender<Option<Leader>>) {
    let (mut written, mut reach) = (access.store.written.subscribe(), access.link.reach.subscribe());
    loop {
        written.borrow_and_update();
        let whole = *reach.borrow_and_update() == Reach::Whole;
        let holder = access.store.holder().filter(|_| whole);
        let until = holder.as_ref().map(|holder| holder.until);
        let known = holder.map(|holder| holder.leader);
        leader.send_if_modified(|told| std::mem::replace(told, known.clone()) != known);
        tokio::select! {
            biased;
            _ = written.changed() => {}
            _ = reach.changed() => {}
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
        }
    }
}

/// Renews the lease, and ends it before the store can have given it to another.
async fn keep(access: Access, epoch: Epoch, ttl: Duration, began: Instant, over: CancellationToken) {
    let Access { store, link } = access;
    let usable = ttl - ttl / MARGIN;
    let mut until = began + usable;
    while Instant::now() < until {
        // Counted from before the call: the store's own count cannot have begun earlier.
        let sent = Instant::now();
        match link.call("renew the lease", || store.renew(epoch, ttl)) {
            Ok(true) => until = sent + usable,
            Ok(false) => break,
            Err(_) => {}
        }
        tokio::select! {
            biased;
            () = sleep_until(until) => {}
            () = sleep(ttl / RENEWALS) => {}
        }
        link.awake().await;
    }
    over.cancel();
}

#[derive(Debug)]
struct Held {
    access: Access,
    epoch: Epoch,
    keeping: AbortOnDropHandle<()>,
}

#[async_trait]
impl Resign for Held {
    async fn resign(self: Box<Self>) {
        let Self { access: Access { store, link }, epoch, keeping } = *self;
        drop(keeping);
        let _ = link.call("resign", || store.release(epoch));
    }
}

/// The store, over one coordinator's link.
#[derive(Clone, Debug)]
struct Access {
    store: Arc<MemoryStore>,
    link: Link,
}

#[async_trait]
impl Reader for Access {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        self.link.call("read a record", || self.store.get(key))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>> {
        self.link.call("list records", || self.store.list(prefix).into_iter().collect())
    }

    fn follow(&self, prefix: &str) -> BoxStream<'static, Change> {
        let follower = Follower {
            written: self.store.written.subscribe(),
            reach: self.link.reach.subscribe(),
            access: self.clone(),
            prefix: prefix.to_owned(),
            told: Told::Nothing,
        };
        futures::stream::unfold(follower, async |mut follower| Some((follower.next().await, follower)))
            .boxed()
    }
}

struct Follower {
    access: Access,
    prefix: String,
    written: watch::Receiver<u64>,
    reach: watch::Receiver<Reach>,
    told: Told,
}

enum Told {
    Nothing,
    Away,
    Records(BTreeMap<String, Record>),
}

impl Follower {
    async fn next(&mut self) -> Change {
        loop {
            self.written.borrow_and_update();
            let whole = *self.reach.borrow_and_update() == Reach::Whole;
            match &mut self.told {
                Told::Away if !whole => {}
                _ if !whole => {
                    self.told = Told::Away;
                    return Change::Away(away("follow the records"));
                }
                Told::Records(told) => {
                    if let Some(change) = difference(told, self.access.store.list(&self.prefix)) {
                        return change;
                    }
                }
                Told::Nothing | Told::Away => {
                    let all = self.access.store.list(&self.prefix);
                    self.told = Told::Records(all.clone());
                    return Change::All(all.into_iter().collect());
                }
            }
            tokio::select! {
                biased;
                _ = self.written.changed() => {}
                _ = self.reach.changed() => {}
            }
        }
    }
}

/// One step from what was told to what there is.
fn difference(told: &mut BTreeMap<String, Record>, mut now: BTreeMap<String, Record>) -> Option<Change> {
    if let Some(gone) = told.keys().find(|key| !now.contains_key(*key)).cloned() {
        told.remove(&gone);
        return Some(Change::Gone(gone));
    }
    let new = now.iter().find(|(key, record)| told.get(*key) != Some(record)).map(|(key, _)| key.clone())?;
    let record = now.remove(&new)?;
    told.insert(new.clone(), record.clone());
    Some(Change::Put(new, record))
}

/// Writes as one leader.
#[derive(Debug)]
struct MemoryState {
    access: Access,
    epoch: Epoch,
    over: CancellationToken,
}

impl MemoryState {
    fn write(&self, key: &str, value: Option<Bytes>, expect: Expect) -> Result<u64> {
        let Access { store, link } = &self.access;
        let written = link.call("write a record", || store.write(self.epoch, key, value, expect))?;
        if written.as_ref().is_err_and(|e| e.kind() == ErrorKind::Fenced) {
            self.over.cancel();
        }
        written
    }
}

#[async_trait]
impl Reader for MemoryState {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        self.access.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>> {
        self.access.list(prefix).await
    }

    fn follow(&self, prefix: &str) -> BoxStream<'static, Change> {
        self.access.follow(prefix)
    }
}

#[async_trait]
impl State for MemoryState {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        self.write(key, Some(value), expect)
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.write(key, None, expect).map(drop)
    }
}

#[cfg(test)]
mod tests;
