//! The manifest phase: all nodes have uploaded. What was left to others gets its place, what changed under the
//! reader is read again, and then, in this order: index segments, the manifest.
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use palinurus_proto::v1::{BackupNode, ManifestResult};
use palinurus_repository::index::IndexSegment;
use palinurus_repository::manifest::{
    ManifestReader, ManifestRef, ManifestWriter, Warnings as ManifestWarnings,
};
use palinurus_repository::pack::PackSummary;
use palinurus_repository::storage::put_own;
use palinurus_repository::{ChunkId, Error, Result, WriterId};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::base::if_readable;
use super::claims::{ASK_MAX, How, Verdict};
use super::draft::{Draft, DraftReader, DraftWriter, Drafts};
use super::frames::Frames;
use super::journal::PackJournal;
use super::reread::{Reread, read_again};
use super::run::{Run, run};
use super::spool::{DRAFT_SETTLED, Uploaded};
use super::upload::WARNINGS_TOLD;
use crate::ahead::ahead;
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
    let mut drafts = uploaded.drafts.clone();
    if uploaded.borrowed > 0 || uploaded.torn > 0 {
        warnings.append(run(context.clone(), cancel.clone(), move |run| settle(&run, &drafts)).await?);
        drafts = vec![DRAFT_SETTLED.to_owned()];
    }
    let read = uploaded.bytes_read + progress.bytes_read.load(Ordering::Relaxed) - before;
    let runtime = tokio::runtime::Handle::current();
    let work = move || write(&context, &runtime, &cancel, &drafts, warnings, read);
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("manifest").with_source(e))?
}

/// What was answered, by chunk.
pub(super) type Verdicts = HashMap<ChunkId, Verdict>;

/// Rewrites the draft with every place known. What this packs is durable before the caller goes on.
fn settle(run: &Run, drafts: &[String]) -> Result<Warnings> {
    let mut frames = run.frames(How::Settle);
    let mut settled = DraftWriter::create(run.context.spool.join(DRAFT_SETTLED))?;
    let mut warnings = Warnings::default();
    each_batch(run, drafts, |batch| {
        let known = verdicts(run, &batch, How::Settle)?;
        for draft in batch {
            if let Some(draft) = settle_one(run, &mut frames, draft, &known, &mut warnings)? {
                settled.push(&draft)?;
            }
        }
        Ok(())
    })?;
    frames.finish()?;
    settled.finish()?;
    Ok(warnings)
}

/// Calls `each` with the drafts' entries in order, some at a time.
pub(super) fn each_batch(
    run: &Run,
    drafts: &[String],
    mut each: impl FnMut(Vec<Draft>) -> Result<()>,
) -> Result<()> {
    for draft in drafts {
        let mut reader = DraftReader::open(&run.context.spool.join(draft))?;
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
            each(batch)?;
        }
    }
    Ok(())
}

/// Of every chunk that the batch has borrowed.
pub(super) fn verdicts(run: &Run, batch: &[Draft], how: How) -> Result<Verdicts> {
    let mut ids: Vec<ChunkId> = batch.iter().flat_map(Draft::borrowed).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut verdicts = HashMap::with_capacity(ids.len());
    for ids in ids.chunks(ASK_MAX) {
        verdicts.extend(ids.iter().copied().zip(run.claims().ask(ids.to_vec(), how)?.wait()?));
    }
    Ok(verdicts)
}

fn settle_one(
    run: &Run,
    frames: &mut Frames,
    draft: Draft,
    known: &Verdicts,
    warnings: &mut Warnings,
) -> Result<Option<Draft>> {
    let source = draft.source.clone();
    let place = |id: &ChunkId| match known.get(id) {
        Some(Verdict::Stored(at)) => Some(*at),
        _ => None,
    };
    let settled = if draft.must_be_read_again() { None } else { draft.resolve(place) };
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
            if let Some(why) = why {
                warnings.push(&source.path, why);
            }
            Ok(None)
        }
    }
}

fn is_readable(context: &Context, runtime: &tokio::runtime::Handle, manifest: &ManifestRef) -> Result<bool> {
    let read = runtime.block_on(async {
        let mut reader = ManifestReader::open(context.storage.clone(), &context.keys, manifest).await?;
        while reader.next_block().await?.is_some() {}
        Ok(())
    });
    Ok(if_readable(read)?.is_some())
}

fn write(
    context: &Context,
    runtime: &tokio::runtime::Handle,
    cancel: &CancellationToken,
    drafts: &[String],
    warnings: Warnings,
    bytes_read: u64,
) -> Result<ManifestResult> {
    let list = SourceListReader::open(&context.source)?;
    let mut all = list.warnings()?;
    all.append(warnings);
    let put = |(key, body): (String, Bytes)| {
        let put = async {
            context.pace.send.take(body.len() as u64).await;
            put_own(context.storage.as_ref(), &key, body).await
        };
        let done = runtime.block_on(cancel.run_until_cancelled(put));
        done.unwrap_or_else(|| Err(Error::unavailable("cancelled")))
    };
    let segments = write_segments(context, put)?;
    let attempt = WriterId(context.entropy.array()?);
    let mut writer =
        ManifestWriter::new(&context.keys, context.transaction, &context.node, attempt, list.scan_started())?;
    let mut drafts = Drafts::open(&context.spool, drafts)?;
    ahead(
        move || drafts.next()?.map(Draft::into_entry).transpose(),
        |next| {
            while let Some(entry) = next()? {
                writer.push(&entry)?;
                while let Some(part) = writer.full_part() {
                    put(part)?;
                }
            }
            Ok(())
        },
    )?;
    let mut told = ManifestWarnings::default();
    all.kept().iter().for_each(|warning| told.push(&warning.path, &warning.message));
    let finished = writer.finish(told)?;
    let same = |base: &&ManifestRef| base.root == finished.reference.root && all.is_empty();
    let (reference, unchanged) = match context.base.as_ref().filter(same) {
        // Its damage may be why every file was read again.
        Some(base) if is_readable(context, runtime, base)? => (base, true),
        _ => {
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
        ..Default::default()
    };
    Ok(ManifestResult {
        manifest: reference.encode().into(),
        summary: Some(summary),
        warnings: all.to_wire(&context.node, WARNINGS_TOLD),
        warning_count: all.count(),
        segments: segments.keys.into_iter().map(|key| key.into_bytes().into()).collect(),
        log: None,
    })
}

#[derive(Default)]
struct Segments {
    keys: Vec<String>,
    bytes_new: u64,
    bytes_stored: u64,
}

/// Index segments of every pack in the journal, those of an attempt before a restart included.
fn write_segments(context: &Context, put: impl Fn((String, Bytes)) -> Result<()>) -> Result<Segments> {
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
        put((key.clone(), body))?;
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
