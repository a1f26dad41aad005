//! Packs and index segments, transaction by transaction.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt, stream};

use super::trailer::{Trailer, read_trailer};
use super::{Bad, Check, DamageKind};
use crate::blocking::Blocking;
use crate::error::{Error, Result};
use crate::fetch::{self, FetchRange, Limits};
use crate::id::TransactionId;
use crate::index::IndexSegment;
use crate::keys::Keys;
use crate::ledger::PackSet;
use crate::pack::{FrameReader, HEADER_LEN, PackId, PackSummary, check_header};
use crate::storage::{Object, Storage, list_all};

/// Packs looked at side by side: each holds one read of 8 MiB and a frame.
const SIDE_BY_SIDE: usize = 4;
const PAGE: usize = 1000;
/// Longer than any segment of ours.
const SEGMENT_MAX: u64 = 80 << 20;

/// One pack to look at, with its size in the store and what an index segment says of it.
struct Job {
    pack: PackId,
    size: Option<u64>,
    indexed: Option<PackSummary>,
}

/// What came of it.
struct Seen {
    pack: PackId,
    trailer: Option<Trailer>,
    /// No index segment says what the trailer says.
    alone: bool,
    found: Vec<(DamageKind, String)>,
    chunks: u64,
    bytes: u64,
    bad: Bad,
    /// Every frame was opened.
    read: bool,
}

impl Seen {
    fn error(&mut self, error: &Error) {
        self.found.push((DamageKind::of(error), error.chain()));
    }
}

impl Check<'_> {
    pub(super) async fn packs(&mut self) {
        let mut wanted = PackSet::new();
        self.backups.iter().for_each(|backup| wanted.extend(&backup.packs));
        let total = wanted.len();
        self.tell("packs", 0, total);
        let transactions: BTreeSet<TransactionId> =
            wanted.writers().map(|(transaction, _)| transaction).collect();
        for transaction in transactions {
            let (own, _) = wanted.split(transaction);
            self.transaction(transaction, &own, total).await;
        }
    }

    async fn transaction(&mut self, transaction: TransactionId, wanted: &PackSet, total: u64) {
        let storage = self.repository.storage().clone();
        let sizes = match sizes(&*storage, transaction, wanted).await {
            Ok(sizes) => sizes,
            Err(error) => {
                let users = self.users(wanted);
                return self.found.error(&format!("t/{transaction}/p/"), &error, users);
            }
        };
        let job = |pack: PackId, indexed| Job { pack, size: sizes.get(&pack).copied(), indexed };
        let mut indexed = PackSet::new();
        let prefix = format!("t/{transaction}/x/");
        let segments = list_all(&*storage, &prefix).await.unwrap_or_else(|error| {
            self.found.error(&prefix, &error, []);
            Vec::new()
        });
        for object in segments {
            let mut summaries = self.segment(&object).await;
            // A second attempt indexes the first one's packs again; once is enough to look at them.
            summaries.retain(|summary| wanted.contains(&summary.pack) && indexed.insert(summary.pack));
            if let Ok(segment) = IndexSegment::from_key(&object.key) {
                self.trailers.indexed(segment, object.size, summaries.iter().map(|summary| summary.pack));
            }
            let jobs: Vec<_> =
                summaries.into_iter().map(|summary| job(summary.pack, Some(summary))).collect();
            self.run(jobs.into_iter(), total).await;
        }
        let left = wanted.difference(&indexed);
        if let Some(pack) = left.iter().next() {
            let what = format!(
                "{} packs are in no index segment, such as {pack}: they are uploaded again",
                left.len()
            );
            self.found.add(&prefix, DamageKind::Missing, what, []);
        }
        self.run(left.iter().map(|pack| job(pack, None)), total).await;
    }

    async fn segment(&mut self, object: &Object) -> Vec<PackSummary> {
        self.report.segments_checked += 1;
        if object.size > SEGMENT_MAX {
            let what = format!("{} bytes are no index segment", object.size);
            self.found.add(&object.key, DamageKind::WrongSize, what, []);
            return Vec::new();
        }
        let read = async {
            let bytes = self.repository.storage().get(&object.key, None).await?;
            IndexSegment::open(self.repository.keys(), &object.key, &bytes)
        };
        match read.await {
            Ok(packs) => packs,
            Err(error) => {
                self.found.error(&object.key, &error, []);
                Vec::new()
            }
        }
    }

    async fn run(&mut self, jobs: impl Iterator<Item = Job>, total: u64) {
        let storage = self.repository.storage().clone();
        let keys = self.repository.keys().clone();
        let (read_data, blocking) = (self.read_data, self.repository.blocking());
        // What is known to be damaged is looked at whenever somebody looks: it may have been put back.
        let doubted = self.doubted.packs.clone();
        let blocking =
            move |job: &Job| (read_data.wants(&job.pack) || doubted.contains(&job.pack)).then_some(blocking);
        let looks = stream::iter(jobs).map(|job| {
            let blocking = blocking(&job);
            Box::pin(look(storage.clone(), keys.clone(), job, blocking))
        });
        let mut looks = looks.buffer_unordered(SIDE_BY_SIDE);
        while let Some(seen) = looks.next().await {
            self.report.packs_checked += 1;
            self.report.chunks_checked += seen.chunks;
            self.report.bytes_checked += seen.bytes;
            if seen.found.is_empty() && seen.read && self.doubted.packs.contains(&seen.pack) {
                self.report.whole.packs.insert(seen.pack);
            }
            if !seen.found.is_empty() {
                self.bad.insert(seen.pack, seen.bad);
                let mut one = PackSet::new();
                one.insert(seen.pack);
                let users = self.users(&one);
                for (kind, what) in seen.found {
                    self.found.add(&seen.pack.key(), kind, what, users.iter().copied());
                }
            }
            self.trailers.seen(seen.pack, seen.trailer, seen.alone);
            self.tell("packs", self.report.packs_checked, total);
        }
    }
}

async fn sizes(
    storage: &dyn Storage,
    transaction: TransactionId,
    wanted: &PackSet,
) -> Result<HashMap<PackId, u64>> {
    let prefix = format!("t/{transaction}/p/");
    let mut sizes = HashMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = storage.list(&prefix, after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(sizes) };
        after = Some(last.key.clone());
        let packs = page.iter().filter_map(|object| Some((PackId::from_key(&object.key).ok()?, object.size)));
        sizes.extend(packs.filter(|(pack, _)| wanted.contains(pack)));
    }
}

async fn look(storage: Arc<dyn Storage>, keys: Keys, job: Job, read_data: Option<Blocking>) -> Seen {
    let Job { pack, size, indexed } = job;
    let mut seen = Seen {
        pack,
        trailer: None,
        alone: indexed.is_none(),
        found: Vec::new(),
        chunks: 0,
        bytes: 0,
        bad: Bad::default(),
        read: false,
    };
    let Some(size) = size else {
        seen.found.push((DamageKind::Missing, "a backup names it, and it is not there".into()));
        seen.bad = Bad::All;
        return seen;
    };
    if let Some(written) = indexed.as_ref().map(|indexed| indexed.size).filter(|written| *written != size) {
        seen.found.push((DamageKind::WrongSize, format!("{size} bytes, and {written} were written")));
    }
    let summary = match read_trailer(&*storage, &keys, pack, size).await {
        Ok((summary, tail)) => {
            let end = summary
                .frames
                .last()
                .map_or(HEADER_LEN as u64, |frame| u64::from(frame.offset) + u64::from(frame.stored));
            if end + tail != size {
                seen.found.push((
                    DamageKind::WrongSize,
                    format!("{size} bytes, and its parts take {}", end + tail),
                ));
            }
            if indexed.as_ref().is_some_and(|indexed| indexed.frames != summary.frames) {
                seen.alone = true;
                seen.found
                    .push((DamageKind::Inconsistent, "its trailer and its index segment differ".into()));
            }
            summary
        }
        Err(error) => {
            seen.error(&error);
            // A restore needs no trailer: what the index knows of the frames can still be checked.
            let Some(indexed) = indexed else {
                seen.bad = Bad::All;
                return seen;
            };
            indexed
        }
    };
    seen.trailer = Some(Trailer::of(&summary));
    if let Some(blocking) = read_data {
        read_frames(&storage, &keys, &Arc::new(summary), blocking, &mut seen).await;
        seen.read = true;
    }
    seen
}

async fn read_frames(
    storage: &Arc<dyn Storage>,
    keys: &Keys,
    summary: &Arc<PackSummary>,
    blocking: Blocking,
    seen: &mut Seen,
) {
    let key = summary.pack.key();
    match storage.get(&key, Some(0..HEADER_LEN as u64)).await {
        Ok(header) => {
            if let Err(error) = check_header(&header, keys.suite()) {
                seen.error(&error);
            }
        }
        Err(error) => seen.error(&error),
    }
    let frames = (0..summary.frames.len() as u32).filter_map(|ordinal| summary.frame(ordinal));
    for range in fetch::plan(frames, Limits::default()) {
        let bytes = match storage.get(&key, Some(range.range.clone())).await {
            Ok(bytes) => bytes,
            Err(error) => {
                seen.error(&error);
                seen.bad.extend(range.frames.iter().map(|at| at.ordinal));
                continue;
            }
        };
        let (keys, summary) = (keys.clone(), summary.clone());
        match blocking.run(move || open_frames(&keys, &summary, &range, &bytes)).await {
            Ok(opened) => {
                seen.chunks += opened.chunks;
                seen.bytes += opened.bytes;
                opened.errors.iter().for_each(|(_, error)| seen.error(error));
                seen.bad.extend(opened.errors.iter().map(|(ordinal, _)| *ordinal));
            }
            Err(error) => {
                seen.error(&error);
                seen.bad = Bad::All;
            }
        }
    }
}

#[derive(Default)]
struct Opened {
    chunks: u64,
    bytes: u64,
    /// With the frame's ordinal.
    errors: Vec<(u32, Error)>,
}

/// Opens each frame and computes each chunk's id.
fn open_frames(keys: &Keys, summary: &PackSummary, range: &FetchRange, bytes: &[u8]) -> Result<Opened> {
    let mut reader = FrameReader::new(keys)?;
    let mut opened = Opened::default();
    let mut plain = Vec::new();
    for at in &range.frames {
        let mut stored = bytes.get(range.within(at)).unwrap_or_default().to_vec();
        if let Err(error) = reader.open(at, &mut stored, &mut plain) {
            opened.errors.push((at.ordinal, error));
            continue;
        }
        let mut start = 0;
        for (id, len) in summary.frames.get(at.ordinal as usize).map_or(&[][..], |frame| &frame.chunks) {
            let end = start + *len as usize;
            // The chunks fill the frame: a summary that does not decode says so before.
            if plain.get(start..end).is_none_or(|chunk| keys.chunk_id(chunk) != *id) {
                let what = format!("frame {} holds other bytes than chunk {id} at {start}", at.ordinal);
                opened.errors.push((at.ordinal, Error::corrupt(what)));
            }
            opened.chunks += 1;
            start = end;
        }
        opened.bytes += plain.len() as u64;
    }
    Ok(opened)
}
