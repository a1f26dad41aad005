//! Which record may come next. The rules by number are in the module above.
use std::collections::HashSet;

use super::{BackupRecord, OpenTransaction, State, manifest_name};
use crate::epochs::{EPOCHS_MAX, KeyEpoch};
use crate::error::{Error, Result};
use crate::id::{BackupId, KeyId, TransactionId, check_name};
use crate::ledger::{Body, MissingNode, NodeCommit, PackSet, Purpose, Record};

impl State {
    /// Whether `record` may come next. Who asks holds the newest state, and the conditional put holds it to that.
    pub fn check(&self, record: &Record) -> Result<()> {
        if let Body::Leader { name } = &record.body {
            check_name("leader", name)?;
            if self.rules.fencing && record.epoch <= self.epoch {
                return Err(self.fenced(record));
            }
            return Ok(());
        }
        if self.rules.fencing && record.epoch < self.epoch {
            return Err(self.fenced(record));
        }
        if self.rules.fencing && record.epoch > self.epoch {
            return Err(Error::invalid(format!("epoch {} has no LEADER record yet", record.epoch)));
        }
        match &record.body {
            Body::Leader { .. } => Ok(()),
            Body::Begin { transaction, .. } => {
                if self.open.contains_key(transaction) || self.closed.contains(transaction) {
                    return Err(Error::conflict(format!("transaction {transaction} has begun already")));
                }
                Ok(())
            }
            Body::Commit { transaction, nodes, missing, packs } => {
                let open = self.check_open(*transaction, Purpose::Backup)?;
                self.check_nodes(*transaction, open, nodes)?;
                check_missing(*transaction, nodes, missing)?;
                self.check_whole(open, nodes, packs)?;
                self.check_packs(*transaction, packs)
            }
            Body::Abort { transaction } => self.find_open(*transaction).map(|_| ()),
            Body::Forget { backup } => self.check_forget(*backup, record.at),
            Body::Pin { backup, reason } => self.check_pin(*backup, reason),
            Body::Unpin { backup } => self.check_unpin(*backup),
            Body::Hold { backup, until, reason } => self.check_hold(*backup, *until, reason),
            Body::Unhold { backup } => self.check_unhold(*backup),
            Body::Condemn { packs } => self.check_condemn(packs),
            Body::Sweep { packs } => self.check_sweep(packs),
            Body::Lineage(_) | Body::Grant { .. } | Body::Floor(_) => self.check_log(&record.body),
            Body::KeyEpoch(epoch) => self.check_key_epoch(*epoch),
            Body::OperatorKey { key, by, .. } => self.check_key(*key, *by),
            Body::Rewrite { transaction, backups } => {
                let open = self.check_open(*transaction, Purpose::Rewrite)?;
                let mut seen = HashSet::new();
                for to in backups {
                    self.check_backup(to.backup)?;
                    if !seen.insert(to.backup) {
                        return Err(Error::invalid(format!("backup {} is rewritten twice", to.backup)));
                    }
                    self.check_nodes(*transaction, open, &to.nodes)?;
                    self.check_packs(*transaction, &to.packs)?;
                }
                Ok(())
            }
            Body::Drill { backup, operation, proofs } => self.check_drill(*backup, operation, proofs),
            Body::Damage { found, whole } => {
                if found.is_empty() && whole.is_empty() {
                    return Err(Error::invalid("a DAMAGE that names nothing"));
                }
                match found.packs.difference(&self.committed).iter().next() {
                    Some(pack) => Err(Error::conflict(format!("{pack} is not committed, or swept already"))),
                    None => Ok(()),
                }
            }
        }
    }

    fn fenced(&self, record: &Record) -> Error {
        let (ours, theirs) = (record.epoch, self.epoch);
        let error =
            Error::fenced(format!("epoch {ours} is over: {:?} leads with epoch {theirs}", self.leader));
        error.with_hint("another coordinator has taken over; where that is of another cluster, two were pointed at this repository: keep one")
    }

    fn find_open(&self, transaction: TransactionId) -> Result<&OpenTransaction> {
        if let Some(open) = self.open.get(&transaction) {
            return Ok(open);
        }
        if self.backup(transaction).is_some() {
            return Err(Error::conflict(format!("transaction {transaction} is committed already")));
        }
        if self.closed.contains(&transaction) {
            return Err(Error::conflict(format!("transaction {transaction} has ended"))
                .with_hint("it was aborted, or its backup forgotten: begin a new one"));
        }
        Err(Error::not_found(format!("transaction {transaction} never began")))
    }

    fn check_open(&self, transaction: TransactionId, purpose: Purpose) -> Result<&OpenTransaction> {
        let open = self.find_open(transaction)?;
        if open.purpose != purpose {
            return Err(Error::invalid(format!(
                "transaction {transaction} began as {}, not as {purpose}",
                open.purpose
            )));
        }
        Ok(open)
    }

    pub(in crate::ledger) fn check_backup(&self, backup: BackupId) -> Result<&BackupRecord> {
        let found = self.backup(backup).map(|found| &**found);
        found.ok_or_else(|| Error::not_found(format!("backup {backup} does not exist")))
    }

    fn check_nodes(
        &self,
        transaction: TransactionId,
        open: &OpenTransaction,
        nodes: &[NodeCommit],
    ) -> Result<()> {
        let mut names = HashSet::new();
        for node in nodes {
            check_name("node", &node.node)?;
            if !names.insert(&node.node) {
                return Err(Error::invalid(format!("node {} comes twice in {transaction}", node.node)));
            }
        }
        if nodes.is_empty() {
            return Err(Error::invalid(format!("transaction {transaction} commits no node")));
        }
        self.check_manifests(transaction, open, nodes)
    }

    fn check_manifests(
        &self,
        own: TransactionId,
        open: &OpenTransaction,
        nodes: &[NodeCommit],
    ) -> Result<()> {
        if !self.rules.manifests {
            return Ok(());
        }
        let foreign: Vec<_> =
            nodes.iter().map(|node| &node.manifest).filter(|it| it.transaction != own).collect();
        if foreign.is_empty() {
            return Ok(());
        }
        let live: HashSet<_> = self
            .backups
            .values()
            .flat_map(|backup| &backup.nodes)
            .map(|node| manifest_name(&node.manifest))
            .collect();
        for manifest in foreign {
            let name = manifest_name(manifest);
            let kept =
                live.contains(&name) || self.released.get(&name).is_some_and(|since| *since > open.number);
            if !kept {
                return Err(Error::conflict(format!("{} belongs to no backup any more", manifest.key(0)))
                    .with_hint("the backup it came from was deleted: start the backup again"));
            }
        }
        Ok(())
    }

    fn check_packs(&self, transaction: TransactionId, packs: &PackSet) -> Result<()> {
        if !self.rules.swept {
            return Ok(());
        }
        let (own, foreign) = packs.split(transaction);
        let swept = foreign.intersection(&self.swept).union(&own.intersection(&self.swept));
        if let Some(pack) = swept.iter().next() {
            let what = format!(
                "transaction {transaction} uses {} packs that were swept, such as {pack}",
                swept.len()
            );
            return Err(Error::conflict(what).with_hint("start the backup again: it will upload them anew"));
        }
        if let Some(pack) = foreign.difference(&self.committed).iter().next() {
            return Err(Error::invalid(format!(
                "transaction {transaction} uses {pack}, which another transaction wrote and never committed"
            )));
        }
        Ok(())
    }

    fn check_whole(&self, open: &OpenTransaction, nodes: &[NodeCommit], packs: &PackSet) -> Result<()> {
        let hint = "start the backup again; if it happens again, update the agents";
        let damaged = self.damage.packs_before(open.number, packs);
        if let Some(pack) = damaged.iter().next() {
            return Err(Error::conflict(format!(
                "the backup uses {} packs that are known to be damaged, such as {pack}",
                damaged.len()
            ))
            .with_hint(hint));
        }
        match nodes.iter().find(|node| self.damage.manifest_before(open.number, &node.manifest)) {
            Some(node) => Err(Error::conflict(format!(
                "the manifest named for node {} is known to be damaged",
                node.node
            ))
            .with_hint(hint)),
            None => Ok(()),
        }
    }

    fn check_condemn(&self, packs: &PackSet) -> Result<()> {
        if packs.is_empty() {
            return Err(Error::invalid("a CONDEMN without packs"));
        }
        if let Some(pack) = packs.difference(&self.committed).iter().next() {
            return Err(Error::conflict(format!("{pack} is not committed, or swept already")));
        }
        self.check_unreferenced(packs)
    }

    fn check_sweep(&self, packs: &PackSet) -> Result<()> {
        if packs.is_empty() {
            return Err(Error::invalid("a SWEEP without packs"));
        }
        if let Some(pack) = packs.difference(&self.condemned()).iter().next() {
            return Err(Error::conflict(format!("{pack} is not condemned, or was reprieved or swept")));
        }
        self.check_unreferenced(packs)?;
        let oldest = self.oldest_open();
        for (number, condemned) in self.condemned.iter().filter(|_| self.rules.barrier) {
            if *number > oldest && condemned.intersects(packs) {
                return Err(Error::conflict(
                    "a transaction is open that began before these packs were condemned",
                )
                .with_hint("sweep again when it has ended"));
            }
        }
        Ok(())
    }

    fn check_key_epoch(&self, epoch: KeyEpoch) -> Result<()> {
        let next = self.draws.len() as u32 + 1;
        if self.rules.key_epochs && (epoch.number != next || self.draws.contains(&epoch.draw)) {
            return Err(Error::conflict(format!(
                "key epoch {} is not the next, which is {next}",
                epoch.number
            ))
            .with_hint("somebody else has begun one: see `palinurus keys list`"));
        }
        if epoch.number > EPOCHS_MAX {
            return Err(Error::invalid(format!("a repository has at most {EPOCHS_MAX} key epochs"))
                .with_hint("make a new repository"));
        }
        Ok(())
    }

    fn check_key(&self, key: KeyId, by: KeyId) -> Result<()> {
        if key == by {
            return Err(Error::invalid(format!("key {key} is used to change itself")));
        }
        if self.removed.contains(&by) {
            return Err(Error::conflict(format!("key {by} was removed by somebody else"))
                .with_hint("nothing was changed: use a key that stays, `palinurus keys list` shows them"));
        }
        Ok(())
    }

    fn check_unreferenced(&self, packs: &PackSet) -> Result<()> {
        match self.backups.values().find(|backup| backup.packs.intersects(packs)) {
            Some(backup) => Err(Error::conflict(format!("backup {} uses some of these packs", backup.id))),
            None => Ok(()),
        }
    }
}

/// A node is in a backup or missing from it, and each is said once.
fn check_missing(transaction: TransactionId, nodes: &[NodeCommit], missing: &[MissingNode]) -> Result<()> {
    let mut names: HashSet<&String> = nodes.iter().map(|node| &node.node).collect();
    for MissingNode { node, .. } in missing {
        check_name("node", node)?;
        if !names.insert(node) {
            return Err(Error::invalid(format!("missing node {node} comes twice in {transaction}")));
        }
    }
    Ok(())
}
