//! The way from the planner to the workers. Reads go ahead of the workers, as far as a fixed number of bytes and
//! requests allows; nobody waits once the restore is stopped.
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use palinurus_repository::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::batch::{Batch, Draft};
use super::delta::Compare;
use super::report::cancelled;
use super::{Context, lock};

/// Bytes read ahead of the workers, in units of [`GRAIN`].
const AHEAD: usize = 32 << 10;
const GRAIN: u64 = 1 << 10;
/// Requests at once: what a store far away needs to fill the line.
const REQUESTS: usize = 16;
/// Batches that are not done.
const BATCHES: usize = 4;
const JOBS: usize = 64;

#[derive(Debug)]
pub(super) enum Job {
    /// A read has ended; its bytes count as read ahead until the job is done.
    Read {
        batch: Arc<Batch>,
        read: usize,
        bytes: Result<Bytes>,
        permit: OwnedSemaphorePermit,
    },
    /// The batch's files without data.
    Bare(Arc<Batch>),
    Compare(Compare),
}

/// The planner's end.
#[derive(Debug)]
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
    ahead: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    batches: Arc<Semaphore>,
    next: u64,
}

/// The workers' end.
#[derive(Debug)]
pub(super) struct Jobs(Mutex<mpsc::Receiver<Job>>);

impl Jobs {
    /// `None` when the planner is gone and nothing is left.
    pub(super) fn next(&self) -> Option<Job> {
        lock(&self.0).blocking_recv()
    }
}

pub(super) fn queue() -> (Queue, Jobs) {
    let (jobs, taken) = mpsc::channel(JOBS);
    let queue = Queue {
        jobs,
        ahead: Arc::new(Semaphore::new(AHEAD)),
        requests: Arc::new(Semaphore::new(REQUESTS)),
        batches: Arc::new(Semaphore::new(BATCHES)),
        next: 0,
    };
    (queue, Jobs(Mutex::new(taken)))
}

impl Queue {
    /// Closes the draft and sends it on its way.
    pub(super) fn send(&mut self, context: &Arc<Context>, draft: Draft) -> Result<()> {
        let permit = self.permits(context, &self.batches, 1)?;
        let batch = Arc::new(draft.finish(self.next, permit));
        self.next += 1;
        if !batch.has_jobs() {
            batch.job_done(context);
        }
        if !batch.bare.is_empty() {
            self.job(context, Job::Bare(batch.clone()))?;
        }
        for read in 0..batch.reads.len() {
            self.read(context, &batch, read)?;
        }
        Ok(())
    }

    pub(super) fn job(&self, context: &Context, job: Job) -> Result<()> {
        context.handle.block_on(async {
            tokio::select! {
                biased;
                () = context.report.stop.cancelled() => Err(cancelled()),
                sent = self.jobs.send(job) => sent.map_err(|_| Error::internal("the workers are gone")),
            }
        })
    }

    fn read(&self, context: &Arc<Context>, batch: &Arc<Batch>, read: usize) -> Result<()> {
        let len = batch.reads[read].range.len();
        let grains = (len / GRAIN + 1).min(AHEAD as u64);
        let permit = self.permits(context, &self.ahead, grains as u32)?;
        let request = self.permits(context, &self.requests, 1)?;
        let (context, batch, jobs) = (context.clone(), batch.clone(), self.jobs.clone());
        context.clone().handle.spawn(async move {
            let range = &batch.reads[read].range;
            let bytes = get(&context, &range.pack.key(), range.range.clone()).await;
            drop(request);
            // No worker is left to take it only once the run is over.
            let _ = jobs.send(Job::Read { batch, read, bytes, permit }).await;
        });
        Ok(())
    }

    fn permits(&self, context: &Context, of: &Arc<Semaphore>, count: u32) -> Result<OwnedSemaphorePermit> {
        context.handle.block_on(async {
            tokio::select! {
                biased;
                () = context.report.stop.cancelled() => Err(cancelled()),
                permit = of.clone().acquire_many_owned(count) => permit.map_err(|_| cancelled()),
            }
        })
    }
}

/// Some bytes of an object, unless the restore is stopped first.
pub(super) async fn get(context: &Context, key: &str, range: Range<u64>) -> Result<Bytes> {
    tokio::select! {
        biased;
        () = context.report.stop.cancelled() => Err(cancelled()),
        bytes = context.storage.get(key, Some(range)) => bytes,
    }
}
