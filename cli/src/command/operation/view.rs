//! An operation as `--json` and the tables show it.
use palinurus_proto::v1::{self, TaskState};
use serde::Serialize;

use super::log::LogCheckView;

use crate::command::drill::DrillView;
use crate::command::failover::FailoverView;
use crate::command::locked::LockedView;
use crate::command::missing::MissingView;
use crate::command::requests::RequestsView;
use crate::command::restore::PlanView;
use crate::command::retention::RetentionView;
use crate::human;

/// Times are RFC 3339, sizes bytes; a field that does not apply is null.
#[derive(Serialize)]
pub(crate) struct OperationView {
    pub(crate) id: String,
    pub(crate) service: String,
    pub(crate) kind: &'static str,
    pub(crate) state: &'static str,
    pub(crate) phase: String,
    pub(crate) created: Option<String>,
    pub(crate) finished: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) progress: ProgressView,
    pub(crate) requests: Option<RequestsView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tasks: Vec<TaskView>,
    pub(crate) failure: Option<FailureView>,
    pub(crate) warning_count: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<WarningView>,
    pub(crate) backup: Option<String>,
    pub(crate) base: Option<String>,
    /// Not empty: the backup goes without these nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<MissingView>,
    /// Claimed by a node that went away, and stored by another.
    pub(crate) chunks_moved: Option<u64>,
    pub(crate) restore: Option<PlanView>,
    pub(crate) verify: Option<VerifyView>,
    pub(crate) locked: Option<LockedView>,
    pub(crate) failover: Option<FailoverView>,
    pub(crate) retention: Option<RetentionView>,
    pub(crate) drill: Option<DrillView>,
    /// What was decided and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) log: Vec<LogView>,
}

#[derive(Serialize)]
pub(crate) struct LogView {
    pub(super) at: Option<String>,
    pub(super) text: String,
}

#[derive(Serialize)]
pub(crate) struct ProgressView {
    pub(crate) files_total: u64,
    pub(crate) files_done: u64,
    pub(crate) bytes_total: u64,
    pub(crate) bytes_done: u64,
    /// From the disk.
    pub(crate) bytes_read: u64,
    /// That nobody had stored.
    pub(crate) bytes_new: u64,
    /// After compression and sealing.
    pub(crate) bytes_stored: u64,
}

#[derive(Serialize)]
pub(crate) struct TaskView {
    node: String,
    name: String,
    attempt: u32,
    state: &'static str,
    failure: Option<FailureView>,
}

#[derive(Serialize)]
pub(crate) struct FailureView {
    kind: String,
    pub(super) message: String,
    hint: String,
    node: String,
}

#[derive(Serialize)]
pub(crate) struct WarningView {
    node: String,
    /// What is no UTF-8 in it is replaced by U+FFFD.
    path: String,
    pub(super) message: String,
}

#[derive(Serialize)]
pub(crate) struct VerifyView {
    pub(crate) read_data: bool,
    /// Of the data that was read.
    pub(crate) percent: u32,
    pub(crate) packs_checked: u64,
    pub(crate) backups_checked: u64,
    pub(crate) damage_count: u64,
    pub(crate) damages: Vec<DamageView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) logs: Vec<LogCheckView>,
}

#[derive(Serialize)]
pub(crate) struct DamageView {
    pub(crate) object: String,
    pub(crate) what: String,
    /// The backups that cannot be restored whole.
    pub(crate) backups: Vec<String>,
    /// Some of the files that cannot be restored whole, `node:path`.
    pub(crate) files: Vec<String>,
    pub(crate) file_count: u64,
}

impl DamageView {
    pub(crate) fn of(damage: &v1::Damage) -> Self {
        let file = |file: &v1::SpoiledFile| format!("{}:{}", file.node, human::name(&file.path));
        Self {
            object: damage.object.clone(),
            what: human::name(damage.what.as_bytes()),
            backups: damage.backups.clone(),
            files: damage.files.iter().map(file).collect(),
            file_count: damage.file_count,
        }
    }
}

impl OperationView {
    pub(crate) fn of(operation: &v1::Operation) -> Self {
        let tasks = operation.tasks.iter().map(|task| TaskView {
            node: task.node.clone(),
            name: task.name.clone(),
            attempt: task.attempt,
            state: task_state(task.state()),
            failure: task.failure.as_ref().map(failure),
        });
        let warnings = operation.warnings.iter().map(|warning| WarningView {
            node: warning.node.clone(),
            path: String::from_utf8_lossy(&warning.path).into_owned(),
            message: warning.message.clone(),
        });
        let mut view = Self::brief(operation);
        view.tasks = tasks.collect();
        view.requests = RequestsView::of(operation);
        view.warnings = warnings.collect();
        view.restore = operation.restore.as_ref().and_then(|detail| detail.plan.as_ref()).map(PlanView::of);
        view.verify = operation.verify.as_ref().map(VerifyView::of);
        let log = operation.log.iter();
        view.log =
            log.map(|entry| LogView { at: human::rfc3339(entry.at_ms), text: entry.text.clone() }).collect();
        view
    }

    /// Without its tasks and lists: for progress lines and listings.
    pub(crate) fn brief(operation: &v1::Operation) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let progress = operation.progress.unwrap_or_default();
        let until = if operation.finished_ms > 0 { operation.finished_ms } else { operation.updated_ms };
        Self {
            id: operation.id.clone(),
            service: operation.service.clone(),
            kind: operation.kind().name(),
            state: operation.state().name(),
            phase: operation.phase.clone(),
            created: human::rfc3339(operation.created_ms),
            finished: human::rfc3339(operation.finished_ms),
            seconds: until.saturating_sub(operation.created_ms) as f64 / 1000.0,
            progress: ProgressView::of(&progress),
            requests: RequestsView::of(operation).map(RequestsView::without_whom),
            tasks: Vec::new(),
            failure: operation.failure.as_ref().map(failure),
            warning_count: operation.warning_count,
            warnings: Vec::new(),
            backup: operation.backup.as_ref().and_then(|detail| some(&detail.backup_id)),
            base: operation.backup.as_ref().and_then(|detail| some(&detail.base_id)),
            missing: operation
                .backup
                .iter()
                .flat_map(|detail| &detail.missing)
                .map(MissingView::of)
                .collect(),
            chunks_moved: operation.backup.as_ref().map(|detail| detail.chunks_moved),
            restore: None,
            verify: None,
            locked: operation.delete.as_ref().and_then(LockedView::of),
            failover: operation.failover.as_ref().map(FailoverView::of),
            retention: operation.retention.as_ref().map(RetentionView::of),
            drill: operation.drill.as_deref().map(DrillView::of),
            log: Vec::new(),
        }
    }
}

impl ProgressView {
    pub(crate) fn of(progress: &v1::Progress) -> Self {
        Self {
            files_total: progress.files_total,
            files_done: progress.files_done,
            bytes_total: progress.bytes_total,
            bytes_done: progress.bytes_done,
            bytes_read: progress.bytes_read,
            bytes_new: progress.bytes_new,
            bytes_stored: progress.bytes_stored,
        }
    }
}

impl VerifyView {
    pub(crate) fn of(detail: &v1::VerifyDetail) -> Self {
        Self {
            read_data: detail.read_data,
            percent: match (detail.read_data, detail.percent) {
                (false, _) => 0,
                (true, 0) => 100,
                (true, percent) => percent,
            },
            packs_checked: detail.packs_checked,
            backups_checked: detail.backups_checked,
            damage_count: detail.damage_count,
            damages: detail.damages.iter().map(DamageView::of).collect(),
            logs: detail.logs.iter().map(LogCheckView::of).collect(),
        }
    }
}

fn failure(failure: &v1::Failure) -> FailureView {
    FailureView {
        kind: failure.kind.clone(),
        message: failure.message.clone(),
        hint: failure.hint.clone(),
        node: failure.node.clone(),
    }
}

fn task_state(state: TaskState) -> &'static str {
    match state {
        TaskState::Unspecified => "absent",
        TaskState::TaskAssigned => "assigned",
        TaskState::TaskRunning => "running",
        TaskState::TaskDone => "done",
        TaskState::TaskFailed => "failed",
        TaskState::TaskCancelled => "cancelled",
    }
}
