//! Manifests: every entry, and that the packs have what each names.
use std::collections::{BTreeMap, BTreeSet};

use super::pages::Pages;
use super::{Check, DamageKind};
use crate::error::{Error, ErrorKind};
use crate::id::BackupId;
use crate::keys::FileHasher;
use crate::ledger::{BackupRecord, NodeCommit, manifest_stem};
use crate::manifest::entry::{Content, Entry, Piece};
use crate::manifest::{Block, ManifestReader, ManifestRef};
use crate::pack::ChunkAt;

/// A manifest and the backups it stands in: more than one where a node did not change.
type Uses<'a> = (ManifestRef, Vec<(&'a BackupRecord, &'a NodeCommit)>);

/// The id of a file, computed while its entries pass by; unknown where a pack's trailer is.
struct FileCheck {
    hasher: Option<FileHasher>,
    /// Where its pages are read as well.
    pages: Option<Pages>,
}

impl Check<'_> {
    pub(super) async fn manifests(&mut self) {
        let backups = self.backups.clone();
        let mut manifests: BTreeMap<String, Uses<'_>> = BTreeMap::new();
        for (backup, node) in
            backups.iter().flat_map(|backup| backup.nodes.iter().map(move |node| (backup, node)))
        {
            let reference = &node.manifest;
            // References that differ and have the same name contradict each other: both are looked at.
            let name = format!("{} {:02x?}", reference.key(0), reference.encode());
            manifests.entry(name).or_insert_with(|| (reference.clone(), Vec::new())).1.push((backup, node));
        }
        let total = manifests.len() as u64;
        self.tell("manifests", 0, total);
        let newest = self.newest();
        for (reference, uses) in manifests.into_values() {
            self.manifest(&reference, &uses, &newest).await;
            self.report.manifests_checked += 1;
            self.tell("manifests", self.report.manifests_checked, total);
        }
    }

    async fn manifest(
        &mut self,
        reference: &ManifestRef,
        uses: &[(&BackupRecord, &NodeCommit)],
        newest: &BTreeSet<String>,
    ) {
        let stem = manifest_stem(reference);
        let read_pages = newest.contains(&stem);
        if self.doubted.manifests.contains(&stem) {
            // Unless something is found now.
            self.report.whole.manifests.insert(stem);
        }
        let users: Vec<BackupId> = uses.iter().map(|(backup, _)| backup.id).collect();
        let sizes = self.parts(reference, &users).await;
        let lost = |part: u32| sizes.get(part as usize).is_none_or(Option::is_none);
        let storage = self.repository.storage().clone();
        let mut reader = match ManifestReader::open(storage, self.repository.keys(), reference).await {
            Ok(reader) => reader,
            // Where the last part is missing, that is said already.
            Err(error) if error.kind() == ErrorKind::NotFound && lost(reference.parts.saturating_sub(1)) => {
                return;
            }
            Err(error) => {
                return self.found.error(&reference.key(reference.parts.saturating_sub(1)), &error, users);
            }
        };
        self.compare_sizes(&reader, &sizes, &users);
        self.compare_sums(&reader, uses);
        let mut file = None;
        loop {
            let part = reader.next_part();
            let object = reference.key(part.unwrap_or_default());
            match reader.next_block().await {
                Ok(None) => return,
                Ok(Some(block)) => {
                    self.block(&object, &block, &mut file, &users, read_pages).await;
                    self.spoiled(&reference.node, &block, &users);
                }
                Err(error) => {
                    if error.kind() != ErrorKind::NotFound || !part.is_some_and(lost) {
                        self.found.error(&object, &error, users.iter().copied());
                    }
                    if part.is_none() {
                        return;
                    }
                    file = None;
                    reader.skip();
                }
            }
        }
    }

    /// The sizes of the parts, where they can be had.
    async fn parts(&mut self, reference: &ManifestRef, users: &[BackupId]) -> Vec<Option<u64>> {
        let mut sizes = Vec::new();
        for key in reference.keys() {
            let size = self.repository.storage().size(&key).await;
            if let Err(error) = &size {
                self.found.error(&key, error, users.iter().copied());
            }
            sizes.push(size.ok());
        }
        sizes
    }

    fn compare_sizes(&mut self, reader: &ManifestReader, sizes: &[Option<u64>], users: &[BackupId]) {
        for (part, size) in (0u32..).zip(sizes) {
            let written = reader.part_size(part);
            if size.is_some_and(|size| size != written) {
                let what = format!("{} bytes, and {written} were written", size.unwrap_or_default());
                let object = reader.reference().key(part);
                self.found.add(&object, DamageKind::WrongSize, what, users.iter().copied());
            }
        }
    }

    /// What the COMMITs say of the manifest and what it says of itself.
    fn compare_sums(&mut self, reader: &ManifestReader, uses: &[(&BackupRecord, &NodeCommit)]) {
        let footer = reader.footer();
        let object = reader.reference().key(reader.reference().parts - 1);
        for (backup, node) in uses {
            if !footer.packs.is_subset(&backup.packs) {
                let what =
                    "it uses packs that its COMMIT does not name, and that a sweep may therefore delete";
                self.found.add(&object, DamageKind::Inconsistent, what, [backup.id]);
            }
            if (footer.files, footer.bytes) != (node.files, node.bytes) || footer.node != node.node {
                let what = format!(
                    "it has {} files of {} bytes of node {}, and its COMMIT {} of {} of {}",
                    footer.files, footer.bytes, footer.node, node.files, node.bytes, node.node
                );
                self.found.add(&object, DamageKind::Inconsistent, what, [backup.id]);
            }
        }
    }

    async fn block(
        &mut self,
        object: &str,
        block: &Block,
        file: &mut Option<FileCheck>,
        users: &[BackupId],
        read_pages: bool,
    ) {
        let last = block.entries.len().saturating_sub(1);
        for (index, entry) in block.entries.iter().enumerate() {
            let begun = index == 0 && block.continued_from_previous;
            if !begun {
                self.report.entries_checked += 1;
            }
            let Some(content) = entry.content() else { continue };
            let mut check = match file.take().filter(|_| begun) {
                Some(check) => check,
                // Of a file whose beginning was lost, the id is not to be had.
                None if begun => FileCheck { hasher: None, pages: None },
                None => FileCheck {
                    hasher: Some(FileHasher::new(self.repository.keys(), content.size)),
                    pages: Pages::of(content).filter(|_| read_pages),
                },
            };
            if let Err(error) = self.content(content, &mut check).await {
                self.found.add(object, DamageKind::Inconsistent, named(entry, &error), users.iter().copied());
                (check.hasher, check.pages) = (None, None);
            }
            if let Some(pages) = &mut check.pages
                && let Err(error) = Box::pin(self.pages(content, pages)).await
            {
                self.found.add(object, DamageKind::Inconsistent, named(entry, &error), users.iter().copied());
                check.pages = None;
            }
            if index == last && block.continues {
                *file = Some(check);
            } else if check.hasher.is_some_and(|hasher| hasher.finish() != content.id) {
                let error = Error::corrupt("its chunks are not those of its file id");
                self.found.add(object, DamageKind::Inconsistent, named(entry, &error), users.iter().copied());
            }
        }
    }

    async fn content(&mut self, content: &Content, check: &mut FileCheck) -> Result<(), Error> {
        for piece in &content.pieces {
            let Piece::Data(at) = piece else { continue };
            if content.pages.is_none() {
                self.chunk(at, check).await?;
            } else if let Some(trailer) = self.trailers.get(at.frame.pack).await
                && !trailer.has_frame(&at.frame)
            {
                return Err(Error::corrupt(format!("it names a frame that is not in {}", at.frame.pack)));
            }
        }
        for map in content.pages.iter().flat_map(|pages| &pages.maps) {
            self.chunk(map, check).await?;
        }
        Ok(())
    }

    /// A pack that has no trailer to ask was found damaged already.
    async fn chunk(&mut self, at: &ChunkAt, check: &mut FileCheck) -> Result<(), Error> {
        let Some(trailer) = self.trailers.get(at.frame.pack).await else {
            check.hasher = None;
            return Ok(());
        };
        let Some(id) = trailer.chunk(&at.frame, at.start, at.len) else {
            return Err(Error::corrupt(format!("it names a chunk that is not in {}", at.frame.pack)));
        };
        if let Some(hasher) = &mut check.hasher {
            hasher.push(&id);
        }
        Ok(())
    }
}

fn named(entry: &Entry, error: &Error) -> String {
    format!("{:?}: {}", String::from_utf8_lossy(&entry.path), error.chain())
}
