//! Writes a manifest, entry by entry, in bounded memory: parts are handed out as they fill.
use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::block::{Builder, PIECES_MAX};
use super::entry::{Content, Entry, Kind};
use super::footer::{self, BlockAt, Footer, Warnings};
use super::order::Order;
use super::seal::{FOOTER, Seal};
use super::{
    BLOCK_HEADER, ManifestRef, PART_MAX, PARTS_MAX, TRAILER_LEN, TRAILER_MAGIC, hash_block, part_key,
};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{TransactionId, WriterId, check_name};
use crate::keys::Keys;
use crate::ledger::PackSet;

/// Put what [`full_part`](Self::full_part) gives after each `push`, and what [`finish`](Self::finish) gives last.
/// Parts may be put in any order: nothing names the manifest before its COMMIT.
#[derive(Debug)]
pub struct ManifestWriter {
    seal: Seal,
    part_max: usize,
    order: Order,
    builder: Builder,
    /// The first entry of `builder` began in the block before.
    continued: bool,
    part: Vec<u8>,
    ready: VecDeque<(String, Bytes)>,
    parts: u32,
    size: u64,
    root: blake3::Hasher,
    /// Grows block by block; its root and warnings come last.
    footer: Footer,
}

/// A manifest, whole. The parts are what is left to put.
#[derive(Debug)]
pub struct Finished {
    pub parts: Vec<(String, Bytes)>,
    pub reference: ManifestRef,
    pub packs: PackSet,
    pub files: u64,
    pub bytes: u64,
}

impl ManifestWriter {
    pub fn new(
        keys: &Keys,
        transaction: TransactionId,
        node: &str,
        writer: WriterId,
        scan_started: Timestamp,
    ) -> Result<Self> {
        check_name("node", node)?;
        Ok(Self {
            seal: Seal::new(keys, transaction, node, writer)?,
            part_max: PART_MAX,
            order: Order::default(),
            builder: Builder::default(),
            continued: false,
            part: Vec::new(),
            ready: VecDeque::new(),
            parts: 0,
            size: 0,
            root: blake3::Hasher::new(),
            footer: Footer {
                transaction,
                node: node.to_owned(),
                writer,
                scan_started,
                entries: 0,
                files: 0,
                directories: 0,
                bytes: 0,
                warnings: Warnings::default(),
                packs: PackSet::new(),
                root: [0; 32],
                blocks: Vec::new(),
            },
        })
    }

    /// Smaller parts than usual, for tests.
    #[must_use]
    pub fn with_part_max(mut self, part_max: usize) -> Self {
        self.part_max = part_max.min(PART_MAX);
        self
    }

    /// Adds the next entry: paths rise in the order of [`compare_paths`](super::entry::compare_paths), `.` is the
    /// first, and every directory comes before what it holds.
    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        entry.check()?;
        self.order.step(&entry.path, entry.kind == Kind::Directory)?;
        self.append(entry)
    }

    /// Adds an entry unchecked.
    pub(super) fn append(&mut self, entry: &Entry) -> Result<()> {
        self.footer.entries += 1;
        match &entry.kind {
            Kind::Directory => self.footer.directories += 1,
            Kind::File(content) => {
                self.footer.files += 1;
                self.footer.bytes = self.footer.bytes.saturating_add(content.size);
            }
            Kind::Symlink { .. } | Kind::Hardlink { .. } => {}
        }
        let wanted = entry.content().map_or(0, pieces_and_maps);
        let room = self.builder.room(&entry.meta);
        if room == 0 || room < wanted {
            self.close_block(false)?;
        }
        match entry.content().filter(|_| wanted > PIECES_MAX) {
            None => self.builder.push(entry),
            Some(content) => {
                for (pieces, maps) in slices(content, PIECES_MAX) {
                    if !self.builder.is_empty() {
                        self.close_block(true)?;
                        self.continued = true;
                    }
                    self.builder.push_slice(entry, content, pieces, maps);
                }
            }
        }
        Ok(())
    }

    /// A part that is ready to be put, with its name.
    pub fn full_part(&mut self) -> Option<(String, Bytes)> {
        self.ready.pop_front()
    }

    fn close_block(&mut self, continues: bool) -> Result<()> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let builder = std::mem::take(&mut self.builder);
        let continued = std::mem::take(&mut self.continued);
        builder.packs().for_each(|pack| {
            self.footer.packs.insert(pack);
        });
        let first = builder.first().to_vec();
        let plain = builder.finish(continued, continues)?;
        hash_block(&mut self.root, &plain);
        let sealed = self.seal.seal(self.footer.blocks.len() as u64, &plain)?;
        if !self.part.is_empty() && self.part.len() + BLOCK_HEADER + sealed.len() > self.part_max {
            self.close_part()?;
        }
        let at = BlockAt {
            first,
            continued,
            part: self.parts,
            offset: self.part.len() as u32,
            stored: sealed.len() as u32,
            plain: plain.len() as u32,
        };
        self.part.extend_from_slice(&at.plain.to_le_bytes());
        self.part.extend_from_slice(&at.stored.to_le_bytes());
        self.part.extend_from_slice(&sealed);
        self.footer.blocks.push(at);
        Ok(())
    }

    fn close_part(&mut self) -> Result<()> {
        if self.parts == PARTS_MAX {
            return Err(Error::invalid(format!("a manifest of more than {PARTS_MAX} parts")));
        }
        let part = std::mem::take(&mut self.part);
        self.size += part.len() as u64;
        let key = part_key(self.footer.transaction, &self.footer.node, self.footer.writer, self.parts);
        self.ready.push_back((key, Bytes::from(part)));
        self.parts += 1;
        Ok(())
    }

    pub fn finish(mut self, warnings: impl Into<Warnings>) -> Result<Finished> {
        self.close_block(false)?;
        let root = self.root.finalize().into();
        self.footer.root = root;
        self.footer.warnings = warnings.into();
        let plain = self.footer.encode();
        if plain.len() > footer::PLAIN_MAX {
            return Err(Error::internal(format!("a manifest's footer of {} bytes", plain.len())));
        }
        let sealed = self.seal.seal(FOOTER, &plain)?;
        self.part.extend_from_slice(&sealed);
        self.part.extend_from_slice(&(plain.len() as u32).to_le_bytes());
        self.part.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
        self.part.extend_from_slice(TRAILER_MAGIC);
        self.close_part()?;
        Ok(Finished {
            reference: ManifestRef {
                transaction: self.footer.transaction,
                node: self.footer.node,
                writer: self.footer.writer,
                parts: self.parts,
                size: self.size,
                tail: (sealed.len() + TRAILER_LEN) as u32,
                root,
            },
            parts: self.ready.into(),
            packs: self.footer.packs,
            files: self.footer.files,
            bytes: self.footer.bytes,
        })
    }
}

fn pieces_and_maps(content: &Content) -> usize {
    content.pieces.len() + content.pages.as_ref().map_or(0, |pages| pages.maps.len())
}

/// Cuts a file's pieces and page maps into runs of at most `limit`, each map with the pieces it stands for, and
/// where possible between two units of pages.
pub(super) fn slices(content: &Content, limit: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let maps = content.pages.as_ref().map_or(0, |pages| pages.maps.len());
    let unit = content.pages.as_ref().map_or(u64::MAX, |pages| pages.unit().max(1));
    let mut slices = Vec::new();
    let (mut piece, mut map, mut offset) = (0, 0, 0u64);
    while piece < content.pieces.len() || map < maps {
        let start = (piece, map);
        let mut between = None;
        while (piece, map) != (content.pieces.len(), maps) {
            if piece + map - start.0 - start.1 == limit {
                if let Some(cut) = between {
                    (piece, map, offset) = cut;
                }
                break;
            }
            if map < maps && (map as u64 * unit < offset || piece == content.pieces.len()) {
                map += 1;
            } else {
                offset += content.pieces[piece].len();
                piece += 1;
            }
            if offset % unit == 0 && map as u64 * unit >= offset {
                between = Some((piece, map, offset));
            }
        }
        slices.push((start.0..piece, start.1..map));
    }
    slices
}
