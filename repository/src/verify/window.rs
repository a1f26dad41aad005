//! Blocks of manifests that wait until what they ask of the packs is answered together.
use std::sync::Arc;

use super::Memory;
use super::trailers::{Answer, Ask};
use crate::error::Error;
use crate::id::BackupId;
use crate::manifest::Block;
use crate::manifest::entry::{Content, Entry, Piece};

/// The manifest that a block is of.
#[derive(Debug)]
pub(super) struct Of {
    pub(super) node: String,
    pub(super) users: Vec<BackupId>,
    pub(super) read_pages: bool,
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) of: Arc<Of>,
    pub(super) object: String,
    /// Or why it cannot be had.
    pub(super) block: Result<Block, Error>,
    /// The block before it is another manifest's, or is lost.
    pub(super) fresh: bool,
}

#[derive(Debug)]
pub(super) struct Window {
    max: usize,
    cost: usize,
    pub(super) items: Vec<Item>,
    pub(super) asks: Vec<Ask>,
}

impl Window {
    pub(super) fn new(memory: Memory) -> Self {
        Self { max: memory.window, cost: 0, items: Vec::new(), asks: Vec::new() }
    }

    pub(super) fn push(&mut self, item: Item) {
        if let Ok(block) = &item.block {
            for entry in &block.entries {
                self.cost += size_of::<Entry>() + entry.path.len();
                let Some(content) = entry.content() else { continue };
                let before = self.asks.len();
                self.asks.extend(asked(content));
                let each = size_of::<Piece>() + size_of::<(Ask, Answer, u32)>();
                self.cost += (self.asks.len() - before) * each;
            }
        }
        self.cost += size_of::<Item>() + item.object.len();
        self.items.push(item);
    }

    pub(super) fn is_full(&self) -> bool {
        self.cost >= self.max
    }

    /// What waits, and begins anew.
    pub(super) fn take(&mut self) -> (Vec<Item>, Vec<Ask>) {
        self.cost = 0;
        (std::mem::take(&mut self.items), std::mem::take(&mut self.asks))
    }
}

/// What a file's entry needs answered, in order.
pub(super) fn asked(content: &Content) -> impl Iterator<Item = Ask> + '_ {
    // The pieces of a paged file are bytes of frames; its maps are chunks.
    let chunk = content.pages.is_none();
    let pieces = content.pieces.iter().filter_map(move |piece| match piece {
        Piece::Data(at) => Some(Ask { at: *at, chunk }),
        Piece::Hole(_) => None,
    });
    let maps = content.pages.iter().flat_map(|pages| &pages.maps);
    pieces.chain(maps.map(|map| Ask { at: *map, chunk: true }))
}
