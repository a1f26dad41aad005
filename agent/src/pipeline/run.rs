//! What both phases run on: the claim stream, the uploader, and threads that stop together.
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use palinurus_repository::pack::SealedPack;
use palinurus_repository::{Error, Result, WriterId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::claims::{ClaimStream, Claims, How};
use super::disk::Disk;
use super::fetch::ChunkFetch;
use super::frames::Frames;
use super::journal::PackJournal;
use super::level::Level;
use super::packer::{PackNames, Packer};
use super::pool::Pool;
use super::stop::Stop;
use super::uploader::Uploader;
use crate::pace::Pacer;

/// Handed to the threads; dropping it ends uploader and claim stream.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) context: Context,
    pub(crate) stop: Arc<Stop>,
    pub(crate) runtime: tokio::runtime::Handle,
    claims: Claims,
    disk: Arc<Disk>,
    packs: mpsc::Sender<SealedPack>,
    pool: Arc<Pool>,
    names: Arc<PackNames>,
}

impl Run {
    /// A worker's frames, with an open pack of their own.
    pub(crate) fn frames(&self, how: How) -> Frames {
        let packer =
            Packer::new(self.names.clone(), self.pool.clone(), self.stop.clone(), self.packs.clone());
        let Context { keys, progress, .. } = &self.context;
        Frames::new(keys.clone(), self.disk.clone(), self.claims.clone(), packer, progress.clone(), how)
    }

    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(crate) fn fetch(&self) -> Result<ChunkFetch> {
        let Context { storage, keys, .. } = &self.context;
        ChunkFetch::new(storage.clone(), keys, self.runtime.clone())
    }
}

/// Runs `work` on a thread that may block, with everything it needs, until all that it packed is durable.
pub(crate) async fn run<T: Send + 'static>(
    context: Context,
    cancel: CancellationToken,
    work: impl FnOnce(Run) -> Result<T> + Send + 'static,
) -> Result<T> {
    let stop = Arc::new(Stop::default());
    let (claims, requests) = Claims::channel(16);
    let limits = context.limits;
    let pool = Pool::new(limits.pack_buffers.max(limits.workers + 1));
    let (packs, sealed) = mpsc::channel(1);
    let writer = WriterId(context.entropy.array()?);
    let names = Arc::new(PackNames {
        keys: context.keys.clone(),
        transaction: context.keys.transaction(context.transaction)?,
        writer,
        counter: AtomicU32::new(0),
        level: Level::new(limits.zstd_level, limits.zstd_level_most),
    });
    let uploader = Uploader {
        storage: context.storage.clone(),
        pool: pool.clone(),
        journal: PackJournal::in_spool(&context.spool, context.blocking),
        claims: claims.clone(),
        pace: context.pace.clone(),
        progress: context.progress.clone(),
        at_once: limits.pack_buffers.saturating_sub(limits.workers).max(1),
    };
    let stream = ClaimStream {
        leader: context.leader.clone(),
        open: context.claim.clone(),
        spool: context.spool.clone(),
        blocking: context.blocking,
    };
    let runtime = tokio::runtime::Handle::current();
    let pacer = Pacer { pace: context.pace.clone(), runtime: runtime.clone() };
    let run = Run {
        disk: Arc::new(Disk::new(pacer, stop.clone(), limits.spare_page_cache)),
        context,
        stop: stop.clone(),
        runtime,
        claims,
        packs,
        pool,
        names,
    };

    let ending = CancellationToken::new();
    let failing = |stop: Arc<Stop>, ending: CancellationToken| {
        move |result: Result<()>| {
            if let Err(error) = result {
                stop.fail(error);
                ending.cancel();
            }
        }
    };
    let watch = {
        let (stop, ending, cancel) = (stop.clone(), ending.clone(), cancel.clone());
        async move {
            tokio::select! {
                biased;
                () = ending.cancelled() => {}
                () = cancel.cancelled() => {
                    stop.fail(Error::unavailable("cancelled"));
                    ending.cancel();
                }
            }
        }
    };
    let worked = {
        let (stop, ending) = (stop.clone(), ending.clone());
        async move {
            let worked = tokio::task::spawn_blocking(move || work(run)).await;
            let worked =
                worked.map_err(|e| Error::internal("a worker panicked").with_source(e)).and_then(|r| r);
            worked.map_err(|error| {
                stop.fail(error);
                ending.cancel();
            })
        }
    };
    let uploaded = {
        let failing = failing(stop.clone(), ending.clone());
        let uploading = uploader.run(sealed, ending.clone());
        async move { failing(uploading.await) }
    };
    let claimed = {
        let failing = failing(stop.clone(), ending.clone());
        let (stream, cancelled) = (stream.run(requests, ending.clone()), ending.clone());
        async move {
            failing(stream.await);
            cancelled.cancel();
        }
    };
    // The claim stream ends when the uploader and the threads have dropped their ends, or at the first error.
    let (worked, (), (), ()) = tokio::join!(worked, uploaded, claimed, watch);
    stop.end()?;
    worked.map_err(|()| Error::internal("the run ended without its error"))
}
