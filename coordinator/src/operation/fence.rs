//! Gives a lost node's place to its new holder, so that nobody else can have it any more. First of a failover's
//! steps: nothing is restored before the old agent is shut out.
use async_trait::async_trait;
use palinurus_proto::v1;
use palinurus_repository::{Error, Result};

use super::chosen::choose;
use super::record::Patch;
use crate::vault::Vault;

/// Whoever gives out the places of a service.
#[async_trait]
pub(crate) trait Places: Send + Sync {
    /// Stores who has the place from now on and who is shut out, and says so. Doing it again changes nothing.
    async fn fence(&self, failover: &v1::FailoverDetail) -> Result<String>;
}

pub(super) async fn fence(operation: &v1::Operation, places: &dyn Places, vault: &Vault) -> Result<Patch> {
    let failover = operation.failover.as_ref();
    let failover = failover.ok_or_else(|| Error::internal("a failover that does not say of what"))?;
    let told = places.fence(failover).await?;
    // What its old agent puts from here on is not read: how far the log goes is settled.
    vault.logs.fence(&failover.lost, &failover.node).await?;
    let chosen = choose(failover, vault).await?;
    Ok(Patch::Fenced { told, chosen: chosen.map(Box::new) })
}
