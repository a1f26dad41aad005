//! For tests of what is planned from a backup.
use palinurus_repository::ledger::{BackupRecord, NodeCommit, PackSet};
use palinurus_repository::manifest::ManifestRef;
use palinurus_repository::{Timestamp, TransactionId, WriterId};

pub(crate) fn backup(nodes: &[&str]) -> BackupRecord {
    let commit = |node: &&str| NodeCommit {
        node: (*node).to_owned(),
        manifest: ManifestRef {
            transaction: TransactionId([1; 16]),
            node: (*node).to_owned(),
            writer: WriterId([2; 8]),
            parts: 1,
            size: 100,
            tail: 50,
            root: [3; 32],
        },
        files: 7,
        bytes: 1000,
        bytes_read: 0,
        bytes_new: 0,
        bytes_stored: 0,
        warnings: 0,
        unchanged: false,
        log: None,
        cut: None,
    };
    BackupRecord {
        id: TransactionId([1; 16]),
        started: Timestamp(1),
        committed: Timestamp(2),
        nodes: nodes.iter().map(commit).collect(),
        missing: Vec::new(),
        packs: PackSet::new(),
        pin: None,
        hold: None,
    }
}
