//! A manifest: what one node's data directory was, entry by entry, and where its bytes lie. One for each node
//! of a backup, so that a restore needs a manifest and packs only, and no index.
//!
//! ```text
//! part     blocks, in order; behind the last block stand the footer and its trailer
//! block    plain length u32 | stored length u32 | sealed
//! footer   sealed
//! trailer  plain length u32 | stored length u32 | "PALNMEND"
//! ```
use prost::Message;

use crate::error::{Error, Result};
use crate::id::{TransactionId, WriterId, check_name};

mod block;
mod columns;
pub mod entry;
mod footer;
mod order;
mod reader;
mod seal;
#[cfg(test)]
mod tests;
mod wire;
mod writer;

pub use block::{Block, ENTRIES_MAX, PIECES_MAX};
pub use footer::{BlockAt, Footer, Warning, Warnings};
pub use reader::ManifestReader;
pub use writer::{Finished, ManifestWriter};

/// Parts are numbered with four digits.
pub const PARTS_MAX: u32 = 9999;
/// The most bytes of one part.
pub const PART_MAX: usize = 32 << 20;

/// Before each block.
const BLOCK_HEADER: usize = 8;
const TRAILER_LEN: usize = 16;
const TRAILER_MAGIC: &[u8; 8] = b"PALNMEND";

/// Names one manifest and proves it: a COMMIT holds one of these for each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRef {
    /// The transaction that wrote it: not the committing one where the node had not changed.
    pub transaction: TransactionId,
    pub node: String,
    /// Random per attempt, so that a second attempt does not reuse the first one's names.
    pub writer: WriterId,
    pub parts: u32,
    /// All parts together.
    pub size: u64,
    /// The sealed footer and its trailer, at the end of the last part.
    pub tail: u32,
    /// BLAKE3 over the plain blocks: equal contents have equal roots, whoever wrote them.
    pub root: [u8; 32],
}

impl ManifestRef {
    /// The object's name of one part.
    pub fn key(&self, part: u32) -> String {
        part_key(self.transaction, &self.node, self.writer, part)
    }

    /// The names of all parts, in order.
    pub fn keys(&self) -> Vec<String> {
        (0..self.parts).map(|part| self.key(part)).collect()
    }

    pub fn encode(&self) -> Vec<u8> {
        wire::ManifestRef {
            transaction: self.transaction.as_bytes().to_vec(),
            node: self.node.clone(),
            writer: self.writer.as_bytes().to_vec(),
            parts: self.parts,
            size: self.size,
            tail: self.tail,
            root: self.root.to_vec(),
        }
        .encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let w = wire::ManifestRef::decode(bytes)
            .map_err(|e| Error::corrupt("a reference to a manifest does not decode").with_source(e))?;
        check_name("node", &w.node)?;
        let tail_fits = u64::from(w.tail) <= w.size && w.tail as usize <= footer::PLAIN_MAX + (1 << 20);
        if !(1..=PARTS_MAX).contains(&w.parts) || !tail_fits {
            return Err(Error::corrupt(format!(
                "a manifest of {} parts, {} bytes, {} of them footer",
                w.parts, w.size, w.tail
            )));
        }
        Ok(Self {
            transaction: TransactionId::from_slice(&w.transaction)?,
            node: w.node,
            writer: WriterId::from_slice(&w.writer)?,
            parts: w.parts,
            size: w.size,
            tail: w.tail,
            root: w.root.as_slice().try_into().map_err(|_| Error::corrupt("a manifest's root is cut off"))?,
        })
    }
}

fn part_key(transaction: TransactionId, node: &str, writer: WriterId, part: u32) -> String {
    format!("t/{transaction}/m/{node}-{writer}-{part:04}")
}

/// The root hash: over each plain block, its length first.
fn hash_block(root: &mut blake3::Hasher, plain: &[u8]) {
    root.update(&(plain.len() as u32).to_le_bytes());
    root.update(plain);
}

/// The two lengths that stand before a block and in the trailer.
fn lengths(bytes: &[u8]) -> (u32, u32) {
    let read =
        |at: usize| bytes[at..at + 4].iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
    (read(0), read(4))
}
