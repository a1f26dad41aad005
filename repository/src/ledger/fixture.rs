//! Names, records and a store that fails to order, for the tests of ledger, commit and sweep.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, Cut, MissingNode, NodeCommit, PackSet, Proof, Purpose, Record, State};
use crate::clock::Timestamp;
use crate::entropy::SeededEntropy;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, LineageId, RepositoryId, TransactionId, WriterId};
use crate::keys::{Keys, RootKey};
use crate::log::{Lineage, Span};
use crate::manifest::ManifestRef;
use crate::pack::PackId;
use crate::storage::Storage;
use crate::storage::front::Front;

pub(crate) fn keys() -> Keys {
    Keys::derive(&RootKey::generate(&SeededEntropy::new(1)).unwrap(), RepositoryId([1; 16])).unwrap()
}

pub(crate) fn txn(n: u32) -> TransactionId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    TransactionId(id)
}

pub(crate) fn pack(transaction: u32, counter: u32) -> PackId {
    PackId { transaction: txn(transaction), writer: WriterId([7; 8]), counter }
}

pub(crate) fn packs(of: &[(u32, u32)]) -> PackSet {
    of.iter().map(|(transaction, counter)| pack(*transaction, *counter)).collect()
}

/// A node whose manifest `transaction` wrote.
pub(crate) fn node(transaction: u32, name: &str) -> NodeCommit {
    let manifest = ManifestRef {
        transaction: txn(transaction),
        node: name.to_owned(),
        writer: WriterId([9; 8]),
        parts: 1,
        size: 100,
        tail: 50,
        root: [3; 32],
    };
    NodeCommit {
        node: name.to_owned(),
        manifest,
        files: 1,
        bytes: 2,
        bytes_read: 3,
        bytes_new: 4,
        bytes_stored: 5,
        warnings: 6,
        unchanged: false,
        log: None,
        cut: Some(Cut { from: Timestamp(7), to: Timestamp(8), shard: "s".to_owned() }),
    }
}

pub(crate) fn record(epoch: u64, body: Body) -> Record {
    Record { epoch: Epoch(epoch), at: Timestamp(1_000), writer: "test".to_owned(), body }
}

/// A history in which every record is allowed.
pub(crate) fn after(bodies: &[Body]) -> State {
    let mut state = State::default();
    for (number, body) in (0..).zip(bodies) {
        state.apply(number, &record(0, body.clone())).unwrap();
    }
    state
}

pub(crate) fn refused(state: &State, body: Body) -> ErrorKind {
    let record = record(0, body);
    let error = state.check(&record).unwrap_err();
    // And what is refused changes nothing.
    let mut folded = state.clone();
    folded.apply(99, &record).unwrap_err();
    assert_eq!(format!("{folded:?}"), format!("{state:?}"));
    error.kind()
}

pub(crate) fn allowed(state: &State, body: Body) {
    state.check(&record(0, body)).unwrap();
}

pub(crate) fn leader(name: &str) -> Body {
    Body::Leader { name: name.to_owned() }
}

pub(crate) fn begin(transaction: u32) -> Body {
    Body::Begin { transaction: txn(transaction), purpose: Purpose::Backup, log: None }
}

pub(crate) fn begin_as(transaction: u32, purpose: Purpose) -> Body {
    Body::Begin { transaction: txn(transaction), purpose, log: None }
}

pub(crate) fn commit(transaction: u32, of: &[(u32, u32)]) -> Body {
    Body::Commit {
        transaction: txn(transaction),
        nodes: vec![node(transaction, "n1")],
        missing: Vec::new(),
        packs: packs(of),
    }
}

pub(crate) fn commit_with_log(transaction: u32, log: Span) -> Body {
    let nodes = vec![NodeCommit { log: Some(log), ..node(transaction, "n1") }];
    Body::Commit { transaction: txn(transaction), nodes, missing: Vec::new(), packs: packs(&[]) }
}

pub(crate) fn absent(name: &str) -> MissingNode {
    MissingNode {
        node: name.to_owned(),
        reason: "lost".to_owned(),
        files: 12,
        bytes: 1 << 40,
        paths: vec![b"base/16384/2619".to_vec(), vec![0xff, b'x']],
    }
}

/// Without the nodes of those names.
pub(crate) fn commit_without(transaction: u32, of: &[(u32, u32)], names: &[&str]) -> Body {
    Body::Commit {
        transaction: txn(transaction),
        nodes: vec![node(transaction, "n1")],
        missing: names.iter().map(|name| absent(name)).collect(),
        packs: packs(of),
    }
}

pub(crate) fn abort(transaction: u32) -> Body {
    Body::Abort { transaction: txn(transaction) }
}

pub(crate) fn forget(backup: u32) -> Body {
    Body::Forget { backup: txn(backup) }
}

pub(crate) fn pin(backup: u32, reason: &str) -> Body {
    Body::Pin { backup: txn(backup), reason: reason.to_owned() }
}

pub(crate) fn drill(backup: u32, node: &str, findings: &[&str]) -> Body {
    let proof = Proof {
        node: node.to_owned(),
        at: "n7".to_owned(),
        rto_ms: 1200,
        recovered_ms: 77,
        position: 0x30_0000,
        files: 3,
        bytes: 4,
        checks: vec!["pg_dump".to_owned()],
        findings: findings.iter().map(|text| (*text).to_owned()).collect(),
    };
    Body::Drill { backup: txn(backup), operation: "0d".to_owned(), proofs: vec![proof] }
}

pub(crate) fn hold(backup: u32, until: u64) -> Body {
    Body::Hold { backup: txn(backup), until: Timestamp(until), reason: "case 12".to_owned() }
}

pub(crate) fn condemn(of: &[(u32, u32)]) -> Body {
    Body::Condemn { packs: packs(of) }
}

pub(crate) fn sweep(of: &[(u32, u32)]) -> Body {
    Body::Sweep { packs: packs(of) }
}

/// How a creation fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It never arrives.
    Lost,
    /// It is carried out, and its answer is lost.
    Unanswered,
}

/// Another store, with faults from a script at the creations of names that begin so.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) inner: Arc<dyn Storage>,
    pub(crate) prefix: &'static str,
    pub(crate) script: Mutex<VecDeque<Fault>>,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn Storage>, prefix: &'static str, script: &[Fault]) -> Arc<Self> {
        Arc::new(Self { inner, prefix, script: Mutex::new(script.iter().copied().collect()) })
    }
}

#[async_trait]
impl Front for Faulty {
    fn behind(&self) -> &dyn Storage {
        &*self.inner
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        let fault = if key.starts_with(self.prefix) { self.script.lock().unwrap().pop_front() } else { None };
        match fault {
            None => self.inner.put_new(key, body).await,
            Some(Fault::Lost) => Err(Error::unavailable("the network is down")),
            Some(Fault::Unanswered) => {
                self.inner.put_new(key, body).await?;
                Err(Error::unavailable("the answer did not come"))
            }
        }
    }
}

pub(crate) fn line(n: u8) -> LineageId {
    LineageId([n; 16])
}

pub(crate) fn lineage(n: u8, parent: Option<u8>, from: u64) -> Body {
    Body::Lineage(Box::new(Lineage {
        id: line(n),
        parent: parent.map(line),
        from,
        kind: "postgresql".to_owned(),
        identity: vec![n],
        segment: 16 << 20,
        grants: Vec::new(),
        floor: 0,
        number: 0,
    }))
}
