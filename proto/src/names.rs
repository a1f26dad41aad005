//! What people and metrics call an operation's kind and state, and a service's health.
use crate::v1::{Health, OperationKind, OperationState, PowerState};

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
    pub const ALL: [Self; 6] =
        [Self::Unspecified, Self::Protected, Self::Late, Self::Failing, Self::Unprotected, Self::Off];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Protected => "protected",
            Self::Late => "late",
            Self::Failing => "failing",
            Self::Unprotected => "unprotected",
            Self::Off => "off",
        }
    }
}

impl PowerState {
    pub const ALL: [Self; 5] =
        [Self::PowerOn, Self::PowerStopping, Self::PowerOff, Self::PowerStarting, Self::PowerDeleting];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerOn => "on",
            Self::PowerStopping => "stopping",
            Self::PowerOff => "off",
            Self::PowerStarting => "starting",
            Self::PowerDeleting => "deleting",
        }
    }
}
