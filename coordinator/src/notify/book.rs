//! What was told and what is owed, as the state has it. Only a leader has one, and it writes alone.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use palinurus_repository::{Entropy, Result};

use super::Notice;
use super::record::{Outbox, Owed, Told};
use crate::state::{Expect, Records, Versioned};

/// Of one service. More than that have waited for a receiver for long: the oldest goes.
pub(super) const OWED_MAX: usize = 64;

pub(super) struct Book {
    records: Records,
    channels: Vec<String>,
    boxes: BTreeMap<String, Versioned<Outbox>>,
}

impl Book {
    pub(super) async fn load(records: Records, channels: Vec<String>) -> Result<Self> {
        let mut book = Self { records, channels, boxes: BTreeMap::new() };
        let services = book.records.services().await?.into_iter().map(|it| it.value.name);
        let services: BTreeSet<String> = services.collect();
        for outbox in book.records.outboxes().await? {
            let name = outbox.value.service.clone();
            // Of a service that is gone, and all of it was told.
            if outbox.value.owed.is_empty() && !services.contains(&name) {
                book.records.delete_outbox(&name).await?;
                continue;
            }
            book.boxes.insert(name, outbox);
        }
        book.drop_channels();
        Ok(book)
    }

    /// A channel that is configured no longer is owed nothing.
    fn drop_channels(&mut self) {
        for outbox in self.boxes.values_mut() {
            for owed in &mut outbox.value.owed {
                owed.channels.retain(|channel| self.channels.contains(channel));
            }
            outbox.value.owed.retain(|owed| !owed.channels.is_empty());
        }
    }

    /// None: it was told already.
    pub(super) async fn record(&mut self, notice: &Notice, entropy: &dyn Entropy) -> Result<Option<Owed>> {
        let known = self.boxes.get(&notice.service);
        let mut next = known.map_or_else(Outbox::default, |known| known.value.clone());
        next.service.clone_from(&notice.service);
        let kind = notice.kind.as_str();
        let was = next.told(kind).unwrap_or(notice.kind.untold()).to_owned();
        if was == notice.key {
            return Ok(None);
        }
        let id = format!("{:032x}", u128::from_be_bytes(entropy.array()?));
        let owed = Owed::new(notice, id, &was, self.channels.clone());
        next.told.retain(|told| told.kind != kind);
        next.told.push(Told { kind: kind.to_owned(), key: notice.key.clone() });
        if !owed.channels.is_empty() {
            next.owed.push(owed.clone());
        }
        if next.owed.len() > OWED_MAX {
            let oldest = next.owed.remove(0);
            tracing::error!(
                service = oldest.service,
                id = oldest.id,
                "too many notices wait: one is given up"
            );
        }
        match self.put(next.clone()).await {
            Err(e) if self.boxes.get(&notice.service).is_none_or(|stored| stored.value != next) => Err(e),
            _ => Ok(Some(owed)),
        }
    }

    /// What the channel is owed: of the service after that one, the oldest.
    pub(super) fn next(&self, channel: &str, after: &str) -> Option<Owed> {
        let behind = self.boxes.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        let all = behind.chain(self.boxes.range::<str, _>((Bound::Unbounded, Bound::Included(after))));
        let is_owed = |owed: &&Owed| owed.channels.iter().any(|it| it == channel);
        all.filter_map(|(_, outbox)| outbox.value.owed.iter().find(is_owed)).next().cloned()
    }

    /// The channel has had it.
    pub(super) async fn settle(&mut self, service: &str, id: &str, channel: &str) -> Result<()> {
        let Some(outbox) = self.boxes.get(service) else { return Ok(()) };
        let mut next = outbox.value.clone();
        for owed in next.owed.iter_mut().filter(|owed| owed.id == id) {
            owed.channels.retain(|it| it != channel);
        }
        next.owed.retain(|owed| !owed.channels.is_empty());
        if next == outbox.value { Ok(()) } else { self.put(next).await }
    }

    async fn put(&mut self, next: Outbox) -> Result<()> {
        let name = next.service.clone();
        let expect = self.boxes.get(&name).map_or(Expect::Absent, |known| Expect::At(known.revision));
        match self.records.put_outbox(&next, expect).await {
            Ok(revision) => {
                self.boxes.insert(name, Versioned { value: next, revision });
                Ok(())
            }
            Err(e) => {
                // It may have landed: the next try goes on from what is there.
                match self.records.outbox(&name).await {
                    Ok(Some(stored)) => drop(self.boxes.insert(name, stored)),
                    Ok(None) => drop(self.boxes.remove(&name)),
                    Err(_) => {}
                }
                self.drop_channels();
                Err(e)
            }
        }
    }
}
