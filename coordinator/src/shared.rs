//! What every part of a coordinator is given: settings, clock, chance, keys; and what the parts of one that leads
//! share: records, and what is on show.
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use palinurus_repository::storage::AllStores;
use palinurus_repository::{
    Blocking, Clock, Entropy, Keyring, Result, Stores, SystemClock, SystemEntropy, Timestamp,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::config::Config;
use crate::listen::Listen;
use crate::notify::{Channels, Notices};
use crate::operation::Limits;
use crate::slew::Slew;
use crate::state::{Election, Records};

/// Time, chance and all that lies outside, which tests own.
#[derive(Clone, Debug)]
pub struct World {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// None: what the settings say.
    pub election: Option<Arc<dyn Election>>,
    pub stores: Arc<dyn Stores>,
    pub blocking: Blocking,
    /// None: a TCP port.
    pub listen: Option<Arc<dyn Listen>>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy::new()),
            election: None,
            stores: Arc::new(AllStores),
            blocking: Blocking::Threads,
            listen: None,
        }
    }
}

/// What a coordinator is given once, whether it leads or not.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) config: Config,
    pub(crate) world: World,
    pub(crate) keys: Keyring,
    /// Whom notices go to.
    pub(crate) channels: Channels,
}

impl Base {
    pub(crate) async fn new(config: Config, world: World) -> Result<Self> {
        let keys = Keyring::load(config.keys.clone()).await?;
        let channels = Channels::open(&config.notify).await?;
        Ok(Self { config, world, keys, channels })
    }
}

impl Deref for Shared {
    type Target = Base;

    fn deref(&self) -> &Base {
        &self.base
    }
}

/// What every part of a leading coordinator is given, for as long as it leads.
#[derive(Debug)]
pub(crate) struct Shared {
    base: Arc<Base>,
    pub(crate) records: Records,
    pub(crate) board: Board,
    pub(crate) notices: Notices,
    /// Held while a service is applied: two that name the same repository must not both find it free.
    pub(crate) applying: tokio::sync::Mutex<()>,
    /// Held while a fork is begun, and while what takes objects out of a repository is: neither may begin unseen by the other.
    pub(crate) lending: Arc<tokio::sync::Mutex<()>>,
    /// It is to lead no longer.
    pub(crate) cancel: CancellationToken,
    /// Since it began to lead.
    began: Instant,
    slew: Mutex<Slew>,
}

impl Shared {
    pub(crate) fn new(base: Arc<Base>, records: Records, cancel: CancellationToken) -> Self {
        let slew = Mutex::new(Slew::new(base.world.clock.now()));
        Self {
            base,
            records,
            board: Board::default(),
            notices: Notices::default(),
            applying: tokio::sync::Mutex::default(),
            lending: Arc::default(),
            cancel,
            began: Instant::now(),
            slew,
        }
    }

    /// Goes on from the wall clock of its beginning. One that is set meanwhile is followed slowly: a node would be lost
    /// at once, or not for as long as it was set back.
    pub(crate) fn now(&self) -> Timestamp {
        let mut slew = self.slew.lock().unwrap_or_else(PoisonError::into_inner);
        slew.look(self.began.elapsed(), self.base.world.clock.now())
    }

    /// `patience` is what the service's settings say, where they do.
    pub(crate) fn limits(&self, patience: Option<std::time::Duration>) -> Limits {
        Limits { patience: patience.unwrap_or(self.config.patience), cancel: self.config.cancel_limit }
    }
}
