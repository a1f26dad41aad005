//! Mends a damaged repository. Two ways, for two sources:
//!
//! - [`put_back`]: a copy has the same object. It takes the damaged one's place under its name: objects are written once,
//!   so what opens under a name is what was sealed there, byte for byte, and no nonce is used for anything else.
//! - [`rewrite`]: the chunks lie elsewhere in the repository by now, because a backup stored them anew, or in frames
//!   of the damaged pack that still open. Older backups get manifests that say so.
//!
//! Nothing is ever sealed again under a name that was used: another version of zstd compresses the same bytes to others, and
//! one key and nonce would then have sealed two different texts (docs/decisions/012-repair.md).
mod base;
mod logs;
mod put_back;
mod rewrite;
mod sources;

pub use base::{put_back_base, put_back_ledger};
pub use put_back::{PutBack, put_back};
pub use rewrite::{Rewrote, rewrite};
