//! One worker's open pack: takes frames, hands full packs to the uploader.
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use palinurus_repository::pack::{FrameAt, PackWriter, SealedPack};
use palinurus_repository::{ChunkId, Keys, Result, WriterId};
use tokio::sync::mpsc;

use super::level::Level;
use super::pool::Pool;
use super::stop::{Stop, stopped};
use palinurus_repository::keys::TransactionKey;

/// What all packers of a run share. The writer id is drawn for this run, so that no pack name is used twice.
#[derive(Debug)]
pub(crate) struct PackNames {
    pub(crate) keys: Keys,
    pub(crate) transaction: TransactionKey,
    pub(crate) writer: WriterId,
    pub(crate) counter: AtomicU32,
    pub(crate) level: Level,
}

#[derive(Debug)]
pub(crate) struct Packer {
    names: Arc<PackNames>,
    pool: Arc<Pool>,
    stop: Arc<Stop>,
    out: mpsc::Sender<SealedPack>,
    open: Option<PackWriter>,
}

impl Packer {
    pub(crate) fn new(
        names: Arc<PackNames>,
        pool: Arc<Pool>,
        stop: Arc<Stop>,
        out: mpsc::Sender<SealedPack>,
    ) -> Self {
        Self { names, pool, stop, out, open: None }
    }

    pub(crate) fn append(&mut self, plain: &[u8], chunks: Vec<(ChunkId, u32)>) -> Result<FrameAt> {
        if self.open.as_ref().is_some_and(PackWriter::is_full) {
            self.flush()?;
        }
        let writer = match &mut self.open {
            Some(writer) => writer,
            open => {
                let names = &self.names;
                let counter = names.counter.fetch_add(1, Ordering::Relaxed);
                let (buffer, waited) = self.pool.take(&self.stop)?;
                let level = names.level.next(waited);
                let (keys, transaction) = (&names.keys, &names.transaction);
                open.insert(PackWriter::new(keys, transaction, names.writer, counter, level, buffer)?)
            }
        };
        writer.append(plain, chunks)
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        let Some(writer) = self.open.take().filter(|writer| !writer.is_empty()) else { return Ok(()) };
        self.out.blocking_send(writer.finish()?).map_err(|_| stopped())
    }
}
