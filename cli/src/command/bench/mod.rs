//! Measures the real coordinator and agent, as processes of their own, beside the machine's limit and a peer, on
//! the same data in the same run. Numbers of different runs or machines do not compare; ratios of one run do.
mod copier;
mod data;
mod limit;
mod meter;
mod rates;
mod report;
mod restic;
mod store;

use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, KeyFile, Result, SystemEntropy};
use tokio::time::Instant;

use super::fleet::{self, Process};
use crate::client::{self, Client};
use crate::exit::Outcome;
use crate::output::Output;
use crate::{Global, follow, signal};
use data::Generated;
use limit::Limit;
use report::{Cost, Report, Step};
use restic::Restic;

const SERVICE: &str = "bench";
const NODE: &str = "n1";
/// The folder below each run's own.
const REPOSITORY: &str = "repository";
const JOINING: Duration = Duration::from_secs(30);

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
}

pub(crate) async fn run(bench: Bench, global: &Global, output: &Output) -> Result<Outcome> {
    if let Some(Part::Store(store)) = bench.part {
        return Box::pin(store::run(store, global, output)).await;
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

/// A coordinator and an agent, as processes of their own.
struct Fleet<'a> {
    home: PathBuf,
    pages: bool,
    global: Global,
    output: &'a Output,
    client: Client,
    coordinator: Process,
    agent: Option<Process>,
}

impl<'a> Fleet<'a> {
    async fn start(
        home: &Path,
        data: &Path,
        pages: bool,
        repository: Option<&str>,
        global: &Global,
        output: &'a Output,
    ) -> Result<Self> {
        KeyFile::generate(&SystemEntropy::new())?.write(&home.join("operator.key"))?;
        let state = home.join("coordinator");
        make_dir(&state)?;
        let config = home.join("coordinator.toml");
        let text = format!(
            "name = \"bench\"\nlisten = \"127.0.0.1:0\"\nstate = {state:?}\nkeys = [{:?}]\n",
            home.join("operator.key")
        );
        std::fs::write(&config, text).map_err(|e| Error::io("write the configuration", e))?;
        let mut coordinator = Process::start("coordinator", "the coordinator", &config)?;
        let server = fleet::address(&mut coordinator, &state).await?;
        let mut client = client::dial(&server).await?;
        let folder = home.join(REPOSITORY);
        make_dir(&folder)?;
        let service = v1::Service {
            name: SERVICE.into(),
            r#type: "files".into(),
            repository: repository.map_or_else(|| format!("file://{}", folder.display()), str::to_owned),
            nodes: vec![v1::NodeSpec { name: NODE.into(), ..Default::default() }],
            ..Default::default()
        };
        client
            .apply_service(v1::ApplyServiceRequest { service: Some(service) })
            .await
            .map_err(from_status)?;
        // Bars would be measured with the rest.
        let global = Global { server, no_progress: true, ..global.clone() };
        let home = home.to_owned();
        let mut fleet = Self { home, pages, global, output, client, coordinator, agent: None };
        fleet.start_agent("agent", data).await?;
        Ok(fleet)
    }

    async fn start_agent(&mut self, name: &str, data: &Path) -> Result<()> {
        let config = self.home.join(format!("{name}.toml"));
        let paged = if self.pages { "paged = [{ glob = \"**/*.db\", page_size = 8192 }]\n" } else { "" };
        let text = format!(
            "service = {SERVICE:?}\nnode = {NODE:?}\ncoordinator = [{:?}]\nstate = {:?}\nkeys = [{:?}]\n\n\
             [engine]\ntype = \"files\"\nroot = {data:?}\n{paged}",
            self.global.server,
            self.home.join(format!("{name}-state")),
            self.home.join("operator.key"),
        );
        std::fs::write(&config, text).map_err(|e| Error::io("write the configuration", e))?;
        self.agent = Some(Process::start("agent", "the agent", &config)?);
        let deadline = Instant::now() + JOINING;
        loop {
            let request = v1::ListNodesRequest { service: SERVICE.into() };
            let nodes = self.client.list_nodes(request).await.map_err(from_status)?.into_inner().nodes;
            let fresh = |node: &v1::Node| node.connected && (name == "agent" || node.data_empty);
            if nodes.iter().any(fresh) {
                return Ok(());
            }
            self.coordinator.check()?;
            if let Some(agent) = &mut self.agent {
                agent.check()?;
            }
            if Instant::now() > deadline {
                return Err(Error::unavailable("the agent does not join"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn backup(&mut self) -> Result<(v1::Operation, Cost)> {
        let meters = self.begin()?;
        let request = v1::StartBackupRequest { service: SERVICE.into(), full: false };
        let started = self.client.start_backup(request).await.map_err(from_status)?.into_inner();
        let operation = self.finish(&started.id).await?;
        let mut cost = self.end(&meters, &operation)?;
        let requests = operation.progress.and_then(|progress| progress.requests);
        cost.uploaded = Some(requests.unwrap_or_default().bytes_sent);
        Ok((operation, cost))
    }

    /// Onto a new agent with an empty directory, as after the loss of the node.
    async fn restore(&mut self) -> Result<Cost> {
        if let Some(agent) = self.agent.take() {
            agent.stop().await?;
        }
        let target = self.home.join("restored");
        make_dir(&target)?;
        self.start_agent("replacement", &target).await?;
        let meters = self.begin()?;
        let request =
            v1::RestoreRequest { service: SERVICE.into(), backup: "latest".into(), ..Default::default() };
        let started = self.client.apply_restore(request).await.map_err(from_status)?.into_inner();
        let operation = self.finish(&started.id).await?;
        self.end(&meters, &operation)
    }

    async fn finish(&self, id: &str) -> Result<v1::Operation> {
        let operation = follow::follow(&self.global, self.output, id).await?;
        follow::outcome(&operation)?;
        Ok(operation)
    }

    fn pids(&self) -> Result<[u32; 2]> {
        let pid = |process: Option<&Process>| process.and_then(Process::id);
        match (pid(self.agent.as_ref()), pid(Some(&self.coordinator))) {
            (Some(agent), Some(coordinator)) => Ok([agent, coordinator]),
            _ => Err(Error::internal("a process has ended")),
        }
    }

    fn begin(&self) -> Result<(Instant, f64)> {
        // What others have written before is not to be waited for in this step.
        rustix::fs::sync();
        let pids = self.pids()?;
        pids.into_iter().for_each(meter::reset_peak_memory);
        let cpu = pids.into_iter().map(meter::cpu_of).sum::<Result<f64>>()?;
        Ok((Instant::now(), cpu))
    }

    fn end(&self, (began, cpu): &(Instant, f64), operation: &v1::Operation) -> Result<Cost> {
        let seconds = began.elapsed().as_secs_f64();
        let pids = self.pids()?;
        let used = pids.into_iter().map(meter::cpu_of).sum::<Result<f64>>()? - cpu;
        let progress = operation.progress.unwrap_or_default();
        Ok(Cost {
            seconds,
            cpu: used,
            uploaded: None,
            requests: progress.requests.map(|requests| requests.total()),
            agent_memory: Some(meter::peak_memory(pids[0])?),
            coordinator_memory: Some(meter::peak_memory(pids[1])?),
        })
    }

    async fn stop(self) -> Result<()> {
        if let Some(agent) = self.agent {
            agent.stop().await?;
        }
        self.coordinator.stop().await
    }
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
