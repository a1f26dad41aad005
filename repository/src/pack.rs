//! A pack: many sealed frames in one object, its trailer last, so that it is written without seeking.
//!
//! ```text
//! header 8     "PALN" 'P' version suite 0
//! frames       ciphertext || tag, no plain header: sizes and kinds are hidden
//! trailer      sealed PackSummary
//! footer 24    trailer length u32 | frame count u32 | checksum u64 | "PALNPEND"
//! ```
//! The key of a pack is its own and the nonce is the frame's ordinal, so no nonce is stored or used twice.
//! The associated data of a frame names repository, pack, ordinal, codec and plain length: a frame cannot be
//! moved, swapped or cut.

mod place;
mod reader;
mod seal;
mod summary;
#[cfg(test)]
mod tests;
mod whole;
pub(crate) mod wire;
mod writer;

pub use place::{ChunkAt, Codec, FrameAt, PackId};
pub use reader::{FrameReader, check_footer, check_header, open_trailer, trailer_len};
pub use summary::{FrameSummary, PackSummary};
pub use whole::open_whole;
pub use writer::{PackWriter, SealedPack};

/// The most plain bytes in one frame.
pub const FRAME_MAX: usize = 1 << 20;
/// What a pack is filled to.
pub const PACK_TARGET: usize = 32 << 20;
/// What a trailer may need behind the last frame: 1 MiB holds the ids of 28,000 chunks.
const TRAILER_ROOM: usize = 1 << 20;
/// The size of the buffer that a pack is built in.
pub const PACK_BUFFER: usize = PACK_TARGET + FRAME_MAX + TRAILER_ROOM;
/// A pack holds at most this many chunks, so that its trailer fits the room left for it.
const CHUNKS_MAX: usize = 24_000;

pub const HEADER_LEN: usize = 8;
pub const FOOTER_LEN: usize = 24;
const HEADER_MAGIC: &[u8; 6] = b"PALNP\x01";
const FOOTER_MAGIC: &[u8; 8] = b"PALNPEND";
