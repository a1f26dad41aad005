//! Recoveries along the log that go on after their restore: what they read is kept until their agent says that they have ended.
use std::collections::BTreeSet;
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::{Error, LineageId, Result};
use tokio::sync::OwnedMutexGuard;

use super::Service;
use crate::logs::{held, holds, parent};
use crate::operation::finished;
use crate::state::{Expect, Versioned};
use crate::vault::Vault;

impl Service {
    /// To be asked while no restore runs.
    pub(super) fn log_holds(&self) -> Vec<v1::LogHold> {
        let (name, now) = (self.name(), self.shared.now());
        let mut all = held(name, self.history.values().map(|operation| &operation.value), now);
        // Forks are other services' operations.
        let board = self.shared.board.list();
        let forks: BTreeSet<&str> =
            board.iter().filter(|it| parent(it).is_some()).map(|it| it.service.as_str()).collect();
        for fork in forks {
            let operations = board.iter().map(|it| &**it).filter(|it| it.service == fork);
            all.extend(held(name, operations, now));
        }
        all
    }

    /// For what takes objects out of the repository: no fork reads it, and none begins while this is kept.
    pub(super) fn unlent(&self) -> Result<OwnedMutexGuard<()>> {
        let name = self.name();
        let busy = |what: String| Error::conflict(what).with_hint("try again when the fork is restored");
        let lending = self.shared.lending.clone();
        let lending =
            lending.try_lock_owned().map_err(|_| busy("a fork of a service is being begun".to_owned()))?;
        let board = self.shared.board.list();
        let mut running = board.iter().filter(|operation| !finished(operation.state()));
        let reads = |operation: &&Arc<v1::Operation>| parent(operation).is_some_and(|it| it.service == name);
        match running.find(reads) {
            Some(fork) => Err(busy(format!("operation {} forks {name} into {}", fork.id, fork.service))),
            None => Ok(lending),
        }
    }

    /// Only of one that has ended: what was said before was said of another.
    pub(super) async fn recovered(&mut self, node: &str, operation: &str) {
        let Some(known) = self.history.get(operation) else { return };
        if !known.value.nodes.iter().any(|each| each == node) || !holds(&known.value) {
            return;
        }
        let mut next = known.value.clone();
        let now = self.shared.now();
        next.recovered_ms = now.0;
        match self.shared.records.put_operation(&next, Expect::At(known.revision)).await {
            Ok(revision) => {
                tracing::info!(operation, node, "what was restored has recovered");
                self.shared.board.publish(&next);
                self.history.insert(Versioned { value: next, revision });
            }
            // It is said again.
            Err(e) => {
                tracing::warn!(operation, node, error = e.chain(), "cannot store that it has recovered");
                let newest = self.newest(known.clone()).await;
                self.history.insert(newest);
            }
        }
    }
}

/// Retention may have given up what was there when the restore was planned.
pub(super) async fn check_floors(vault: &Vault, restore: &v1::RestoreDetail) -> Result<()> {
    let logs = restore.plan.as_ref().and_then(|plan| plan.logs.as_deref());
    let Some((logs, first)) = logs.and_then(|logs| Some((logs, logs.chain.first()?))) else { return Ok(()) };
    let lineage = LineageId::from_slice(&first.id)?;
    let floor =
        vault.repository.read(|state| state.lineage(lineage).map_or(0, |lineage| lineage.floor)).await;
    if logs.end > logs.first && floor > logs.first {
        return Err(Error::conflict(
            "the log that this restore needs has been given up since it was planned",
        )
        .with_hint("plan it again: `palinurus logs show` shows what there is"));
    }
    Ok(())
}
