//! Which election the settings ask for.
use std::sync::Arc;

use palinurus_repository::Result;

use crate::shared::Base;
use crate::state::{Election, EmbeddedElection, EmbeddedState};

/// And, with the embedded state, the file: to be closed last.
pub(crate) async fn open(base: &Base) -> Result<(Arc<dyn Election>, Option<EmbeddedState>)> {
    if let Some(election) = &base.world.election {
        return Ok((election.clone(), None));
    }
    let (directory, name) = (base.config.state.clone(), base.config.name.clone());
    let election = base.world.blocking.run(move || EmbeddedElection::open(&directory, &name)).await?;
    let state = election.state();
    Ok((Arc::new(election), Some(state)))
}
