//! What damage costs: which files cannot be restored, and what nothing new may be built on.
use std::collections::BTreeSet;

use super::{Check, DamageKind};
use crate::id::BackupId;
use crate::ledger::Objects;
use crate::manifest::Block;
use crate::manifest::entry::{Entry, Piece};
use crate::pack::{FrameAt, PackId};

/// Files named for one damaged object; more are counted.
const FILES_MAX: usize = 20;

/// A file that cannot be restored whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoiledFile {
    pub node: String,
    pub path: Vec<u8>,
    /// Those that name it by the manifest that was looked at.
    pub backups: Vec<BackupId>,
}

/// What of a pack cannot be had.
#[derive(Debug)]
pub(super) enum Bad {
    All,
    Frames(BTreeSet<u32>),
}

impl Default for Bad {
    fn default() -> Self {
        Self::Frames(BTreeSet::new())
    }
}

impl Bad {
    pub(super) fn extend(&mut self, ordinals: impl Iterator<Item = u32>) {
        if let Self::Frames(frames) = self {
            frames.extend(ordinals);
        }
    }

    fn has(&self, ordinal: u32) -> bool {
        match self {
            Self::All => true,
            Self::Frames(frames) => frames.contains(&ordinal),
        }
    }
}

impl Check<'_> {
    /// Finds the files of a block that need what is bad.
    pub(super) fn spoiled(&mut self, node: &str, block: &Block, users: &[BackupId]) {
        if self.bad.is_empty() {
            return;
        }
        for entry in &block.entries {
            let spoils: BTreeSet<PackId> = frames(entry)
                .filter(|at| self.bad.get(&at.pack).is_some_and(|bad| bad.has(at.ordinal)))
                .map(|at| at.pack)
                .collect();
            for pack in spoils {
                let object = pack.key();
                // What was found of one pack may be of several kinds: its files are named with the first.
                let kinds = (object.clone(), DamageKind::Missing)..=(object, DamageKind::Unreadable);
                let Some((_, finding)) = self.found.0.range_mut(kinds).next() else { continue };
                let named = |file: &SpoiledFile| file.node == node && file.path == entry.path;
                if finding.files.last().is_some_and(named) {
                    continue;
                }
                finding.file_count += 1;
                if finding.files.len() < FILES_MAX {
                    finding.files.push(SpoiledFile {
                        node: node.to_owned(),
                        path: entry.path.clone(),
                        backups: users.to_vec(),
                    });
                }
            }
        }
    }
}

fn frames(entry: &Entry) -> impl Iterator<Item = &FrameAt> {
    let content = entry.content();
    let pieces = content.into_iter().flat_map(|content| &content.pieces).filter_map(Piece::frame);
    let maps = content.and_then(|content| content.pages.as_ref()).into_iter().flat_map(|pages| &pages.maps);
    pieces.chain(maps.map(|map| &map.frame))
}

/// Adds the object where damage is certain: what the store only failed to give may be whole.
pub(super) fn note(damaged: &mut Objects, object: &str, kind: DamageKind) {
    if kind == DamageKind::Unreadable {
        return;
    }
    if let Ok(pack) = PackId::from_key(object) {
        damaged.packs.insert(pack);
    } else if let Some((stem, _)) = object.rsplit_once('-').filter(|(stem, _)| stem.contains("/m/")) {
        damaged.manifests.insert(stem.to_owned());
    }
}
