//! Puts a node's backup back into a directory: verified to the last byte, into nothing that was there before
//! unless asked, and never out of the directory, whatever the manifest says.
//!
//! ```text
//! manifest ─blocks─► planner ─reads─► store ─bytes─► workers ─last piece─► file proven, given its attributes
//!                    directories made                             └─last job of a batch─► links, directories
//! ```
//! Every stage is bounded, so memory is the same for any backup. A marker lies in the target from the first write
//! to the last; what an interrupted restore left is compared and continued.
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use palinurus_repository::manifest::entry::Meta;
use palinurus_repository::manifest::{Block, ManifestReader, ManifestRef};
use palinurus_repository::storage::{Counted, Storage};
use palinurus_repository::{Error, Keys, Result};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::epilogue::Sequence;
use self::marker::Marker;
use self::metadata::Attributes;
use self::planner::Planner;
use self::queue::Queue;
use self::report::{Report, cancelled};
use self::selection::Selection;
use self::target::Target;
use self::worker::Worker;
use crate::pace::{Pace, Pacer};
use crate::progress::Counters;
use crate::warning::Warnings;

mod aside;
mod batch;
mod beneath;
mod compare;
mod content;
mod delta;
mod epilogue;
mod extras;
mod fault;
mod file;
mod keystone;
mod marker;
mod metadata;
mod paged;
mod planner;
mod queue;
mod remove;
mod report;
mod selection;
pub mod target;
#[cfg(test)]
mod tests;
mod tree;
mod worker;

pub(crate) use compare::compare;

/// Lies at the top of the target while a restore of it has not ended.
pub(crate) const UNFINISHED: &str = marker::NAME;
/// Blocks of the manifest decoded ahead of the planner.
const BLOCKS_AHEAD: usize = 1;

#[derive(Clone, Debug)]
pub struct Request {
    pub storage: Arc<dyn Storage>,
    pub keys: Keys,
    pub manifest: ManifestRef,
    /// Made if it is not there.
    pub target: PathBuf,
    /// Allows a target that holds data: what differs is rewritten, what the backup does not have is removed.
    pub delta: bool,
    /// Paths or patterns below the data directory; each brings all that is below it. None selects all.
    pub include: Vec<String>,
    /// Threads that open frames and write; at least one.
    pub workers: usize,
    pub progress: Arc<Counters>,
    /// How much processor time it may use; what it may read is the storage's to say.
    pub pace: Arc<Pace>,
    /// What an engine does last.
    pub settle: Option<Arc<dyn Settle>>,
}

/// Writes what else must be on the disk before anybody can take the target for whole. May be repeated; makes it durable.
#[async_trait]
pub trait Settle: Send + Sync + fmt::Debug {
    async fn settle(&self) -> Result<()>;
}

#[derive(Clone, Debug)]
pub struct RestoreResult {
    /// Regular files that are there now, hard links' other names not counted; also those that already were.
    pub files: u64,
    /// The lengths of these files, holes included.
    pub bytes: u64,
    pub bytes_written: u64,
    pub bytes_fetched: u64,
    pub gets: u64,
    pub warnings: Warnings,
}

/// What all threads of one restore share.
#[derive(Debug)]
struct Context {
    target: Target,
    keys: Keys,
    attributes: Attributes,
    report: Report,
    selection: Arc<Selection>,
    storage: Arc<dyn Storage>,
    handle: Handle,
    pacer: Pacer,
    sequence: Sequence,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends with `Corrupt` when files could not be restored as they were backed up: all others are in place, none of
/// the damaged is. After any error the same restore may be run again and goes on.
pub async fn run(request: Request, cancel: CancellationToken) -> Result<RestoreResult> {
    let stop = cancel.child_token();
    // Whoever gives up waiting also stops the threads.
    let _guard = stop.clone().drop_guard();
    let handle = Handle::current();
    let (done, answer) = oneshot::channel();
    thread("restore", move || {
        // The answer is not wanted only when nobody waits any more.
        let _ = done.send(restore(request, handle, stop));
    })?;
    answer.await.map_err(|_| Error::internal("the restore thread panicked"))?
}

fn thread<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|e| Error::io(format!("start thread {name}"), e))
}

fn restore(request: Request, handle: Handle, stop: CancellationToken) -> Result<RestoreResult> {
    let Request { storage, keys, manifest, target, delta, include, workers, progress, pace, settle } =
        request;
    let selection = Arc::new(Selection::new(&include)?);
    let counted = Arc::new(Counted::new(storage));
    let storage: Arc<dyn Storage> = counted.clone();
    // Before the target is touched: a wrong key or a missing manifest must not leave a trace.
    let open = ManifestReader::open(storage.clone(), &keys, &manifest);
    let reader = handle.block_on(async {
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(cancelled()),
            reader = open => reader,
        }
    })?;
    if selection.is_all() {
        Counters::add(&progress.files_total, reader.footer().files);
        Counters::add(&progress.bytes_total, reader.footer().bytes);
    }
    let context = Arc::new(Context {
        target: Target::claim(&target, &Marker::new(&manifest, delta, &include))?,
        keys,
        attributes: Attributes::new(),
        report: Report::new(progress, stop),
        selection,
        storage,
        pacer: Pacer { pace, runtime: handle.clone() },
        handle,
        sequence: Sequence::default(),
    });
    keystone::take_away(&context.target.beneath, &context.selection)?;
    let (ahead, blocks) = mpsc::channel(BLOCKS_AHEAD);
    context.handle.spawn(read_blocks(reader, ahead, context.report.stop.clone()));
    let ended = move_all(&context, blocks, manifest, workers.max(1))
        .and_then(|root| end(&context, root.as_ref(), settle));
    context.target.release();
    ended?;
    Ok(context.report.result(&counted.requests()))
}

/// After the last byte: durable, and whole unless something says otherwise.
fn end(context: &Context, root: Option<&Meta>, settle: Option<Arc<dyn Settle>>) -> Result<()> {
    let report = &context.report;
    if let Some(error) = report.failure() {
        return Err(error);
    }
    if let Some(error) = report.damaged() {
        context.target.sync()?;
        return Err(error);
    }
    context.target.sync()?;
    if let Some(settle) = settle {
        context.handle.block_on(settle.settle())?;
    }
    keystone::put(&context.target.beneath, &context.selection)?;
    context.target.finish(root, context.attributes, report)
}

/// Runs planner and workers to their end; what stopped them is in the report. Gives the metadata of the data
/// directory itself, which is to be set last.
fn move_all(
    context: &Arc<Context>,
    blocks: mpsc::Receiver<Result<Block>>,
    manifest: ManifestRef,
    workers: usize,
) -> Result<Option<Meta>> {
    let (queue, jobs) = queue::queue();
    let jobs = Arc::new(jobs);
    let mut threads = Vec::new();
    for number in 0..workers {
        let (worker, jobs) = (Worker::new(context.clone())?, jobs.clone());
        threads.push(thread(&format!("restore-{number}"), move || worker.run(&jobs))?);
    }
    drop(jobs);
    let planned = plan(context, queue, manifest, blocks);
    let root = planned.unwrap_or_else(|error| {
        context.report.fail(error);
        None
    });
    for thread in threads {
        if thread.join().is_err() {
            context.report.fail(Error::internal("a restore thread panicked"));
        }
    }
    Ok(root)
}

fn plan(
    context: &Arc<Context>,
    queue: Queue,
    manifest: ManifestRef,
    mut blocks: mpsc::Receiver<Result<Block>>,
) -> Result<Option<Meta>> {
    let mut planner = Planner::new(context.clone(), queue, manifest)?;
    while let Some(block) = blocks.blocking_recv() {
        planner.block(&Arc::new(block?))?;
    }
    // The blocks also end when the restore is stopped.
    context.report.check()?;
    planner.finish()
}

async fn read_blocks(
    mut reader: ManifestReader,
    ahead: mpsc::Sender<Result<Block>>,
    stop: CancellationToken,
) {
    loop {
        let block = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            block = reader.next_block() => block,
        };
        let Some(block) = block.transpose() else { return };
        let failed = block.is_err();
        if ahead.send(block).await.is_err() || failed {
            return;
        }
    }
}
