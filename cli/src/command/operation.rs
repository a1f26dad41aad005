use palinurus_proto::{from_status, v1};
use palinurus_repository::Result;
use serde::Serialize;

use crate::command::missing;
use crate::exit::Outcome;
use crate::output::{Output, fields, table};
use crate::{Global, client, follow, human};

mod log;
mod view;

pub(crate) use log::{LogCheckView, show as show_logs};
pub(crate) use view::{DamageView, OperationView, ProgressView, VerifyView};

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
    if let Some(drill) = &operation.drill {
        pairs.extend(drill.rows());
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
