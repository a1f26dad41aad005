//! Lists the data, and holds on to what could go away.
use std::sync::Arc;

use palinurus_proto::v1::SnapshotResult;
use palinurus_repository::Result;

use super::{Call, WARNINGS_TOLD};
use crate::durable;
use crate::engine::SnapshotOrder;
use crate::source::SourceListReader;

/// In the operation's spool.
pub(crate) const LIST: &str = "walk";
/// A directory of the engine's, for what it adds in the end.
pub(crate) const ADDED: &str = "added";
/// The list of that: once it is there, what the snapshot listed is read no more.
pub(crate) const ADDED_LIST: &str = "walk-added";

/// Which part of the engine's log the backup has.
pub(crate) const SPAN: &str = "span";

pub(super) async fn run(call: &Call) -> Result<SnapshotResult> {
    let spool = call.host.state.create_spool(call.operation())?;
    let list = spool.join(LIST);
    durable::remove(&spool.join(ADDED_LIST))?;
    let order = SnapshotOrder {
        list: list.clone(),
        added: spool.join(ADDED),
        counters: Arc::clone(&call.counters),
        cancel: call.cancel.clone(),
    };
    let snapshot = call.host.engine.snapshot(call.operation(), order).await?;
    let read = move || SourceListReader::open(&list).map(|list| list.largest());
    let largest = call.host.seams.blocking.run(read).await?;
    Ok(SnapshotResult {
        files: snapshot.totals.files,
        bytes: snapshot.totals.bytes,
        taken_ms: snapshot.taken.0,
        taken_to_ms: snapshot.taken_to.0,
        warnings: snapshot.warnings.to_wire(&call.host.config.node, WARNINGS_TOLD),
        warning_count: snapshot.warnings.count(),
        largest: largest.into_iter().map(Into::into).collect(),
    })
}
