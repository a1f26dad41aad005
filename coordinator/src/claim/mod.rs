//! Who uploads which chunk of one open transaction. Answers are hints that save work, never promises: whoever is
//! told "yours" twice uploads twice, and nothing is lost.
//!
//! Memory holds only claims that are not yet stored, which pack buffers bound, and no more than [`CLAIMS_MAX`];
//! what is stored lies in the index.
//!
//! What a node claimed and did not store is free when its stream ends. It moves to whoever claims it next, and is
//! counted when that one has stored it.
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use palinurus_repository::ledger::State;
use palinurus_repository::pack::PackSummary;
use palinurus_repository::{ChunkId, Error, Result, TransactionId};

use crate::index::Index;

pub(crate) mod stream;

/// The most ids in one question.
pub(crate) const ASK_MAX: usize = 8192;
/// Beyond this a claim is granted and not remembered: some content is then uploaded twice.
const CLAIMS_MAX: usize = 1 << 20;

const YOURS: u8 = 1;
const ANOTHER: u8 = 2;
const STORED: u8 = 3;

pub(crate) struct Claims {
    transaction: TransactionId,
    /// Read after the transaction's BEGIN: what it calls usable is not swept before the transaction ends.
    state: State,
    index: Arc<Index>,
    /// Shared while a question looks into index and claims, alone while a pack moves from one to the other.
    moving: RwLock<()>,
    unstored: Mutex<Unstored>,
    streams: Mutex<HashMap<String, u64>>,
    next_stream: AtomicU64,
    closed: AtomicBool,
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claims({})", self.transaction)
    }
}

/// No more than [`CLAIMS_MAX`] of both together.
#[derive(Default)]
struct Unstored {
    /// By which stream.
    claimed: HashMap<ChunkId, u64>,
    /// By which node, whose stream has ended since.
    left: HashMap<ChunkId, Arc<str>>,
    moved: u64,
}

impl Unstored {
    fn claim(&mut self, id: ChunkId, stream: u64) {
        if self.claimed.len() + self.left.len() >= CLAIMS_MAX {
            // Only a count is lost.
            self.left = HashMap::new();
        }
        if self.claimed.len() < CLAIMS_MAX {
            self.claimed.insert(id, stream);
        }
    }

    fn leave(&mut self, stream: u64, node: &str) {
        let node: Arc<str> = node.into();
        let Self { claimed, left, .. } = self;
        for (id, _) in claimed.extract_if(|_, holder| *holder == stream) {
            left.entry(id).or_insert_with(|| node.clone());
        }
    }

    fn stored(&mut self, id: &ChunkId, by: &str) {
        self.claimed.remove(id);
        let left = self.left.remove(id);
        self.moved += u64::from(left.is_some_and(|node| *node != *by));
    }
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// One for each id.
    pub(crate) verdicts: Vec<u8>,
    /// One for each `STORED`, encoded.
    pub(crate) places: Vec<Bytes>,
}

impl Claims {
    /// Blocks, as `ask` and `stored` do.
    pub(crate) fn open(transaction: TransactionId, state: State, index: Arc<Index>) -> Result<Self> {
        index.begin(transaction)?;
        Ok(Self {
            transaction,
            state,
            index,
            moving: RwLock::default(),
            unstored: Mutex::default(),
            streams: Mutex::default(),
            next_stream: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })
    }

    pub(crate) fn transaction(&self) -> TransactionId {
        self.transaction
    }

    /// The transaction has ended: nothing more is answered.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// A node's stream of questions. A later one of the same node takes the place of an earlier one.
    pub(crate) fn join(self: &Arc<Self>, node: &str) -> Claimant {
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let before = lock(&self.streams).insert(node.to_owned(), stream);
        if let Some(before) = before {
            lock(&self.unstored).leave(before, node);
        }
        Claimant { claims: self.clone(), node: node.to_owned(), stream }
    }

    /// The backup goes on without the node, whose connection may not have noticed yet.
    pub(crate) fn part(&self, node: &str) {
        let stream = lock(&self.streams).remove(node);
        if let Some(stream) = stream {
            lock(&self.unstored).leave(stream, node);
        }
    }

    /// Chunks that a node had claimed when its stream ended, and another has stored since.
    pub(crate) fn moved(&self) -> u64 {
        lock(&self.unstored).moved
    }

    fn check(&self, stream: u64, node: &str) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::conflict(format!("transaction {} has ended", self.transaction)));
        }
        if lock(&self.streams).get(node) != Some(&stream) {
            return Err(Error::unavailable(format!("node {node} has a newer claim stream")));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Who asks first uploads.
    Claim,
    /// What is free is free after the question, too.
    Look,
    /// All nodes have uploaded: who asks for a chunk that is stored nowhere is to upload it.
    Settle,
}

impl Asked {
    pub(crate) fn of(ask: &palinurus_proto::v1::ClaimAsk) -> Self {
        match (ask.settle, ask.look) {
            (_, true) => Self::Look,
            (true, false) => Self::Settle,
            (false, false) => Self::Claim,
        }
    }
}

/// One stream of one node. What it claimed and did not store is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Claimant {
    claims: Arc<Claims>,
    node: String,
    stream: u64,
}

impl Claimant {
    pub(crate) fn ask(&self, ids: &[ChunkId], how: Asked) -> Result<Answer> {
        let claims = &*self.claims;
        claims.check(self.stream, &self.node)?;
        let _still = claims.moving.read().unwrap_or_else(PoisonError::into_inner);
        let found = claims.index.find(ids, |pack| claims.state.usable(pack))?;
        let mut answer = Answer { verdicts: Vec::with_capacity(ids.len()), places: Vec::new() };
        let mut unstored = lock(&claims.unstored);
        for (id, place) in ids.iter().zip(found) {
            let verdict = match place {
                Some(at) => {
                    answer.places.push(at.encode().into());
                    STORED
                }
                None if how != Asked::Settle && unstored.claimed.contains_key(id) => ANOTHER,
                None if how == Asked::Look => YOURS,
                None => {
                    unstored.claim(*id, self.stream);
                    YOURS
                }
            };
            answer.verdicts.push(verdict);
        }
        Ok(answer)
    }

    /// A pack is durable. Told again, it changes nothing.
    pub(crate) fn stored(&self, pack: &PackSummary) -> Result<()> {
        let claims = &*self.claims;
        claims.check(self.stream, &self.node)?;
        if pack.pack.transaction != claims.transaction {
            return Err(Error::invalid(format!(
                "{} is not of transaction {}",
                pack.pack, claims.transaction
            )));
        }
        let alone = || claims.moving.write().unwrap_or_else(PoisonError::into_inner);
        let _alone = claims.index.stored(pack, alone)?;
        let mut unstored = lock(&claims.unstored);
        for (id, _) in pack.chunks() {
            unstored.stored(&id, &self.node);
        }
        Ok(())
    }
}

impl Drop for Claimant {
    fn drop(&mut self) {
        let mut streams = lock(&self.claims.streams);
        if streams.get(&self.node) == Some(&self.stream) {
            streams.remove(&self.node);
        }
        drop(streams);
        lock(&self.claims.unstored).leave(self.stream, &self.node);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
