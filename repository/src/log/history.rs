//! The engine's own account of a lineage's parents, such as PostgreSQL's timeline history file: `l/<lineage>/history`.
//!
//! ```text
//! 0  "PALNH" 1   6  suite   7  0   8  salt (16)   24  Sealed(piece key, 0, aad)
//! ```
//! Sealed as the pieces of the lineage's first grant are.
use bytes::Bytes;

use super::{Lineage, history_key};
use crate::crypto::{Aead, TAG_LEN};
use crate::error::{Error, Result};
use crate::keys::Keys;

pub const HISTORY_MAX: usize = 1 << 20;
const MAGIC: &[u8; 6] = b"PALNH\x01";
const HEADER_LEN: usize = 24;
pub(super) const OBJECT_MAX: u64 = (HISTORY_MAX + HEADER_LEN + TAG_LEN) as u64;

pub(super) fn seal(keys: &Keys, lineage: &Lineage, account: &[u8]) -> Result<Bytes> {
    if account.len() > HISTORY_MAX {
        return Err(Error::invalid(format!("a history of {} bytes", account.len())));
    }
    let epoch = lineage.grants.first().and_then(|grant| grant.key_epoch);
    let mut salted = keys.log_salt(epoch)?;
    salted.update(history_key(lineage.id).as_bytes()).update(account);
    let mut header = [MAGIC, &[keys.suite(), 0][..]].concat();
    header.extend_from_slice(&salted.finalize().as_bytes()[..16]);
    let mut sealed = account.to_vec();
    let tag = aead(keys, lineage, &header)?.seal(0, &aad(keys, lineage, &header), &mut sealed)?;
    Ok([&header, &*sealed, &tag].concat().into())
}

pub(super) fn open(keys: &Keys, lineage: &Lineage, object: &[u8]) -> Result<Vec<u8>> {
    let damaged = || Error::corrupt(format!("{} is damaged", history_key(lineage.id)));
    let (header, sealed) = object.split_at_checked(HEADER_LEN).ok_or_else(damaged)?;
    if !header.starts_with(MAGIC) || header[6..8] != [keys.suite(), 0] {
        return Err(damaged());
    }
    let mut sealed = sealed.to_vec();
    let opened = aead(keys, lineage, header)?.open(0, &aad(keys, lineage, header), &mut sealed);
    opened.map(|account| account.to_vec()).map_err(|e| damaged().with_source(e))
}

fn aead(keys: &Keys, lineage: &Lineage, header: &[u8]) -> Result<Box<dyn Aead>> {
    let mut salt = [0; 16];
    salt.copy_from_slice(&header[8..HEADER_LEN]);
    keys.log_aead(lineage.grants.first().and_then(|grant| grant.key_epoch), lineage.id, &salt)
}

fn aad(keys: &Keys, lineage: &Lineage, header: &[u8]) -> Vec<u8> {
    [header, keys.repository().as_bytes(), lineage.id.as_bytes()].concat()
}
