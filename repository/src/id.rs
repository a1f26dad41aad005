//! The identifiers. All are opaque bytes, printed as hex.
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            pub const LEN: usize = $len;

            pub fn from_slice(bytes: &[u8]) -> Result<Self> {
                bytes.try_into().map(Self).map_err(|_| {
                    Error::invalid(format!("{} of {} bytes, want {}", stringify!($name), bytes.len(), $len))
                })
            }

            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let wrong = || Error::invalid(format!("{text:?} is not {} hex digits", 2 * $len));
                if text.len() != 2 * $len || !text.is_ascii() {
                    return Err(wrong());
                }
                let mut bytes = [0; $len];
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
                }
                Ok(Self(bytes))
            }
        }
    };
}

bytes_id!(
    /// Random, made with the repository; bound into everything sealed.
    RepositoryId, 16
);
bytes_id!(
    /// One backup's or rewrite's writes. Random and sortable by nothing: names spread over the store.
    TransactionId, 16
);
bytes_id!(
    /// Random per process start (and per manifest attempt), so that no object name is ever used twice.
    WriterId, 8
);
bytes_id!(
    /// Keyed BLAKE3 of a chunk's bytes: the unit of dedupe.
    ChunkId, 32
);
bytes_id!(
    /// Keyed BLAKE3 over a file's size and chunk ids, cut to 16 bytes: proves a restored file.
    FileId, 16
);
bytes_id!(
    /// One history of a log that only grows at its end. Random, drawn by the leader.
    LineageId, 16
);
bytes_id!(
    /// Names an operator key; says nothing of the key.
    KeyId, 8
);
bytes_id!(
    /// One drawing of a master key, random: names it before and after its key epoch counts.
    Draw, 8
);

/// A backup is named by the transaction that committed it.
pub type BackupId = TransactionId;

/// The fencing number of a leader. Clocks say when, epochs say who.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names of services and nodes become object names and file names: letters, digits, `.`, `-`, `_`.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        && name.as_bytes()[0].is_ascii_alphanumeric();
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!("{what} name {name:?} is not usable"))
        .with_hint("use 1 to 63 letters, digits, '.', '-' or '_', beginning with a letter or digit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_refusals() {
        let id = TransactionId(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse::<TransactionId>().unwrap(), id);
        for bad in ["", "00", "zz112233445566778899aabbccddeeff", "é0112233445566778899aabbccddeef"] {
            assert!(bad.parse::<TransactionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_never_climb() {
        for bad in ["", "..", ".hidden", "a/b", "a b", "-x", &"x".repeat(64), "é"] {
            assert!(check_name("node", bad).is_err(), "{bad}");
        }
        for good in ["n1", "db-3.example", "a_b"] {
            check_name("node", good).unwrap();
        }
    }
}
