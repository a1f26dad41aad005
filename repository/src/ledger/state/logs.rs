//! Lineages of logs, who may write them, and what of them is given up.
//!
//! 1. A LINEAGE is new; its parent is known, and it begins no earlier than that; and no other of that parent has its
//!    identity and beginning: the same promotion told twice is the same lineage. Without a parent that says nothing: a
//!    server may be set back twice to one position.
//! 2. A GRANT's epoch is above every one of the lineage, and it begins no earlier than the last one, nor below the floor:
//!    what was covered stays covered.
//! 3. A piece counts from its grant's beginning to the next one's ([`crate::log::Coverage`]).
//! 4. Grants under which nothing counts, or nothing above the floor, are forgotten ([`Lineage::forget_grants`]).
//! 5. A FLOOR only rises, and never above what an open pin keeps. What ends there or before, and what rule 3 does not
//!    count, anybody may delete at any time ([`State::is_spare`]).
use std::collections::BTreeMap;
use std::sync::Arc;

use super::State;
use crate::error::{Error, Result};
use crate::id::{LineageId, check_name};
use crate::ledger::Body;
use crate::log::{At, Grant, Lineage, Piece, Position};

impl State {
    pub fn lineages(&self) -> &BTreeMap<LineageId, Arc<Lineage>> {
        &self.logs
    }

    pub fn lineage(&self, id: LineageId) -> Option<&Arc<Lineage>> {
        self.logs.get(&id)
    }

    /// Nothing will ever need it, whatever the ledger says later: also who has read only a part of it may say so.
    pub fn is_spare(&self, piece: &Piece) -> bool {
        let Some(lineage) = self.lineage(piece.lineage) else { return false };
        if piece.to <= lineage.floor {
            return true;
        }
        let Some(last) = lineage.last_grant() else { return false };
        let Some(at) = lineage.grants.iter().position(|grant| grant.epoch == piece.epoch) else {
            return piece.epoch < last.epoch;
        };
        let ended = lineage.grants.get(at + 1).is_some_and(|next| next.from <= piece.from);
        piece.to <= lineage.grants[at].from || ended
    }

    /// Given up to its end, as far as anybody knows: another history goes on behind it, and no backup is of it.
    pub fn is_over(&self, id: LineageId) -> bool {
        let Some(lineage) = self.lineage(id) else { return false };
        let children = self.logs.values().filter(|child| child.parent == Some(id));
        let behind = children.map(|child| child.from).max();
        let used = self.backups().flat_map(|backup| &backup.nodes).filter_map(|node| node.log);
        behind.is_some_and(|behind| lineage.floor > 0 && lineage.floor >= behind)
            && lineage.last_grant().is_none_or(|last| last.from <= lineage.floor)
            && !used.into_iter().any(|span| span.lineage == id)
    }

    pub(super) fn check_log(&self, body: &Body) -> Result<()> {
        match body {
            Body::Lineage(lineage) => self.check_lineage(lineage),
            Body::Grant { lineage, epoch, node, from } => self.check_grant(*lineage, *epoch, node, *from),
            Body::Floor(floor) => self.check_floor(*floor),
            _ => Ok(()),
        }
    }

    /// What has been checked.
    pub(super) fn apply_log(&mut self, number: u64, body: &Body) {
        let key_epoch = self.key_epoch();
        match body {
            Body::Lineage(lineage) => {
                let known = Lineage { number, ..Lineage::clone(lineage) };
                self.logs.insert(known.id, Arc::new(known));
            }
            Body::Grant { lineage, epoch, node, from } => {
                let grant = Grant { epoch: *epoch, node: node.clone(), from: *from, key_epoch };
                self.change(*lineage, |lineage| {
                    lineage.grants.push(grant);
                    lineage.forget_grants();
                });
            }
            Body::Floor(At { lineage, position }) => {
                self.change(*lineage, |lineage| {
                    lineage.floor = *position;
                    lineage.forget_grants();
                });
            }
            _ => {}
        }
    }

    fn change(&mut self, id: LineageId, change: impl FnOnce(&mut Lineage)) {
        if let Some(lineage) = self.logs.get_mut(&id) {
            change(Arc::make_mut(lineage));
        }
    }

    fn check_lineage(&self, new: &Lineage) -> Result<()> {
        new.check()?;
        if self.logs.contains_key(&new.id) {
            return Err(Error::conflict(format!("lineage {} is known already", new.id)));
        }
        let Some(parent) = new.parent else { return Ok(()) };
        if new.from < self.known(parent)?.from {
            return Err(Error::invalid(format!("lineage {} begins before its parent", new.id)));
        }
        match self.logs.values().find(|other| other.is_same_promotion(new)) {
            Some(same) => Err(Error::conflict(format!("lineage {} is that history", same.id))),
            None => Ok(()),
        }
    }

    fn check_grant(&self, lineage: LineageId, epoch: u32, node: &str, from: Position) -> Result<()> {
        check_name("node", node)?;
        let known = self.known(lineage)?;
        let last = known.last_grant().map_or(0, |last| last.epoch);
        if epoch <= last {
            return Err(Error::conflict(format!("lineage {lineage} has a grant of epoch {last} already")));
        }
        if self.rules.grants && from < known.begun() {
            return Err(Error::invalid(format!(
                "a grant of lineage {lineage} from {from:x} on, and it has a grant or a floor at {:x}",
                known.begun()
            )));
        }
        Ok(())
    }

    fn check_floor(&self, floor: At) -> Result<()> {
        let known = self.known(floor.lineage)?;
        if floor.position <= known.floor {
            return Err(Error::invalid(format!("lineage {}: a floor only rises", floor.lineage)));
        }
        let pins = self.open.values().filter_map(|open| open.log).filter(|_| self.rules.floors);
        let mut pins = pins.filter(|pin| pin.lineage == floor.lineage);
        match pins.find(|pin| pin.position < floor.position) {
            Some(pin) => Err(Error::conflict(format!(
                "somebody reads lineage {} from {:x} on",
                pin.lineage, pin.position
            ))),
            None => Ok(()),
        }
    }

    fn known(&self, lineage: LineageId) -> Result<&Arc<Lineage>> {
        self.lineage(lineage).ok_or_else(|| Error::not_found(format!("lineage {lineage} is not known")))
    }
}

#[cfg(test)]
mod tests;
