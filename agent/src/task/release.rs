//! Lets go of all that an operation held here. The runner has ended the operation's other tasks before.
use std::sync::Arc;

use palinurus_repository::{Error, Result};

use super::Call;

pub(super) async fn run(call: &Call) -> Result<()> {
    let released = call.host.engine.release(call.operation()).await;
    // Whatever became of that: the spool is ours.
    let (host, operation) = (Arc::clone(&call.host), call.operation().to_owned());
    tokio::task::spawn_blocking(move || host.state.remove_spool(&operation))
        .await
        .map_err(|e| Error::internal("remove the spool").with_source(e))??;
    released
}
