//! Fetches single chunks of earlier backups for a worker thread: page maps.
use std::sync::Arc;

use palinurus_repository::pack::{ChunkAt, FrameReader};
use palinurus_repository::{Keys, Result, Storage};
use tokio::runtime::Handle;

#[derive(Debug)]
pub(crate) struct ChunkFetch {
    storage: Arc<dyn Storage>,
    runtime: Handle,
    frames: FrameReader,
    plain: Vec<u8>,
}

impl ChunkFetch {
    pub(crate) fn new(storage: Arc<dyn Storage>, keys: &Keys, runtime: Handle) -> Result<Self> {
        Ok(Self { storage, runtime, frames: FrameReader::new(keys)?, plain: Vec::new() })
    }

    /// Blocks; not to be called on the runtime.
    pub(crate) fn chunk(&mut self, at: &ChunkAt) -> Result<Vec<u8>> {
        at.check()?;
        let key = at.frame.pack.key();
        let stored = self.runtime.block_on(self.storage.get(&key, Some(at.frame.range())))?;
        self.frames.open(&at.frame, &mut stored.to_vec(), &mut self.plain)?;
        Ok(self.plain[at.start as usize..(at.start + at.len) as usize].to_vec())
    }
}
