//! What a record says.
use std::fmt;

use crate::clock::Timestamp;
use crate::epochs::KeyEpoch;
use crate::id::{BackupId, KeyId, LineageId, TransactionId};
use crate::ledger::damage::Objects;
use crate::ledger::drill::Proof;
use crate::ledger::pack_set::PackSet;
use crate::log::{At, Lineage, Position, Span};
use crate::manifest::ManifestRef;

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
        /// A reader's: what of a log is to stay, from there on.
        log: Option<At>,
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
    /// Nodes of the backup were restored for proof.
    Drill {
        backup: BackupId,
        operation: String,
        proofs: Vec<Proof>,
    },
    /// A log's history begins.
    Lineage(Box<Lineage>),
    /// Who may append to it from now on: what counts of it is put by that node, from that position on.
    Grant {
        lineage: LineageId,
        epoch: u32,
        node: String,
        from: Position,
    },
    /// What of the log ends there or before is given up.
    Floor(At),
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
    pub(in crate::ledger) fn from_wire(number: u32) -> Option<Self> {
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
    /// Where a recovery from it may begin, of a node that writes a log.
    pub log: Option<Span>,
    /// None: its engine does not say, or it was not asked yet.
    pub cut: Option<Cut>,
}

/// Which moment a node's part stands for, by the node's clock, and of what it is a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// When the first of it was held still, and when the last.
    pub from: Timestamp,
    pub to: Timestamp,
    /// Nodes of one shard hold the same. Empty: the node's data is nobody else's.
    pub shard: String,
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
