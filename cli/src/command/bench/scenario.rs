//! What is done with each kind of data.

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Nothing is stored yet.
    Cold,
    /// Nothing has changed since.
    Unchanged,
    /// One percent of the pages of large files, and of the small files, has changed in place.
    Changed,
    /// One percent was added at the ends of large files, or as new ones.
    Append,
    /// All of it, into an empty directory.
    Restore,
    /// One file in the middle.
    RestoreOne,
    /// Cold, of two nodes that have the same.
    TwoReplicas,
    /// Cold, of three.
    ThreeReplicas,
}

impl Scenario {
    pub(super) const ALL: [Self; 8] = [
        Self::Cold,
        Self::Unchanged,
        Self::Changed,
        Self::Append,
        Self::Restore,
        Self::RestoreOne,
        Self::TwoReplicas,
        Self::ThreeReplicas,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Unchanged => "unchanged",
            Self::Changed => "changed",
            Self::Append => "append",
            Self::Restore => "restore",
            Self::RestoreOne => "restore one file",
            Self::TwoReplicas => "two replicas",
            Self::ThreeReplicas => "three replicas",
        }
    }

    pub(super) fn nodes(self) -> u64 {
        match self {
            Self::TwoReplicas => 2,
            Self::ThreeReplicas => 3,
            _ => 1,
        }
    }
}
