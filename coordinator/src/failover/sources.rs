//! What a node could be restored from.
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use palinurus_proto::{to_wire, v1};
use palinurus_repository::Timestamp;
use palinurus_repository::ledger::{BackupRecord, NodeCommit, State};

/// One node's part of a backup.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Source {
    pub(crate) backup_id: String,
    /// Its name there.
    pub(crate) node: String,
    /// Empty: nobody else has its data.
    pub(crate) shard: String,
    pub(crate) manifest: Bytes,
    /// When the backup began: what was there by then is in it, so that no loss is told too small.
    pub(crate) moment: Timestamp,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Of all that the manifest names.
    pub(crate) key_epochs: Vec<v1::KeyEpoch>,
}

impl Source {
    pub(crate) fn of(state: &State, backup: &BackupRecord, commit: &NodeCommit) -> Self {
        Self {
            backup_id: backup.id.to_string(),
            node: commit.node.clone(),
            shard: commit.cut.as_ref().map(|cut| cut.shard.clone()).unwrap_or_default(),
            manifest: commit.manifest.encode().into(),
            moment: backup.started,
            files: commit.files,
            bytes: commit.bytes,
            key_epochs: to_wire(state.sealed(backup.transactions())),
        }
    }

    pub(super) fn reason(&self) -> String {
        format!("the backup {} has {}, as of {}", self.backup_id, self.node, super::time(self.moment))
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    newest: BTreeMap<String, Source>,
    latest: Option<Source>,
    backups: BTreeSet<String>,
}

impl Sources {
    pub(crate) fn of(state: &State) -> Self {
        let mut newest = BTreeMap::new();
        for backup in state.backups() {
            newest.extend(backup.nodes.iter().map(|commit| (&commit.node, (backup, commit))));
        }
        let latest = state.backups().filter_map(|backup| Some((backup, backup.nodes.first()?))).next_back();
        let newest = newest.into_iter();
        Self {
            newest: newest
                .map(|(node, (backup, commit))| (node.clone(), Source::of(state, backup, commit)))
                .collect(),
            latest: latest.map(|(backup, commit)| Source::of(state, backup, commit)),
            backups: state.backups().map(|backup| backup.id.to_string()).collect(),
        }
    }

    #[cfg(test)]
    pub(super) fn with(sources: impl IntoIterator<Item = Source>) -> Self {
        let mut found = Self::default();
        sources.into_iter().for_each(|source| found.add(source));
        found
    }

    #[cfg(test)]
    pub(super) fn add(&mut self, source: Source) {
        self.backups.insert(source.backup_id.clone());
        self.latest = Some(source.clone());
        self.newest.insert(source.node.clone(), source);
    }

    /// The node's own newest, else that of the nodes whose places it took.
    pub(crate) fn newest(&self, node: &v1::Node) -> Option<&Source> {
        names(node).find_map(|name| self.newest.get(name))
    }

    /// Of any node.
    pub(crate) fn latest(&self) -> Option<&Source> {
        self.latest.as_ref()
    }

    /// What a failover has begun with, while that backup is there.
    pub(super) fn still(&self, begun: &v1::FailoverDetail) -> Option<Source> {
        let manifest = begun.manifest.as_ref()?;
        self.backups.contains(&manifest.backup_id).then(|| Source {
            backup_id: manifest.backup_id.clone(),
            node: begun.lost.clone(),
            shard: String::new(),
            manifest: manifest.manifest.clone(),
            moment: Timestamp(begun.backup_ms),
            files: 0,
            bytes: 0,
            key_epochs: begun.key_epochs.clone(),
        })
    }
}

/// A node's name, and those whose backups stand for its past.
pub(crate) fn names(node: &v1::Node) -> impl Iterator<Item = &str> {
    std::iter::once(node.name.as_str()).chain(node.succeeds.iter().map(String::as_str))
}
