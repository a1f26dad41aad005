//! The newcomer's first minute: a coordinator and three agents as processes of their own, two backups, a lost
//! node, its replacement, a restore, and a comparison of every byte and attribute with a record taken before.
mod data;
mod record;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, KeyFile, Result, SystemClock, SystemEntropy};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fleet::{self, Process};
use crate::client::{self, Client};
use crate::exit::Outcome;
use crate::identities::{self, Identities};
use crate::output::Output;
use crate::{Global, follow, human, signal};
use data::disk_size;
use record::Record;
use report::{Report, Step};

const SERVICE: &str = "demo";
const LISTEN: &str = "127.0.0.1:0";
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The one that is lost.
const LOST: &str = "n2";
const JOINING: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Show it with copies of these files; by default with about 300 MB of this machine's own.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Leave everything behind and say where.
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(demo: Demo, global: &Global, output: &Output) -> Result<Outcome> {
    let cancel = signal::cancel_on_signal()?;
    let dir = tempfile::Builder::new()
        .prefix("palinurus-demo-")
        .tempdir()
        .map_err(|error| Error::io("make a directory for the demo", error))?;
    let disk = Disk { tasks: TaskTracker::new(), stop: cancel.clone() };
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::unavailable("interrupted")),
        result = Box::pin(play(&demo, dir.path(), &disk, global, output)) => result,
    };
    // Dropping an interrupted play has killed its processes; its copying still has to end before cleaning up.
    disk.tasks.close();
    disk.tasks.wait().await;
    if demo.keep {
        output.say(format!("everything is kept in {}", dir.keep().display()));
    } else if let Err(error) = dir.close() {
        output.warn(format!("could not clean up: {error}"));
    }
    let report = result?;
    output.data(&report, report::show);
    Ok(if report.differences.is_empty() { Outcome::Done } else { Outcome::Failed })
}

struct Stage<'a> {
    dir: &'a Path,
    output: &'a Output,
    disk: &'a Disk,
    global: Global,
    server: String,
    identities: Identities,
    client: Client,
    coordinator: Process,
    agents: Vec<(&'static str, Process)>,
}

async fn play(demo: &Demo, dir: &Path, disk: &Disk, global: &Global, output: &Output) -> Result<Report> {
    let began = Instant::now();
    let data = NODES.map(|node| node_dir(dir, node).join("data"));
    for data in &data {
        make_dir(data)?;
    }
    output.note("laying out the data of three nodes; n1 and n2 are replicas of each other ...");
    let source = demo.data.clone();
    let [one, two, three] = data.clone();
    let stop = disk.stop.clone();
    disk.run(move || data::lay_out(source.as_deref(), [&one, &two], &three, &stop)).await?;

    output.note("starting a coordinator and three agents ...");
    let mut stage = Stage::set(dir, disk, global, output).await?;
    stage.joined(&NODES, |_| true).await?;

    let mut steps = vec![stage.backup("first backup").await?];
    let changed = data.clone();
    let changes = disk
        .run(move || {
            data::change(&changed[0])?;
            data::change(&changed[2])?;
            data::change(&changed[1])
        })
        .await?;
    output.note(format!(
        "changed on each node as on {LOST}: {} files overwritten in the middle, {} longer, {} removed, {} added",
        changes.overwritten, changes.extended, changes.removed, changes.added
    ));
    steps.push(stage.backup("second backup").await?);

    let lost = data[1].clone();
    let before = disk.run(move || Record::take(&lost)).await?;
    output.note(format!(
        "killing the agent of {LOST} and destroying its {} files ...",
        human::count(before.files)
    ));
    stage.lose(LOST).await?;
    output.note(format!("starting a replacement for {LOST} with an empty directory, and restoring it ..."));
    let restored = stage.replace(LOST).await?;
    let mut step = stage.restore(LOST).await?;

    output.note("comparing every byte and attribute with what was recorded before the loss ...");
    let after = disk.run(move || Record::take(&restored)).await?;
    let differences = before.differences(&after);
    step.verified = Some(differences.is_empty());
    step.bytes = after.bytes;
    step.restored = Some(after.bytes);
    steps.push(step);
    stage.strike().await?;
    Ok(Report {
        files: after.files,
        steps,
        differences,
        seconds: began.elapsed().as_secs_f64(),
        kept: demo.keep.then(|| dir.to_owned()),
    })
}

impl<'a> Stage<'a> {
    async fn set(dir: &'a Path, disk: &'a Disk, global: &Global, output: &'a Output) -> Result<Self> {
        let entropy = SystemEntropy::new();
        KeyFile::generate(&entropy)?.write(&dir.join("operator.key"))?;
        let state = dir.join("coordinator");
        make_dir(&state)?;
        let config = dir.join("coordinator.toml");
        let identities = Identities::new(dir.join("certs"), LISTEN, SERVICE, &NODES);
        identities.keep(&SystemClock)?;
        write(
            &config,
            &format!(
                "name = \"demo\"\nlisten = {LISTEN:?}\nstate = {:?}\nkeys = [{:?}]\n\n{}",
                state,
                dir.join("operator.key"),
                identities::section(&identities.coordinator()),
            ),
        )?;
        let mut coordinator = Process::start("coordinator", "the coordinator", &config)?;
        let server = fleet::address(&mut coordinator, &state).await?;
        identities.write_file(dir, &server)?;
        let global = Global { state: Some(dir.to_owned()), ..global.clone() };
        let mut client = client::connect(&global).await?;
        let repository = dir.join("repository");
        make_dir(&repository)?;
        let service = v1::Service {
            name: SERVICE.into(),
            r#type: "files".into(),
            repository: format!("file://{}", repository.display()),
            nodes: NODES.map(|name| v1::NodeSpec { name: name.into(), ..Default::default() }).into(),
            ..Default::default()
        };
        client
            .apply_service(v1::ApplyServiceRequest { service: Some(service), ..Default::default() })
            .await
            .map_err(from_status)?;
        let agents = Vec::new();
        let mut stage = Self { dir, output, disk, global, server, identities, client, coordinator, agents };
        for node in NODES {
            stage.start_agent(node, &node_dir(dir, node))?;
        }
        Ok(stage)
    }

    fn start_agent(&mut self, node: &'static str, home: &Path) -> Result<()> {
        let config = home.join("agent.toml");
        write(
            &config,
            &format!(
                "service = {SERVICE:?}\nnode = {node:?}\ncoordinator = [{:?}]\nstate = {:?}\nkeys = [{:?}]\n\n\
                 {}[engine]\ntype = \"files\"\nroot = {:?}\n",
                self.server,
                home.join("state"),
                self.dir.join("operator.key"),
                identities::section(&self.identities.agent(node)),
                home.join("data"),
            ),
        )?;
        let process = Process::start("agent", &format!("the agent of {node}"), &config)?;
        self.agents.push((node, process));
        Ok(())
    }

    /// Waits until the agents of `nodes` are connected and `fits` says yes to each.
    async fn joined(&mut self, nodes: &[&str], fits: impl Fn(&v1::Node) -> bool) -> Result<()> {
        let deadline = Instant::now() + JOINING;
        loop {
            let request = v1::ListNodesRequest { service: SERVICE.into() };
            let known = self.client.list_nodes(request).await.map_err(from_status)?.into_inner().nodes;
            let here =
                |name: &str| known.iter().any(|node| node.name == name && node.connected && fits(node));
            if nodes.iter().all(|name| here(name)) {
                return Ok(());
            }
            self.coordinator.check()?;
            for (_, agent) in &mut self.agents {
                agent.check()?;
            }
            if Instant::now() > deadline {
                return Err(Error::unavailable(format!(
                    "not all of {nodes:?} have joined after {JOINING:?}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn backup(&mut self, name: &'static str) -> Result<Step> {
        self.output.note(format!("{name} ..."));
        let repository = self.dir.join("repository");
        let stored_before = disk_size(&repository)?;
        let began = Instant::now();
        let request = v1::StartBackupRequest { service: SERVICE.into(), full: false };
        let started = self.client.start_backup(request).await.map_err(from_status)?.into_inner();
        let ended = follow::follow(&self.global, self.output, &started.id).await?;
        let seconds = began.elapsed().as_secs_f64();
        follow::outcome(&ended)?;
        follow::say_warnings(self.output, &ended);
        let progress = ended.progress.unwrap_or_default();
        Ok(Step {
            name,
            bytes: progress.bytes_total,
            read: Some(progress.bytes_read),
            new: Some(progress.bytes_new),
            uploaded: Some(progress.bytes_stored),
            stored: Some(disk_size(&repository)?.saturating_sub(stored_before)),
            seconds,
            restored: None,
            verified: None,
        })
    }

    /// SIGKILL, then the data is gone too.
    async fn lose(&mut self, node: &str) -> Result<()> {
        if let Some(at) = self.agents.iter().position(|(name, _)| *name == node) {
            self.agents.remove(at).1.kill().await?;
        }
        let data = node_dir(self.dir, node);
        let disk = self.disk;
        disk.run(move || {
            std::fs::remove_dir_all(&data)
                .map_err(|error| Error::io(format!("destroy {}", data.display()), error))
        })
        .await
    }

    /// A new machine for an old place: nothing of the lost one's is left. Returns its data directory.
    async fn replace(&mut self, node: &'static str) -> Result<PathBuf> {
        let home = self.dir.join(format!("{node}-replacement"));
        make_dir(&home.join("data"))?;
        self.start_agent(node, &home)?;
        self.joined(&[node], |node| node.data_empty).await?;
        Ok(home.join("data"))
    }

    async fn restore(&mut self, node: &str) -> Result<Step> {
        let request = v1::RestoreRequest {
            service: SERVICE.into(),
            backup: "latest".into(),
            nodes: vec![node.into()],
            ..Default::default()
        };
        let plan = self.client.plan_restore(request.clone()).await.map_err(from_status)?.into_inner();
        if !plan.refusals.is_empty() {
            return Err(Error::conflict(format!("the restore is refused: {}", plan.refusals.join("; "))));
        }
        let began = Instant::now();
        let started = self.client.apply_restore(request).await.map_err(from_status)?.into_inner();
        let ended = follow::follow(&self.global, self.output, &started.id).await?;
        let seconds = began.elapsed().as_secs_f64();
        follow::outcome(&ended)?;
        follow::say_warnings(self.output, &ended);
        Ok(Step { name: "restore", seconds, ..Step::default() })
    }

    async fn strike(self) -> Result<()> {
        for (_, agent) in self.agents {
            agent.stop().await?;
        }
        self.coordinator.stop().await
    }
}

fn node_dir(dir: &Path, node: &str) -> PathBuf {
    dir.join(node)
}

fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|error| Error::io(format!("make {}", dir.display()), error))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|error| Error::io(format!("write {}", file.display()), error))
}

/// Copying and comparing, off the runtime's threads and waited for before cleaning up.
#[derive(Debug)]
struct Disk {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Disk {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let done = self.tasks.spawn_blocking(work).await;
        done.map_err(|error| Error::internal("a step of the demo died").with_source(error))?
    }
}
