//! Stores what nobody has stored of what the snapshot listed.
use palinurus_proto::v1::{UploadResult, UploadTask};
use std::sync::Arc;

use palinurus_repository::Result;
use palinurus_repository::ledger::PackSet;

use super::{Call, transfer};
use crate::pipeline::Context;

pub(super) async fn run(call: &Call, order: &UploadTask) -> Result<UploadResult> {
    let context = transfer::context(call, &order.transaction, &order.base).await?;
    let damaged = match order.damaged.is_empty() {
        true => PackSet::new(),
        false => PackSet::decode(&order.damaged)?,
    };
    let context =
        Context { position: order.position, nodes: order.nodes, damaged: Arc::new(damaged), ..context };
    if order.take_over {
        return call.host.seams.mover.take_over(context, call.cancel.clone()).await;
    }
    call.host.seams.mover.upload(context, call.cancel.clone()).await
}
