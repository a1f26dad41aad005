//! What every part of a coordinator is given: settings, clock, chance, keys, records, and what is on show.
use std::sync::Arc;

use palinurus_repository::{Clock, Entropy, Error, KeyFile, Result, SystemClock, SystemEntropy};
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::config::Config;
use crate::operation::Limits;
use crate::state::Records;

/// Time and chance, which tests own.
#[derive(Clone, Debug)]
pub struct World {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

impl Default for World {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy::new()) }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) world: World,
    pub(crate) keys: Vec<KeyFile>,
    pub(crate) records: Records,
    pub(crate) board: Board,
    /// Held while a service is applied: two that name the same repository must not both find it free.
    pub(crate) applying: tokio::sync::Mutex<()>,
    /// The coordinator is to stop.
    pub(crate) cancel: CancellationToken,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        world: World,
        records: Records,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let mut keys = Vec::with_capacity(config.keys.len());
        for path in &config.keys {
            let (key, warning) = KeyFile::read(path)?;
            if let Some(warning) = warning {
                tracing::warn!("{warning}");
            }
            keys.push(key);
        }
        let applying = tokio::sync::Mutex::default();
        Ok(Self { config, world, keys, records, board: Board::default(), applying, cancel })
    }

    pub(crate) fn now(&self) -> palinurus_repository::Timestamp {
        self.world.clock.now()
    }

    /// The first key: what new repositories are made with.
    pub(crate) fn key(&self) -> Result<&KeyFile> {
        self.keys.first().ok_or_else(|| Error::invalid("no operator key is configured"))
    }

    /// `patience` is what the service's settings say, where they do.
    pub(crate) fn limits(&self, patience: Option<std::time::Duration>) -> Limits {
        Limits { patience: patience.unwrap_or(self.config.patience), cancel: self.config.cancel_limit }
    }
}

/// For what blocks: files and the index.
pub(crate) async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("a blocking task").with_source(e))?
}
