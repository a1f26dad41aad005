//! A second upload of a node that has uploaded: another one is lost, and what it had claimed and not stored is free.
//! Only files whose draft waits for such a chunk are read again; what is still another's stays borrowed. Nothing is
//! settled here: when several nodes take over, claims share the work between them.
use std::sync::atomic::Ordering;

use palinurus_proto::v1::UploadResult;
use palinurus_repository::{ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::claims::{How, Verdict};
use super::draft::{Draft, DraftWriter};
use super::frames::Frames;
use super::reread::{Reread, read_again};
use super::run::{Run, run};
use super::settle::{Verdicts, each_batch, verdicts};
use super::spool::Uploaded;
use super::upload::upload;

/// May be repeated like an upload: the draft before this one stands until the new one is whole.
pub(crate) async fn take_over(context: Context, cancel: CancellationToken) -> Result<UploadResult> {
    let uploaded = match Uploaded::read(&context.spool) {
        Err(e) if e.kind() == ErrorKind::NotFound => return upload(context, cancel).await,
        other => other?,
    };
    if uploaded.borrowed == 0 {
        return Ok(UploadResult::default());
    }
    let (spool, progress) = (context.spool.clone(), context.progress.clone());
    let (from, to) = (uploaded.drafts.clone(), uploaded.other_draft());
    let borrowed = run(context, cancel, move |run| pass(&run, &from, to)).await?;
    let read = progress.bytes_read.load(Ordering::Relaxed);
    uploaded.taken_over(to, borrowed, read).write(&spool)?;
    Ok(UploadResult { borrowed, ..Default::default() })
}

/// Writes the draft anew; returns how many chunks are still borrowed.
fn pass(run: &Run, from: &[String], to: &str) -> Result<u64> {
    let mut frames = run.frames(How::Claim);
    let mut writer = DraftWriter::create(run.context.spool.join(to))?;
    let mut borrowed = 0;
    each_batch(run, from, |batch| {
        let known = verdicts(run, &batch, How::Look)?;
        for draft in batch {
            let draft = take(run, &mut frames, draft, &known)?;
            borrowed += draft.borrowed().count() as u64;
            writer.push(&draft)?;
        }
        Ok(())
    })?;
    frames.finish()?;
    writer.finish()?;
    Ok(borrowed)
}

fn take(run: &Run, frames: &mut Frames, draft: Draft, known: &Verdicts) -> Result<Draft> {
    if draft.borrowed().any(|id| known.get(&id) == Some(&Verdict::Yours)) {
        let context = &run.context;
        // What changes or vanishes just now is the manifest phase's to judge.
        return Ok(match read_again(frames, &context.keys, &context.tree, &draft.source)? {
            Reread::Whole(again) => again,
            Reread::Torn(_) | Reread::Dropped(_) => draft,
        });
    }
    let place = |id: &_| match known.get(id) {
        Some(Verdict::Stored(at)) => Some(*at),
        _ => None,
    };
    Ok(draft.clone().resolve(place).unwrap_or(draft))
}
