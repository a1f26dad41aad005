//! What lies in the object store. Knows no wire, no cluster and no database; enough by itself to list, verify
//! and restore when everything else is lost. `docs/format.md` is the specification.
//!
//! Read [`commit`] first: it says what a backup is and in which order it comes to be.

pub mod blocking;
pub mod chunk;
pub mod clock;
pub mod commit;
pub mod copy;
pub mod crypto;
pub mod entropy;
pub mod epochs;
pub mod error;
pub mod fetch;
pub mod group;
pub mod id;
pub mod index;
pub mod keyfile;
pub mod keyring;
pub mod keys;
pub mod keysource;
pub mod label;
pub mod ledger;
pub mod log;
pub mod manifest;
mod masters;
pub mod mutant;
pub mod pack;
pub mod page;
pub mod quarantine;
mod relocate;
pub mod repair;
pub mod retention;
pub mod rewrite;
pub mod storage;
pub mod sweep;
pub mod verify;
mod wrapper;

pub use blocking::Blocking;
pub use clock::{Clock, SystemClock, Timestamp};
pub use commit::Repository;
pub use entropy::{Entropy, SystemEntropy};
pub use epochs::{KeyEpoch, Sealed};
pub use error::{Error, ErrorKind, Result};
pub use id::{
    BackupId, ChunkId, Draw, Epoch, FileId, KeyId, LineageId, RepositoryId, TransactionId, WriterId,
};
pub use keyfile::KeyFile;
pub use keyring::Keyring;
pub use keys::{Keys, RootKey};
pub use keysource::KeySource;
pub use ledger::Ledger;
pub use storage::{Storage, Stores};
