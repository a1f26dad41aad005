//! Measures the real coordinator and agent, as processes of their own, beside the machine's limit and a peer, on
//! the same data in the same run. Numbers of different runs or machines do not compare; ratios of one run do.
mod copier;
mod data;
mod fleet;
mod limit;
mod meter;
mod rates;
mod report;
mod restic;
mod simulated;
mod store;

use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result, SystemEntropy};

use crate::exit::Outcome;
use crate::output::Output;
use crate::{Global, signal};
use data::Generated;
use fleet::Fleet;
use limit::Limit;
use report::{Cost, Report, Step};
use restic::Restic;

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
    /// Measure with made data, the same on every machine.
    #[arg(long, value_enum, default_value = "mixed")]
    generate: Generated,
    /// How much to make, in MiB.
    #[arg(long, default_value_t = 2048)]
    size: u64,
    /// Change so many 8 KiB pages instead of one percent; files of 1 MiB and more are then backed up as pages.
    #[arg(long)]
    pages: Option<u64>,
    /// Repeat everything so often and show medians.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Where to work; needs room for about three times the data.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Do not run restic even where it is installed.
    #[arg(long)]
    no_peer: bool,
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
    let report =
        in_directory(bench.work.as_deref(), async |dir| measure(&bench, dir, global, output).await).await?;
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

async fn measure(bench: &Bench, dir: &Path, global: &Global, output: &Output) -> Result<Report> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let peer = if bench.no_peer { None } else { restic::version().await };
    let pristine = dir.join("pristine");
    output.note("laying out the data ...");
    lay_out(bench, &pristine).await?;
    let mut runs: Vec<Run> = Vec::new();
    for number in 0..bench.runs.max(1) {
        output.note(format!("run {} of {} ...", number + 1, bench.runs.max(1)));
        let home = dir.join(format!("run-{number}"));
        make_dir(&home)?;
        let data = home.join("data");
        // Each run changes its data; the last one may have the original.
        if number + 1 < bench.runs.max(1) {
            copy(&pristine, &data).await?;
        } else {
            std::fs::rename(&pristine, &data).map_err(|e| Error::io("move the data", e))?;
        }
        runs.push(Box::pin(one_run(bench, &home, &data, peer.is_some(), cores, global, output)).await?);
        std::fs::remove_dir_all(&home).map_err(|e| Error::io("clean up a run", e))?;
    }
    let Some(first) = runs.first() else { return Err(Error::internal("no run")) };
    let mut limits: Vec<f64> = runs.iter().map(|run| run.limit.seconds).collect();
    limits.sort_by(f64::total_cmp);
    let steps = (0..first.steps.len()).map(|index| {
        let ours: Vec<Cost> = runs.iter().map(|run| run.steps[index].ours.clone()).collect();
        let peers: Vec<Cost> = runs.iter().filter_map(|run| run.steps[index].peer.clone()).collect();
        let Step { name, bytes, .. } = first.steps[index];
        Step {
            name,
            bytes,
            ours: Cost::median(&ours),
            peer: (!peers.is_empty()).then(|| Cost::median(&peers)),
        }
    });
    Ok(Report {
        data: bench.data.as_ref().map_or_else(
            || format!("made ({:?}, {} MiB)", bench.generate, bench.size).to_lowercase(),
            |data| data.display().to_string(),
        ),
        files: first.files,
        bytes: first.bytes,
        cores,
        runs: runs.len(),
        peer,
        limit_seconds: limits[limits.len() / 2],
        limit_cpu: first.limit.cpu,
        limit_sealed: first.limit.sealed,
        steps: steps.collect(),
        stored: first.stored,
        peer_stored: first.peer_stored,
    })
}

struct Run {
    files: u64,
    bytes: u64,
    limit: Limit,
    steps: Vec<Step>,
    stored: u64,
    peer_stored: Option<u64>,
}

async fn one_run(
    bench: &Bench,
    home: &Path,
    data: &Path,
    with_peer: bool,
    cores: usize,
    global: &Global,
    output: &Output,
) -> Result<Run> {
    let threads = {
        let data = data.to_owned();
        // Twice: the first brings the data into the page cache, where everybody finds it.
        blocking(move || {
            limit::measure(&data, cores, &SystemEntropy::new())?;
            limit::measure(&data, cores, &SystemEntropy::new())
        })
    };
    let limit = threads.await?;
    let mut fleet = Fleet::start(home, data, bench.pages.is_some(), None, global, output).await?;
    let peer = if with_peer { Some(Restic::new(home.join("restic")).await?) } else { None };
    let mut steps = Vec::new();
    let mut files = 0;
    let mut bytes = limit.bytes;
    let (mut stored, mut peer_stored) = (0, None);
    for name in ["cold", "unchanged", "changed"] {
        if name == "changed" {
            let (data, pages) = (data.to_owned(), bench.pages);
            blocking(move || data::change(&data, pages)).await?;
        }
        let (operation, ours) = fleet.backup().await?;
        let progress = operation.progress.unwrap_or_default();
        bytes = progress.bytes_total.max(bytes);
        files = progress.files_total.max(files);
        let theirs = match &peer {
            Some(peer) => Some(peer.backup(data).await?),
            None => None,
        };
        if name == "cold" {
            stored = meter::bytes_below(&home.join(REPOSITORY))?;
            peer_stored = peer.as_ref().map(Restic::stored).transpose()?;
        }
        steps.push(Step { name, bytes, ours, peer: theirs });
    }
    let ours = fleet.restore().await?;
    let theirs = match &peer {
        Some(peer) => Some(peer.restore(&home.join("restic-restored")).await?),
        None => None,
    };
    steps.push(Step { name: "restore", bytes, ours, peer: theirs });
    fleet.stop().await?;
    Ok(Run { files, bytes, limit, steps, stored, peer_stored })
}

async fn lay_out(bench: &Bench, pristine: &Path) -> Result<()> {
    if let Some(from) = &bench.data {
        return copy(from, pristine).await;
    }
    make_dir(pristine)?;
    let (kind, size, into) = (bench.generate, bench.size << 20, pristine.to_owned());
    blocking(move || data::generate(kind, &into, size)).await
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("a task panicked").with_source(e))?
}
