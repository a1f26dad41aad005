//! Lets go of all that an operation held here. The runner has ended the operation's other tasks before.
use std::sync::Arc;

use palinurus_repository::Result;
use palinurus_repository::mutant::{self, Mutant};

use super::Call;
use crate::drill::Scratch;

pub(super) async fn run(call: &Call) -> Result<()> {
    if mutant::on(Mutant::ReleaseForgets) {
        return Ok(());
    }
    let released = call.host.engine.release(call.operation()).await;
    let scratch = Scratch::of(&call.host.config).remove(call.operation(), &*call.host.engine).await;
    // Whatever became of that: the spool is ours.
    let (host, operation) = (Arc::clone(&call.host), call.operation().to_owned());
    call.host.seams.blocking.run(move || host.state.remove_spool(&operation)).await?;
    released.and(scratch)
}
