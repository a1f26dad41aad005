//! Brings a backup of a node back into the data directory.
use std::sync::Arc;

use palinurus_proto::v1::{RestoreResult, RestoreTask};
use palinurus_repository::Result;
use palinurus_repository::manifest::ManifestRef;

use super::{Call, WARNINGS_TOLD};
use crate::restore::Request;

pub(super) async fn run(call: &Call, order: &RestoreTask) -> Result<RestoreResult> {
    let host = &call.host;
    let manifest = ManifestRef::decode(&order.manifest)?;
    let unlocked = call.unlock().await?;
    unlocked.keys.learn(&*unlocked.storage, &palinurus_proto::sealed(&call.task.key_epochs)?).await?;
    let target = host.engine.restore_prepare().await?;
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
    Ok(RestoreResult {
        files: restored.files,
        bytes: restored.bytes,
        bytes_written: restored.bytes_written,
        bytes_fetched: restored.bytes_fetched,
        warnings: restored.warnings.to_wire(&host.config.node, WARNINGS_TOLD),
        warning_count: restored.warnings.count(),
    })
}
