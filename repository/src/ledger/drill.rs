//! Drills: restores of a backup for proof, and what came of the last one of each node.
use std::collections::BTreeMap;

use super::record::Body;
use super::state::State;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{BackupId, check_name};

/// Nodes of one record.
const PROOFS_MAX: usize = 1024;
/// What ran and what was found, of one node: the operation has all of it.
const WORDS_MAX: usize = 32;
const WORD_LEN_MAX: usize = 2048;

/// One node's part of a backup, restored and looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The node in the backup.
    pub node: String,
    /// The node that it was restored at.
    pub at: String,
    /// From the restore's start until the data was of use.
    pub rto_ms: u64,
    /// Up to when the data goes, by the database's clock; 0: nothing says so.
    pub recovered_ms: u64,
    /// In the database's log; 0: it has none.
    pub position: u64,
    pub files: u64,
    pub bytes: u64,
    /// What ran.
    pub checks: Vec<String>,
    /// None: it passed.
    pub findings: Vec<String>,
}

impl Proof {
    pub fn passed(&self) -> bool {
        self.findings.is_empty()
    }

    /// With texts that a record may have.
    #[must_use]
    pub fn cut(mut self) -> Self {
        for words in [&mut self.checks, &mut self.findings] {
            words.truncate(WORDS_MAX);
            for word in words {
                word.truncate(word.floor_char_boundary(WORD_LEN_MAX));
            }
        }
        self
    }

    fn check(&self) -> Result<()> {
        check_name("node", &self.node)?;
        check_name("node", &self.at)?;
        let mut words = self.checks.iter().chain(&self.findings);
        if self.checks.len() > WORDS_MAX
            || self.findings.len() > WORDS_MAX
            || words.any(|word| word.len() > WORD_LEN_MAX)
        {
            return Err(Error::invalid(format!("the proof of node {} says too much", self.node)));
        }
        Ok(())
    }
}

/// The last proof of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drilled {
    pub when: Timestamp,
    pub operation: String,
    pub proof: Proof,
}

/// Of backups that there are, by node.
#[derive(Clone, Debug, Default)]
pub(super) struct Drills(BTreeMap<BackupId, BTreeMap<String, Drilled>>);

impl Drills {
    pub(super) fn apply(&mut self, body: &Body, when: Timestamp) {
        let Body::Drill { backup, operation, proofs } = body else { return };
        let nodes = self.0.entry(*backup).or_default();
        for proof in proofs {
            let drilled = Drilled { when, operation: operation.clone(), proof: proof.clone() };
            nodes.insert(proof.node.clone(), drilled);
        }
    }

    pub(super) fn forget(&mut self, backup: BackupId) {
        self.0.remove(&backup);
    }

    pub(super) fn to_wire(&self) -> Vec<wire::Drilled> {
        let all = self.0.iter().flat_map(|(backup, nodes)| nodes.values().map(move |node| (backup, node)));
        all.map(|(backup, drilled)| wire::Drilled {
            when: drilled.when.0,
            drill: Some(wire_drill(*backup, &drilled.operation, std::slice::from_ref(&drilled.proof))),
        })
        .collect()
    }

    pub(super) fn from_wire(w: Vec<wire::Drilled>) -> Result<Self> {
        let mut drills = Self::default();
        for w in w {
            drills.apply(&from_wire(w.drill.unwrap_or_default())?, Timestamp(w.when));
        }
        Ok(drills)
    }
}

impl State {
    /// The last proof of each of the backup's nodes that there is one of.
    pub fn drilled(&self, backup: BackupId) -> impl Iterator<Item = &Drilled> {
        self.drills.0.get(&backup).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn has_drills(&self) -> bool {
        !self.drills.0.is_empty()
    }

    pub(super) fn check_drill(&self, backup: BackupId, operation: &str, proofs: &[Proof]) -> Result<()> {
        check_name("operation", operation)?;
        let known = self.check_backup(backup)?;
        if proofs.is_empty() || proofs.len() > PROOFS_MAX {
            return Err(Error::invalid(format!("a DRILL of {} nodes", proofs.len())));
        }
        for proof in proofs {
            proof.check()?;
            if known.nodes.iter().all(|node| node.node != proof.node) {
                return Err(Error::invalid(format!("backup {backup} has no node {:?}", proof.node)));
            }
        }
        Ok(())
    }
}

pub(super) fn wire_drill(backup: BackupId, operation: &str, proofs: &[Proof]) -> wire::Drill {
    let proofs = proofs.iter().map(|proof| wire::Proof {
        node: proof.node.clone(),
        at: proof.at.clone(),
        rto_ms: proof.rto_ms,
        recovered_ms: proof.recovered_ms,
        position: proof.position,
        files: proof.files,
        bytes: proof.bytes,
        checks: proof.checks.clone(),
        findings: proof.findings.clone(),
    });
    wire::Drill { backup: backup.0.to_vec(), operation: operation.to_owned(), proofs: proofs.collect() }
}

pub(super) fn from_wire(w: wire::Drill) -> Result<Body> {
    let proof = |w: wire::Proof| Proof {
        node: w.node,
        at: w.at,
        rto_ms: w.rto_ms,
        recovered_ms: w.recovered_ms,
        position: w.position,
        files: w.files,
        bytes: w.bytes,
        checks: w.checks,
        findings: w.findings,
    };
    Ok(Body::Drill {
        backup: BackupId::from_slice(&w.backup)?,
        operation: w.operation,
        proofs: w.proofs.into_iter().map(proof).collect(),
    })
}

pub(super) mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Drill {
        #[prost(bytes = "vec", tag = "1")]
        pub(in crate::ledger) backup: Vec<u8>,
        #[prost(string, tag = "2")]
        pub(in crate::ledger) operation: String,
        #[prost(message, repeated, tag = "3")]
        pub(in crate::ledger) proofs: Vec<Proof>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Proof {
        #[prost(string, tag = "1")]
        pub(in crate::ledger) node: String,
        #[prost(string, tag = "2")]
        pub(in crate::ledger) at: String,
        #[prost(uint64, tag = "3")]
        pub(in crate::ledger) rto_ms: u64,
        #[prost(uint64, tag = "4")]
        pub(in crate::ledger) recovered_ms: u64,
        #[prost(uint64, tag = "5")]
        pub(in crate::ledger) position: u64,
        #[prost(uint64, tag = "6")]
        pub(in crate::ledger) files: u64,
        #[prost(uint64, tag = "7")]
        pub(in crate::ledger) bytes: u64,
        #[prost(string, repeated, tag = "8")]
        pub(in crate::ledger) checks: Vec<String>,
        #[prost(string, repeated, tag = "9")]
        pub(in crate::ledger) findings: Vec<String>,
    }

    /// The last of a node, in a checkpoint.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Drilled {
        #[prost(uint64, tag = "1")]
        pub(in crate::ledger) when: u64,
        #[prost(message, optional, tag = "2")]
        pub(in crate::ledger) drill: Option<Drill>,
    }
}
