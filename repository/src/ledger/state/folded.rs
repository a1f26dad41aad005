//! A state as it lies in a checkpoint, and back.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{BackupRecord, Hold, OpenTransaction, Pin, Rules, State};
use crate::clock::Timestamp;
use crate::epochs::KeyEpoch;
use crate::error::{Error, Result};
use crate::id::{Draw, Epoch, KeyId, TransactionId, WriterId};
use crate::ledger::damage::{Known, wire as damage};
use crate::ledger::drill::{Drills, wire as drill};
use crate::ledger::pack_set::{PackSet, wire as packs};
use crate::ledger::record::logs::{at_from_wire, lineage_from_wire, wire as logs, wire_at, wire_lineage};
use crate::ledger::record::{Purpose, backup_from_wire, missing_from_wire, wire, wire_backup, wire_missing};
use crate::log::{Grant, Lineage};

#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::ledger) struct Folded {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(string, tag = "2")]
    leader: String,
    #[prost(message, repeated, tag = "3")]
    pub(in crate::ledger) open: Vec<Open>,
    /// 16 bytes each.
    #[prost(bytes = "vec", tag = "4")]
    closed: Vec<u8>,
    #[prost(message, repeated, tag = "5")]
    backups: Vec<Kept>,
    #[prost(message, optional, tag = "6")]
    committed: Option<packs::PackSet>,
    #[prost(message, repeated, tag = "7")]
    condemned: Vec<Condemned>,
    #[prost(message, optional, tag = "8")]
    swept: Option<packs::PackSet>,
    #[prost(message, repeated, tag = "9")]
    released: Vec<Released>,
    /// Operator keys.
    #[prost(bytes = "vec", repeated, tag = "10")]
    removed: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "11")]
    damage: Option<damage::Known>,
    /// Of key epochs 1, 2 and so on; 8 bytes each.
    #[prost(bytes = "vec", tag = "12")]
    pub(in crate::ledger) draws: Vec<u8>,
    /// The key epochs of the closed; none where all are of 0.
    #[prost(uint32, repeated, tag = "13")]
    pub(in crate::ledger) closed_in: Vec<u32>,
    #[prost(message, repeated, tag = "14")]
    logs: Vec<Log>,
    #[prost(message, repeated, tag = "15")]
    drills: Vec<drill::Drilled>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Log {
    #[prost(message, optional, tag = "1")]
    lineage: Option<logs::Lineage>,
    #[prost(message, repeated, tag = "2")]
    grants: Vec<Granted>,
    #[prost(uint64, tag = "3")]
    floor: u64,
    /// Of its LINEAGE.
    #[prost(uint64, tag = "4")]
    number: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Granted {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(uint64, tag = "3")]
    from: u64,
    /// Of its key epoch; 0 is the root's, without a draw.
    #[prost(uint32, tag = "4")]
    key_epoch: u32,
    #[prost(bytes = "vec", tag = "5")]
    draw: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::ledger) struct Open {
    #[prost(bytes = "vec", tag = "1")]
    transaction: Vec<u8>,
    #[prost(uint32, tag = "2")]
    purpose: u32,
    #[prost(uint64, tag = "3")]
    number: u64,
    #[prost(uint64, tag = "4")]
    began: u64,
    #[prost(uint64, tag = "5")]
    epoch: u64,
    #[prost(string, tag = "6")]
    writer: String,
    #[prost(uint32, tag = "7")]
    pub(in crate::ledger) key_epoch: u32,
    #[prost(message, optional, tag = "8")]
    log: Option<logs::At>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    /// The number of its COMMIT.
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(message, optional, tag = "2")]
    backup: Option<wire::Backup>,
    #[prost(uint64, tag = "3")]
    started: u64,
    #[prost(uint64, tag = "4")]
    committed: u64,
    #[prost(message, optional, tag = "5")]
    pin: Option<Keep>,
    #[prost(message, optional, tag = "6")]
    hold: Option<Keep>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Keep {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(uint64, tag = "2")]
    since: u64,
    #[prost(uint64, tag = "3")]
    until: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Condemned {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(message, optional, tag = "2")]
    packs: Option<packs::PackSet>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Released {
    #[prost(bytes = "vec", tag = "1")]
    transaction: Vec<u8>,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(bytes = "vec", tag = "3")]
    writer: Vec<u8>,
    #[prost(uint64, tag = "4")]
    since: u64,
}

impl State {
    pub(in crate::ledger) fn to_wire(&self) -> Folded {
        let key_epoch = |id: &TransactionId| self.sealed.get(id).copied().unwrap_or_default();
        let closed_in = self.closed.iter().map(key_epoch).collect();
        let open = self.open.iter().map(|(id, open)| Open {
            key_epoch: key_epoch(id),
            transaction: id.0.to_vec(),
            purpose: open.purpose as u32,
            number: open.number,
            began: open.began.0,
            epoch: open.epoch.0,
            writer: open.writer.clone(),
            log: open.log.as_ref().map(wire_at),
        });
        let condemned = self.condemned.iter();
        let released = self.released.iter().map(|((transaction, node, writer), since)| Released {
            transaction: transaction.0.to_vec(),
            node: node.clone(),
            writer: writer.0.to_vec(),
            since: *since,
        });
        Folded {
            epoch: self.epoch.0,
            leader: self.leader.clone(),
            open: open.collect(),
            closed: self.closed.iter().flat_map(|id| id.0).collect(),
            backups: self.backups.iter().map(|(number, backup)| kept(*number, backup)).collect(),
            committed: Some(self.committed.to_wire()),
            condemned: condemned
                .map(|(number, packs)| Condemned { number: *number, packs: Some(packs.to_wire()) })
                .collect(),
            swept: Some(self.swept.to_wire()),
            released: released.collect(),
            removed: self.removed.iter().map(|key| key.0.to_vec()).collect(),
            damage: Some(self.damage.to_wire()),
            drills: self.drills.to_wire(),
            draws: self.draws.iter().flat_map(|draw| draw.0).collect(),
            closed_in: if self.sealed.is_empty() { Vec::new() } else { closed_in },
            logs: self.logs.values().map(|lineage| log(lineage)).collect(),
        }
    }

    pub(in crate::ledger) fn from_wire(w: Folded) -> Result<Self> {
        let set = |packs: Option<packs::PackSet>| PackSet::from_wire(&packs.unwrap_or_default());
        let (ids, rest) = w.closed.as_chunks::<{ TransactionId::LEN }>();
        if !rest.is_empty() {
            return Err(Error::corrupt("a transaction id is cut off"));
        }
        let (draws, rest) = w.draws.as_chunks::<{ Draw::LEN }>();
        if !rest.is_empty() {
            return Err(Error::corrupt("a draw is cut off"));
        }
        if !w.closed_in.is_empty() && w.closed_in.len() != ids.len() {
            return Err(Error::corrupt("key epochs of other transactions"));
        }
        let mut sealed = BTreeMap::new();
        let mut seal = |id: TransactionId, number: u32| match number {
            0 => Ok(()),
            _ if number as usize > draws.len() => {
                Err(Error::corrupt(format!("transaction {id} of key epoch {number}, which never began")))
            }
            _ => {
                sealed.insert(id, number);
                Ok(())
            }
        };
        ids.iter().zip(&w.closed_in).try_for_each(|(id, number)| seal(TransactionId(*id), *number))?;
        let mut open = BTreeMap::new();
        for w in w.open {
            let purpose =
                Purpose::from_wire(w.purpose).ok_or_else(|| Error::corrupt("an unknown purpose"))?;
            let state = OpenTransaction {
                purpose,
                number: w.number,
                began: Timestamp(w.began),
                epoch: Epoch(w.epoch),
                writer: w.writer,
                log: w.log.map(at_from_wire).transpose()?,
            };
            let id = TransactionId::from_slice(&w.transaction)?;
            seal(id, w.key_epoch)?;
            open.insert(id, state);
        }
        let mut condemned = BTreeMap::new();
        for w in w.condemned {
            condemned.insert(w.number, set(w.packs)?);
        }
        let mut released = BTreeMap::new();
        for w in w.released {
            let name = (TransactionId::from_slice(&w.transaction)?, w.node, WriterId::from_slice(&w.writer)?);
            released.insert(name, w.since);
        }
        let backups = w.backups.into_iter().map(|w| Ok((w.number, Arc::new(backup(w)?))));
        Ok(Self {
            epoch: Epoch(w.epoch),
            leader: w.leader,
            open,
            closed: ids.iter().map(|id| TransactionId(*id)).collect::<BTreeSet<_>>(),
            backups: backups.collect::<Result<_>>()?,
            committed: set(w.committed)?,
            condemned,
            swept: set(w.swept)?,
            released,
            removed: w.removed.iter().map(|key| KeyId::from_slice(key)).collect::<Result<_>>()?,
            damage: Known::from_wire(w.damage.unwrap_or_default())?,
            drills: Drills::from_wire(w.drills)?,
            rules: Rules::default(),
            logs: w
                .logs
                .into_iter()
                .map(|w| lineage(w).map(|it| (it.id, Arc::new(it))))
                .collect::<Result<_>>()?,
            draws: draws.iter().map(|draw| Draw(*draw)).collect(),
            sealed,
        })
    }
}

fn log(lineage: &Lineage) -> Log {
    let granted = |grant: &Grant| Granted {
        epoch: grant.epoch,
        node: grant.node.clone(),
        from: grant.from,
        key_epoch: grant.key_epoch.map_or(0, |epoch| epoch.number),
        draw: grant.key_epoch.map(|epoch| epoch.draw.0.to_vec()).unwrap_or_default(),
    };
    Log {
        lineage: Some(wire_lineage(lineage)),
        grants: lineage.grants.iter().map(granted).collect(),
        floor: lineage.floor,
        number: lineage.number,
    }
}

fn lineage(w: Log) -> Result<Lineage> {
    let known = w.lineage.ok_or_else(|| Error::corrupt("a log without a lineage"))?;
    let grant = |w: Granted| {
        let key_epoch = (w.key_epoch > 0)
            .then(|| Ok::<_, Error>(KeyEpoch { number: w.key_epoch, draw: Draw::from_slice(&w.draw)? }));
        Ok(Grant { epoch: w.epoch, node: w.node, from: w.from, key_epoch: key_epoch.transpose()? })
    };
    let grants = w.grants.into_iter().map(grant).collect::<Result<_>>()?;
    Ok(Lineage { grants, floor: w.floor, number: w.number, ..lineage_from_wire(known)? })
}

fn kept(number: u64, backup: &BackupRecord) -> Kept {
    let pin = backup.pin.as_ref();
    let hold = backup.hold.as_ref();
    let mut content = wire_backup(backup.id, &backup.nodes, &backup.packs);
    content.missing = backup.missing.iter().map(wire_missing).collect();
    Kept {
        number,
        backup: Some(content),
        started: backup.started.0,
        committed: backup.committed.0,
        pin: pin.map(|pin| Keep { reason: pin.reason.clone(), since: pin.since.0, until: 0 }),
        hold: hold.map(|it| Keep { reason: it.reason.clone(), since: it.since.0, until: it.until.0 }),
    }
}

fn backup(w: Kept) -> Result<BackupRecord> {
    let mut backup = w.backup.ok_or_else(|| Error::corrupt("a backup without content"))?;
    let missing = std::mem::take(&mut backup.missing);
    let content = backup_from_wire(backup)?;
    Ok(BackupRecord {
        id: content.backup,
        started: Timestamp(w.started),
        committed: Timestamp(w.committed),
        nodes: content.nodes,
        missing: missing.into_iter().map(missing_from_wire).collect(),
        packs: content.packs,
        pin: w.pin.map(|it| Pin { reason: it.reason, since: Timestamp(it.since) }),
        hold: w.hold.map(|it| Hold {
            until: Timestamp(it.until),
            reason: it.reason,
            since: Timestamp(it.since),
        }),
    })
}
