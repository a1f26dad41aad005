//! Brings a backup of a node back into the data directory.
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use palinurus_proto::Choice;
use palinurus_proto::v1::{self, RestoreResult, RestoreTask};
use palinurus_repository::log::LogStore;
use palinurus_repository::manifest::ManifestRef;
use palinurus_repository::{Error, Result};

use super::{Call, WARNINGS_TOLD};
use crate::durable;
use crate::engine::{Choosing, Engine, Logs, Plan, Portion};
use crate::log::{self, Recovery};
use crate::repositories::Unlocked;
use crate::restore::{Request, RestoreResult as Restored, Settle};

pub(super) async fn run(call: &Call, order: &RestoreTask) -> Result<RestoreResult> {
    let host = &call.host;
    let manifest = ManifestRef::decode(&order.manifest)?;
    let unlocked = call.unlock_source(order.parent.as_ref()).await?;
    unlocked.keys.learn(&*unlocked.storage, &palinurus_proto::sealed(&call.task.key_epochs)?).await?;
    if let Some(choice) = &order.choice {
        return chosen(call, order, unlocked, manifest, choice).await;
    }
    let mut recovery = Recovery::of(&call.task, order.logs.as_ref());
    // Before anything is written: a plan that cannot be followed must leave no trace.
    let plan = recovery.plan()?;
    if order.logs.is_some() && host.engine.logs().is_none() {
        return Err(Error::invalid(format!("the {} engine has no log to recover along", host.engine.name()))
            .with_hint("restore without --to"));
    }
    if let Some(logs) = host.engine.logs() {
        logs.check(&plan)?;
    }
    if order.parent.is_some() {
        check_fits(call, &unlocked, &manifest).await?;
    }
    let target = host.engine.restore_prepare().await?;
    // What can be refused is, before data lies there that would start without it.
    // A fork without a log is kept from its parent's history all the same.
    let mut along = ready(call, &recovery, order.logs.is_some() || order.parent.is_some())?;
    if let Some((logs, plan, _)) = along.as_mut() {
        let store = LogStore::new(Arc::clone(&unlocked.storage), unlocked.keys.clone())
            .with_blocking(host.seams.blocking);
        *plan = log::reachable(plan.clone(), store, &**logs).await?;
    }
    let asks = along.as_ref().map(|(logs, ..)| Arc::clone(logs));
    let settle = Settled { engine: Arc::clone(&host.engine), along };
    let include = match order.from_peers {
        true => host.engine.left_by_peers(&telling(call, &unlocked, &manifest, "telling").await?).await?,
        false => None,
    };
    let peers = peers(call, &unlocked, order).await?;
    let request = Request {
        storage: unlocked.storage,
        keys: unlocked.keys,
        manifest,
        target: target.clone(),
        delta: order.delta || host.engine.restores_aside(),
        include: include.unwrap_or_default(),
        workers: host.config.limits.workers(),
        progress: Arc::clone(&call.counters),
        settle: Some(Arc::new(settle)),
    };
    let restored = host.seams.mover.restore(request, call.cancel.clone()).await?;
    host.engine.know_peers(&target, peers).await?;
    host.engine.restore_finish().await?;
    if let Some(logs) = asks {
        // An empty directory may have been another's; what was restored says whose it is.
        log::give(host.state.path(), &*logs)?;
        recovery.begins(host.state.path(), call.operation())?;
    }
    // Nobody may hear that it has ended and still take the place for empty.
    host.looks.again().await;
    Ok(RestoreResult { told: host.engine.left_to_do(), ..told(call, &restored) })
}

fn told(call: &Call, restored: &Restored) -> RestoreResult {
    RestoreResult {
        files: restored.files,
        bytes: restored.bytes,
        bytes_written: restored.bytes_written,
        bytes_fetched: restored.bytes_fetched,
        warnings: restored.warnings.to_wire(&call.host.config.node, WARNINGS_TOLD),
        warning_count: restored.warnings.count(),
        told: String::new(),
    }
}

/// Some of the backup, beside what is there.
async fn chosen(
    call: &Call,
    order: &RestoreTask,
    unlocked: Unlocked,
    manifest: ManifestRef,
    choice: &v1::Choice,
) -> Result<RestoreResult> {
    let host = &call.host;
    let choosing = Choosing { choice: Choice::parse(choice)?, backup: order.backup_id.clone() };
    let place = telling(call, &unlocked, &manifest, "telling").await?;
    let peers = peers(call, &unlocked, order).await?;
    let Portion { target, include } = host.engine.choose(&place, choosing).await?;
    let request = Request {
        storage: unlocked.storage,
        keys: unlocked.keys,
        manifest,
        target: target.clone(),
        // What an attempt before left there is ours.
        delta: true,
        include,
        workers: host.config.limits.workers(),
        progress: Arc::clone(&call.counters),
        settle: None,
    };
    let restored = host.seams.mover.restore(request, call.cancel.clone()).await?;
    host.engine.know_peers(&target, peers).await?;
    host.engine.restore_chosen(&target).await?;
    host.looks.again().await;
    Ok(told(call, &restored))
}

/// A fork may be on a machine with other programs: seen before anything is written into its data directory.
async fn check_fits(call: &Call, unlocked: &Unlocked, manifest: &ManifestRef) -> Result<()> {
    if call.host.engine.telling().is_empty() {
        return Ok(());
    }
    let place = telling(call, unlocked, manifest, "telling").await?;
    call.host.engine.check_fits(&place).await
}

/// What the backup holds of each node that is restored at once and has the same data.
async fn peers(call: &Call, unlocked: &Unlocked, order: &RestoreTask) -> Result<Vec<PathBuf>> {
    let mut places = Vec::new();
    for (number, peer) in order.peers.iter().enumerate() {
        let manifest = ManifestRef::decode(&peer.manifest)?;
        places.push(telling(call, unlocked, &manifest, &format!("peer-{number}")).await?);
    }
    Ok(places)
}

/// Where the files are that say what the backup holds.
async fn telling(call: &Call, unlocked: &Unlocked, manifest: &ManifestRef, name: &str) -> Result<PathBuf> {
    let host = &call.host;
    // Removed with the operation, whatever becomes of this.
    let place = host.state.create_spool(call.operation())?.join(name);
    durable::remove_dir(&place)?;
    durable::create_dir(&place)?;
    if host.engine.telling().is_empty() {
        return Ok(place);
    }
    let request = Request {
        storage: Arc::clone(&unlocked.storage),
        keys: unlocked.keys.clone(),
        manifest: manifest.clone(),
        target: place.clone(),
        delta: false,
        include: host.engine.telling().iter().map(|name| (*name).to_owned()).collect(),
        workers: 1,
        progress: Arc::default(),
        settle: None,
    };
    host.seams.mover.restore(request, call.cancel.clone()).await?;
    Ok(place)
}

/// Whose log, along which, and the words of the command that it asks for log files with.
type Along = (Arc<dyn Logs>, Plan, Vec<String>);

/// Before the data can be started: a crash must not leave any that starts without its recovery.
#[derive(Debug)]
struct Settled {
    engine: Arc<dyn Engine>,
    along: Option<Along>,
}

#[async_trait]
impl Settle for Settled {
    async fn settle(&self) -> Result<()> {
        self.engine.restore_settle().await?;
        match &self.along {
            Some((logs, plan, command)) => logs.prepare(plan, command).await,
            None => Ok(()),
        }
    }
}

/// What is restored goes along the log when the database is started, and goes on as a history of its own.
fn ready(call: &Call, recovery: &Recovery, wanted: bool) -> Result<Option<Along>> {
    let host = &call.host;
    let Some(logs) = host.engine.logs().filter(|logs| wanted || logs.is_stored()) else { return Ok(None) };
    let state = host.state.path();
    recovery.keep(state)?;
    log::give(state, &*logs)?;
    let command = log::command_of(&host.seams.program, state)?;
    Ok(Some((logs, recovery.plan()?, command)))
}
