//! After a restore: whether the engine is in use again.
use palinurus_proto::v1::ProbeResult;
use palinurus_repository::Result;

use super::Call;

pub(super) async fn run(call: &Call) -> Result<ProbeResult> {
    let engine = &call.host.engine;
    let told = engine.check_in_use(call.operation(), &call.cancel).await?;
    Ok(ProbeResult { data_empty: engine.probe().await?.data_empty, told })
}
