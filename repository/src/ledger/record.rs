//! One record of the ledger, and how it lies in the store: sealed, and chained to the one before.
//!
//! ```text
//! header 24   "PALNL" version suite 0 | salt 16
//! sealed      protobuf, under a key of the record's own
//! ```
//! The associated data names the repository and the record's number; the sealed part carries the BLAKE3 of the
//! object before. So a record can be neither moved, nor replaced, nor left out.
use std::fmt;

use bytes::Bytes;
use prost::Message;

use super::damage::{Objects, wire as damage_wire};
use super::pack_set::{PackSet, wire as pack_wire};
use crate::clock::Timestamp;
use crate::crypto::TAG_LEN;
use crate::epochs::KeyEpoch;
use crate::error::{Error, Result};
use crate::id::{BackupId, Draw, Epoch, KeyId, TransactionId, check_name};
use crate::keys::Keys;
use crate::manifest::ManifestRef;

pub(super) mod wire;

const MAGIC: &[u8; 6] = b"PALNL\x01";
const HEADER_LEN: usize = 24;
/// What a reader must know to fold a record. Raised when a record means something that older readers miss.
const LEVEL: u32 = 1;
/// Of a COMMIT that goes without a node: who does not know of that would show it as whole.
const LEVEL_PARTIAL: u32 = 2;
/// Of a KEYEPOCH: who does not know of it cannot open what comes behind it. And of an OPERATORKEY.
const LEVEL_KEYS: u32 = 3;
const LEVEL_KNOWN: u32 = LEVEL_KEYS;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub epoch: Epoch,
    /// For people and schedules. No rule hangs on it.
    pub at: Timestamp,
    /// Who wrote it: a coordinator's or node's name.
    pub writer: String,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// From here on, records of lower epochs are void.
    Leader {
        name: String,
    },
    /// From here on, what this transaction can see is not swept.
    Begin {
        transaction: TransactionId,
        purpose: Purpose,
    },
    /// The backup exists.
    Commit {
        transaction: TransactionId,
        nodes: Vec<NodeCommit>,
        missing: Vec<MissingNode>,
        packs: PackSet,
    },
    /// The transaction will never commit; what it wrote is garbage.
    Abort {
        transaction: TransactionId,
    },
    /// The backup is given up.
    Forget {
        backup: BackupId,
    },
    /// Nothing references these packs; they are not to be reused.
    Condemn {
        packs: PackSet,
    },
    /// These packs are gone, or may go at any moment.
    Sweep {
        packs: PackSet,
    },
    /// Backups that now lie elsewhere; ends its transaction.
    Rewrite {
        transaction: TransactionId,
        backups: Vec<Rewritten>,
    },
    /// The backup is not to be forgotten.
    Pin {
        backup: BackupId,
        reason: String,
    },
    Unpin {
        backup: BackupId,
    },
    /// The backup is not to be forgotten before that time.
    Hold {
        backup: BackupId,
        until: Timestamp,
        reason: String,
    },
    Unhold {
        backup: BackupId,
    },
    /// From here on, records and what transactions write that begin later are sealed under that epoch's master. This
    /// record itself is sealed under the one before.
    KeyEpoch(KeyEpoch),
    /// Whether that operator key is removed, said by who has come in with another that is not. Only the objects under
    /// `keys/` open a repository; this orders those who remove them.
    OperatorKey {
        key: KeyId,
        by: KeyId,
        removed: bool,
    },
    /// These are damaged, and nothing new is to be built on them; those are whole again.
    Damage {
        found: Objects,
        whole: Objects,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Backup = 1,
    /// Moves what is live out of packs that are mostly garbage.
    Rewrite = 2,
    /// A reader's: keeps what it reads from being swept.
    Pin = 3,
}

impl Purpose {
    pub(super) fn from_wire(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Backup),
            2 => Some(Self::Rewrite),
            3 => Some(Self::Pin),
            _ => None,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Purpose::Backup => "backup",
            Purpose::Rewrite => "rewrite",
            Purpose::Pin => "pin",
        })
    }
}

/// One node's part of a backup, in numbers. The entries are in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCommit {
    pub node: String,
    pub manifest: ManifestRef,
    pub files: u64,
    /// The sizes of the files, together.
    pub bytes: u64,
    /// Read from the node's disk.
    pub bytes_read: u64,
    /// Of chunks that were in no backup before.
    pub bytes_new: u64,
    /// In the packs that this node wrote.
    pub bytes_stored: u64,
    pub warnings: u64,
    /// Nothing had changed: the manifest is an earlier backup's.
    pub unchanged: bool,
}

/// A node that a backup goes without, and what of it there would have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingNode {
    pub node: String,
    pub reason: String,
    /// As its snapshot listed them; 0 when it had none yet.
    pub files: u64,
    pub bytes: u64,
    /// Some of the largest.
    pub paths: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    pub backup: BackupId,
    pub nodes: Vec<NodeCommit>,
    pub packs: PackSet,
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
            Body::KeyEpoch(_) | Body::OperatorKey { .. } => LEVEL_KEYS,
            _ => LEVEL,
        }
    }

    fn to_wire(&self, previous: Option<&Link>) -> wire::Record {
        use wire::record::Body as W;
        let body = match &self.body {
            Body::Leader { name } => W::Leader(wire::Leader { name: name.clone() }),
            Body::Begin { transaction, purpose } => {
                W::Begin(wire::Begin { transaction: transaction.0.to_vec(), purpose: *purpose as u32 })
            }
            Body::Commit { transaction, nodes, missing, packs } => W::Commit(wire::Backup {
                missing: missing.iter().map(wire_missing).collect(),
                ..wire_backup(*transaction, nodes, packs)
            }),
            Body::Abort { transaction } => W::Abort(wire::Abort { transaction: transaction.0.to_vec() }),
            Body::Forget { backup } => W::Forget(wire::Forget { backup: backup.0.to_vec() }),
            Body::Condemn { packs } => W::Condemn(wire::Packs { packs: Some(packs.to_wire()) }),
            Body::Sweep { packs } => W::Sweep(wire::Packs { packs: Some(packs.to_wire()) }),
            Body::Rewrite { transaction, backups } => W::Rewrite(wire::Rewrite {
                transaction: transaction.0.to_vec(),
                backups: backups.iter().map(|to| wire_backup(to.backup, &to.nodes, &to.packs)).collect(),
            }),
            Body::KeyEpoch(KeyEpoch { number, draw }) => {
                W::KeyEpoch(wire::KeyEpoch { number: *number, draw: draw.0.to_vec() })
            }
            Body::OperatorKey { key, by, removed } => W::OperatorKey(wire::OperatorKey {
                key: key.0.to_vec(),
                by: by.0.to_vec(),
                removed: *removed,
            }),
            Body::Damage { found, whole } => {
                W::Damage(damage_wire::Damage { found: Some(found.to_wire()), whole: Some(whole.to_wire()) })
            }
            Body::Pin { backup, reason } => {
                W::Pin(wire::Pin { backup: backup.0.to_vec(), reason: reason.clone() })
            }
            Body::Unpin { backup } => W::Unpin(wire::Forget { backup: backup.0.to_vec() }),
            Body::Hold { backup, until, reason } => {
                W::Hold(wire::Hold { backup: backup.0.to_vec(), reason: reason.clone(), until: until.0 })
            }
            Body::Unhold { backup } => W::Unhold(wire::Forget { backup: backup.0.to_vec() }),
        };
        wire::Record {
            level: self.level(),
            previous: previous.map(|link| link.to_vec()).unwrap_or_default(),
            epoch: self.epoch.0,
            at: self.at.0,
            writer: self.writer.clone(),
            body: Some(body),
        }
    }

    /// `None` when it is of a kind that this version does not know.
    fn from_wire(w: wire::Record) -> Result<Option<Record>> {
        use wire::record::Body as W;
        let transaction = |bytes: &[u8]| TransactionId::from_slice(bytes);
        let packs = |packs: Option<pack_wire::PackSet>| PackSet::from_wire(&packs.unwrap_or_default());
        let Some(body) = w.body else { return Ok(None) };
        let body = match body {
            W::Leader(w) => Body::Leader { name: w.name },
            W::Begin(w) => {
                let Some(purpose) = Purpose::from_wire(w.purpose) else { return Ok(None) };
                Body::Begin { transaction: transaction(&w.transaction)?, purpose }
            }
            W::Commit(mut w) => {
                let missing = std::mem::take(&mut w.missing).into_iter().map(missing_from_wire).collect();
                let backup = backup_from_wire(w)?;
                Body::Commit { transaction: backup.backup, nodes: backup.nodes, missing, packs: backup.packs }
            }
            W::Abort(w) => Body::Abort { transaction: transaction(&w.transaction)? },
            W::Forget(w) => Body::Forget { backup: transaction(&w.backup)? },
            W::Condemn(w) => Body::Condemn { packs: packs(w.packs)? },
            W::Sweep(w) => Body::Sweep { packs: packs(w.packs)? },
            W::Rewrite(w) => Body::Rewrite {
                transaction: transaction(&w.transaction)?,
                backups: w.backups.into_iter().map(backup_from_wire).collect::<Result<_>>()?,
            },
            W::OperatorKey(w) => Body::OperatorKey {
                key: KeyId::from_slice(&w.key)?,
                by: KeyId::from_slice(&w.by)?,
                removed: w.removed,
            },
            W::KeyEpoch(w) => Body::KeyEpoch(KeyEpoch { number: w.number, draw: Draw::from_slice(&w.draw)? }),
            W::Damage(w) => Body::Damage {
                found: Objects::from_wire(w.found.unwrap_or_default())?,
                whole: Objects::from_wire(w.whole.unwrap_or_default())?,
            },
            W::Pin(w) => Body::Pin { backup: transaction(&w.backup)?, reason: w.reason },
            W::Unpin(w) => Body::Unpin { backup: transaction(&w.backup)? },
            W::Hold(w) => {
                Body::Hold { backup: transaction(&w.backup)?, until: Timestamp(w.until), reason: w.reason }
            }
            W::Unhold(w) => Body::Unhold { backup: transaction(&w.backup)? },
        };
        Ok(Some(Record { epoch: Epoch(w.epoch), at: Timestamp(w.at), writer: w.writer, body }))
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

pub(super) fn wire_backup(id: TransactionId, nodes: &[NodeCommit], packs: &PackSet) -> wire::Backup {
    let nodes = nodes.iter().map(|node| wire::Node {
        node: node.node.clone(),
        manifest: node.manifest.encode(),
        files: node.files,
        bytes: node.bytes,
        bytes_read: node.bytes_read,
        bytes_new: node.bytes_new,
        bytes_stored: node.bytes_stored,
        warnings: node.warnings,
        unchanged: node.unchanged,
    });
    wire::Backup {
        id: id.0.to_vec(),
        nodes: nodes.collect(),
        packs: Some(packs.to_wire()),
        missing: Vec::new(),
    }
}

pub(super) fn wire_missing(missing: &MissingNode) -> wire::Missing {
    wire::Missing {
        node: missing.node.clone(),
        reason: missing.reason.clone(),
        files: missing.files,
        bytes: missing.bytes,
        paths: missing.paths.clone(),
    }
}

pub(super) fn missing_from_wire(w: wire::Missing) -> MissingNode {
    MissingNode { node: w.node, reason: w.reason, files: w.files, bytes: w.bytes, paths: w.paths }
}

pub(super) fn backup_from_wire(w: wire::Backup) -> Result<Rewritten> {
    let nodes = w.nodes.into_iter().map(|node| {
        check_name("node", &node.node)?;
        Ok(NodeCommit {
            node: node.node,
            manifest: ManifestRef::decode(&node.manifest)?,
            files: node.files,
            bytes: node.bytes,
            bytes_read: node.bytes_read,
            bytes_new: node.bytes_new,
            bytes_stored: node.bytes_stored,
            warnings: node.warnings,
            unchanged: node.unchanged,
        })
    });
    Ok(Rewritten {
        backup: TransactionId::from_slice(&w.id)?,
        nodes: nodes.collect::<Result<_>>()?,
        packs: PackSet::from_wire(&w.packs.unwrap_or_default())?,
    })
}
