//! What people and metrics call an operation's kind and state.
use crate::v1::{OperationKind, OperationState};

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
