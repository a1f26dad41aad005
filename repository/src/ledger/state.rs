//! What the ledger's records amount to, and which record may follow them. Pure: no store, no clock.
//!
//! The rules that keep live data, and where each is checked:
//!
//! 1. A COMMIT needs its transaction open, and uses no swept pack ([`State::check_packs`]). It reprieves the condemned
//!    packs it uses.
//! 2. A transaction reuses a foreign pack only if a state read at or after its own BEGIN calls it usable
//!    ([`State::usable`]): committed, neither condemned nor swept.
//! 3. A CONDEMN names packs that no backup references; a SWEEP, packs still condemned, and only when no transaction
//!    that began before the condemnation is open ([`State::check_sweep`]).
//! 4. Manifests that lose their last backup stay until every transaction has ended that began before: an unchanged
//!    node is committed by naming an earlier manifest ([`State::check_manifests`]).
//! 5. A record of an epoch below the highest LEADER before it is void.
//! 6. Key epochs are numbered without gaps, and each has a draw of its own. A transaction is of the one in which it
//!    began, whenever it ends.
//! 7. An operator key is removed, or taken back, by who has come in with one that is not removed: so one is always left.
//! 8. A COMMIT builds on nothing that a DAMAGE before its BEGIN named ([`State::check_whole`]): damage that lived on by
//!    deduplication would spoil every later backup.
//! 9. A pinned backup is not forgotten, nor one that is held beyond the FORGET's own time ([`State::check_forget`]).
//! 10. A DRILL is of nodes of a backup that exists.
//! 11. Lineages, grants and floors of logs: see `state/logs.rs`.
//!
//! Rules 1 and 3 are nets independent of each other. `model.rs` runs random schedules over this very code, and proves
//! that it notices when a rule is missing.
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::damage::{Known, Objects};
use super::drill::Drills;
use super::pack_set::PackSet;
use super::record::{Body, MissingNode, NodeCommit, Purpose, Record};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{BackupId, Draw, Epoch, KeyId, LineageId, TransactionId, WriterId};
use crate::log::{At, Lineage};
use crate::manifest::ManifestRef;
use crate::pack::PackId;

mod check;
mod folded;
mod keep;
mod keys;
mod logs;

pub(super) use folded::Folded;
pub use keep::{Hold, Pin};

/// A committed backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupRecord {
    pub id: BackupId,
    /// When its transaction began.
    pub started: Timestamp,
    pub committed: Timestamp,
    pub nodes: Vec<NodeCommit>,
    /// Not empty: the backup is partial.
    pub missing: Vec<MissingNode>,
    /// Every pack that its manifests name.
    pub packs: PackSet,
    pub pin: Option<Pin>,
    pub hold: Option<Hold>,
}

impl BackupRecord {
    /// Whose objects a restore of it reads.
    pub fn transactions(&self) -> BTreeSet<TransactionId> {
        let packs = self.packs.writers().map(|(transaction, _)| transaction);
        packs.chain(self.nodes.iter().map(|node| node.manifest.transaction)).collect()
    }
}

/// A transaction between BEGIN and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    pub purpose: Purpose,
    /// The number of its BEGIN.
    pub number: u64,
    pub began: Timestamp,
    pub epoch: Epoch,
    pub writer: String,
    /// What of a log it keeps, from there on.
    pub log: Option<At>,
}

#[derive(Clone, Debug, Default)]
pub struct State {
    epoch: Epoch,
    leader: String,
    open: BTreeMap<TransactionId, OpenTransaction>,
    /// Whatever the way they ended.
    closed: BTreeSet<TransactionId>,
    /// By the number of their COMMIT.
    backups: BTreeMap<u64, Arc<BackupRecord>>,
    /// Every pack that was ever in a COMMIT, but the swept.
    committed: PackSet,
    /// By the number of the CONDEMN.
    condemned: BTreeMap<u64, PackSet>,
    swept: PackSet,
    /// Manifests without a backup since the record of that number, while somebody may still name them.
    released: BTreeMap<ManifestName, u64>,
    /// Of key epochs 1, 2 and so on.
    draws: Vec<Draw>,
    /// The key epochs of transactions, ended ones too; absent is 0.
    sealed: BTreeMap<TransactionId, u32>,
    removed: BTreeSet<KeyId>,
    damage: Known,
    pub(super) drills: Drills,
    logs: BTreeMap<LineageId, Arc<Lineage>>,
    rules: Rules,
}

/// Which manifest: all its parts.
type ManifestName = (TransactionId, String, WriterId);

/// Only the model's mutants switch one off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) swept: bool,
    pub(super) barrier: bool,
    pub(super) manifests: bool,
    pub(super) fencing: bool,
    pub(super) pins: bool,
    pub(super) grants: bool,
    pub(super) floors: bool,
    pub(super) key_epochs: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            swept: true,
            barrier: true,
            manifests: true,
            fencing: true,
            pins: true,
            grants: true,
            floors: true,
            key_epochs: true,
        }
    }
}

impl State {
    #[cfg(test)]
    pub(super) fn with_rules(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// The highest epoch that leads, and its leader's name.
    pub fn leader(&self) -> (Epoch, &str) {
        (self.epoch, &self.leader)
    }

    /// In the order of their commits.
    pub fn backups(&self) -> impl DoubleEndedIterator<Item = &Arc<BackupRecord>> {
        self.backups.values()
    }

    pub fn backup(&self, id: BackupId) -> Option<&Arc<BackupRecord>> {
        self.backups.values().find(|backup| backup.id == id)
    }

    pub fn open_transactions(&self) -> &BTreeMap<TransactionId, OpenTransaction> {
        &self.open
    }

    pub fn is_closed(&self, transaction: TransactionId) -> bool {
        self.closed.contains(&transaction)
    }

    /// Every pack that was committed and not swept.
    pub fn committed(&self) -> &PackSet {
        &self.committed
    }

    pub fn swept(&self) -> &PackSet {
        &self.swept
    }

    pub fn condemned(&self) -> PackSet {
        union(self.condemned.values())
    }

    /// May be reused by a transaction that began before this state: what is there, and not known to be damaged.
    pub fn usable(&self, pack: &PackId) -> bool {
        self.committed.contains(pack)
            && !self.condemned.values().any(|packs| packs.contains(pack))
            && !self.damage.has_pack(pack)
    }

    /// What checks have found damaged, and not whole again since.
    pub fn damaged(&self) -> Objects {
        Objects { packs: self.damage.packs(), manifests: self.damage.manifests() }
    }

    pub fn is_damaged(&self, manifest: &ManifestRef) -> bool {
        self.damage.has_manifest(manifest)
    }

    /// Something that the backup needs is damaged: not all of it can be restored.
    pub fn is_spoiled(&self, backup: &BackupRecord) -> bool {
        self.damage.spoils(backup)
    }

    /// What a CONDEMN may name now.
    pub fn unreferenced(&self) -> PackSet {
        self.committed.difference(&self.referenced()).difference(&self.condemned())
    }

    /// What a SWEEP may name now; and what must wait, with the transactions it waits for.
    pub fn sweepable(&self) -> (PackSet, PackSet, Vec<TransactionId>) {
        let oldest = self.oldest_open();
        let (mut now, mut later) = (PackSet::new(), PackSet::new());
        for (number, packs) in &self.condemned {
            if *number > oldest { later.extend(packs) } else { now.extend(packs) }
        }
        let last = self.condemned.keys().next_back().copied().unwrap_or_default();
        let waits = self.open.iter().filter(|(_, open)| open.number < last).map(|(id, _)| *id);
        let waits = if later.is_empty() { Vec::new() } else { waits.collect() };
        (now, later, waits)
    }

    /// The names (without the part) of all manifests that a backup references or a transaction may still name.
    pub(crate) fn kept_manifests(&self) -> HashSet<String> {
        let live =
            self.backups.values().flat_map(|backup| &backup.nodes).map(|node| manifest_name(&node.manifest));
        let all = live.chain(self.released.keys().filter(|_| self.rules.manifests).cloned());
        all.map(|(transaction, node, writer)| format!("t/{transaction}/m/{node}-{writer}")).collect()
    }

    /// Folds the record of that number. One that the rules refuse is void: it changes nothing, and the reason is
    /// returned. Conditional puts leave no room for such a record; only a broken writer makes one.
    pub fn apply(&mut self, number: u64, record: &Record) -> Result<()> {
        self.check(record)?;
        match &record.body {
            Body::Leader { name } => {
                self.epoch = record.epoch;
                self.leader.clone_from(name);
            }
            Body::Begin { transaction, purpose, log } => {
                let open = OpenTransaction {
                    purpose: *purpose,
                    number,
                    began: record.at,
                    epoch: record.epoch,
                    writer: record.writer.clone(),
                    log: *log,
                };
                self.open.insert(*transaction, open);
                if let Some(epoch) = self.key_epoch() {
                    self.sealed.insert(*transaction, epoch.number);
                }
            }
            Body::Commit { transaction, nodes, missing, packs } => {
                let began = self.close(*transaction).map_or(record.at, |open| open.began);
                self.reference(nodes, packs);
                let backup = BackupRecord {
                    id: *transaction,
                    started: began,
                    committed: record.at,
                    nodes: nodes.clone(),
                    missing: missing.clone(),
                    packs: packs.clone(),
                    pin: None,
                    hold: None,
                };
                self.backups.insert(number, Arc::new(backup));
            }
            Body::Abort { transaction } => {
                self.close(*transaction);
            }
            Body::Forget { backup } => {
                let slot = self.slot(*backup);
                if let Some(gone) = slot.and_then(|slot| self.backups.remove(&slot)) {
                    self.release(number, &gone.nodes);
                }
                self.drills.forget(*backup);
            }
            Body::Condemn { packs } => {
                // Who is condemned already keeps the earlier number.
                let new = packs.difference(&self.condemned());
                self.condemned.insert(number, new);
                self.condemned.retain(|_, packs| !packs.is_empty());
            }
            Body::Sweep { packs } => {
                self.reprieve(packs);
                self.committed.remove(packs);
                self.swept.extend(packs);
                self.damage.gone(packs);
            }
            Body::KeyEpoch(epoch) => self.draws.push(epoch.draw),
            Body::OperatorKey { key, removed: true, .. } => drop(self.removed.insert(*key)),
            Body::OperatorKey { key, removed: false, .. } => drop(self.removed.remove(key)),
            Body::Rewrite { transaction, backups } => {
                self.close(*transaction);
                for to in backups {
                    self.reference(&to.nodes, &to.packs);
                    let Some(slot) = self.slot(to.backup) else { continue };
                    let Some(before) = self.backups.get(&slot).cloned() else { continue };
                    let after = BackupRecord {
                        nodes: to.nodes.clone(),
                        packs: to.packs.clone(),
                        ..BackupRecord::clone(&before)
                    };
                    self.backups.insert(slot, Arc::new(after));
                    self.release(number, &before.nodes);
                }
            }
            Body::Damage { found, whole } => self.damage.apply(number, found, whole),
            Body::Drill { .. } => self.drills.apply(&record.body, record.at),
            Body::Pin { .. } | Body::Unpin { .. } | Body::Hold { .. } | Body::Unhold { .. } => {
                self.keep(&record.body, record.at);
            }
            Body::Lineage(_) | Body::Grant { .. } | Body::Floor(_) => self.apply_log(number, &record.body),
        }
        let oldest = self.oldest_open();
        self.released.retain(|_, since| *since > oldest);
        Ok(())
    }

    /// The number of the oldest BEGIN that has not ended; beyond all numbers when there is none.
    fn oldest_open(&self) -> u64 {
        self.open.values().map(|open| open.number).min().unwrap_or(u64::MAX)
    }

    fn referenced(&self) -> PackSet {
        union(self.backups.values().map(|backup| &backup.packs))
    }

    fn slot(&self, backup: BackupId) -> Option<u64> {
        self.backups.iter().find(|(_, record)| record.id == backup).map(|(slot, _)| *slot)
    }

    fn close(&mut self, transaction: TransactionId) -> Option<OpenTransaction> {
        self.closed.insert(transaction);
        self.open.remove(&transaction)
    }

    fn reference(&mut self, nodes: &[NodeCommit], packs: &PackSet) {
        self.reprieve(packs);
        self.committed.extend(packs);
        for node in nodes {
            self.released.remove(&manifest_name(&node.manifest));
        }
    }

    fn reprieve(&mut self, packs: &PackSet) {
        for condemned in self.condemned.values_mut() {
            condemned.remove(packs);
        }
        self.condemned.retain(|_, packs| !packs.is_empty());
    }

    /// Call after the backup has lost these nodes.
    fn release(&mut self, number: u64, nodes: &[NodeCommit]) {
        for node in nodes {
            let name = manifest_name(&node.manifest);
            let live = self.backups.values().flat_map(|backup| &backup.nodes);
            if !live.map(|node| manifest_name(&node.manifest)).any(|other| other == name) {
                self.released.insert(name, number);
            }
        }
    }
}

fn manifest_name(manifest: &ManifestRef) -> ManifestName {
    (manifest.transaction, manifest.node.clone(), manifest.writer)
}

fn union<'a>(sets: impl Iterator<Item = &'a PackSet>) -> PackSet {
    let mut all = PackSet::new();
    sets.for_each(|set| all.extend(set));
    all
}
