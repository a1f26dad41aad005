//! One task as the agent knows it: interrupted, running or ended.
use std::sync::Arc;

use palinurus_proto::v1::{self, TaskState};
use tokio_util::sync::CancellationToken;

use crate::journal::{Record, TaskKey};
use crate::progress::Counters;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) task: v1::Task,
    pub(super) epoch: u64,
    pub(super) status: Status,
}

#[derive(Debug)]
pub(super) enum Status {
    /// Begun by an agent before this one, which did not get to its end.
    Interrupted,
    Running {
        counters: Arc<Counters>,
        cancel: CancellationToken,
        done: CancellationToken,
    },
    Ended {
        report: Box<v1::TaskReport>,
        acknowledged: bool,
    },
}

impl Entry {
    pub(super) fn from_journal(record: Record) -> Self {
        Self {
            task: record.task.unwrap_or_default(),
            epoch: record.epoch,
            status: match record.report {
                Some(report) => Status::Ended { report: Box::new(report), acknowledged: record.acknowledged },
                None => Status::Interrupted,
            },
        }
    }

    /// Asks a running task to end; what it gives is cancelled once it has.
    pub(super) fn stop(&self) -> Option<CancellationToken> {
        let Status::Running { cancel, done, .. } = &self.status else { return None };
        cancel.cancel();
        Some(done.clone())
    }

    pub(super) fn is_acknowledged(&self) -> bool {
        matches!(self.status, Status::Ended { acknowledged: true, .. })
    }

    pub(super) fn report(&self, key: &TaskKey) -> v1::TaskReport {
        let (state, progress) = match &self.status {
            Status::Ended { report, .. } => return v1::TaskReport::clone(report),
            // In no state: the coordinator hears that the operation is known here, and sends the task again.
            Status::Interrupted => (TaskState::Unspecified, None),
            Status::Running { counters, .. } => (TaskState::TaskRunning, Some(counters.snapshot())),
        };
        v1::TaskReport {
            operation: key.operation.clone(),
            task: key.task.clone(),
            attempt: key.attempt,
            epoch: self.epoch,
            state: state.into(),
            progress,
            ..Default::default()
        }
    }

    pub(super) fn record(&self) -> Record {
        let (report, acknowledged) = match &self.status {
            Status::Ended { report, acknowledged } => (Some(v1::TaskReport::clone(report)), *acknowledged),
            _ => (None, false),
        };
        Record { task: Some(self.task.clone()), epoch: self.epoch, report, acknowledged }
    }
}
