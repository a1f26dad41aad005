//! One record of the ledger, and how it lies in the store: sealed, and chained to the one before.
//!
//! ```text
//! header 24   "PALNL" version suite 0 | salt 16
//! sealed      protobuf, under a key of the record's own
//! ```
//! The associated data names the repository and the record's number; the sealed part carries the BLAKE3 of the
//! object before. So a record can be neither moved, nor replaced, nor left out.
use bytes::Bytes;
use prost::Message;

use crate::clock::Timestamp;
use crate::crypto::TAG_LEN;
use crate::epochs::KeyEpoch;
use crate::error::{Error, Result};
use crate::id::{Draw, Epoch};
use crate::keys::Keys;

mod body;
mod convert;
pub(super) mod logs;
pub(super) mod wire;

pub use body::{Body, Cut, MissingNode, NodeCommit, Purpose, Rewritten};
pub(super) use convert::{backup_from_wire, missing_from_wire, wire_backup, wire_missing};

const MAGIC: &[u8; 6] = b"PALNL\x01";
const HEADER_LEN: usize = 24;
/// What a reader must know to fold a record. Raised when a record means something that older readers miss.
const LEVEL: u32 = 1;
/// Of a COMMIT that goes without a node: who does not know of that would show it as whole.
const LEVEL_PARTIAL: u32 = 2;
/// Of a KEYEPOCH: who does not know of it cannot open what comes behind it. And of an OPERATORKEY.
const LEVEL_KEYS: u32 = 3;
/// Of what is said of logs: who does not know of that would delete what of them is needed.
const LEVEL_LOGS: u32 = 4;
const LEVEL_KNOWN: u32 = LEVEL_LOGS;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub epoch: Epoch,
    /// For people and schedules. No rule hangs on it.
    pub at: Timestamp,
    /// Who wrote it: a coordinator's or node's name.
    pub writer: String,
    pub body: Body,
}

/// What a sealed record hashes to: the next one carries it.
pub(crate) type Link = [u8; 32];

pub(crate) fn link(object: &[u8]) -> Link {
    blake3::hash(object).into()
}

pub(crate) fn key(number: u64) -> String {
    format!("ledger/{number:020}")
}

pub(crate) fn number(key: &str) -> Option<u64> {
    let number = key.strip_prefix("ledger/")?.parse().ok()?;
    (self::key(number) == key).then_some(number)
}

impl Record {
    /// The same record in the same place always gives the same bytes: a writer that does not know whether it
    /// got through can compare.
    pub(crate) fn seal(&self, keys: &Keys, number: u64, previous: Option<&Link>) -> Result<Bytes> {
        Self::seal_plain(keys, number, self.to_wire(previous).encode_to_vec())
    }

    pub(super) fn seal_plain(keys: &Keys, number: u64, mut sealed: Vec<u8>) -> Result<Bytes> {
        let salt = keys.ledger_salt(number, &sealed);
        let mut object = Vec::with_capacity(HEADER_LEN + sealed.len() + TAG_LEN);
        object.extend_from_slice(MAGIC);
        object.extend_from_slice(&[keys.suite(), 0]);
        object.extend_from_slice(&salt);
        let aad = aad(keys, number, &object);
        let tag = keys.ledger_aead(number, &salt)?.seal(0, &aad, &mut sealed)?;
        object.extend_from_slice(&sealed);
        object.extend_from_slice(&tag);
        Ok(Bytes::from(object))
    }

    /// Opens record `number`, which must follow the object that hashes to `previous`.
    pub(crate) fn open(keys: &Keys, number: u64, previous: Option<&Link>, object: &[u8]) -> Result<Record> {
        let wire = unseal(keys, number, object)?;
        if wire.previous != previous.map_or(&[][..], |link| &link[..]) {
            return Err(Error::corrupt(format!(
                "ledger record {number} does not follow the record before it"
            ))
            .with_hint(
                "a record was replaced, or two ledgers were mixed: compare with the store's older versions",
            ));
        }
        Self::from_wire(wire)
            .map_err(|e| Error::corrupt(format!("ledger record {number} is inconsistent")).with_source(e))?
            .ok_or_else(|| newer(Error::invalid(format!("ledger record {number} is of an unknown kind"))))
    }

    fn level(&self) -> u32 {
        match &self.body {
            Body::Commit { missing, .. } if !missing.is_empty() => LEVEL_PARTIAL,
            Body::Lineage(_) | Body::Grant { .. } | Body::Floor(_) | Body::Begin { log: Some(_), .. } => {
                LEVEL_LOGS
            }
            Body::KeyEpoch(_) | Body::OperatorKey { .. } => LEVEL_KEYS,
            _ => LEVEL,
        }
    }
}

/// The key epoch that the record, of whatever history, begins. It must be sealed by these keys.
pub(super) fn begun(keys: &Keys, number: u64, object: &[u8]) -> Result<Option<KeyEpoch>> {
    match unseal(keys, number, object)?.body {
        Some(wire::record::Body::KeyEpoch(w)) => {
            Ok(Some(KeyEpoch { number: w.number, draw: Draw::from_slice(&w.draw)? }))
        }
        _ => Ok(None),
    }
}

fn unseal(keys: &Keys, number: u64, object: &[u8]) -> Result<wire::Record> {
    let damaged = |why: &str| Error::corrupt(format!("ledger record {number} is damaged: {why}"));
    if object.len() < HEADER_LEN + TAG_LEN {
        return Err(damaged("it is cut off"));
    }
    let (header, sealed) = object.split_at(HEADER_LEN);
    if header[..5] != MAGIC[..5] {
        return Err(damaged("it begins with something else"));
    }
    if header[5] != MAGIC[5] || header[6] != keys.suite() {
        let what = format!("ledger record {number} is of format {}, suite {}", header[5], header[6]);
        return Err(newer(Error::corrupt(what)));
    }
    let mut salt = [0; 16];
    salt.copy_from_slice(&header[8..]);
    let mut sealed = sealed.to_vec();
    let plain = keys
        .ledger_aead(number, &salt)?
        .open(0, &aad(keys, number, header), &mut sealed)
        .map_err(|e| damaged("its seal does not fit").with_source(e))?;
    let wire = wire::Record::decode(&*plain).map_err(|e| damaged("it does not decode").with_source(e))?;
    if wire.level > LEVEL_KNOWN {
        return Err(newer(Error::invalid(format!("ledger record {number} needs level {}", wire.level))));
    }
    Ok(wire)
}

fn aad(keys: &Keys, number: u64, header: &[u8]) -> Vec<u8> {
    [keys.repository().as_bytes(), &number.to_le_bytes(), header].concat()
}

fn newer(error: Error) -> Error {
    error.with_hint("a newer palinurus wrote it: update this one")
}
