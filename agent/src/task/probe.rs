//! After a restore: whether the engine is in use again.
use palinurus_proto::v1::{ProbeResult, ProbeTask};
use palinurus_repository::Result;

use super::Call;

pub(super) async fn run(call: &Call, order: ProbeTask) -> Result<ProbeResult> {
    let engine = &call.host.engine;
    if order.wait {
        engine.bring_into_use(order.follows, &call.cancel).await?;
    }
    let told = engine.check_in_use(call.operation(), &call.cancel).await?;
    Ok(ProbeResult { data_empty: engine.probe().await?.data_empty, told })
}
