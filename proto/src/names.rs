//! What people and metrics call an operation's kind and state, and a service's health.
use crate::v1::{Health, OperationKind, OperationState};

impl OperationKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Delete => "delete",
            Self::Failover => "failover",
            Self::Retention => "retention",
            Self::Drill => "drill",
        }
    }
}

impl OperationState {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Warnings => "warnings",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Health {
    pub const ALL: [Self; 5] =
        [Self::Unspecified, Self::Protected, Self::Late, Self::Failing, Self::Unprotected];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Protected => "protected",
            Self::Late => "late",
            Self::Failing => "failing",
            Self::Unprotected => "unprotected",
        }
    }
}
