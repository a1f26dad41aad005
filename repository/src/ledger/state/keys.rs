//! What the records amount to of keys: the key epochs, who was sealed in which, and operator keys that are gone.
use std::collections::{BTreeMap, BTreeSet};

use super::State;
use crate::epochs::{KeyEpoch, Sealed};
use crate::id::{Draw, KeyId, TransactionId};

impl State {
    /// The key epoch in force; none as long as it is the root's.
    pub fn key_epoch(&self) -> Option<KeyEpoch> {
        self.draws.last().map(|draw| KeyEpoch { number: self.draws.len() as u32, draw: *draw })
    }

    /// Whether that operator key was removed, even if its object should still be there.
    pub fn is_removed(&self, key: KeyId) -> bool {
        self.removed.contains(&key)
    }

    /// Operator keys that were removed.
    pub(crate) fn removed(&self) -> &BTreeSet<KeyId> {
        &self.removed
    }

    /// The draws of key epochs 1, 2 and so on.
    pub fn draws(&self) -> &[Draw] {
        &self.draws
    }

    /// Which of these transactions are of which key epoch, oldest first. Those of epoch 0 are left out.
    pub fn sealed(&self, transactions: impl IntoIterator<Item = TransactionId>) -> Vec<Sealed> {
        let mut found: BTreeMap<u32, BTreeSet<TransactionId>> = BTreeMap::new();
        for id in transactions {
            if let Some(number) = self.sealed.get(&id) {
                found.entry(*number).or_default().insert(id);
            }
        }
        let sealed = found.into_iter().filter_map(|(number, transactions)| {
            let draw = *self.draws.get(number as usize - 1)?;
            let transactions = transactions.into_iter().collect();
            Some(Sealed { epoch: KeyEpoch { number, draw }, transactions })
        });
        sealed.collect()
    }

    /// The same of all transactions.
    pub(in crate::ledger) fn all_sealed(&self) -> Vec<Sealed> {
        self.sealed(self.sealed.keys().copied())
    }
}
