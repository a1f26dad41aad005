//! Runs beside the database: takes orders from the coordinator, moves the bytes itself.
//!
//! `session` keeps in touch, `log` stores what the database writes meanwhile, `runner` runs what it is told, `task` has a handler for each kind of it, `engine` knows
//! the database, `walk` lists the files, `pipeline` moves them, `restore` brings them back.
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use palinurus_identity::Dialer;
use palinurus_repository::{Keyring, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod ahead;
pub mod config;
mod drill;
mod durable;
pub mod engine;
mod epoch;
mod host;
mod identity;
mod journal;
mod key_epochs;
mod log;
mod looks;
mod metrics;
pub mod mover;
mod node_epoch;
pub mod pace;
pub mod pipeline;
pub mod progress;
mod repositories;
pub mod restore;
mod runner;
mod session;
pub mod source;
mod stand_down;
mod state;
mod task;
mod walk;
pub mod warning;

pub use config::Config;
pub use drill::command as drill_command;
pub use host::{Dial, Seams};
pub use log::command as log_command;

use drill::Scratch;
use epoch::Epochs;
use host::Host;
use journal::Journal;
use key_epochs::KeyEpochs;
use log::LogTask;
use node_epoch::NodeEpoch;
use repositories::Repositories;
use runner::Runner;
use session::Session;
use stand_down::StandDown;
use state::StateDirectory;

/// For running tasks to stop when the agent ends.
const END: Duration = Duration::from_secs(10);

/// Runs an agent until cancelled.
pub async fn run(config: Config, cancel: CancellationToken) -> Result<()> {
    run_with(config, Seams::default(), cancel).await
}

/// The same, with time, chance and all that lies outside from the caller.
pub async fn run_with(config: Config, seams: Seams, cancel: CancellationToken) -> Result<()> {
    config.check()?;
    let state = StateDirectory::open(&config.state)?;
    let engine = match &seams.engine {
        Some(engine) => Arc::clone(engine),
        None => engine::open(
            config.engine.clone(),
            engine::Parts {
                service: config.service.clone(),
                node: config.node.clone(),
                state: config.state.clone(),
                clock: Arc::clone(&seams.clock),
                entropy: Arc::clone(&seams.entropy),
            },
        )?,
    };
    let (journal, found) = Journal::open(&state.journal())?;
    let known: std::collections::HashSet<String> =
        found.iter().map(|(key, _)| key.operation.clone()).collect();
    let stand_down = StandDown::open(state.path())?;
    let stood_down = stand_down.instance();
    // First of all: a database may stand frozen. Who has stood down takes nothing out of the data directory.
    let keeps_all = stood_down.is_some();
    engine.recover(&|operation| keeps_all || known.contains(operation)).await?;
    state.sweep_spools(|operation| known.contains(operation))?;
    Scratch::of(&config).sweep(&*engine).await?;
    let epochs = Arc::new(Epochs::open(state.path())?);
    let key_epochs = KeyEpochs::open(state.path())?;
    let instance = match stood_down {
        Some(instance) => instance,
        None => identity::instance(state.path(), &*seams.entropy)?,
    };
    let node_epoch = Arc::new(NodeEpoch::open(state.path(), &config.service, &config.node)?);
    let keys = Keyring::load(config.keys.clone()).await?;
    let tls = config.tls.in_use().then(|| Dialer::new(&config.tls, Arc::clone(&seams.clock))).transpose()?;
    tracing::info!(
        service = config.service,
        node = config.node,
        engine = engine.name(),
        instance,
        "agent begins"
    );

    let (leader, writes, unopened) =
        (watch::Sender::new(None), watch::Sender::new(None), watch::Sender::new(None));
    let host = Arc::new(Host {
        pace: Arc::new(pace::Pace::new(config.limits.rates()?)),
        config,
        seams,
        state,
        engine,
        keys,
        repositories: Repositories::default(),
        key_epochs,
        instance,
        tls,
        leader,
        writes,
        unopened,
        storing: watch::Sender::default(),
        looks: looks::Looks::default(),
    });
    let runner = Runner::new(Arc::clone(&host), journal, found);
    metrics::serve(&host, &runner, cancel.clone()).await?;
    let log =
        LogTask { host: Arc::clone(&host), epochs: Arc::clone(&epochs), node_epoch: Arc::clone(&node_epoch) };
    let session = Session { host: Arc::clone(&host), runner: runner.clone(), epochs, node_epoch, stand_down };
    let storing: BoxFuture<'static, ()> = Box::pin(log.run(cancel.clone()));
    let giving: BoxFuture<'static, ()> = match host.seams.program.is_empty() {
        // No command asks for a log file.
        true => Box::pin(async {}),
        false => Box::pin(log::serve(Arc::clone(&host), cancel.clone())),
    };
    let (ended, (), ()) = tokio::join!(session.run(cancel), storing, giving);
    if tokio::time::timeout(END, runner.end()).await.is_err() {
        tracing::warn!("tasks did not stop in time: they will be done again");
    }
    let thawed = host.engine.close().await;
    tracing::info!("agent ends");
    ended.and(thawed)
}

#[cfg(test)]
mod tests;
