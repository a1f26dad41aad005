//! Operators who begin key epochs, two at once and on stale views; and what every transaction is sealed under.
use super::{Body, Draw, ErrorKind, KeyEpoch, Outcome, TransactionId, Violation, World};

#[derive(Default)]
pub(super) struct Operator {
    view: usize,
    /// Its masters are in the store, and no record names it yet.
    drawn: Option<KeyEpoch>,
}

impl World {
    pub(super) fn operator_step(&mut self) {
        let which = self.random.below(2);
        let mut operator = std::mem::take(&mut self.operators[which]);
        match operator.drawn {
            None => {
                let end = self.log.len();
                operator.view =
                    if self.random.chance(70) { end } else { self.random.between(operator.view, end) };
                let number = self.states[operator.view].draws().len() as u32 + 1;
                self.draws += 1;
                operator.drawn = Some(KeyEpoch { number, draw: Draw(self.draws.to_be_bytes()) });
            }
            // In the name of whoever leads, and again until it is in or refused.
            Some(epoch) => {
                if self.random.chance(70) {
                    operator.view = self.log.len();
                }
                let state = self.states[operator.view].clone();
                let leader = state.leader().0.0;
                match self.append(&mut operator.view, leader, Body::KeyEpoch(epoch)) {
                    Outcome::Lost => {}
                    // Another leads by now.
                    Outcome::Refused(ErrorKind::Fenced) => operator.view = self.log.len(),
                    Outcome::Done | Outcome::Refused(_) => operator.drawn = None,
                }
            }
        }
        self.operators[which] = operator;
    }

    /// After its BEGIN: what the transaction seals under from now on.
    pub(super) fn seals(&mut self, id: TransactionId, begun: usize) {
        let number = match self.mutant.old_epochs {
            true => {
                let seen = self.random.between(begun.saturating_sub(3), begun);
                self.states[seen].key_epoch().map_or(0, |epoch| epoch.number)
            }
            false => self.states[begun].sealed([id]).first().map_or(0, |sealed| sealed.epoch.number),
        };
        self.sealed.insert(id, number);
    }

    /// A KEYEPOCH that counts has its number for itself.
    pub(super) fn check_key_epoch(&mut self, body: &Body) {
        let Body::KeyEpoch(epoch) = body else { return };
        self.seen.key_epochs += 1;
        if self.newest().draws().get(epoch.number as usize - 1) != Some(&epoch.draw) {
            self.violation(Violation::KeyEpoch);
        }
    }

    /// Readers look for each transaction's objects under the master that its writer took.
    pub(super) fn check_seals(&mut self) {
        let newest = self.newest().clone();
        let read = |id: &TransactionId| newest.sealed([*id]).first().map_or(0, |sealed| sealed.epoch.number);
        if self.sealed.iter().any(|(id, written)| read(id) != *written) {
            self.violation(Violation::Sealed);
        }
    }
}
