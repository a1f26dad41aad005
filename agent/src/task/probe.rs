//! After a restore: whether the engine is in use again.
use palinurus_proto::v1::ProbeResult;
use palinurus_repository::Result;

use super::Call;

pub(super) async fn run(call: &Call) -> Result<ProbeResult> {
    let health = call.host.engine.probe().await?;
    Ok(ProbeResult { data_empty: health.data_empty, told: String::new() })
}
