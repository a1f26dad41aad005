//! Stores what nobody has stored of what the snapshot listed, and what the engine adds when that has been read.
use std::sync::Arc;

use palinurus_proto::v1::{UploadResult, UploadTask};
use palinurus_repository::Result;
use palinurus_repository::ledger::PackSet;

use super::snapshot::{ADDED, ADDED_LIST, SPAN};
use super::{Call, transfer};
use crate::engine::FinishOrder;
use crate::pipeline::Context;
use crate::source::Tree;

pub(super) async fn run(call: &Call, order: &UploadTask) -> Result<UploadResult> {
    let context = transfer::context(call, &order.transaction, &order.base).await?;
    let damaged = match order.damaged.is_empty() {
        true => PackSet::new(),
        false => PackSet::decode(&order.damaged)?,
    };
    let context =
        Context { position: order.position, nodes: order.nodes, damaged: Arc::new(damaged), ..context };
    let mover = &call.host.seams.mover;
    if order.take_over {
        return mover.take_over(context, call.cancel.clone()).await;
    }
    let (list, added) = (context.spool.join(ADDED_LIST), context.spool.join(ADDED));
    // There after a finish: an attempt before this one has read everything, and nothing of it may be read again.
    if !list.exists() {
        let uploaded = mover.upload(context.clone(), call.cancel.clone()).await?;
        let order = FinishOrder {
            list: list.clone(),
            added: added.clone(),
            span: context.spool.join(SPAN),
            cancel: call.cancel.clone(),
        };
        if !call.host.engine.finish(call.operation(), order).await? {
            return Ok(uploaded);
        }
    }
    let tree = Arc::new(Tree::open(&added, None)?);
    mover.append(Context { source: list, tree, base: None, ..context }, call.cancel.clone()).await
}
