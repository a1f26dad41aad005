//! What there is to tell.
use std::collections::BTreeMap;
use std::fmt;

use palinurus_repository::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The service's health has changed. Its key is the health.
    Health,
    /// A service that is powered off is listed for review.
    Review,
    /// A service is deleted, with its backups.
    Deletion,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Review => "review",
            Self::Deletion => "deletion",
        }
    }

    /// The key before anything was told.
    pub(super) fn untold(self) -> &'static str {
        if self == Self::Health { "unknown" } else { "" }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) service: String,
    pub(crate) kind: Kind,
    /// What it is known by: of one service and kind, the same key twice in a row is told once.
    pub(crate) key: String,
    pub(crate) at: Timestamp,
    /// One line for people.
    pub(crate) what: String,
    /// May be empty.
    pub(crate) why: String,
    /// More for programs, such as when something is going to be deleted.
    pub(crate) details: BTreeMap<String, String>,
    /// Somebody should look.
    pub(crate) urgent: bool,
}
