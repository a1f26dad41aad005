//! Looks at the repository, and when asked at every byte in it: the coordinator moves no user data.
use std::sync::atomic::Ordering::Relaxed;

use palinurus_proto::v1::{Damage, VerifyDetail, VerifyResult, VerifyTask};
use palinurus_repository::{Error, Result, verify};

use super::Call;

/// Damages in the result; all are counted.
const DAMAGES_TOLD: usize = 1000;

pub(super) async fn run(call: &Call, order: &VerifyTask) -> Result<VerifyResult> {
    let host = &call.host;
    let storage = host.seams.stores.open(&call.task.repository)?;
    call.counters.measure(&storage, storage.sent().unwrap_or_default());
    let repository = host.keys.open(storage).await?.with_blocking(host.seams.blocking);
    let counters = &call.counters;
    let progress = |at: verify::Progress| {
        counters.files_total.store(at.total, Relaxed);
        counters.files_done.store(at.done, Relaxed);
        counters.bytes_read.store(at.bytes, Relaxed);
    };
    let report = tokio::select! {
        biased;
        () = call.cancel.cancelled() => return Err(Error::unavailable("the check was cancelled")),
        report = verify::check(&repository, order.read_data, &progress) => report?,
    };
    let damage = |damage: &verify::Damage| Damage {
        object: damage.object.clone(),
        what: damage.what.clone(),
        backups: damage.backups.iter().map(ToString::to_string).collect(),
    };
    let detail = VerifyDetail {
        read_data: order.read_data,
        packs_checked: report.packs_checked,
        backups_checked: report.backups_checked,
        damages: report.damages.iter().take(DAMAGES_TOLD).map(damage).collect(),
        damage_count: report.damages.len() as u64,
        node: host.config.node.clone(),
    };
    Ok(VerifyResult { detail: Some(detail) })
}
