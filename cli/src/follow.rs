//! Watching an operation until it ends: a moving bar on a terminal, JSON lines under `--json`.
//! Watching is only looking: when the connection breaks or another coordinator leads, it is taken up again there, and
//! leaving does not stop the operation.
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use palinurus_proto::v1::OperationState;
use palinurus_proto::{from_failure, from_status, v1};
use palinurus_repository::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::client::{self, Client};
use crate::command::operation::OperationView;
use crate::exit::Outcome;
use crate::output::Output;
use crate::{Global, human};

/// How long a coordinator may be away before watching gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const REDIAL: Duration = Duration::from_millis(500);

/// Returns the operation as it ended. Ctrl-C stops the watching and says how to take it up again.
pub(crate) async fn follow(global: &Global, output: &Output, id: &str) -> Result<v1::Operation> {
    tokio::select! {
        biased;
        ended = until_end(global, output, id) => ended,
        _ = tokio::signal::ctrl_c() => Err(Error::unavailable(format!("stopped watching operation {id}; it goes on"))
            .with_hint(format!("`palinurus operation watch {id}` takes it up again, `palinurus operation cancel {id}` ends it"))),
    }
}

async fn until_end(global: &Global, output: &Output, id: &str) -> Result<v1::Operation> {
    let mut shown = Shown::new(output);
    let mut heard = Instant::now();
    loop {
        let broken = match watch_once(global, &mut shown, id, &mut heard).await {
            Ok(Some(operation)) => return Ok(operation),
            Ok(None) => Error::unavailable("the coordinator ended the stream"),
            Err(error) if error.kind() == ErrorKind::Unavailable => error,
            // Seen already: who answers now is only behind.
            Err(error) if error.kind() == ErrorKind::NotFound && shown.any => error,
            Err(error) => return Err(error),
        };
        if heard.elapsed() > PATIENCE {
            return Err(
                broken.with_hint(format!("the operation may go on: `palinurus operation watch {id}`"))
            );
        }
        shown.waiting();
        tokio::time::sleep(REDIAL).await;
    }
}

/// None when the stream ended before the operation did.
async fn watch_once(
    global: &Global,
    shown: &mut Shown<'_>,
    id: &str,
    heard: &mut Instant,
) -> Result<Option<v1::Operation>> {
    let mut client: Client = client::connect(global).await?;
    // Only the leader knows of progress. Where it cannot be reached, the others know the phases.
    let _ = client.find_leader().await;
    let request = v1::GetOperationRequest { id: id.to_owned() };
    let mut stream = client.watch_operation(request).await.map_err(from_status)?.into_inner();
    while let Some(operation) = stream.message().await.map_err(from_status)? {
        *heard = Instant::now();
        shown.update(&operation);
        if has_ended(&operation) {
            return Ok(Some(operation));
        }
    }
    Ok(None)
}

pub(crate) fn has_ended(operation: &v1::Operation) -> bool {
    !matches!(
        operation.state(),
        OperationState::Unspecified | OperationState::Running | OperationState::Cancelling
    )
}

/// What an ended operation means for the exit code.
pub(crate) fn outcome(operation: &v1::Operation) -> Result<Outcome> {
    match operation.state() {
        OperationState::Succeeded => Ok(Outcome::Done),
        OperationState::Warnings => Ok(Outcome::Warnings),
        OperationState::Cancelled => Ok(Outcome::Failed),
        _ => Err(match &operation.failure {
            Some(failure) => from_failure(failure),
            None => {
                Error::internal(format!("operation {} did not end well and does not say why", operation.id))
            }
        }),
    }
}

/// Warnings go to stderr whatever the output, so that none is overlooked.
pub(crate) fn say_warnings(output: &Output, operation: &v1::Operation) {
    for warning in &operation.warnings {
        let (path, message) = (human::name(&warning.path), human::name(warning.message.as_bytes()));
        let said = [warning.node.as_str(), &path, &message];
        output.warn(said.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": "));
    }
    let more = operation.warning_count.saturating_sub(operation.warnings.len() as u64);
    if more > 0 {
        output.warn(format!("and {more} more"));
    }
}

struct Shown<'a> {
    output: &'a Output,
    any: bool,
    bar: Option<ProgressBar>,
}

impl<'a> Shown<'a> {
    fn new(output: &'a Output) -> Self {
        let style = ProgressStyle::with_template(
            "{msg:<9} [{wide_bar}] {bytes} / {total_bytes}  {bytes_per_sec}  {elapsed}",
        );
        let bar = output.bars.then(ProgressBar::no_length);
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style.progress_chars("=> "));
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { output, any: false, bar }
    }

    fn update(&mut self, operation: &v1::Operation) {
        self.any = true;
        let progress = operation.progress.unwrap_or_default();
        if let Some(bar) = &self.bar {
            if progress.bytes_total > 0 {
                bar.set_length(progress.bytes_total.max(progress.bytes_done));
            }
            bar.set_position(progress.bytes_done);
            bar.set_message(operation.phase.clone());
            if has_ended(operation) {
                bar.finish_and_clear();
            }
        } else if self.output.progress_lines {
            self.output.json_line(&serde_json::json!({ "progress": OperationView::brief(operation) }));
        }
    }

    fn waiting(&self) {
        if let Some(bar) = &self.bar {
            bar.set_message("redialling");
        }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
