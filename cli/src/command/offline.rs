//! Restore when everything but the object store and the key is lost: no coordinator, no agent.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use palinurus_agent::config::Limits;
use palinurus_agent::progress::Counters;
use palinurus_agent::restore::{self, Request, RestoreResult, target};
use palinurus_repository::ledger::{BackupRecord, NodeCommit};
use palinurus_repository::{Error, Result};
use serde::Serialize;

use crate::command::operation::ProgressView;
use crate::command::repository::KnownPlace;
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::given::Given;
use crate::output::{Output, fields};
use crate::{human, signal};

#[derive(Debug, clap::Args)]
pub(crate) struct Offline {
    // Spelled out: clap takes an optional group that holds another group for absent.
    /// Where the backups lie: file:///path.
    #[arg(long, value_name = "URL")]
    repository: String,
    /// An operator key file; may be repeated.
    #[arg(long, value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// A command that prints an operator key, see `keys list --help`; may be repeated.
    #[arg(long, value_name = "COMMAND")]
    key_command: Vec<String>,
    /// An id, a unique prefix of one, or `latest`; `palinurus repository list` shows them.
    #[arg(long, default_value = "latest")]
    backup: String,
    /// Whose data; may be left out when the backup has one node.
    #[arg(long)]
    node: Option<String>,
    /// Restored into; empty or new, or with --delta holding data.
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// Rewrite what differs in a directory that holds data; files that the backup does not have are removed.
    #[arg(long)]
    delta: bool,
    /// Only this path or pattern below the data directory, with all that is in it; may be repeated.
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Serialize)]
struct Restored {
    backup: String,
    node: String,
    target: PathBuf,
    files: u64,
    bytes: u64,
    bytes_written: u64,
    bytes_fetched: u64,
    seconds: f64,
    warning_count: u64,
}

pub(crate) async fn run(wanted: Offline, output: &Output) -> Result<Outcome> {
    let cancel = signal::cancel_on_signal()?;
    let given = Given { keys: wanted.keys, key_command: wanted.key_command };
    let repository = KnownPlace { repository: wanted.repository, given }.open(output).await?;
    let backup = repository.find_backup(&wanted.backup).await?;
    let node = choose(&backup, &repository.backups().await, wanted.node.as_deref())?;
    for missing in &backup.missing {
        let (name, why) = (&missing.node, human::name(missing.reason.as_bytes()));
        output.warn(format!("backup {} is partial, it goes without node {name}: {why}", backup.id));
    }
    let holds_data = !is_empty(&wanted.target)?;
    if wanted.delta && holds_data {
        output.note(format!(
            "backup {} of {} ({}, {} in {} files) is laid over {}",
            backup.id,
            node.node,
            human::time(backup.committed.0),
            human::size(node.bytes),
            human::count(node.files),
            wanted.target.display()
        ));
        if !confirm(
            wanted.yes,
            "Go on? What differs there is overwritten, what the backup does not have is removed.",
        )? {
            output.note("nothing was changed");
            return Ok(Outcome::Declined);
        }
    }
    let progress = Arc::new(Counters::default());
    let request = Request {
        storage: repository.storage().clone(),
        keys: repository.keys().clone(),
        manifest: node.manifest.clone(),
        target: wanted.target.clone(),
        delta: wanted.delta,
        include: wanted.include,
        workers: Limits::default().workers(),
        progress: progress.clone(),
        pace: Arc::default(),
        settle: None,
    };
    let began = tokio::time::Instant::now();
    let result = {
        let mut running = Box::pin(restore::run(request, cancel));
        let shown = Shown::new(output);
        loop {
            tokio::select! {
                biased;
                result = &mut running => break result,
                () = tokio::time::sleep(Duration::from_millis(200)) => shown.update(&progress),
            }
        }
    }?;
    say_warnings(output, &result);
    let restored = Restored {
        backup: backup.id.to_string(),
        node: node.node.clone(),
        target: wanted.target,
        files: result.files,
        bytes: result.bytes,
        bytes_written: result.bytes_written,
        bytes_fetched: result.bytes_fetched,
        seconds: began.elapsed().as_secs_f64(),
        warning_count: result.warnings.count(),
    };
    output.data(&restored, show);
    Ok(if restored.warning_count > 0 { Outcome::Warnings } else { Outcome::Done })
}

fn choose<'a>(
    backup: &'a BackupRecord,
    all: &[Arc<BackupRecord>],
    named: Option<&str>,
) -> Result<&'a NodeCommit> {
    let has = |backup: &BackupRecord, name: &str| backup.nodes.iter().any(|node| node.node == name);
    let newest = |name: &str| all.iter().rev().find(|backup| has(backup, name)).map(|backup| backup.id);
    let names = || backup.nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>().join(", ");
    match (named, backup.nodes.as_slice()) {
        // Whom the backup lacks may be just who is meant.
        (None, [only]) if backup.missing.is_empty() => Ok(only),
        (None, _) => Err(Error::invalid(match backup.missing.is_empty() {
            true => format!("backup {} holds several nodes: {}", backup.id, names()),
            false => format!("backup {} is partial: it holds {}", backup.id, names()),
        })
        .with_hint("say whose data with --node NAME")),
        (Some(name), nodes) => nodes.iter().find(|node| node.node == name).ok_or_else(|| {
            Error::not_found(format!("backup {} holds no node {name:?}", backup.id)).with_hint(
                match newest(name) {
                    Some(other) => format!("it holds: {}; the newest with {name} is {other}", names()),
                    None => format!("it holds: {}", names()),
                },
            )
        }),
    }
}

fn is_empty(dir: &Path) -> Result<bool> {
    match target::is_empty(dir) {
        Ok(empty) => Ok(empty),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io(format!("look into {}", dir.display()), error)),
    }
}

fn say_warnings(output: &Output, result: &RestoreResult) {
    for warning in result.warnings.kept() {
        output.warn(format!("{}: {}", human::name(&warning.path), warning.message));
    }
    let more = result.warnings.count().saturating_sub(result.warnings.kept().len() as u64);
    if more > 0 {
        output.warn(format!("and {more} more"));
    }
}

fn show(restored: &Restored) -> String {
    fields(&[
        ("restored", format!("{} in {} files", human::size(restored.bytes), human::count(restored.files))),
        ("of", format!("{} in backup {}", restored.node, restored.backup)),
        ("into", restored.target.display().to_string()),
        ("fetched", human::size(restored.bytes_fetched)),
        ("written", human::size(restored.bytes_written)),
        ("took", human::seconds((restored.seconds * 1000.0) as u64)),
    ])
}

struct Shown<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
}

impl<'a> Shown<'a> {
    fn new(output: &'a Output) -> Self {
        let bar = output.bars.then(|| ProgressBar::new(0));
        let style = ProgressStyle::with_template("[{wide_bar}] {bytes} / {total_bytes}  {bytes_per_sec}");
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { output, bar }
    }

    fn update(&self, progress: &Counters) {
        if let Some(bar) = &self.bar {
            bar.set_length(progress.bytes_total.load(Relaxed));
            bar.set_position(progress.bytes_done.load(Relaxed));
        } else if self.output.progress_lines {
            self.output.json_line(&serde_json::json!({ "progress": ProgressView::of(&progress.snapshot()) }));
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
