//! A set of packs, small because counters come in runs: what a backup references, what is condemned, what is swept.
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use prost::Message;

use crate::error::{Error, Result};
use crate::id::{TransactionId, WriterId};
use crate::pack::PackId;

/// Per writer, its counters as ranges `first..=last`: sorted, apart by at least one, never empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PackSet(BTreeMap<(TransactionId, WriterId), Ranges>);

type Ranges = Vec<(u32, u32)>;

impl PackSet {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many packs, not how many ranges.
    pub fn len(&self) -> u64 {
        self.0.values().flatten().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    pub fn contains(&self, pack: &PackId) -> bool {
        self.0.get(&(pack.transaction, pack.writer)).is_some_and(|ranges| {
            let next = ranges.partition_point(|(first, _)| *first <= pack.counter);
            next > 0 && pack.counter <= ranges[next - 1].1
        })
    }

    pub fn has_transaction(&self, transaction: TransactionId) -> bool {
        let first = (transaction, WriterId([0; WriterId::LEN]));
        self.0.range(first..).next().is_some_and(|((found, _), _)| *found == transaction)
    }

    /// The packs of one transaction, and all the others.
    pub fn split(&self, transaction: TransactionId) -> (PackSet, PackSet) {
        let (own, others) = self.0.clone().into_iter().partition(|((id, _), _)| *id == transaction);
        (PackSet(own), PackSet(others))
    }

    /// True when it was not there before.
    pub fn insert(&mut self, pack: PackId) -> bool {
        let ranges = self.0.entry((pack.transaction, pack.writer)).or_default();
        let counter = pack.counter;
        let next = ranges.partition_point(|(first, _)| *first <= counter);
        if next > 0 && counter <= ranges[next - 1].1 {
            return false;
        }
        let joins_before = next > 0 && ranges[next - 1].1.checked_add(1) == Some(counter);
        let joins_after = ranges.get(next).is_some_and(|(first, _)| counter.checked_add(1) == Some(*first));
        match (joins_before, joins_after) {
            (true, true) => {
                ranges[next - 1].1 = ranges[next].1;
                ranges.remove(next);
            }
            (true, false) => ranges[next - 1].1 = counter,
            (false, true) => ranges[next].0 = counter,
            (false, false) => ranges.insert(next, (counter, counter)),
        }
        true
    }

    /// Every pack, by transaction, writer and counter.
    pub fn iter(&self) -> impl Iterator<Item = PackId> + '_ {
        self.0.iter().flat_map(|((transaction, writer), ranges)| {
            ranges.iter().flat_map(move |&(first, last)| {
                (first..=last).map(move |counter| PackId {
                    transaction: *transaction,
                    writer: *writer,
                    counter,
                })
            })
        })
    }

    /// Each writer that has packs here, in order.
    pub fn writers(&self) -> impl Iterator<Item = (TransactionId, WriterId)> + '_ {
        self.0.keys().copied()
    }

    pub fn extend(&mut self, other: &PackSet) {
        for (writer, theirs) in &other.0 {
            match self.0.entry(*writer) {
                Entry::Vacant(slot) => {
                    slot.insert(theirs.clone());
                }
                Entry::Occupied(mut slot) => {
                    let mut all = std::mem::take(slot.get_mut());
                    all.extend_from_slice(theirs);
                    all.sort_unstable();
                    slot.insert(joined(all));
                }
            }
        }
    }

    #[must_use]
    pub fn union(&self, other: &PackSet) -> PackSet {
        let mut all = self.clone();
        all.extend(other);
        all
    }

    #[must_use]
    pub fn intersection(&self, other: &PackSet) -> PackSet {
        self.per_writer(other, |ours, theirs| {
            let (mut both, mut i, mut k) = (Vec::new(), 0, 0);
            while let (Some(a), Some(b)) = (ours.get(i), theirs.get(k)) {
                let (first, last) = (a.0.max(b.0), a.1.min(b.1));
                if first <= last {
                    both.push((first, last));
                }
                if a.1 <= b.1 { i += 1 } else { k += 1 }
            }
            both
        })
    }

    /// What is here and not there.
    #[must_use]
    pub fn difference(&self, other: &PackSet) -> PackSet {
        self.per_writer(other, |ours, theirs| {
            let mut rest = Vec::new();
            for &(mut first, last) in ours {
                let mut gone = false;
                for cut in &theirs[theirs.partition_point(|cut| cut.1 < first)..] {
                    if cut.0 > last {
                        break;
                    }
                    if cut.0 > first {
                        rest.push((first, cut.0 - 1));
                    }
                    if cut.1 >= last {
                        gone = true;
                        break;
                    }
                    first = cut.1 + 1;
                }
                if !gone {
                    rest.push((first, last));
                }
            }
            rest
        })
    }

    pub fn remove(&mut self, other: &PackSet) {
        if self.intersects(other) {
            *self = self.difference(other);
        }
    }

    pub fn intersects(&self, other: &PackSet) -> bool {
        let (few, many) = if self.0.len() <= other.0.len() { (self, other) } else { (other, self) };
        few.0.iter().any(|(writer, ours)| {
            many.0.get(writer).is_some_and(|theirs| {
                let (mut i, mut k) = (0, 0);
                while let (Some(a), Some(b)) = (ours.get(i), theirs.get(k)) {
                    if a.0.max(b.0) <= a.1.min(b.1) {
                        return true;
                    }
                    if a.1 <= b.1 { i += 1 } else { k += 1 }
                }
                false
            })
        })
    }

    pub fn is_subset(&self, other: &PackSet) -> bool {
        self.0.iter().all(|(writer, ours)| {
            other.0.get(writer).is_some_and(|theirs| {
                ours.iter().all(|(first, last)| {
                    let next = theirs.partition_point(|(start, _)| start <= first);
                    next > 0 && *last <= theirs[next - 1].1
                })
            })
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wire = wire::PackSet::decode(bytes)
            .map_err(|e| Error::corrupt("a set of packs does not decode").with_source(e))?;
        Self::from_wire(&wire)
    }

    pub(crate) fn to_wire(&self) -> wire::PackSet {
        let mut sets: Vec<wire::TransactionPacks> = Vec::new();
        for ((transaction, writer), ranges) in &self.0 {
            if sets.last().is_none_or(|last| last.transaction != transaction.as_bytes()) {
                sets.push(wire::TransactionPacks {
                    transaction: transaction.as_bytes().to_vec(),
                    writers: Vec::new(),
                });
            }
            let mut spans = Vec::with_capacity(2 * ranges.len());
            let mut end = 0;
            for (first, last) in ranges {
                spans.push(first - end); // the gap since the range before
                spans.push(last - first);
                end = *last;
            }
            if let Some(set) = sets.last_mut() {
                set.writers.push(wire::WriterPacks { writer: writer.as_bytes().to_vec(), spans });
            }
        }
        wire::PackSet { transactions: sets }
    }

    pub(crate) fn from_wire(wire: &wire::PackSet) -> Result<Self> {
        let wrong = || Error::corrupt("a set of packs is inconsistent");
        let mut set = BTreeMap::new();
        for packs in &wire.transactions {
            let transaction = TransactionId::from_slice(&packs.transaction).map_err(|_| wrong())?;
            for writer in &packs.writers {
                let id = WriterId::from_slice(&writer.writer).map_err(|_| wrong())?;
                let (pairs, rest) = writer.spans.as_chunks::<2>();
                if !rest.is_empty() || pairs.is_empty() {
                    return Err(wrong());
                }
                let mut ranges = Vec::with_capacity(pairs.len());
                let mut end = 0u32;
                for [gap, more] in pairs {
                    let first = end.checked_add(*gap).ok_or_else(wrong)?;
                    end = first.checked_add(*more).ok_or_else(wrong)?;
                    ranges.push((first, end));
                }
                if ranges.windows(2).any(|pair| pair[1].0 - pair[0].1 < 2)
                    || set.insert((transaction, id), ranges).is_some()
                {
                    return Err(wrong());
                }
            }
        }
        Ok(Self(set))
    }

    fn per_writer(
        &self,
        other: &PackSet,
        combine: impl Fn(&[(u32, u32)], &[(u32, u32)]) -> Ranges,
    ) -> PackSet {
        let combined = self.0.iter().filter_map(|(writer, ours)| {
            let ranges = combine(ours, other.0.get(writer).map_or(&[][..], Vec::as_slice));
            (!ranges.is_empty()).then_some((*writer, ranges))
        });
        PackSet(combined.collect())
    }
}

/// Sorted ranges with those that touch or overlap made one.
fn joined(sorted: Ranges) -> Ranges {
    let mut out: Ranges = Vec::with_capacity(sorted.len());
    for (first, last) in sorted {
        match out.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

impl FromIterator<PackId> for PackSet {
    fn from_iter<I: IntoIterator<Item = PackId>>(packs: I) -> Self {
        let mut set = Self::new();
        for pack in packs {
            set.insert(pack);
        }
        set
    }
}

impl fmt::Debug for PackSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for ((transaction, writer), ranges) in &self.0 {
            map.entry(&format_args!("{transaction}/{writer}"), ranges);
        }
        map.finish()
    }
}

pub(crate) mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct PackSet {
        #[prost(message, repeated, tag = "1")]
        pub(crate) transactions: Vec<TransactionPacks>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct TransactionPacks {
        #[prost(bytes = "vec", tag = "1")]
        pub(crate) transaction: Vec<u8>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) writers: Vec<WriterPacks>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct WriterPacks {
        #[prost(bytes = "vec", tag = "1")]
        pub(crate) writer: Vec<u8>,
        /// For each range: the gap from the last counter before it, then how many follow the first.
        #[prost(uint32, repeated, tag = "2")]
        pub(crate) spans: Vec<u32>,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pack(transaction: u8, writer: u8, counter: u32) -> PackId {
        PackId { transaction: TransactionId([transaction; 16]), writer: WriterId([writer; 8]), counter }
    }

    fn packs() -> impl Strategy<Value = Vec<PackId>> {
        let counters = prop_oneof![0u32..24, u32::MAX - 4..=u32::MAX];
        prop::collection::vec((0u8..2, 0u8..2, counters).prop_map(|(t, w, c)| pack(t, w, c)), 0..40)
    }

    proptest! {
        /// Whatever a set of single ids says, the set of ranges says too.
        #[test]
        fn it_is_a_set(a in packs(), b in packs()) {
            let (plain_a, plain_b): (BTreeSet<_>, BTreeSet<_>) = (a.iter().copied().collect(), b.iter().copied().collect());
            let (set_a, set_b): (PackSet, PackSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            let same = |set: &PackSet, plain: Vec<PackId>| set.iter().eq(plain.iter().copied())
                && set.len() == plain.len() as u64
                && *set == plain.into_iter().collect::<PackSet>();
            prop_assert!(same(&set_a, plain_a.iter().copied().collect()));
            prop_assert!(same(&set_a.union(&set_b), plain_a.union(&plain_b).copied().collect()));
            prop_assert!(same(&set_a.difference(&set_b), plain_a.difference(&plain_b).copied().collect()));
            prop_assert!(same(&set_a.intersection(&set_b), plain_a.intersection(&plain_b).copied().collect()));
            prop_assert_eq!(set_a.intersects(&set_b), !plain_a.is_disjoint(&plain_b));
            prop_assert_eq!(set_a.is_subset(&set_b), plain_a.is_subset(&plain_b));
            prop_assert_eq!(&PackSet::decode(&set_a.encode()).unwrap(), &set_a);
            for id in &b {
                prop_assert_eq!(set_a.contains(id), plain_a.contains(id));
            }
        }
    }

    #[test]
    fn a_long_run_is_small() {
        let set: PackSet = (0..100_000).map(|counter| pack(1, 1, counter)).collect();
        assert_eq!(set.len(), 100_000);
        assert!(set.encode().len() < 50);
    }

    #[test]
    fn damage_does_not_decode() {
        assert_eq!(PackSet::decode(&[0xff; 9]).unwrap_err().kind(), crate::ErrorKind::Corrupt);
        let mut wire = [pack(1, 1, 5), pack(1, 1, 9)].into_iter().collect::<PackSet>().to_wire();
        wire.transactions[0].writers[0].spans = vec![5, 0, 1, 0];
        assert!(PackSet::from_wire(&wire).is_err(), "two ranges that touch");
        wire.transactions[0].writers[0].spans = vec![5, u32::MAX];
        assert!(PackSet::from_wire(&wire).is_err(), "a range past the last counter");
        wire.transactions[0].writers[0].spans = vec![5, 0];
        wire.transactions.push(wire.transactions[0].clone());
        assert!(PackSet::from_wire(&wire).is_err(), "a writer named twice");
    }
}
