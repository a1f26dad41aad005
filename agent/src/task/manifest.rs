//! Writes this node's manifest, when all nodes have uploaded.
use palinurus_proto::v1::{ManifestResult, ManifestTask};
use palinurus_repository::Result;

use super::{Call, transfer};

pub(super) async fn run(call: &Call, order: &ManifestTask) -> Result<ManifestResult> {
    let context = transfer::context(call, &order.transaction, &order.base).await?;
    call.host.seams.mover.manifest(context, call.cancel.clone()).await
}
