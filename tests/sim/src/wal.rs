//! A simulated database's log, which outlives its agent: whoever mixes two histories, or loses bytes, gives others back.
use std::collections::BTreeMap;

use palinurus_agent::engine::{Fork, History};

use crate::chance::{Chance, hash};

pub(crate) const SEGMENT: u64 = 256;

/// One history, as the database calls it. `stamp` says what its bytes are: two databases may choose one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) number: u64,
    stamp: u64,
    from: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wal {
    cluster: u64,
    /// The oldest first; the last is written now.
    pub(crate) histories: Vec<Told>,
    pub(crate) end: u64,
    /// From where the database has it.
    pub(crate) kept: u64,
    pub(crate) released: u64,
    /// Another was promoted in its place: what it writes is nobody's.
    pub(crate) left: bool,
}

/// What the database of a service's has let go of, because it was told that it may.
#[derive(Clone, Debug)]
pub(crate) struct Dropped {
    pub(crate) wal: Wal,
    pub(crate) history: usize,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Of a service's, by everybody's databases.
#[derive(Debug, Default)]
pub(crate) struct Wals {
    /// Every history that was ever written, by its stamp, as what led to it.
    written: BTreeMap<u64, Wal>,
    pub(crate) dropped: Vec<Dropped>,
}

impl Wals {
    pub(crate) fn note(&mut self, wal: &Wal) {
        self.written.insert(wal.last().stamp, wal.clone());
    }

    pub(crate) fn count(&self) -> usize {
        self.written.len()
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.written.values().map(|wal| wal.last().number)
    }

    /// The one of that name, as far as its bytes can tell.
    pub(crate) fn of(&self, number: u64, from: u64, bytes: &[u8]) -> Option<&Wal> {
        let like = self.written.values().filter(|wal| wal.last().number == number);
        like.into_iter().find(|wal| wal.bytes(from, from + bytes.len() as u64) == bytes)
    }
}

impl Wal {
    pub(crate) fn new(service: &str, chance: &mut Chance) -> Self {
        let end = chance.between(1000, 100_000);
        Self {
            cluster: hash(service.as_bytes()),
            histories: vec![Told { number: 1, stamp: chance.draw(), from: 0 }],
            end,
            kept: end - end % SEGMENT,
            released: 0,
            left: false,
        }
    }

    fn last(&self) -> Told {
        self.histories[self.histories.len() - 1]
    }

    pub(crate) fn identity_of(&self, number: u64) -> Vec<u8> {
        [self.cluster, number].into_iter().flat_map(u64::to_be_bytes).collect()
    }

    pub(crate) fn identity(&self) -> Vec<u8> {
        self.identity_of(self.last().number)
    }

    pub(crate) fn number(identity: &[u8]) -> u64 {
        identity.get(8..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
    }

    /// Which of its own that is.
    pub(crate) fn at(&self, identity: &[u8]) -> Option<usize> {
        self.histories.iter().position(|told| self.identity_of(told.number) == identity)
    }

    pub(crate) fn stamp(&self) -> u64 {
        self.last().stamp
    }

    /// It is what was called so, or goes on from it.
    pub(crate) fn descends(&self, stamp: u64) -> bool {
        self.histories.iter().any(|told| told.stamp == stamp)
    }

    /// Where that history ends, and whether another goes on there.
    pub(crate) fn end_of(&self, history: usize) -> (u64, bool) {
        self.histories.get(history + 1).map_or((self.end, false), |next| (next.from, true))
    }

    pub(crate) fn told(&self) -> History {
        let forks = self
            .histories
            .windows(2)
            .map(|two| Fork { identity: self.identity_of(two[0].number), until: two[1].from });
        History {
            identity: self.identity(),
            parents: forks.collect(),
            account: format!("{:?}", &self.histories[1..]).into_bytes(),
            segment: SEGMENT,
            position: self.kept,
            end: self.end,
        }
    }

    pub(crate) fn bytes(&self, from: u64, to: u64) -> Vec<u8> {
        (from..to).map(|at| self.byte(at)).collect()
    }

    fn byte(&self, at: u64) -> u8 {
        let told = self.histories.iter().rev().find(|told| told.from <= at).unwrap_or(&self.histories[0]);
        (hash(&(told.stamp ^ (at / 8)).to_le_bytes()) >> (at % 8 * 8)) as u8
    }

    /// Another history begins there: a standby was promoted, or a recovery ended.
    pub(crate) fn forked(&self, at: u64, number: u64, stamp: u64) -> Self {
        let mut histories = self.histories.clone();
        while histories.len() > 1 && histories[histories.len() - 1].from > at {
            histories.pop();
        }
        histories.push(Told { number, stamp, from: at });
        let kept = self.kept.min(at - at % SEGMENT);
        Self { histories, end: at, kept, released: 0, left: false, ..*self }
    }

    /// The log files that the database needs no more; what of them it was told to be safe, it lets go of.
    pub(crate) fn release(&mut self, position: u64) {
        self.released = self.released.max(position);
        self.kept = self.kept.max(position - position % SEGMENT);
    }

    /// It keeps no more than it has room for, stored or not.
    pub(crate) fn give_up(&mut self, chance: &mut Chance) {
        let to = chance.between(self.kept, self.end);
        self.kept = to - to % SEGMENT;
    }
}
