//! Logs: what a database writes between two backups, kept so that a restore may stop at any moment
//! (docs/decisions/013-log-streams.md, docs/format.md §16).
//!
//! A *lineage* is one history that only grows at its end. A *grant* says who may append to it, from which position on,
//! under an epoch that only grows. A *piece* is one object with the bytes from one position to another. Lineages and
//! grants are in the ledger, positions are not: a listing of names shows what is covered.
//!
//! **What counts**: a piece counts from its grant's `from` to the next grant's, and nowhere else. So a writer whose grant
//! is over may put what it likes, and no clock and no lock is needed.
mod coverage;
mod floor;
mod history;
mod lineage;
mod name;
mod pages;
mod piece;
mod reader;
mod store;
mod survey;
mod trail;
mod windows;
mod wire;

pub use coverage::{Counted, Coverage, Gathering};
pub use floor::floors;
pub use history::HISTORY_MAX;
pub use lineage::{At, Grant, IDENTITY_MAX, Lineage, Section, Span};
pub use name::{Piece, history_key, prefix};
pub(crate) use pages::Pages;
pub use piece::{PIECE_MAX, WHOLE_MAX, open, seal};
pub use reader::{LogReader, READ_MAX};
pub use store::{LogStore, Stored};
pub use survey::{Resolved, Survey, Target, show};
pub use trail::{POINTS_MAX, RestorePoint, Trail};
pub use windows::{Anchor, Lineages, Window, windows};

/// A place in a log: it only grows. In PostgreSQL an LSN; of a binlog, file number × 2³² + offset.
pub type Position = u64;

#[cfg(test)]
pub(crate) use survey::tests::World;

#[cfg(test)]
mod tests;
