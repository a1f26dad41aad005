//! Whether a backup could begin here.
use std::path::Path;

use palinurus_proto::v1::InspectResult;
use palinurus_repository::{Error, Result};

use super::Call;

pub(super) async fn run(call: &Call) -> Result<InspectResult> {
    let engine = &call.host.engine;
    if let Some(path) = call.task.repository.strip_prefix("file://")
        && engine.holds(Path::new(path))
    {
        return Err(Error::invalid(format!("repository {path} lies in the data that is backed up into it"))
            .with_hint("give the service a repository elsewhere"));
    }
    let found = engine.inspect().await?;
    Ok(InspectResult {
        data_empty: found.data_empty,
        free_bytes: found.free_bytes,
        facts: found.facts.into(),
    })
}
