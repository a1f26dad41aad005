//! Brings a backup of a node back into the data directory.
use std::sync::Arc;

use palinurus_proto::v1::{RestoreResult, RestoreTask};
use palinurus_repository::manifest::ManifestRef;
use palinurus_repository::{Error, Result};

use super::{Call, WARNINGS_TOLD};
use crate::engine::Logs;
use crate::log::{self, Recovery};
use crate::restore::Request;

pub(super) async fn run(call: &Call, order: &RestoreTask) -> Result<RestoreResult> {
    let host = &call.host;
    let manifest = ManifestRef::decode(&order.manifest)?;
    let unlocked = call.unlock().await?;
    unlocked.keys.learn(&*unlocked.storage, &palinurus_proto::sealed(&call.task.key_epochs)?).await?;
    let recovery = Recovery::of(&call.task, order.logs.as_ref());
    // Before anything is written: a plan that cannot be followed must leave no trace.
    recovery.plan()?;
    if order.logs.is_some() && host.engine.logs().is_none() {
        return Err(Error::invalid(format!("the {} engine has no log to recover along", host.engine.name()))
            .with_hint("restore without --to"));
    }
    let target = host.engine.restore_prepare().await?;
    // What can be refused is, before data lies there that would start without it.
    let recover = ready(call, &recovery, order.logs.is_some())?;
    let request = Request {
        storage: unlocked.storage,
        keys: unlocked.keys,
        manifest,
        target,
        delta: order.delta,
        include: Vec::new(),
        workers: host.config.limits.workers(),
        progress: Arc::clone(&call.counters),
    };
    let restored = host.seams.mover.restore(request, call.cancel.clone()).await?;
    host.engine.restore_finish().await?;
    if let Some((logs, command)) = recover {
        logs.prepare(&recovery.plan()?, &command).await?;
    }
    Ok(RestoreResult {
        files: restored.files,
        bytes: restored.bytes,
        bytes_written: restored.bytes_written,
        bytes_fetched: restored.bytes_fetched,
        warnings: restored.warnings.to_wire(&host.config.node, WARNINGS_TOLD),
        warning_count: restored.warnings.count(),
    })
}

/// Whose log, and the words of the command.
type Recover = (Arc<dyn Logs>, Vec<String>);

/// What is restored goes along the log when the database is started, and goes on as a history of its own: with what, and the
/// command that it asks for log files with.
fn ready(call: &Call, recovery: &Recovery, wanted: bool) -> Result<Option<Recover>> {
    let host = &call.host;
    let Some(logs) = host.engine.logs().filter(|logs| wanted || logs.is_stored()) else { return Ok(None) };
    let state = host.state.path();
    recovery.keep(state)?;
    log::give(state, &*logs)?;
    let text = state.to_str().ok_or_else(|| Error::invalid("the state directory's path is not UTF-8"))?;
    let more = ["wal-get", "--state", text].map(str::to_owned);
    let command = host.seams.program.iter().cloned().chain(more).collect();
    Ok(Some((logs, command)))
}
