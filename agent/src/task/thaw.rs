//! Lets the data move again, and says whether the snapshot fits those of other nodes.
use palinurus_proto::v1::{ThawResult, ThawTask};
use palinurus_repository::Result;

use super::Call;

pub(super) async fn run(call: &Call, order: ThawTask) -> Result<ThawResult> {
    let engine = &call.host.engine;
    // What stands still does not wait for the comparison.
    engine.thaw(call.operation()).await?;
    let changed = if order.compare { engine.changed_since(call.operation()).await? } else { None };
    Ok(ThawResult { changed: changed.unwrap_or_default() })
}
