//! The end of a manifest: what it holds in sum, what could not be backed up, which packs it needs, and where its
//! blocks are.
use prost::Message;

use super::{BLOCK_HEADER, ManifestRef, PART_MAX, block, wire};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{TransactionId, WriterId};
use crate::ledger::PackSet;

/// The most bytes of a footer before compression: the directory of hundreds of millions of entries.
pub(super) const PLAIN_MAX: usize = 64 << 20;
const WARNINGS_MAX: usize = 10_000;
const WARNING_BYTES_MAX: usize = 4 << 20;
const MESSAGE_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    pub transaction: TransactionId,
    pub node: String,
    pub writer: WriterId,
    /// When the node was scanned: what is younger may have changed unseen.
    pub scan_started: Timestamp,
    pub entries: u64,
    pub files: u64,
    pub directories: u64,
    /// Of all files together, holes included.
    pub bytes: u64,
    pub warnings: Warnings,
    /// Every pack that an entry names, also of other transactions.
    pub packs: PackSet,
    pub root: [u8; 32],
    pub blocks: Vec<BlockAt>,
}

/// Where a block lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockAt {
    /// The path of its first entry.
    pub first: Vec<u8>,
    /// Its first entry began in the block before.
    pub continued: bool,
    pub part: u32,
    /// Of the block's header, from the start of the part.
    pub offset: u32,
    /// Of the sealed bytes behind the header.
    pub stored: u32,
    pub plain: u32,
}

impl BlockAt {
    pub(super) fn end(&self) -> u64 {
        u64::from(self.offset) + BLOCK_HEADER as u64 + u64::from(self.stored)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub path: Vec<u8>,
    pub message: String,
}

/// What could not be backed up as it was. Keeps the first ten thousand and counts the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    kept: Vec<Warning>,
    bytes: usize,
    total: u64,
}

impl Warnings {
    pub fn push(&mut self, path: &[u8], message: &str) {
        self.total += 1;
        let mut end = message.len().min(MESSAGE_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let bytes = self.bytes + path.len() + end;
        if self.kept.len() < WARNINGS_MAX && bytes <= WARNING_BYTES_MAX {
            self.bytes = bytes;
            self.kept.push(Warning { path: path.to_vec(), message: message[..end].to_owned() });
        }
    }

    pub fn kept(&self) -> &[Warning] {
        &self.kept
    }

    /// How many there were, kept or not.
    pub fn total(&self) -> u64 {
        self.total
    }
}

impl From<Vec<(Vec<u8>, String)>> for Warnings {
    fn from(list: Vec<(Vec<u8>, String)>) -> Self {
        let mut warnings = Self::default();
        list.iter().for_each(|(path, message)| warnings.push(path, message));
        warnings
    }
}

impl Footer {
    pub(super) fn encode(&self) -> Vec<u8> {
        wire::Footer {
            transaction: self.transaction.as_bytes().to_vec(),
            node: self.node.clone(),
            writer: self.writer.as_bytes().to_vec(),
            scan_started: self.scan_started.0,
            entries: self.entries,
            files: self.files,
            directories: self.directories,
            bytes: self.bytes,
            warnings: (self.warnings.kept.iter())
                .map(|warning| wire::Warning { path: warning.path.clone(), message: warning.message.clone() })
                .collect(),
            warning_count: self.warnings.total,
            packs: self.packs.encode(),
            root: self.root.to_vec(),
            blocks: (self.blocks.iter())
                .map(|at| wire::BlockAt {
                    first: at.first.clone(),
                    continued: at.continued,
                    part: at.part,
                    offset: at.offset,
                    stored: at.stored,
                    plain: at.plain,
                })
                .collect(),
        }
        .encode_to_vec()
    }

    /// Decodes the footer of `reference` and refuses what does not fit it.
    pub(super) fn decode(plain: &[u8], reference: &ManifestRef) -> Result<Self> {
        let w = wire::Footer::decode(plain).map_err(|e| wrong("does not decode").with_source(e))?;
        let mut warnings = Warnings { kept: Vec::new(), bytes: 0, total: w.warning_count };
        for warning in w.warnings {
            warnings.bytes += warning.path.len() + warning.message.len();
            warnings.kept.push(Warning { path: warning.path, message: warning.message });
        }
        let footer = Self {
            transaction: TransactionId::from_slice(&w.transaction)?,
            node: w.node,
            writer: WriterId::from_slice(&w.writer)?,
            scan_started: Timestamp(w.scan_started),
            entries: w.entries,
            files: w.files,
            directories: w.directories,
            bytes: w.bytes,
            warnings,
            packs: PackSet::decode(&w.packs)?,
            root: w.root.as_slice().try_into().map_err(|_| wrong("has no root"))?,
            blocks: (w.blocks.into_iter())
                .map(|at| BlockAt {
                    first: at.first,
                    continued: at.continued,
                    part: at.part,
                    offset: at.offset,
                    stored: at.stored,
                    plain: at.plain,
                })
                .collect(),
        };
        footer.check(reference)?;
        Ok(footer)
    }

    fn check(&self, reference: &ManifestRef) -> Result<()> {
        if (self.transaction, &self.node, self.writer)
            != (reference.transaction, &reference.node, reference.writer)
        {
            return Err(wrong("is of another manifest"));
        }
        if self.root != reference.root {
            return Err(wrong("has another root than its reference"));
        }
        let (mut part, mut end) = (0, 0);
        let mut size = u64::from(reference.tail);
        for at in &self.blocks {
            if at.part == part + 1 && end > 0 {
                (part, end) = (at.part, 0);
            }
            if at.part != part || u64::from(at.offset) != end {
                return Err(wrong("has a directory with gaps"));
            }
            if at.plain as usize > block::PLAIN_MAX || at.end() > PART_MAX as u64 {
                return Err(wrong("has a block that is too long"));
            }
            size += at.end() - end;
            end = at.end();
        }
        if part + 1 != reference.parts || size != reference.size {
            return Err(wrong("does not account for every byte of its parts"));
        }
        Ok(())
    }
}

fn wrong(why: &str) -> Error {
    Error::corrupt(format!("a manifest's footer {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_bounded_and_counted() {
        let mut warnings = Warnings::default();
        for i in 0..20_000 {
            warnings.push(format!("f{i}").as_bytes(), "a socket");
        }
        assert_eq!((warnings.kept().len(), warnings.total()), (WARNINGS_MAX, 20_000));
        let mut long = Warnings::default();
        (0..10_000).for_each(|_| long.push(b"x", &"é".repeat(2000)));
        assert!(long.kept().len() < 5000 && long.kept()[0].message.len() == MESSAGE_MAX);
        assert_eq!(long.total(), 10_000);
    }
}
