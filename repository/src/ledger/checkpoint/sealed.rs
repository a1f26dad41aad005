//! A checkpoint's bytes.
//!
//! ```text
//! header   "PALNC" version suite 0 | salt 16 | plain length u32 | key epoch u32 | draw 8
//! body     sealed, compressed
//! ```
use bytes::Bytes;
use prost::Message;

use crate::crypto::TAG_LEN;
use crate::epochs::{EPOCHS_MAX, KeyEpoch};
use crate::error::{Error, Result};
use crate::id::Draw;
use crate::keys::Keys;
use crate::ledger::Ledger;
use crate::ledger::record::Link;
use crate::ledger::state::{Folded, State};

const MAGIC: &[u8; 6] = b"PALNC\x02";
const HEADER_LEN: usize = 40;
/// Raised when the state has something that older readers would leave out: they read the records then, and those say
/// what is needed.
const LEVEL: u32 = 1;
/// With logs.
const LEVEL_LOGS: u32 = 2;
/// With drills.
const LEVEL_DRILLS: u32 = 3;
const LEVEL_KNOWN: u32 = LEVEL_DRILLS;
const PLAIN_MAX: usize = 256 << 20;
/// Whatever is longer is none of ours: not read into memory.
pub(super) const OBJECT_MAX: u64 = PLAIN_MAX as u64 + (1 << 20);

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

pub(super) struct Content {
    pub(super) link: Link,
    pub(super) state: State,
    pub(super) voids: Vec<u64>,
}

/// None where there is nothing to seal, or too much.
pub(super) fn seal(keys: &Keys, ledger: &Ledger) -> Result<Option<Bytes>> {
    let Some(link) = ledger.link else { return Ok(None) };
    let checkpoint = Checkpoint {
        level: level(&ledger.state),
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
    let epoch = ledger.state.key_epoch().unwrap_or(KeyEpoch { number: 0, draw: Draw([0; 8]) });
    object.extend_from_slice(&epoch.number.to_le_bytes());
    object.extend_from_slice(epoch.draw.as_bytes());
    let aad = aad(keys, ledger.next, &object);
    let tag = keys.checkpoint_aead(ledger.next, &salt)?.seal(0, &aad, &mut sealed)?;
    object.extend_from_slice(&sealed);
    object.extend_from_slice(&tag);
    Ok(Some(object.into()))
}

fn level(state: &State) -> u32 {
    match (state.has_drills(), state.lineages().is_empty()) {
        (true, _) => LEVEL_DRILLS,
        (false, false) => LEVEL_LOGS,
        (false, true) => LEVEL,
    }
}

/// One whose seal is still on: all that its header says is yet to be proved.
pub(super) struct Sealed<'a> {
    /// None for epoch 0.
    pub(super) key_epoch: Option<KeyEpoch>,
    header: &'a [u8],
    salt: [u8; 16],
    plain_len: usize,
    body: &'a [u8],
}

impl<'a> Sealed<'a> {
    pub(super) fn read(keys: &Keys, object: &'a [u8]) -> Result<Self> {
        let Some((header, body)) = object.split_at_checked(HEADER_LEN) else {
            return Err(Error::corrupt("it is cut off"));
        };
        if &header[..6] != MAGIC || header[6..8] != [keys.suite(), 0] {
            return Err(Error::corrupt("it begins with something else"));
        }
        let mut salt = [0; 16];
        salt.copy_from_slice(&header[8..24]);
        let u32_at =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let plain_len = u32_at(24) as usize;
        if plain_len > PLAIN_MAX {
            return Err(Error::corrupt(format!("a checkpoint of {plain_len} bytes")));
        }
        let key_epoch = match u32_at(28) {
            0 => None,
            number if number <= EPOCHS_MAX => {
                Some(KeyEpoch { number, draw: Draw::from_slice(&header[32..40])? })
            }
            number => return Err(Error::corrupt(format!("a checkpoint of key epoch {number}"))),
        };
        Ok(Self { key_epoch, header, salt, plain_len, body })
    }

    /// With keys that stand in its key epoch.
    pub(super) fn open(&self, keys: &Keys, next: u64) -> Result<Content> {
        let mut sealed = self.body.to_vec();
        let aead = keys.checkpoint_aead(next, &self.salt)?;
        let packed = aead.open(0, &aad(keys, next, self.header), &mut sealed)?;
        let plain = zstd::bulk::decompress(packed, self.plain_len)
            .map_err(|e| Error::corrupt("it does not decompress").with_source(e))?;
        let decoded = Checkpoint::decode(plain.as_slice())
            .map_err(|e| Error::corrupt("it does not decode").with_source(e))?;
        if decoded.level > LEVEL_KNOWN {
            return Err(Error::invalid(format!("it needs level {}", decoded.level)));
        }
        let link = decoded.link.as_slice().try_into().map_err(|_| Error::corrupt("it names no record"))?;
        let state = State::from_wire(decoded.state.unwrap_or_default())?;
        Ok(Content { link, state, voids: decoded.voids })
    }
}

fn aad(keys: &Keys, next: u64, header: &[u8]) -> Vec<u8> {
    [keys.repository().as_bytes(), &next.to_le_bytes(), header].concat()
}
