//! The upload phase: everything that this node has and nobody has stored goes into packs.
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use palinurus_proto::v1::UploadResult;
use palinurus_repository::manifest::ManifestRef;
use palinurus_repository::{Error, Result};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::base::{Base, if_readable, is_unchanged};
use super::claims::How;
use super::collect::{Collected, Collector};
use super::feed::{Feeder, Group, Written};
use super::run::{Run, run};
use super::spool::Uploaded;
use super::stop::{Stop, stopped};
use super::units::Units;
use super::worker::Worker;
use crate::ahead::ahead;
use crate::source::SourceListReader;

/// Warnings told to the coordinator; all are in the manifest.
pub(crate) const WARNINGS_TOLD: usize = 100;

/// Reads what changed, stores what nobody has stored, and leaves the draft of the manifest in the spool. May be
/// repeated after any interruption: what is durable is not uploaded again.
pub(crate) async fn upload(context: Context, cancel: CancellationToken) -> Result<UploadResult> {
    Uploaded::remove(&context.spool)?;
    let node = context.node.clone();
    let unchanged = {
        let (context, runtime) = (context.clone(), tokio::runtime::Handle::current());
        let compare = move || compare_with_base(&context, &runtime);
        tokio::task::spawn_blocking(compare)
            .await
            .map_err(|e| Error::internal("compare").with_source(e))??
    };
    if unchanged {
        Uploaded::unchanged().write(&context.spool)?;
        return Ok(UploadResult::default());
    }
    let (spool, progress) = (context.spool.clone(), context.progress.clone());
    let drafts = spool.clone();
    let collected = run(context, cancel, move |run| threads(&run, &drafts)).await?;
    let read = progress.bytes_read.load(Ordering::Relaxed);
    let new = progress.bytes_new.load(Ordering::Relaxed);
    Uploaded::new(&collected, read, new).write(&spool)?;
    Ok(UploadResult {
        borrowed: collected.borrowed,
        warnings: collected.warnings.to_wire(&node, WARNINGS_TOLD),
        warning_count: collected.warnings.count(),
    })
}

fn compare_with_base(context: &Context, runtime: &tokio::runtime::Handle) -> Result<bool> {
    let mut list = SourceListReader::open(&context.source)?;
    let totals = list.totals();
    let progress = &context.progress;
    progress.files_total.store(totals.files, Ordering::Relaxed);
    progress.bytes_total.store(totals.bytes, Ordering::Relaxed);
    // Another's manifest may be this one's base after a failover, but never its own.
    let own = context.base.as_ref().filter(|base| base.node == context.node);
    let Some(reference) = own else { return Ok(false) };
    if !list.warnings()?.is_empty() {
        return Ok(false);
    }
    let Some(mut base) = open_base(context, runtime, reference)? else { return Ok(false) };
    let compared = ahead(|| list.next_entry(), |next| is_unchanged(&mut base, next, totals.entries));
    let unchanged = if_readable(compared)?.unwrap_or_default();
    if unchanged {
        progress.files_done.store(totals.files, Ordering::Relaxed);
        progress.bytes_done.store(totals.bytes, Ordering::Relaxed);
    }
    Ok(unchanged)
}

fn open_base(
    context: &Context,
    runtime: &tokio::runtime::Handle,
    reference: &ManifestRef,
) -> Result<Option<Base>> {
    let (storage, damaged) = (context.storage.clone(), context.damaged.clone());
    if_readable(Base::open(runtime.clone(), storage, &context.keys, reference, damaged))
}

/// Everything in the list, by threads, into the two drafts in `drafts`.
pub(super) fn threads(run: &Run, drafts: &Path) -> Result<Collected> {
    let context = &run.context;
    let workers = context.limits.workers.max(1);
    let list = SourceListReader::open(&context.source)?;
    let entries = list.len();
    // Replicas have the same list: each begins at its own part of it.
    let begin = entries * u64::from(context.position) / u64::from(context.nodes.max(1));
    let written = Arc::new(Written::default());
    let (units, taken) = sync_channel(workers);
    let taken = Arc::new(Units::new(taken));
    let (done, collected) = sync_channel(16);
    let base = match &context.base {
        Some(base) => open_base(context, &run.runtime, base)?,
        None => None,
    };
    let feeder = Feeder {
        list,
        base,
        units,
        done: done.clone(),
        written: written.clone(),
        stop: run.stop.clone(),
        progress: context.progress.clone(),
        empty_id: context.keys.file_id(0, []),
        group: Group::default(),
        whole: Vec::new(),
    };
    let collector =
        Collector::new(context.keys.clone(), drafts, written, context.progress.clone(), entries - begin)?;
    let stop = &run.stop;
    let ended = thread::scope(|scope| -> Result<Collected> {
        let spawn = |name: &str| thread::Builder::new().name(name.into());
        let no_thread = |e| Error::unavailable("start a thread").with_source(e);
        let mut handles = Vec::new();
        for _ in 0..workers {
            let fetch = run.fetch()?;
            let (units, done) = (taken.clone(), done.clone());
            let work = move || {
                let worker = Worker {
                    units,
                    done: done.clone(),
                    frames: run.frames(How::Claim),
                    fetch,
                    tree: context.tree.clone(),
                    stop: stop.clone(),
                    progress: context.progress.clone(),
                    unsettled: std::collections::VecDeque::new(),
                };
                guarded(stop, done, || worker.run());
            };
            handles.push(spawn("worker").spawn_scoped(scope, work).map_err(no_thread)?);
        }
        let feed = move || guarded(stop, done, || feeder.run([begin..entries, 0..begin]));
        handles.push(spawn("feeder").spawn_scoped(scope, feed).map_err(no_thread)?);
        // When the workers have ended nobody takes units any more, and the feeder learns it.
        drop(taken);
        let result = collector.run(&collected);
        if let Err(error) = result {
            stop.fail(error);
            return Err(stopped());
        }
        drop(collected);
        result
    });
    stop.end()?;
    ended
}

/// Runs a thread's work: its first error or panic stops the others. `done` is let go of behind that: the collector, which ends
/// with the last of it, would tell that something is missing before it is told why.
fn guarded<T>(stop: &Stop, done: SyncSender<T>, work: impl FnOnce() -> Result<()>) {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => stop.fail(error),
        Err(_) => stop.fail(Error::internal("a worker panicked")),
    }
    drop(done);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_nothing_more_to_collect_knows_why() {
        for _ in 0..2_000 {
            let stop = Stop::default();
            let (done, collected) = sync_channel::<()>(1);
            let own = done.clone();
            thread::scope(|scope| {
                let stop = &stop;
                scope.spawn(move || {
                    guarded(stop, done, || {
                        drop(own);
                        Err(Error::conflict("the cause"))
                    });
                });
                assert!(collected.recv().is_err());
                assert!(stop.is_stopped());
            });
        }
    }
}
