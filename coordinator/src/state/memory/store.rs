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

    /// As the store sees it: whose lease has passed does not lead, whatever it believes.
    pub(super) fn holder(&self) -> Option<Holder> {
        self.inside().holder.clone().filter(|holder| holder.until > Instant::now())
    }

    /// None while another holds the lease.
    pub(super) fn take(&self, name: &str, address: &str, ttl: Duration) -> Option<Epoch> {
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
    pub(super) fn renew(&self, epoch: Epoch, ttl: Duration) -> bool {
        let now = Instant::now();
        let mut inside = self.inside();
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
