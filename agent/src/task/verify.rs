//! Looks at the repository, and when asked at every byte in it: the coordinator moves no user data.
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use palinurus_proto::v1::{VerifyDetail, VerifyResult, VerifyTask};
use palinurus_repository::ledger::Objects;
use palinurus_repository::verify::ReadData;
use palinurus_repository::{Error, Result, Storage, verify};

use super::Call;
use crate::pace::Received;

/// Damages in the result; all are counted.
const DAMAGES_TOLD: usize = 1000;

/// What is damaged beyond this is found by the next check.
const OBJECTS_TOLD: usize = 5_000;

pub(super) async fn run(call: &Call, order: &VerifyTask) -> Result<VerifyResult> {
    let host = &call.host;
    let storage = host.seams.stores.open(&call.task.repository)?;
    let storage: Arc<dyn Storage> = Arc::new(Received::new(storage, Arc::clone(&host.pace)));
    call.counters.measure(&storage, storage.sent().unwrap_or_default());
    let repository = host.keys.open(storage).await?.with_blocking(host.seams.blocking);
    let counters = &call.counters;
    let progress = |at: verify::Progress| {
        counters.files_total.store(at.total, Relaxed);
        counters.files_done.store(at.done, Relaxed);
        counters.bytes_read.store(at.bytes, Relaxed);
    };
    let depth = match order.percent {
        0 => ReadData::from(order.read_data),
        percent => ReadData::share(percent, order.day),
    };
    let report = tokio::select! {
        biased;
        () = call.cancel.cancelled() => return Err(Error::unavailable("the check was cancelled")),
        report = verify::check(&repository, depth, &progress) => report?,
    };
    let detail = VerifyDetail {
        read_data: order.read_data,
        packs_checked: report.packs_checked,
        backups_checked: report.backups_checked,
        damages: report.damages.iter().take(DAMAGES_TOLD).map(palinurus_proto::damage).collect(),
        damage_count: report.damages.len() as u64,
        node: host.config.node.clone(),
        percent: order.percent,
        day: order.day,
        damaged: told(&report.damaged),
        whole: told(&report.whole),
        logs: palinurus_proto::checked_logs(&report.logs),
        ..Default::default()
    };
    Ok(VerifyResult { detail: Some(detail) })
}

fn told(objects: &Objects) -> Bytes {
    let some = Objects {
        packs: objects.packs.iter().take(OBJECTS_TOLD).collect(),
        manifests: objects.manifests.iter().take(OBJECTS_TOLD / 5).cloned().collect(),
    };
    if some.is_empty() { Bytes::new() } else { some.encode().into() }
}
