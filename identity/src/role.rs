//! What an operator may do; each role may do what those before it may.
use std::fmt;
use std::str::FromStr;

use palinurus_repository::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks at services of its own, and sees no others.
    Tenant,
    /// Looks.
    Viewer,
    /// Starts and cancels work that takes nothing away.
    Operator,
    /// Says what is protected and how, and deletes.
    Admin,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Tenant, Self::Viewer, Self::Operator, Self::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| {
            Error::invalid(format!("there is no role {text:?}"))
                .with_hint("tenant, viewer, operator or admin")
        })
    }
}
