//! Planted bugs, each in one place of the tree, by which the simulation proves that it would notice. Compiled in only
//! with the feature `mutants`, and even then nothing changes before a test plants one on its own thread.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A ledger record is appended without asking whether the rules allow it.
    UnguardedAppend,
    /// A sweep takes what an open transaction has written.
    SweepIgnoresOpen,
    /// A coordinator goes on leading when its lease is over.
    LeaderIgnoresLease,
    /// An agent obeys whichever epoch speaks.
    AgentIgnoresEpochs,
    /// A release gives nothing back.
    ReleaseForgets,
    /// A check tells of no damage.
    BlindCheck,
    /// A failover restores without having fenced whoever had the place.
    UnfencedFailover,
    /// An agent whose place another has is welcomed again.
    FencedIsSeated,
    /// An empty replacement is backed up as if it were the node.
    ReplacementIsNode,
    /// A database hears that its log is safe when a piece is sealed, before that is stored.
    LogAckedUnstored,
}

impl Mutant {
    pub const ALL: [Self; 10] = [
        Self::UnguardedAppend,
        Self::SweepIgnoresOpen,
        Self::LeaderIgnoresLease,
        Self::AgentIgnoresEpochs,
        Self::ReleaseForgets,
        Self::BlindCheck,
        Self::UnfencedFailover,
        Self::FencedIsSeated,
        Self::ReplacementIsNode,
        Self::LogAckedUnstored,
    ];
}

#[cfg(feature = "mutants")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Plants the bug on this thread alone, in place of another; returns that one.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Option<Mutant>) -> Option<Mutant> {
    PLANTED.with(|planted| planted.replace(mutant))
}

#[cfg(feature = "mutants")]
#[must_use]
pub fn on(mutant: Mutant) -> bool {
    PLANTED.with(|planted| planted.get() == Some(mutant))
}

#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[must_use]
pub const fn on(_: Mutant) -> bool {
    false
}
