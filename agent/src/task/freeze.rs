//! Makes the data stand still.
use std::time::Duration;

use palinurus_proto::v1::FreezeTask;
use palinurus_repository::{Error, Result};

use super::Call;

pub(super) async fn run(call: &Call, order: &FreezeTask) -> Result<()> {
    if order.dead_man_seconds == 0 {
        return Err(Error::invalid("a freeze without a time to thaw by"));
    }
    let dead_man = Duration::from_secs(order.dead_man_seconds.into());
    call.host.engine.freeze(call.operation(), dead_man, &call.cancel).await
}
