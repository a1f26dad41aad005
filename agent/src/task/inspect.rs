//! Whether a backup could begin here.
use std::path::Path;

use palinurus_proto::v1::{self, InspectResult};
use palinurus_repository::{Error, Result};

use super::Call;
use crate::engine::Share;

pub(super) async fn run(call: &Call) -> Result<InspectResult> {
    let engine = &call.host.engine;
    if let Some(path) = call.task.repository.strip_prefix("file://")
        && engine.holds(Path::new(path))
    {
        return Err(Error::invalid(format!("repository {path} lies in the data that is backed up into it"))
            .with_hint("give the service a repository elsewhere"));
    }
    let found = engine.inspect().await?;
    let (share, why) = match found.share {
        Share::Own => (v1::Share::Own, String::new()),
        Share::Whole => (v1::Share::Whole, String::new()),
        Share::Copy => (v1::Share::Copy, String::new()),
        Share::Nothing(why) => (v1::Share::Nothing, why),
    };
    Ok(InspectResult {
        data_empty: found.data_empty,
        free_bytes: found.free_bytes,
        facts: found.facts.into(),
        share: share.into(),
        no_share: why,
        shard: found.shard,
    })
}
