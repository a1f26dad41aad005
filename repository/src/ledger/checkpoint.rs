//! A checkpoint: what the first n records amount to, so that opening a ledger need not read them all.
//!
//! ```text
//! header   "PALNC" version suite 0 | salt 16 | plain length u32
//! body     sealed, compressed
//! ```
//! A cache: it is made from the records, can be made again, and anybody may delete it. What cannot be read, does not
//! fit the record before it, or is of a newer version is passed over, and the records are read instead. None is written
//! once a key epoch has begun: it is sealed by the root.
use bytes::Bytes;
use prost::Message;

use super::Ledger;
use super::record::{self, Link};
use super::state::{Folded, State};
use crate::crypto::{Aead, TAG_LEN};
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::storage::{Storage, list_all};

const MAGIC: &[u8; 6] = b"PALNC\x01";
const HEADER_LEN: usize = 28;
/// Raised when the state has something that older readers would leave out: they read the records then, and those say
/// what is needed.
const LEVEL: u32 = 1;
/// With logs.
const LEVEL_LOGS: u32 = 2;
const LEVEL_KNOWN: u32 = LEVEL_LOGS;
const PLAIN_MAX: usize = 256 << 20;
/// How many records are folded into the next one.
pub(super) const EVERY: u64 = 64;
const PREFIX: &str = "ckpt/";

#[derive(Clone, PartialEq, prost::Message)]
struct Checkpoint {
    #[prost(uint32, tag = "1")]
    level: u32,
    /// BLAKE3 of the record before.
    #[prost(bytes = "vec", tag = "2")]
    link: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    state: Option<Folded>,
    #[prost(uint64, repeated, tag = "4")]
    voids: Vec<u64>,
}

/// As of the first `next` records.
pub(super) struct Loaded {
    pub(super) next: u64,
    pub(super) link: Link,
    pub(super) state: State,
    pub(super) voids: Vec<u64>,
}

fn key(next: u64) -> String {
    format!("{PREFIX}{next:020}")
}

fn number(key: &str) -> Option<u64> {
    let next = key.strip_prefix(PREFIX)?.parse().ok()?;
    (self::key(next) == key).then_some(next)
}

/// The newest that can be used. Three requests: a list, the checkpoint, and the record before it, which must be the
/// one that it was made after.
pub(super) async fn newest(storage: &dyn Storage, keys: &Keys) -> Option<Loaded> {
    let listed = list_all(storage, PREFIX).await.unwrap_or_default();
    let mut numbers: Vec<u64> = listed.iter().filter_map(|object| number(&object.key)).collect();
    numbers.sort_unstable();
    for next in numbers.into_iter().rev().take(2) {
        match load(storage, keys, next).await {
            Ok(loaded) => return Some(loaded),
            Err(e) => tracing::warn!(checkpoint = next, error = e.chain(), "a checkpoint is not used"),
        }
    }
    None
}

async fn load(storage: &dyn Storage, keys: &Keys, next: u64) -> Result<Loaded> {
    let before = next.checked_sub(1).ok_or_else(|| Error::corrupt("a checkpoint of nothing"))?;
    let loaded = open(keys, next, &storage.get(&key(next), None).await?)?;
    let last = storage.get(&record::key(before), None).await?;
    if record::link(&last) != loaded.link {
        return Err(Error::corrupt(format!(
            "it was not made after the ledger record {before} that is there"
        )));
    }
    // Sealed by the root: once a key epoch has begun, who still has an old key must not be believed.
    if record::begins_key_epoch(keys, before, &last)? {
        return Err(Error::corrupt("a key epoch begins with the record before it"));
    }
    Ok(loaded)
}

fn seal(keys: &Keys, ledger: &Ledger) -> Result<Option<Bytes>> {
    let Some(link) = ledger.link else { return Ok(None) };
    let checkpoint = Checkpoint {
        level: if ledger.state.lineages().is_empty() { LEVEL } else { LEVEL_LOGS },
        link: link.to_vec(),
        state: Some(ledger.state.to_wire()),
        voids: ledger.voids.clone(),
    };
    let plain = checkpoint.encode_to_vec();
    if plain.len() > PLAIN_MAX {
        return Ok(None);
    }
    let salt = keys.ledger_salt(ledger.next, &plain);
    let mut sealed = zstd::bulk::compress(&plain, 1).map_err(|e| Error::internal("zstd").with_source(e))?;
    let mut object = Vec::with_capacity(HEADER_LEN + sealed.len() + TAG_LEN);
    object.extend_from_slice(MAGIC);
    object.extend_from_slice(&[keys.suite(), 0]);
    object.extend_from_slice(&salt);
    object.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    let aad = aad(keys, ledger.next, &object);
    let tag = aead(keys, ledger.next, &salt)?.seal(0, &aad, &mut sealed)?;
    object.extend_from_slice(&sealed);
    object.extend_from_slice(&tag);
    Ok(Some(object.into()))
}

fn open(keys: &Keys, next: u64, object: &[u8]) -> Result<Loaded> {
    let Some((header, sealed)) = object.split_at_checked(HEADER_LEN) else {
        return Err(Error::corrupt("it is cut off"));
    };
    if &header[..6] != MAGIC || header[6..8] != [keys.suite(), 0] {
        return Err(Error::corrupt("it begins with something else"));
    }
    let mut salt = [0; 16];
    salt.copy_from_slice(&header[8..24]);
    let plain_len = u32::from_le_bytes([header[24], header[25], header[26], header[27]]) as usize;
    if plain_len > PLAIN_MAX {
        return Err(Error::corrupt(format!("a checkpoint of {plain_len} bytes")));
    }
    let mut sealed = sealed.to_vec();
    let packed = aead(keys, next, &salt)?.open(0, &aad(keys, next, header), &mut sealed)?;
    let plain = zstd::bulk::decompress(packed, plain_len)
        .map_err(|e| Error::corrupt("it does not decompress").with_source(e))?;
    let decoded = Checkpoint::decode(plain.as_slice())
        .map_err(|e| Error::corrupt("it does not decode").with_source(e))?;
    if decoded.level > LEVEL_KNOWN {
        return Err(Error::invalid(format!("it needs level {}", decoded.level)));
    }
    let link = decoded.link.as_slice().try_into().map_err(|_| Error::corrupt("it names no record"))?;
    let state = State::from_wire(decoded.state.unwrap_or_default())?;
    Ok(Loaded { next, link, state, voids: decoded.voids })
}

fn aead(keys: &Keys, next: u64, salt: &[u8; 16]) -> Result<Box<dyn Aead>> {
    keys.root_aead(&[b"checkpoint", &next.to_le_bytes(), salt])
}

fn aad(keys: &Keys, next: u64, header: &[u8]) -> Vec<u8> {
    [keys.repository().as_bytes(), &next.to_le_bytes(), header].concat()
}

impl Ledger {
    /// Writes a checkpoint when enough was appended since the last one, and takes away those before that. A failure
    /// costs the next reader time, and nobody else anything.
    pub(super) async fn checkpoint(&mut self) {
        if self.next < self.checkpointed.saturating_add(EVERY) || self.state.key_epoch().is_some() {
            return;
        }
        let before = std::mem::replace(&mut self.checkpointed, self.next);
        if let Err(e) = self.write_checkpoint(before).await {
            tracing::warn!(records = self.next, error = e.chain(), "no checkpoint of the ledger was written");
        }
    }

    async fn write_checkpoint(&self, keep: u64) -> Result<()> {
        let Some(object) = seal(&self.keys, self)? else { return Ok(()) };
        self.storage.put_new(&key(self.next), object).await?;
        let listed = list_all(&*self.storage, PREFIX).await?;
        let old = listed.into_iter().map(|object| object.key);
        let old: Vec<String> = old.filter(|key| number(key).is_some_and(|next| next < keep)).collect();
        if old.is_empty() { Ok(()) } else { self.storage.delete(&old).await }
    }
}

#[cfg(test)]
mod tests;
