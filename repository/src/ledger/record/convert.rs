//! Records to their protobuf and back.
use super::logs::{
    at_from_wire, lineage_from_wire, span_from_wire, wire as log_wire, wire_at, wire_lineage, wire_span,
};
use super::wire;
use super::{Body, Cut, Link, MissingNode, NodeCommit, Purpose, Record, Rewritten};
use crate::clock::Timestamp;
use crate::epochs::KeyEpoch;
use crate::error::Result;
use crate::id::{Draw, Epoch, KeyId, LineageId, TransactionId, check_name};
use crate::ledger::damage::{Objects, wire as damage_wire};
use crate::ledger::drill::{from_wire as drill_from_wire, wire_drill};
use crate::ledger::pack_set::{PackSet, wire as pack_wire};
use crate::manifest::ManifestRef;

impl Record {
    pub(super) fn to_wire(&self, previous: Option<&Link>) -> wire::Record {
        use wire::record::Body as W;
        let body = match &self.body {
            Body::Leader { name } => W::Leader(wire::Leader { name: name.clone() }),
            Body::Begin { transaction, purpose, log } => W::Begin(wire::Begin {
                transaction: transaction.0.to_vec(),
                purpose: *purpose as u32,
                log: log.as_ref().map(wire_at),
            }),
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
            Body::Drill { backup, operation, proofs } => W::Drill(wire_drill(*backup, operation, proofs)),
            Body::Pin { backup, reason } => {
                W::Pin(wire::Pin { backup: backup.0.to_vec(), reason: reason.clone() })
            }
            Body::Unpin { backup } => W::Unpin(wire::Forget { backup: backup.0.to_vec() }),
            Body::Hold { backup, until, reason } => {
                W::Hold(wire::Hold { backup: backup.0.to_vec(), reason: reason.clone(), until: until.0 })
            }
            Body::Unhold { backup } => W::Unhold(wire::Forget { backup: backup.0.to_vec() }),
            Body::Lineage(lineage) => W::Lineage(wire_lineage(lineage)),
            Body::Grant { lineage, epoch, node, from } => W::Grant(log_wire::Grant {
                lineage: lineage.0.to_vec(),
                epoch: *epoch,
                node: node.clone(),
                from: *from,
            }),
            Body::Floor(floor) => W::Floor(wire_at(floor)),
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
    pub(super) fn from_wire(w: wire::Record) -> Result<Option<Record>> {
        use wire::record::Body as W;
        let transaction = |bytes: &[u8]| TransactionId::from_slice(bytes);
        let packs = |packs: Option<pack_wire::PackSet>| PackSet::from_wire(&packs.unwrap_or_default());
        let Some(body) = w.body else { return Ok(None) };
        let body = match body {
            W::Leader(w) => Body::Leader { name: w.name },
            W::Begin(w) => {
                let Some(purpose) = Purpose::from_wire(w.purpose) else { return Ok(None) };
                let log = w.log.map(at_from_wire).transpose()?;
                Body::Begin { transaction: transaction(&w.transaction)?, purpose, log }
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
            W::Drill(w) => drill_from_wire(w)?,
            W::Pin(w) => Body::Pin { backup: transaction(&w.backup)?, reason: w.reason },
            W::Unpin(w) => Body::Unpin { backup: transaction(&w.backup)? },
            W::Hold(w) => {
                Body::Hold { backup: transaction(&w.backup)?, until: Timestamp(w.until), reason: w.reason }
            }
            W::Unhold(w) => Body::Unhold { backup: transaction(&w.backup)? },
            W::Lineage(w) => Body::Lineage(Box::new(lineage_from_wire(w)?)),
            W::Grant(w) => Body::Grant {
                lineage: LineageId::from_slice(&w.lineage)?,
                epoch: w.epoch,
                node: w.node,
                from: w.from,
            },
            W::Floor(w) => Body::Floor(at_from_wire(w)?),
        };
        Ok(Some(Record { epoch: Epoch(w.epoch), at: Timestamp(w.at), writer: w.writer, body }))
    }
}

pub(in crate::ledger) fn wire_backup(
    id: TransactionId,
    nodes: &[NodeCommit],
    packs: &PackSet,
) -> wire::Backup {
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
        log: node.log.as_ref().map(wire_span),
        cut: node.cut.as_ref().map(|cut| wire::Cut {
            from: cut.from.0,
            to: cut.to.0,
            shard: cut.shard.clone(),
        }),
    });
    wire::Backup {
        id: id.0.to_vec(),
        nodes: nodes.collect(),
        packs: Some(packs.to_wire()),
        missing: Vec::new(),
    }
}

pub(in crate::ledger) fn wire_missing(missing: &MissingNode) -> wire::Missing {
    wire::Missing {
        node: missing.node.clone(),
        reason: missing.reason.clone(),
        files: missing.files,
        bytes: missing.bytes,
        paths: missing.paths.clone(),
    }
}

pub(in crate::ledger) fn missing_from_wire(w: wire::Missing) -> MissingNode {
    MissingNode { node: w.node, reason: w.reason, files: w.files, bytes: w.bytes, paths: w.paths }
}

pub(in crate::ledger) fn backup_from_wire(w: wire::Backup) -> Result<Rewritten> {
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
            log: node.log.map(span_from_wire).transpose()?,
            cut: node.cut.map(|cut| Cut {
                from: Timestamp(cut.from),
                to: Timestamp(cut.to),
                shard: cut.shard,
            }),
        })
    });
    Ok(Rewritten {
        backup: TransactionId::from_slice(&w.id)?,
        nodes: nodes.collect::<Result<_>>()?,
        packs: PackSet::from_wire(&w.packs.unwrap_or_default())?,
    })
}
