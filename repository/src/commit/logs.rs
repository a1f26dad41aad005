//! Logs: which lineages there are, who writes them, what of them is given up. Their bytes never pass through here.
use std::sync::Arc;

use super::Repository;
use crate::entropy::Entropy;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, LineageId};
use crate::ledger::Body;
use crate::log::{At, Grant, Lineage, LogStore, Position};

impl Repository {
    /// Pieces, as an agent has them.
    pub fn logs(&self) -> LogStore {
        LogStore::new(self.storage.clone(), self.keys.clone()).with_blocking(self.blocking)
    }

    /// As of the last refresh.
    pub async fn lineage(&self, id: LineageId) -> Result<Arc<Lineage>> {
        let known = self.read(|state| state.lineage(id).cloned()).await;
        known.ok_or_else(|| Error::not_found(format!("lineage {id} is not known")))
    }

    /// Makes the lineage known, under an id drawn for it. The same promotion told again is the one that there is.
    pub async fn add_lineage(
        &self,
        epoch: Epoch,
        new: Lineage,
        entropy: &dyn Entropy,
    ) -> Result<Arc<Lineage>> {
        let new = Lineage { id: LineageId(entropy.array()?), grants: Vec::new(), floor: 0, number: 0, ..new };
        match self.append(epoch, Body::Lineage(Box::new(new.clone()))).await {
            Ok(_) => self.lineage(new.id).await,
            Err(e) if e.kind() == ErrorKind::Conflict => {
                let same = self
                    .read(|state| state.lineages().values().find(|it| it.is_same_promotion(&new)).cloned())
                    .await;
                same.ok_or(e)
            }
            Err(e) => Err(e),
        }
    }

    /// From now on that node appends to the lineage, from that position on, and nobody else.
    pub async fn grant_log(
        &self,
        epoch: Epoch,
        lineage: LineageId,
        node: &str,
        from: Position,
    ) -> Result<Grant> {
        let last = self.lineage(lineage).await?.last_grant().map_or(0, |grant| grant.epoch);
        let next = last.checked_add(1).ok_or_else(|| Error::invalid("a lineage has no more grants"))?;
        let body = Body::Grant { lineage, epoch: next, node: node.to_owned(), from };
        self.append(epoch, body).await?;
        let lineage = self.lineage(lineage).await?;
        lineage.grant(next).cloned().ok_or_else(|| Error::internal("a grant that does not count"))
    }

    /// Gives up what of the lineage ends there or before.
    pub async fn raise_floor(&self, epoch: Epoch, floor: At) -> Result<()> {
        self.append(epoch, Body::Floor(floor)).await.map(|_| ())
    }
}
