//! Checkpoints, so that opening a ledger need not read all its records: when one is written, and which one is believed.
//!
//! A cache: it is made from the records, can be made again, and anybody may delete it. What cannot be read, does not
//! fit the record before it, or is of another version is passed over, and the records are read instead.
//!
//! Each is sealed by the master of the key epoch that its state is in, and counts in that one only: who has just older
//! masters could make one for any record of their time, so when a KEYEPOCH follows, the records are read.
use bytes::Bytes;

use super::Ledger;
use super::record::{self, Link};
use super::state::State;
use crate::epochs::KeyEpoch;
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::storage::{Storage, list_all};

mod sealed;

use sealed::Sealed;

/// How many records are folded into the next one.
pub(super) const EVERY: u64 = 64;
pub(crate) const PREFIX: &str = "ckpt/";

/// As of the first `next` records.
pub(super) struct Loaded {
    pub(super) next: u64,
    pub(super) link: Link,
    pub(super) state: State,
    pub(super) voids: Vec<u64>,
    /// A fork: what a checkpoint says of key epochs is kept apart until it is believed.
    pub(super) keys: Keys,
}

/// The newest that is known.
#[derive(Clone, Copy, Default)]
pub(super) struct Newest {
    /// How many records it has.
    pub(super) next: u64,
    pub(super) key_epoch: Option<KeyEpoch>,
}

fn key(next: u64) -> String {
    format!("{PREFIX}{next:020}")
}

fn number(key: &str) -> Option<u64> {
    let next = key.strip_prefix(PREFIX)?.parse().ok()?;
    (self::key(next) == key).then_some(next)
}

/// The newest that can be used. Three requests and those for the masters: a list, the checkpoint, and the record before
/// it, which must be the one that it was made after.
pub(super) async fn newest(storage: &dyn Storage, keys: &Keys) -> Option<Loaded> {
    usable(storage, keys, u64::MAX).await.map(|(_, loaded)| loaded)
}

/// The newest of at most so many records, as it lies in the store.
pub(crate) async fn newest_below(
    storage: &dyn Storage,
    keys: &Keys,
    records: u64,
) -> Option<(String, Bytes)> {
    let (object, loaded) = usable(storage, keys, records).await?;
    Some((key(loaded.next), object))
}

async fn usable(storage: &dyn Storage, keys: &Keys, records: u64) -> Option<(Bytes, Loaded)> {
    let listed = list_all(storage, PREFIX).await.unwrap_or_default();
    let numbers = listed.iter().filter_map(|object| Some((number(&object.key)?, object.size)));
    let mut numbers: Vec<(u64, u64)> =
        numbers.filter(|(next, size)| *next <= records && *size <= sealed::OBJECT_MAX).collect();
    numbers.sort_unstable();
    for (next, _) in numbers.into_iter().rev().take(2) {
        match load(storage, keys, next).await {
            Ok(found) => return Some(found),
            Err(e) => tracing::warn!(checkpoint = next, error = e.chain(), "a checkpoint is not used"),
        }
    }
    None
}

async fn load(storage: &dyn Storage, keys: &Keys, next: u64) -> Result<(Bytes, Loaded)> {
    let before = next.checked_sub(1).ok_or_else(|| Error::corrupt("a checkpoint of nothing"))?;
    let object = storage.get(&key(next), None).await?;
    let sealed = Sealed::read(keys, &object)?;
    let mut keys = keys.fork();
    if let Some(epoch) = sealed.key_epoch {
        keys.load(storage, epoch).await?;
        keys.enter(epoch)?;
    }
    let content = sealed.open(&keys, next)?;
    let (link, state, voids) = (content.link, content.state, content.voids);
    if state.key_epoch() != sealed.key_epoch {
        return Err(Error::corrupt("it is sealed in another key epoch than its own"));
    }
    keys.epochs().masters(state.draws())?;
    keys.learn(storage, &state.all_sealed()).await?;
    let last = storage.get(&record::key(before), None).await?;
    if record::link(&last) != link {
        return Err(Error::corrupt(format!(
            "it was not made after the ledger record {before} that is there"
        )));
    }
    if !is_followed_in(&keys, &state, before, &last)? {
        return Err(Error::corrupt(format!("it is of an older key epoch than ledger record {before}")));
    }
    Ok((object, Loaded { next, link, state, voids, keys }))
}

/// Whether a record behind this one is of the state's key epoch: it is of that one itself, or begins it.
fn is_followed_in(keys: &Keys, state: &State, number: u64, object: &[u8]) -> Result<bool> {
    if let Ok(begun) = record::begun(keys, number, object) {
        return Ok(begun.is_none());
    }
    let Some((_, earlier)) = state.draws().split_last() else { return Ok(false) };
    let mut before = keys.at_root();
    if let Some(draw) = earlier.last() {
        before.enter(KeyEpoch { number: earlier.len() as u32, draw: *draw })?;
    }
    Ok(record::begun(&before, number, object)? == state.key_epoch())
}

impl Ledger {
    /// Writes a checkpoint when enough was appended since the last one, or a key epoch has begun, and takes away those
    /// before that. A failure costs the next reader time, and nobody else anything.
    pub(super) async fn checkpoint(&mut self) {
        let key_epoch = self.state.key_epoch();
        let Newest { next: before, key_epoch: of } = self.checkpointed;
        if self.next < before.saturating_add(EVERY) && of == key_epoch {
            return;
        }
        self.checkpointed = Newest { next: self.next, key_epoch };
        if let Err(e) = self.write_checkpoint(before).await {
            tracing::warn!(records = self.next, error = e.chain(), "no checkpoint of the ledger was written");
        }
    }

    async fn write_checkpoint(&self, keep: u64) -> Result<()> {
        let Some(object) = sealed::seal(&self.keys, self)? else { return Ok(()) };
        self.storage.put_new(&key(self.next), object).await?;
        let listed = list_all(&*self.storage, PREFIX).await?;
        let old = listed.into_iter().map(|object| object.key);
        let old: Vec<String> = old.filter(|key| number(key).is_some_and(|next| next < keep)).collect();
        if old.is_empty() { Ok(()) } else { self.storage.delete(&old).await }
    }
}

#[cfg(test)]
mod tests;
