//! Lets the data move again.
use palinurus_repository::Result;

use super::Call;

pub(super) async fn run(call: &Call) -> Result<()> {
    call.host.engine.thaw(call.operation()).await
}
