//! Stores what nobody has stored of what the snapshot listed.
use palinurus_proto::v1::{UploadResult, UploadTask};
use palinurus_repository::Result;

use super::{Call, transfer};
use crate::pipeline::Context;

pub(super) async fn run(call: &Call, order: &UploadTask) -> Result<UploadResult> {
    let context = transfer::context(call, &order.transaction, &order.base).await?;
    let context = Context { position: order.position, nodes: order.nodes, ..context };
    if order.take_over {
        return call.host.seams.mover.take_over(context, call.cancel.clone()).await;
    }
    call.host.seams.mover.upload(context, call.cancel.clone()).await
}
