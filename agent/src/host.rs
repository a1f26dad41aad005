//! What every task of this agent may use.
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use palinurus_identity::Dialer;
use palinurus_proto::v1;
use palinurus_repository::storage::AllStores;
use palinurus_repository::{
    Blocking, Clock, Entropy, Keyring, LineageId, Stores, SystemClock, SystemEntropy,
};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::config::Config;
use crate::engine::Engine;
use crate::key_epochs::KeyEpochs;
use crate::log::Storing;
use crate::looks::Looks;
use crate::mover::{Mover, Threads};
use crate::pace::Pace;
use crate::repositories::{Repositories, Unlocked};
use crate::state::StateDirectory;

/// Time, chance and all that lies outside, so that tests own them.
#[derive(Clone, Debug)]
pub struct Seams {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub blocking: Blocking,
    pub stores: Arc<dyn Stores>,
    pub dial: Arc<dyn Dial>,
    /// None: what the settings say.
    pub engine: Option<Arc<dyn Engine>>,
    pub mover: Arc<dyn Mover>,
    /// How a database beside this process runs the agent's commands.
    pub program: Vec<String>,
}

/// How a coordinator is reached.
#[async_trait]
pub trait Dial: Send + Sync + fmt::Debug {
    async fn dial(&self, endpoint: Endpoint) -> Result<Channel, tonic::transport::Error>;
}

#[derive(Clone, Copy, Debug, Default)]
struct Tcp;

#[async_trait]
impl Dial for Tcp {
    async fn dial(&self, endpoint: Endpoint) -> Result<Channel, tonic::transport::Error> {
        endpoint.connect().await
    }
}

impl Default for Seams {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy::new()),
            blocking: Blocking::Threads,
            stores: Arc::new(AllStores),
            dial: Arc::new(Tcp),
            engine: None,
            mover: Arc::new(Threads),
            program: std::env::current_exe()
                .map(|path| vec![path.to_string_lossy().into_owned()])
                .unwrap_or_default(),
        }
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
    pub(crate) key_epochs: KeyEpochs,
    /// Random, made with the state directory.
    pub(crate) instance: String,
    /// None: nothing is encrypted, and no other machine is dialled.
    pub(crate) tls: Option<Dialer>,
    /// The connection to the leader while there is a session.
    pub(crate) leader: watch::Sender<Option<Channel>>,
    /// The identity and the lineage of the log that is stored from here.
    pub(crate) writes: watch::Sender<Option<(Vec<u8>, LineageId)>>,
    /// What all tasks together may use of this machine.
    pub(crate) pace: Arc<Pace>,
    pub(crate) looks: Looks,
    /// Why there is no log to open, for the session to tell.
    pub(crate) unopened: watch::Sender<Option<v1::Failure>>,
    /// How far that is, for who waits until a log file is stored.
    pub(crate) storing: watch::Sender<Storing>,
}

impl Host {
    pub(crate) async fn unlock(&self, url: &str) -> palinurus_repository::Result<Unlocked> {
        self.repositories.unlock(&*self.seams.stores, url, &self.keys).await
    }

    /// The repository of the service that what is restored here is a fork of.
    pub(crate) async fn unlock_parent(&self, parent: &v1::Parent) -> palinurus_repository::Result<Unlocked> {
        self.repositories.unlock_to_read(&*self.seams.stores, parent, &self.keys).await
    }
}

#[cfg(test)]
pub(crate) mod puppet;
