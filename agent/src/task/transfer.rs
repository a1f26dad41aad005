//! What upload and manifest, the two halves of moving the bytes, have in common.
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::manifest::ManifestRef;
use palinurus_repository::{Result, TransactionId};

use super::Call;
use super::snapshot::LIST;
use crate::pipeline::{Context, Limits};

pub(super) async fn context(call: &Call, transaction: &[u8], base: &[u8]) -> Result<Context> {
    let host = &call.host;
    let unlocked = call.unlock().await?;
    let transaction = TransactionId::from_slice(transaction)?;
    let sealed = palinurus_proto::sealed(&call.task.key_epochs)?;
    unlocked.keys.learn(&*unlocked.storage, &sealed).await?;
    let own = sealed.iter().find(|sealed| sealed.transactions.contains(&transaction));
    host.key_epochs.observe(unlocked.keys.repository(), own.map_or(0, |own| own.epoch.number))?;
    let base = if base.is_empty() { None } else { Some(ManifestRef::decode(base)?) };
    let spool = host.state.spool(call.operation())?;
    let limits = &host.config.limits;
    Ok(Context {
        storage: unlocked.storage,
        keys: unlocked.keys,
        entropy: Arc::clone(&host.seams.entropy),
        transaction,
        node: call.task.node.clone(),
        source: spool.join(LIST),
        spool,
        tree: Arc::new(host.engine.tree(call.operation())?),
        base,
        damaged: Arc::default(),
        position: 0,
        nodes: 1,
        leader: host.leader.subscribe(),
        claim: v1::ClaimOpen {
            service: call.task.service.clone(),
            node: call.task.node.clone(),
            instance: host.instance.clone(),
            operation: call.task.operation.clone(),
            transaction: transaction.as_bytes().to_vec().into(),
            epoch: call.epoch,
        },
        limits: Limits {
            workers: limits.workers(),
            pack_buffers: limits.pack_buffers(),
            zstd_level: limits.zstd_level,
            zstd_level_most: limits.zstd_level_most,
            spare_page_cache: limits.spare_page_cache,
        },
        pace: Arc::clone(&host.pace),
        blocking: host.seams.blocking,
        progress: Arc::clone(&call.counters),
    })
}
