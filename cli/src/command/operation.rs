use palinurus_proto::v1::{OperationKind, OperationState, TaskState};
use palinurus_proto::{from_status, v1};
use palinurus_repository::Result;
use serde::Serialize;

use crate::command::failover::FailoverView;
use crate::command::locked::LockedView;
use crate::command::missing::{self, MissingView};
use crate::command::requests::RequestsView;
use crate::command::restore::PlanView;
use crate::command::retention::RetentionView;
use crate::exit::Outcome;
use crate::output::{Output, fields, table};
use crate::{Global, client, follow, human};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// The newest last.
    List {
        /// Only of this service.
        #[arg(long, short)]
        service: Option<String>,
        /// Only those that have not ended.
        #[arg(long)]
        running: bool,
    },
    /// One operation as it is now, with its tasks and its log.
    Show {
        /// Its id, or a unique prefix of it.
        id: String,
    },
    /// Follows an operation until it ends, and says how it ended.
    Watch {
        /// Its id, or a unique prefix of it.
        id: String,
    },
    /// Asks an operation to stop and clean up behind itself.
    Cancel {
        /// Its id, or a unique prefix of it.
        id: String,
    },
}

#[derive(Serialize)]
struct Operations {
    operations: Vec<OperationView>,
}

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
    /// What was decided and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) log: Vec<LogView>,
}

#[derive(Serialize)]
pub(crate) struct LogView {
    at: Option<String>,
    text: String,
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
    message: String,
    hint: String,
    node: String,
}

#[derive(Serialize)]
pub(crate) struct WarningView {
    node: String,
    /// What is no UTF-8 in it is replaced by U+FFFD.
    path: String,
    message: String,
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
            kind: kind(operation.kind()),
            state: state(operation.state()),
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
        }
    }
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    match verb {
        Verb::List { service, running } => {
            let request = v1::ListOperationsRequest { service: service.unwrap_or_default(), running };
            let reply = client.list_operations(request).await.map_err(from_status)?.into_inner();
            let operations =
                Operations { operations: reply.operations.iter().map(OperationView::brief).collect() };
            output.data(&operations, show_list);
            Ok(Outcome::Done)
        }
        Verb::Show { id } => {
            let operation =
                client.get_operation(v1::GetOperationRequest { id }).await.map_err(from_status)?;
            output.data(&OperationView::of(&operation.into_inner()), show);
            Ok(Outcome::Done)
        }
        Verb::Watch { id } => {
            let operation = follow::follow(global, output, &id).await?;
            follow::say_warnings(output, &operation);
            output.data(&OperationView::of(&operation), show);
            follow::outcome(&operation)
        }
        Verb::Cancel { id } => {
            let operation =
                client.cancel_operation(v1::GetOperationRequest { id }).await.map_err(from_status)?;
            output.data(&OperationView::of(&operation.into_inner()), show);
            Ok(Outcome::Done)
        }
    }
}

/// The end of a followed operation: what it was, then its own outcome.
pub(crate) fn finish(output: &Output, operation: &v1::Operation) -> Result<Outcome> {
    follow::say_warnings(output, operation);
    output.data(&OperationView::of(operation), show);
    follow::outcome(operation)
}

pub(crate) fn show(operation: &OperationView) -> String {
    let progress = &operation.progress;
    let mut pairs = vec![
        ("operation", operation.id.clone()),
        ("kind", format!("{} of {}", operation.kind, operation.service)),
        ("state", operation.state.to_owned()),
        ("phase", operation.phase.clone()),
        ("started", operation.created.clone().unwrap_or_default().replacen('T', " ", 1)),
        ("took", human::seconds((operation.seconds * 1000.0) as u64)),
    ];
    if let Some(backup) = &operation.backup {
        pairs.push(("backup", backup.clone()));
    }
    if let Some(failover) = &operation.failover {
        pairs.extend(failover.rows());
    }
    if let Some(retention) = &operation.retention {
        pairs.extend(retention.rows());
    }
    if progress.bytes_total > 0 {
        pairs.push((
            "data",
            format!("{} in {} files", human::size(progress.bytes_total), human::count(progress.files_total)),
        ));
        pairs.push(("read", human::size(progress.bytes_read)));
    }
    if operation.kind == "backup" && progress.bytes_total > 0 {
        pairs.push(("new", human::size(progress.bytes_new)));
        pairs.push(("stored", human::size(progress.bytes_stored)));
    }
    if let Some(moved) = operation.chunks_moved.filter(|moved| *moved > 0) {
        pairs.push(("moved", format!("{} chunks, from nodes that went away", human::count(moved))));
    }
    if let Some(locked) = &operation.locked {
        pairs.push(("locked", locked.show()));
    }
    if operation.warning_count > 0 {
        pairs.push(("warnings", operation.warning_count.to_string()));
    }
    if let Some(failure) = &operation.failure {
        pairs.push(("failure", human::name(failure.message.as_bytes())));
    }
    let mut text = fields(&pairs) + &missing::show(&operation.missing);
    if let Some(requests) = &operation.requests {
        text.push('\n');
        text.push_str(&requests.show());
    }
    if !operation.log.is_empty() {
        text.push('\n');
    }
    for entry in &operation.log {
        let at = entry.at.clone().unwrap_or_default().replacen('T', " ", 1);
        text.push_str(&format!("{at}  {}\n", human::name(entry.text.as_bytes())));
    }
    text
}

fn show_list(operations: &Operations) -> String {
    let row = |operation: &OperationView| {
        vec![
            operation.id.clone(),
            operation.service.clone(),
            operation.kind.to_owned(),
            operation.state.to_owned(),
            operation.phase.clone(),
            operation.created.clone().unwrap_or_default().replacen('T', " ", 1),
            human::seconds((operation.seconds * 1000.0) as u64),
            operation
                .failure
                .as_ref()
                .map(|failure| human::name(failure.message.as_bytes()))
                .unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = operations.operations.iter().map(row).collect();
    table(&["OPERATION", "SERVICE", "KIND", "STATE", "PHASE", "STARTED", "TOOK", "FAILURE"], &[6], &rows)
}

fn failure(failure: &v1::Failure) -> FailureView {
    FailureView {
        kind: failure.kind.clone(),
        message: failure.message.clone(),
        hint: failure.hint.clone(),
        node: failure.node.clone(),
    }
}

fn kind(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Unspecified => "unknown",
        OperationKind::Backup => "backup",
        OperationKind::Restore => "restore",
        OperationKind::Verify => "verify",
        OperationKind::Delete => "delete",
        OperationKind::Failover => "failover",
        OperationKind::Retention => "retention",
    }
}

fn state(state: OperationState) -> &'static str {
    match state {
        OperationState::Unspecified => "unknown",
        OperationState::Running => "running",
        OperationState::Cancelling => "cancelling",
        OperationState::Succeeded => "succeeded",
        OperationState::Warnings => "warnings",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
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
