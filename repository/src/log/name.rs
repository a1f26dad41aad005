//! The names of pieces. Both ends are in the name, so that a listing alone shows what is covered and where it is not.
use std::fmt;

use super::{PIECE_MAX, Position, WHOLE_MAX};
use crate::error::{Error, Result};
use crate::id::LineageId;

/// One object with the bytes of a lineage from a position to another, put under a grant's epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piece {
    pub lineage: LineageId,
    /// Of the grant that it was put under.
    pub epoch: u32,
    pub from: Position,
    pub to: Position,
    /// Several pieces of that grant again, as one.
    pub whole: bool,
}

impl Piece {
    pub fn check(&self) -> Result<()> {
        let most = if self.whole { WHOLE_MAX } else { PIECE_MAX };
        let fits = self.from < self.to && self.to - self.from <= most as u64 && self.epoch > 0;
        if fits { Ok(()) } else { Err(Error::invalid(format!("{self} is no piece of a log"))) }
    }

    /// How many bytes it has. Zero for one that is refused.
    pub fn len(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The object's name. Hex of fixed width, so that listing order is the order of positions within a grant.
    pub fn key(&self) -> String {
        let Self { lineage, epoch, from, to, whole } = self;
        let kind = if *whole { "whole/" } else { "" };
        format!("l/{lineage}/{kind}{epoch:010}/{from:016x}-{to:016x}")
    }

    pub fn from_key(key: &str) -> Result<Self> {
        let parse = || {
            let (lineage, rest) = key.strip_prefix("l/")?.split_once('/')?;
            let (whole, rest) = match rest.strip_prefix("whole/") {
                Some(rest) => (true, rest),
                None => (false, rest),
            };
            let (epoch, rest) = rest.split_once('/')?;
            let (from, to) = rest.split_once('-')?;
            Some(Piece {
                lineage: lineage.parse().ok()?,
                epoch: epoch.parse().ok()?,
                from: u64::from_str_radix(from, 16).ok()?,
                to: u64::from_str_radix(to, 16).ok()?,
                whole,
            })
        };
        parse()
            .filter(|piece| piece.key() == key && piece.check().is_ok())
            .ok_or_else(|| Error::invalid(format!("{key:?} is not the name of a piece of a log")))
    }

    /// All of the other lies in it, and both are of one grant: the other one is not needed.
    pub fn replaces(&self, other: &Piece) -> bool {
        (self.lineage, self.epoch) == (other.lineage, other.epoch)
            && self != other
            && self.whole
            && self.from <= other.from
            && other.to <= self.to
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Piece({self})")
    }
}

/// What the names of all objects of a lineage begin with.
pub fn prefix(lineage: LineageId) -> String {
    format!("l/{lineage}/")
}

/// The engine's own account of the lineage's parents.
pub fn history_key(lineage: LineageId) -> String {
    format!("l/{lineage}/history")
}
