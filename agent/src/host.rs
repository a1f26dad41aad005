//! What every task of this agent may use.
use std::sync::Arc;

use palinurus_repository::{Clock, Entropy, Keyring, SystemClock, SystemEntropy};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::config::Config;
use crate::engine::Engine;
use crate::repositories::Repositories;
use crate::state::StateDirectory;

/// Time and chance, so that tests own both.
#[derive(Clone, Debug)]
pub struct Seams {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

impl Default for Seams {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy::new()) }
    }
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) seams: Seams,
    pub(crate) state: StateDirectory,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) keys: Keyring,
    pub(crate) repositories: Repositories,
    /// Random, made with the state directory.
    pub(crate) instance: String,
    /// The connection to the leader while there is a session.
    pub(crate) leader: watch::Sender<Option<Channel>>,
}

#[cfg(test)]
pub(crate) mod puppet;
