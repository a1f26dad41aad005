//! The manifest phase: all nodes have uploaded. What was left to others gets its place, what changed under the
//! reader is read again, and then, in this order: index segments, the manifest.
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use palinurus_proto::v1::{BackupNode, ManifestResult};
use palinurus_repository::index::IndexSegment;
use palinurus_repository::manifest::{ManifestRef, ManifestWriter, Warnings as ManifestWarnings};
use palinurus_repository::pack::{ChunkAt, PackSummary};
use palinurus_repository::{ChunkId, Error, Result, WriterId};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::claims::{ASK_MAX, Verdict};
use super::draft::{Draft, DraftReader, DraftWriter};
use super::frames::Frames;
use super::journal::PackJournal;
use super::reread::{Reread, read_again};
use super::run::{Run, run};
use super::spool::{DRAFT_HEAD, DRAFT_SETTLED, DRAFT_TAIL, Uploaded};
use super::upload::WARNINGS_TOLD;
use super::uploader::put_new;
use crate::source::SourceListReader;
use crate::warning::Warnings;

/// Entries settled at a time.
const BATCH: usize = 4096;
/// An index segment is closed at this many packs or chunks.
const SEGMENT_PACKS: usize = 1024;
const SEGMENT_CHUNKS: usize = 200_000;

/// Writes this node's manifest, or finds that the base backup's stands for it too.
pub(crate) async fn manifest(context: Context, cancel: CancellationToken) -> Result<ManifestResult> {
    let uploaded = Uploaded::read(&context.spool)?;
    if uploaded.unchanged {
        let base = context.base.as_ref().ok_or_else(|| Error::internal("unchanged, and no base"))?;
        let totals = SourceListReader::open(&context.source)?.totals();
        let summary = BackupNode {
            node: context.node.clone(),
            files: totals.files,
            bytes: totals.bytes,
            unchanged: true,
            ..Default::default()
        };
        let manifest = base.encode().into();
        return Ok(ManifestResult { manifest, summary: Some(summary), ..Default::default() });
    }
    let mut warnings = uploaded.warnings();
    let progress = context.progress.clone();
    let before = progress.bytes_read.load(Ordering::Relaxed);
    let drafts = if uploaded.borrowed > 0 || uploaded.torn > 0 {
        warnings.append(run(context.clone(), cancel, |run| settle(&run)).await?);
        vec![DRAFT_SETTLED]
    } else {
        vec![DRAFT_HEAD, DRAFT_TAIL]
    };
    let read = uploaded.bytes_read + progress.bytes_read.load(Ordering::Relaxed) - before;
    let runtime = tokio::runtime::Handle::current();
    let work = move || write(&context, &runtime, &drafts, warnings, read);
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("manifest").with_source(e))?
}

/// Rewrites the draft with every place known. What this packs is durable before the caller goes on.
fn settle(run: &Run) -> Result<Warnings> {
    let spool = &run.context.spool;
    let mut frames = run.frames(true);
    let mut settled = DraftWriter::create(spool.join(DRAFT_SETTLED))?;
    let mut warnings = Warnings::default();
    for draft in [DRAFT_HEAD, DRAFT_TAIL] {
        let mut reader = DraftReader::open(&spool.join(draft))?;
        loop {
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Some(draft) = reader.read()?
            {
                batch.push(draft);
            }
            if batch.is_empty() {
                break;
            }
            run.stop.check()?;
            let places = places(run, &batch)?;
            for draft in batch {
                if let Some(draft) = settle_one(run, &mut frames, draft, &places, &mut warnings)? {
                    settled.push(&draft)?;
                }
            }
        }
    }
    frames.finish()?;
    settled.finish()?;
    Ok(warnings)
}

fn places(run: &Run, batch: &[Draft]) -> Result<HashMap<ChunkId, ChunkAt>> {
    let mut ids: Vec<ChunkId> = batch.iter().flat_map(Draft::borrowed).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut places = HashMap::with_capacity(ids.len());
    for ids in ids.chunks(ASK_MAX) {
        let verdicts = run.claims().ask(ids.to_vec(), true)?.wait()?;
        for (id, verdict) in ids.iter().zip(verdicts) {
            if let Verdict::Stored(at) = verdict {
                places.insert(*id, at);
            }
        }
    }
    Ok(places)
}

fn settle_one(
    run: &Run,
    frames: &mut Frames,
    draft: Draft,
    places: &HashMap<ChunkId, ChunkAt>,
    warnings: &mut Warnings,
) -> Result<Option<Draft>> {
    let source = draft.source.clone();
    let settled = if draft.must_be_read_again() { None } else { draft.resolve(|id| places.get(id).copied()) };
    if let Some(draft) = settled {
        return Ok(Some(draft));
    }
    let context = &run.context;
    match read_again(frames, &context.keys, &context.tree, &source)? {
        Reread::Whole(draft) => Ok(Some(draft)),
        Reread::Torn(draft) => {
            warnings.push(&source.path, "changed each time it was read: may hold parts of several versions");
            Ok(Some(draft))
        }
        Reread::Dropped(why) => {
            warnings.push(&source.path, why);
            Ok(None)
        }
    }
}

fn write(
    context: &Context,
    runtime: &tokio::runtime::Handle,
    drafts: &[&str],
    warnings: Warnings,
    bytes_read: u64,
) -> Result<ManifestResult> {
    let list = SourceListReader::open(&context.source)?;
    let mut all = list.warnings()?;
    all.append(warnings);
    let segments = write_segments(context, runtime)?;

    let put = |(key, body): (String, bytes::Bytes)| {
        runtime.block_on(put_new(context.storage.as_ref(), &key, body, &context.progress))
    };
    let attempt = WriterId(context.entropy.array()?);
    let mut writer =
        ManifestWriter::new(&context.keys, context.transaction, &context.node, attempt, list.scan_started())?;
    for draft in drafts {
        let mut reader = DraftReader::open(&context.spool.join(draft))?;
        while let Some(draft) = reader.read()? {
            writer.push(&draft.into_entry()?)?;
            while let Some(part) = writer.full_part() {
                put(part)?;
            }
        }
    }
    let mut told = ManifestWarnings::default();
    all.kept().iter().for_each(|warning| told.push(&warning.path, &warning.message));
    let finished = writer.finish(told)?;
    let same = |base: &&ManifestRef| base.root == finished.reference.root && all.is_empty();
    let (reference, unchanged) = match context.base.as_ref().filter(same) {
        Some(base) => (base, true),
        None => {
            finished.parts.into_iter().try_for_each(put)?;
            (&finished.reference, false)
        }
    };
    let manifest_bytes = if unchanged { 0 } else { reference.size };
    let summary = BackupNode {
        node: context.node.clone(),
        files: finished.files,
        bytes: finished.bytes,
        bytes_read,
        bytes_new: segments.bytes_new,
        bytes_stored: segments.bytes_stored + manifest_bytes,
        warnings: all.count(),
        unchanged,
    };
    Ok(ManifestResult {
        manifest: reference.encode().into(),
        summary: Some(summary),
        warnings: all.to_wire(&context.node, WARNINGS_TOLD),
        warning_count: all.count(),
        segments: segments.keys.into_iter().map(|key| key.into_bytes().into()).collect(),
    })
}

#[derive(Default)]
struct Segments {
    keys: Vec<String>,
    bytes_new: u64,
    bytes_stored: u64,
}

/// Index segments of every pack in the journal, those of an attempt before a restart included.
fn write_segments(context: &Context, runtime: &tokio::runtime::Handle) -> Result<Segments> {
    let writer = WriterId(context.entropy.array()?);
    let mut segments = Segments::default();
    let mut held: Vec<PackSummary> = Vec::new();
    let mut chunks = 0;
    let flush = |held: &mut Vec<PackSummary>, keys: &mut Vec<String>| -> Result<()> {
        if held.is_empty() {
            return Ok(());
        }
        let number = keys.len() as u32;
        let (key, body) = IndexSegment::seal(&context.keys, context.transaction, writer, number, held)?;
        runtime.block_on(put_new(context.storage.as_ref(), &key, body, &context.progress))?;
        keys.push(key);
        held.clear();
        Ok(())
    };
    PackJournal::in_spool(&context.spool, context.blocking).read(|_, summary| {
        segments.bytes_stored += summary.size;
        segments.bytes_new += summary.frames.iter().map(|frame| u64::from(frame.plain)).sum::<u64>();
        chunks += summary.frames.iter().map(|frame| frame.chunks.len()).sum::<usize>();
        held.push(summary);
        if held.len() == SEGMENT_PACKS || chunks >= SEGMENT_CHUNKS {
            chunks = 0;
            flush(&mut held, &mut segments.keys)?;
        }
        Ok(())
    })?;
    flush(&mut held, &mut segments.keys)?;
    Ok(segments)
}
