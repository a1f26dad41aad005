//! The records and the lease, as the store has them: whom it believes is the leader, and nobody else, may write.
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use palinurus_repository::{Epoch, Error, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::state::{Expect, Leader, Record};

/// What all coordinators share.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inside: Mutex<Inside>,
    /// The revision; carries no data.
    pub(super) written: watch::Sender<u64>,
    /// What leases' time is ahead of the clock.
    ahead: watch::Sender<Duration>,
}

#[derive(Debug, Default)]
struct Inside {
    records: BTreeMap<String, Record>,
    /// Counts the writes, of records and of who leads.
    revision: u64,
    holder: Option<Holder>,
}

#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) leader: Leader,
    pub(super) until: Instant,
}

impl MemoryStore {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So much of every lease is over at once, for the store and for whoever holds it: a test need not wait for it, and
    /// leases may last for longer than a machine stands still.
    pub fn pass(&self, time: Duration) {
        self.ahead.send_modify(|ahead| *ahead += time);
    }

    pub(super) fn now(&self) -> Instant {
        Instant::now() + *self.ahead.borrow()
    }

    /// Until that moment has come.
    pub(super) async fn until(&self, moment: Instant) {
        let mut ahead = self.ahead.subscribe();
        loop {
            let left = moment.saturating_duration_since(Instant::now() + *ahead.borrow_and_update());
            tokio::select! {
                biased;
                () = tokio::time::sleep(left) => return,
                _ = ahead.changed() => {}
            }
        }
    }

    /// As the store sees it: whose lease has passed does not lead, whatever it believes.
    pub(super) fn holder(&self) -> Option<Holder> {
        self.led(&self.inside()).cloned()
    }

    fn led<'a>(&self, inside: &'a Inside) -> Option<&'a Holder> {
        inside.holder.as_ref().filter(|holder| holder.until > self.now())
    }

    /// None while another holds the lease.
    pub(super) fn take(&self, name: &str, address: &str, ttl: Duration) -> Option<Epoch> {
        let mut inside = self.inside();
        if self.led(&inside).is_some() {
            return None;
        }
        let epoch = Epoch(self.count(&mut inside));
        let leader = Leader { name: name.to_owned(), address: address.to_owned(), epoch };
        inside.holder = Some(Holder { leader, until: self.now() + ttl });
        Some(epoch)
    }

    /// False when it is lost.
    pub(super) fn renew(&self, epoch: Epoch, ttl: Duration) -> bool {
        let mut inside = self.inside();
        let now = self.now();
        let held = inside.holder.as_mut().filter(|holder| holder.leader.epoch == epoch && holder.until > now);
        held.map(|holder| holder.until = now + ttl).is_some()
    }

    pub(super) fn release(&self, epoch: Epoch) {
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

    pub(super) fn get(&self, key: &str) -> Option<Record> {
        self.inside().records.get(key).cloned()
    }

    pub(super) fn list(&self, prefix: &str) -> BTreeMap<String, Record> {
        let inside = self.inside();
        let found = inside.records.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        found.map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    /// Writes the value, or deletes the record.
    pub(super) fn write(&self, epoch: Epoch, key: &str, value: Option<Bytes>, expect: Expect) -> Result<u64> {
        let mut inside = self.inside();
        if self.led(&inside).is_none_or(|holder| holder.leader.epoch != epoch) {
            return Err(Error::fenced(format!("write the record {key}: epoch {epoch} leads no longer")));
        }
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
