//! A fleet of agents without data, by the real protocol over real connections, against one real coordinator and a real
//! etcd: what the control plane costs, with nothing of the data path in it.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use palinurus_repository::{Error, Keyring, Keys, Result, Storage};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{in_directory, make_dir, meter};
use crate::Global;
use crate::exit::Outcome;
use crate::output::Output;
use lab::Lab;
use report::{Report, Run};

mod agent;
mod content;
mod etcd;
mod lab;
mod operator;
mod report;
mod work;

/// The first size of a curve, and from each to the next.
const CURVE: u64 = 100_000;
const CURVE_STEP: u64 = 10;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Simulated {
    /// How many agents, each with a session of its own.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=4000))]
    agents: u64,
    /// How many services they are of.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    services: u64,
    /// How many files all of them have together.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    files: u64,
    /// How many chunks all of them have together, no two of which are the same.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    chunks: u64,
    /// Measure 100,000 files first, then ten times as many, and so on up to `--files`; chunks in proportion.
    #[arg(long)]
    curve: bool,
    /// How many chunks are asked about in one question.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=8192))]
    ask: u64,
    /// Without etcd, also where it is installed: what is alive is in a file of the coordinator's.
    #[arg(long)]
    embedded: bool,
    /// Seconds to watch the fleet doing nothing.
    #[arg(long, default_value_t = 10)]
    idle: u64,
    /// Where to work; needs about 200 bytes for each file and chunk. In memory the disk does not count.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Leave the logs and the repositories there.
    #[arg(long)]
    keep: bool,
}

/// Of one repository.
type Unlocked = (Arc<dyn Storage>, Keys);

/// What all agents share: where they dial, what they pretend, and what is counted.
#[derive(Debug)]
struct Fleet {
    server: String,
    keys: Keyring,
    ask: usize,
    coordinator: u32,
    knocking: Semaphore,
    /// Manifests are made by few at a time: their making is this process's cost, not the coordinator's.
    writing: Semaphore,
    unlocked: tokio::sync::Mutex<HashMap<String, Unlocked>>,
    /// Of the data: each has one percent of other chunks.
    version: AtomicU64,
    /// The data is as it was.
    unchanged: AtomicBool,
    joined: AtomicU64,
    asked: AtomicU64,
    stored: AtomicU64,
    told_again: AtomicU64,
    reconnects: AtomicU64,
    manifest_bytes: AtomicU64,
    claims: Mutex<Option<Claims>>,
}

/// From the first question of a step to its last answer.
#[derive(Clone, Copy, Debug)]
struct Claims {
    began: (Instant, f64),
    ended: (Instant, f64),
}

impl Fleet {
    fn claims_begin(&self) -> Result<()> {
        let now = (Instant::now(), meter::cpu_of(self.coordinator)?);
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.get_or_insert(Claims { began: now, ended: now });
        Ok(())
    }

    fn claims_end(&self) -> Result<()> {
        let now = (Instant::now(), meter::cpu_of(self.coordinator)?);
        if let Some(claims) = &mut *self.claims.lock().unwrap_or_else(PoisonError::into_inner) {
            claims.ended = now;
        }
        Ok(())
    }

    /// Of the step that has just ended.
    fn take_claims(&self) -> Option<Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

pub(super) async fn run(bench: Simulated, global: &Global, output: &Output) -> Result<Outcome> {
    if bench.agents < bench.services || bench.files < bench.agents || bench.chunks < bench.agents {
        return Err(Error::invalid("each service needs an agent, and each agent a file and a chunk"));
    }
    let with_etcd = !bench.embedded && etcd::is_installed().await;
    if !with_etcd && !bench.embedded {
        output.warn("etcd is not installed: the state is a file of the coordinator's");
    }
    open_files(bench.agents * 4 + 2 * bench.services + 256)?;
    let mut runs = Vec::new();
    for (files, chunks) in sizes(&bench) {
        output.note(format!("{files} files and {chunks} chunks of {} agents ...", bench.agents));
        let one = Simulated { files, chunks, ..bench.clone() };
        let measured = async |dir: &Path| {
            make_dir(dir)?;
            Box::pin(Lab::run(&one, with_etcd, dir, global, output)).await
        };
        let run: Run = match &bench.work {
            Some(work) if bench.keep => measured(&work.join(format!("fleet-{files}"))).await?,
            work => in_directory(work.as_deref(), measured).await?,
        };
        if bench.curve {
            output.note(report::show_run(&run));
        }
        runs.push(run);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).filter_map(|value| value.parse().ok()).collect();
    output.data(&Report { cores, load, runs }, report::show);
    Ok(Outcome::Done)
}

fn sizes(bench: &Simulated) -> Vec<(u64, u64)> {
    let mut sizes = Vec::new();
    let mut files = CURVE.max(bench.agents);
    while bench.curve && files < bench.files {
        let chunks = u128::from(files) * u128::from(bench.chunks) / u128::from(bench.files);
        sizes.push((files, (chunks as u64).max(bench.agents)));
        files = files.saturating_mul(CURVE_STEP);
    }
    sizes.push((bench.files, bench.chunks));
    sizes
}

/// Ours, and the coordinator's after us: most systems give a process 1024 until it asks for more.
fn open_files(wanted: u64) -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|most| most < wanted) {
        return Err(Error::unavailable(format!("so many agents need {wanted} open files at a time"))
            .with_hint("raise the limit (ulimit -Hn), or say fewer --agents"));
    }
    limit.current = Some(wanted);
    setrlimit(Resource::Nofile, limit).map_err(|e| Error::io("raise the limit of open files", e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: Simulated,
    }

    #[test]
    fn a_curve_rises_to_what_was_asked_for() {
        let sizes = |line: &str| sizes(&Line::parse_from(format!("x {line}").split(' ')).bench);
        assert_eq!(sizes("--files 2000 --chunks 50"), [(2000, 50)]);
        assert_eq!(
            sizes("--curve --files 10000000 --chunks 20000000"),
            [(100_000, 200_000), (1_000_000, 2_000_000), (10_000_000, 20_000_000)]
        );
        assert_eq!(sizes("--curve --files 300000 --chunks 300000"), [(100_000, 100_000), (300_000, 300_000)]);
    }
}
