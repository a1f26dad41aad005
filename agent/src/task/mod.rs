//! One handler for each kind of task. They are thin: what they know of is the wire.
use std::sync::Arc;

use palinurus_proto::v1::{self, task::Work, task_result::Result as Outcome};
use palinurus_repository::storage::Requests;
use palinurus_repository::{Error, Result};
use tokio_util::sync::CancellationToken;

use crate::host::Host;
use crate::pace::Received;
use crate::progress::Counters;
use crate::repositories::Unlocked;

mod drill;
mod freeze;
mod inspect;
mod manifest;
mod probe;
mod release;
mod restore;
mod snapshot;
mod thaw;
mod transfer;
mod upload;
mod verify;

/// Warnings in a result; all are in the manifest.
pub(crate) const WARNINGS_TOLD: usize = 100;

/// A task as it runs.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) host: Arc<Host>,
    pub(crate) task: v1::Task,
    pub(crate) epoch: u64,
    pub(crate) counters: Arc<Counters>,
    /// The coordinator wants it no more, or the agent ends.
    pub(crate) cancel: CancellationToken,
}

impl Call {
    pub(crate) fn operation(&self) -> &str {
        &self.task.operation
    }

    /// The task's repository. From here on its requests are counted as this task's.
    pub(crate) async fn unlock(&self) -> Result<Unlocked> {
        let url = &self.task.repository;
        let before = self.host.repositories.requests(url).await;
        let unlocked = self.host.unlock(url).await?;
        self.counters.measure(&unlocked.storage, before);
        Ok(self.paced(unlocked))
    }

    /// Reads no faster than this agent may. The log, which opens the store by itself, is not held back.
    fn paced(&self, unlocked: Unlocked) -> Unlocked {
        let Unlocked { storage, keys } = unlocked;
        Unlocked { storage: Arc::new(Received::new(storage, Arc::clone(&self.host.pace))), keys }
    }

    /// The repository that is restored from: of a fork, its parent's.
    pub(crate) async fn unlock_source(&self, parent: Option<&v1::Parent>) -> Result<Unlocked> {
        let Some(parent) = parent else { return self.unlock().await };
        let unlocked = self.host.unlock_parent(parent).await?;
        self.counters.measure(&unlocked.storage, Requests::default());
        Ok(self.paced(unlocked))
    }
}

/// Does the task. Repeating it is safe; cut short, it leaves nothing that a release does not remove.
pub(crate) async fn execute(call: Call) -> Result<Option<Outcome>> {
    let config = &call.host.config;
    if call.task.service != config.service || call.task.node != config.node {
        return Err(Error::denied(format!(
            "a task for node {} of service {}, and this is {} of {}",
            call.task.node, call.task.service, config.node, config.service
        )));
    }
    let Some(work) = call.task.work.clone() else {
        return Err(Error::invalid(format!("task {:?} is of no kind that this agent knows", call.task.task))
            .with_hint("update the agent to the coordinator's version"));
    };
    match work {
        Work::Inspect(_) => inspect::run(&call).await.map(Outcome::Inspect).map(Some),
        Work::Freeze(order) => freeze::run(&call, &order).await.map(|()| None),
        Work::Snapshot(_) => snapshot::run(&call).await.map(Outcome::Snapshot).map(Some),
        Work::Thaw(order) => thaw::run(&call, order).await.map(Outcome::Thaw).map(Some),
        Work::Release(_) => release::run(&call).await.map(|()| None),
        Work::Upload(order) => upload::run(&call, &order).await.map(Outcome::Upload).map(Some),
        Work::Manifest(order) => manifest::run(&call, &order).await.map(Outcome::Manifest).map(Some),
        Work::Restore(order) => restore::run(&call, &order).await.map(Outcome::Restore).map(Some),
        Work::Probe(order) => probe::run(&call, order).await.map(Outcome::Probe).map(Some),
        Work::Drill(order) => drill::run(&call, &order).await.map(Outcome::Drill).map(Some),
        Work::Verify(order) => verify::run(&call, &order).await.map(Outcome::Verify).map(Some),
    }
}
