//! Manifests: every entry, and that the packs have what each names. Each is read once, whatever the packs' trailers take:
//! its blocks wait in a window, of several manifests when they are short, and are looked at together.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pages::Pages;
use super::trailers::Answer;
use super::window::{Item, Of, Window, asked};
use super::{Check, DamageKind, Progress};
use crate::error::{Error, ErrorKind};
use crate::id::BackupId;
use crate::keys::FileHasher;
use crate::ledger::{BackupRecord, NodeCommit, manifest_stem};
use crate::manifest::entry::{Content, Entry};
use crate::manifest::{Block, ManifestReader, ManifestRef};

/// A manifest and the backups it stands in: more than one where a node did not change.
type Uses<'a> = (ManifestRef, Vec<(&'a BackupRecord, &'a NodeCommit)>);

type Answers = std::vec::IntoIter<Answer>;

/// The id of a file, computed while its entries pass by; unknown where a pack's trailer is.
#[derive(Default)]
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
        self.tell_cost(manifests.values().map(|(reference, _)| reference.size).sum(), total);
        let newest = self.newest();
        let (mut window, mut file) = (Window::new(self.memory), None);
        for (reference, uses) in manifests.into_values() {
            self.manifest(&reference, &uses, &newest, &mut window, &mut file).await;
            self.report.manifests_checked += 1;
            self.tell("manifests", self.report.manifests_checked, total);
        }
        self.settle(&mut window, &mut file).await;
        self.report.segments_again = self.trailers.again();
    }

    /// Before it begins: what it costs is not to be seen from how much is stored.
    fn tell_cost(&self, bytes: u64, manifests: u64) {
        let (segments, segment_bytes) = self.trailers.to_read_again();
        if segments > 0 {
            tracing::info!(
                manifests,
                bytes,
                segments,
                segment_bytes,
                window = self.memory.window,
                "the packs' trailers take more memory than is given: index segments are read again for each window of the manifests"
            );
        }
        (self.progress)(Progress {
            phase: "manifests",
            done: 0,
            total: manifests,
            bytes: self.report.bytes_checked,
            again: segments,
        });
    }

    async fn manifest(
        &mut self,
        reference: &ManifestRef,
        uses: &[(&BackupRecord, &NodeCommit)],
        newest: &BTreeSet<String>,
        window: &mut Window,
        file: &mut Option<FileCheck>,
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
        let of = Arc::new(Of { node: reference.node.clone(), users, read_pages });
        let mut fresh = true;
        loop {
            let part = reader.next_part();
            let object = reference.key(part.unwrap_or_default());
            let block = match reader.next_block().await {
                Ok(None) => return,
                Ok(Some(block)) => Ok(block),
                // Where a part is missing, that is said already.
                Err(error) if error.kind() == ErrorKind::NotFound && part.is_some_and(lost) => {
                    reader.skip();
                    fresh = true;
                    continue;
                }
                Err(error) => Err(error),
            };
            let is_lost = block.is_err();
            window.push(Item { of: of.clone(), object, block, fresh });
            if window.is_full() {
                self.settle(window, file).await;
            }
            // A store that never waits gives nobody else a turn: who has cancelled the check needs one.
            tokio::task::yield_now().await;
            if is_lost && part.is_none() {
                return;
            }
            if is_lost {
                reader.skip();
            }
            fresh = is_lost;
        }
    }

    /// Looks at what waits.
    async fn settle(&mut self, window: &mut Window, file: &mut Option<FileCheck>) {
        let (items, asks) = window.take();
        let mut answers = self.trailers.answer(&asks).await.into_iter();
        drop(asks);
        for item in items {
            if item.fresh {
                *file = None;
            }
            match &item.block {
                Ok(block) => {
                    self.block(&item, block, file, &mut answers).await;
                    self.spoiled(&item.of.node, block, &item.of.users);
                }
                Err(error) => self.found.error(&item.object, error, item.of.users.iter().copied()),
            }
            tokio::task::yield_now().await;
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
        item: &Item,
        block: &Block,
        file: &mut Option<FileCheck>,
        answers: &mut Answers,
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
                None if begun => FileCheck::default(),
                None => FileCheck {
                    hasher: Some(FileHasher::new(self.repository.keys(), content.size)),
                    pages: Pages::of(content).filter(|_| item.of.read_pages),
                },
            };
            if let Err(error) = self::content(content, &mut check, answers) {
                self.contradicts(item, entry, &error);
                check = FileCheck::default();
            }
            if let Some(pages) = &mut check.pages
                && let Err(error) = Box::pin(self.pages(content, pages)).await
            {
                self.contradicts(item, entry, &error);
                check.pages = None;
            }
            if index == last && block.continues {
                *file = Some(check);
            } else if check.hasher.is_some_and(|hasher| hasher.finish() != content.id) {
                self.contradicts(item, entry, &Error::corrupt("its chunks are not those of its file id"));
            }
        }
    }

    fn contradicts(&mut self, item: &Item, entry: &Entry, error: &Error) {
        let what = format!("{:?}: {}", String::from_utf8_lossy(&entry.path), error.chain());
        self.found.add(&item.object, DamageKind::Inconsistent, what, item.of.users.iter().copied());
    }
}

/// Takes all answers to what the entry asked. Of a pack that could not be asked, damage was found already.
fn content(content: &Content, check: &mut FileCheck, answers: &mut Answers) -> Result<(), Error> {
    let mut found = Ok(());
    for ask in asked(content) {
        let what = if ask.chunk { "chunk" } else { "frame" };
        match answers.next() {
            Some(Answer::Chunk(id)) => check.hasher.iter_mut().for_each(|hasher| hasher.push(&id)),
            Some(Answer::Frame) => {}
            Some(Answer::Absent) if found.is_ok() => {
                found =
                    Err(Error::corrupt(format!("it names a {what} that is not in {}", ask.at.frame.pack)));
            }
            Some(Answer::Unknown) | None if ask.chunk => check.hasher = None,
            _ => {}
        }
    }
    found
}
