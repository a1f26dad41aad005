//! Which election the settings ask for.
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::{Error, Result};

use crate::shared::Base;
use crate::state::{Election, EmbeddedElection, EmbeddedState, EtcdElection};

/// And, with the embedded state, the file: to be closed last.
pub(crate) async fn open(base: &Base) -> Result<(Arc<dyn Election>, Option<EmbeddedState>)> {
    if let Some(election) = &base.world.election {
        return Ok((election.clone(), None));
    }
    let (directory, name) = (base.config.state.clone(), base.config.name.clone());
    let blocking = base.world.blocking;
    if base.config.etcd.in_use() {
        // The chunk indexes lie there whatever else does.
        blocking.run(move || make(&directory)).await?;
        let (clock, entropy) = (base.world.clock.clone(), base.world.entropy.clone());
        let election = EtcdElection::open(&base.config.etcd, &name, clock, entropy).await?;
        return Ok((Arc::new(election), None));
    }
    let open = move || {
        make(&directory)?;
        EmbeddedElection::open(&directory, &name)
    };
    let election = blocking.run(open).await?;
    let state = election.state();
    Ok((Arc::new(election), Some(state)))
}

fn make(directory: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|e| Error::io(format!("make the state directory {}", directory.display()), e))
}
