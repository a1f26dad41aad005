//! The invariants by name, as design and protocol number them. A run that breaks one names it.
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A listed backup restores, byte for byte.
    I1Restores,
    /// Two epochs never both succeed.
    I2OneEpoch,
    /// Nothing that a backup or an open transaction references is deleted.
    I3NothingLost,
    /// Every operation ends, in bounded time once all is well again.
    I4Ends,
    /// Nothing borrowed stays behind.
    I5NothingLeft,
    /// What is kept is bounded.
    I6Bounded,
    /// Damage is reported and never served.
    I7Damage,
    /// An agent reaches only its own service's data.
    I8OwnData,
    /// What is listed is what there is.
    I9Listed,
    /// What a database was told to be safe is stored for good, and is of one history.
    I10Log,
    /// A lost node's place goes to one agent, without data and with the newest backup; who had it touches nothing.
    OnePlace,
    /// None of these: code that panicked, or a fault of the simulation itself.
    Sound,
}

#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: Invariant,
    pub at: u64,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:.3} s: {}", self.invariant, self.at as f64 / 1000.0, self.what)
    }
}
