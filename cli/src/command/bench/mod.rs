//! Measures the real coordinator and agent, as processes of their own, beside the machine's limit and others, on
//! the same data in the same run. Numbers of different runs or machines do not compare; ratios of one run do.
mod bytes;
mod chart;
mod copier;
mod data;
mod fleet;
mod found;
mod limit;
mod meter;
mod peer;
mod place;
mod rates;
mod report;
mod room;
mod rounds;
mod scenario;
mod simulated;
mod store;
mod turn;

use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

use crate::exit::Outcome;
use crate::output::Output;
use crate::{Global, signal};
use data::Generated;
use peer::Tool;
use scenario::Scenario;

/// The folder below each run's own.
const REPOSITORY: &str = "repository";

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    part: Option<Part>,
    /// Measure with a copy of these files.
    #[arg(long, conflicts_with = "generate")]
    data: Option<PathBuf>,
    /// Measure with made data, the same on every machine; several between commas, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "mixed")]
    generate: Vec<Generated>,
    /// How much to make of each, in MiB.
    #[arg(long, default_value_t = 2048)]
    size: u64,
    /// How many files `small` has, of 2 KiB on average.
    #[arg(long, default_value_t = data::SMALL_FILES)]
    files: u64,
    /// Change so many 8 KiB pages instead of one percent; *.db is then backed up as pages, as `pages` always is.
    #[arg(long)]
    pages: Option<u64>,
    /// What to do with each; several between commas. All by default; a cold backup is always the first.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Everybody does everything so often, in another order each time; medians and spreads are shown.
    #[arg(long, visible_alias = "runs", default_value_t = 5)]
    rounds: usize,
    /// A store and a prefix in it, such as s3://bucket/somewhere, instead of a local folder: what is put there goes below a new
    /// name and is deleted in the end. Others are measured on a local folder only.
    #[arg(long)]
    store: Option<String>,
    /// Where to work; needs room for several times the data.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Beside these, where they are installed; several between commas. All by default.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "no_peer")]
    peers: Vec<Tool>,
    /// Run nobody else even where it is installed.
    #[arg(long)]
    no_peer: bool,
    /// Also write what --json shows into this file.
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,
    /// Draw the result into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Puts and gets of whole objects, beside rclone and s5cmd, and a backup, on a store of yours.
    Store(store::Store),
    /// A simulated fleet, agents without data, against one real coordinator and a real etcd.
    Fleet(simulated::Simulated),
}

pub(crate) async fn run(bench: Bench, global: &Global, output: &Output) -> Result<Outcome> {
    match bench.part {
        Some(Part::Store(store)) => return Box::pin(store::run(store, global, output)).await,
        Some(Part::Fleet(fleet)) => return Box::pin(simulated::run(fleet, global, output)).await,
        None => {}
    }
    let measured =
        in_directory(bench.work.as_deref(), async |dir| rounds::measure(&bench, dir, global, output).await);
    let report = Box::pin(measured).await?;
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|e| Error::io(format!("write {}", path.display()), e))
    };
    if let Some(path) = &bench.json_file {
        let text = serde_json::to_string_pretty(&report);
        write(path, text.map_err(|e| Error::internal("the report").with_source(e))? + "\n")?;
    }
    if let Some(path) = &bench.svg {
        write(path, chart::svg(&report))?;
    }
    output.data(&report, report::show);
    Ok(Outcome::Done)
}

/// In a new directory that is gone afterwards, also when it is interrupted.
async fn in_directory<T>(work: Option<&Path>, measure: impl AsyncFnOnce(&Path) -> Result<T>) -> Result<T> {
    let cancel = signal::cancel_on_signal()?;
    let parent = work.map_or_else(std::env::temp_dir, Path::to_owned);
    let dir = tempfile::Builder::new()
        .prefix("palinurus-bench-")
        .tempdir_in(&parent)
        .map_err(|e| Error::io(format!("make a directory in {}", parent.display()), e))?;
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::unavailable("interrupted")),
        result = Box::pin(measure(dir.path())) => result,
    };
    dir.close().map_err(|e| Error::io("clean up", e))?;
    result
}

async fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = tokio::process::Command::new("cp")
        .args(["-a", "--reflink=auto", "--sparse=auto", "--"])
        .args([from, to])
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|e| Error::io("run cp", e))?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::unavailable(format!("cp of {} failed", from.display())))
    }
}

fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::io(format!("make {}", path.display()), e))
}

fn remove_dir(path: &Path) -> Result<()> {
    std::fs::remove_dir_all(path).map_err(|e| Error::io(format!("remove {}", path.display()), e))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("a task panicked").with_source(e))?
}
