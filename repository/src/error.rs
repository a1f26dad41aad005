//! One error for every crate: its kind says who must act, its hint says how.
use std::error::Error as StdError;
use std::fmt;

/// Who must act on an error. Mapped once to gRPC codes (proto) and once to exit codes (cli).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The operator mends the request or the configuration.
    Invalid,
    /// The caller decides.
    NotFound,
    /// Somebody else was first: load again and decide again.
    Conflict,
    /// A newer epoch owns this: stop.
    Fenced,
    /// Try again later. The call may have been carried out: look before repeating it.
    Unavailable,
    /// Stop, keep the evidence, tell somebody. Never retried.
    Corrupt,
    /// The caller may not do this.
    Denied,
    /// A fault of ours.
    Internal,
}

impl ErrorKind {
    pub const ALL: [ErrorKind; 8] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Fenced,
        Self::Unavailable,
        Self::Corrupt,
        Self::Denied,
        Self::Internal,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Fenced => "fenced",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::Denied => "denied",
            Self::Internal => "internal",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Messages are lowercase and carry the values; the cause is in `source`, never repeated in `what`.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, what: what.into(), hint: None, source: None }))
    }

    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, what)
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, what)
    }

    pub fn conflict(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, what)
    }

    pub fn fenced(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Fenced, what)
    }

    pub fn unavailable(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, what)
    }

    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, what)
    }

    pub fn denied(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Denied, what)
    }

    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, what)
    }

    /// An I/O error, its kind read from the errno.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::AlreadyExists => ErrorKind::Conflict,
            Io::PermissionDenied => ErrorKind::Denied,
            Io::InvalidInput | Io::InvalidFilename | Io::NotADirectory | Io::IsADirectory => {
                ErrorKind::Invalid
            }
            _ => ErrorKind::Unavailable,
        };
        let error = Self::new(kind, what).with_source(source);
        if error.is_full() {
            error.with_hint("free space there, then run the same command again")
        } else {
            error
        }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error, with more to say behind its message.
    #[must_use]
    pub fn with_note(mut self, note: impl fmt::Display) -> Self {
        self.0.what = format!("{} ({note})", self.0.what);
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    pub fn what(&self) -> &str {
        &self.0.what
    }

    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// No room where it was written to: waiting a little will not help.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind as Io;
        let io = self.0.source.as_ref().and_then(|source| source.downcast_ref::<std::io::Error>());
        io.is_some_and(|io| matches!(io.kind(), Io::StorageFull | Io::QuotaExceeded))
    }

    /// The message and every cause, outermost first, in one line.
    pub fn chain(&self) -> String {
        let mut line = self.0.what.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.name(), self.chain())?;
        if let Some(hint) = &self.0.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_both_ways() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(ErrorKind::from_name("other"), None);
    }

    #[test]
    fn a_full_disk_is_known_and_hinted_at() {
        let error = Error::io("write /x", std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert!(error.is_full() && error.hint().is_some_and(|hint| hint.contains("free space")));
        assert!(!Error::unavailable("no answer").is_full());
    }

    #[test]
    fn chain_names_each_cause_once() {
        let error = Error::io("write /x", std::io::Error::other("no luck"));
        assert_eq!(error.chain(), "write /x: no luck");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
