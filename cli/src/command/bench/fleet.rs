//! The coordinator and the agents that are measured.
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_proto::{from_status, v1};
use palinurus_repository::storage::{self, list_all};
use palinurus_repository::{Error, KeyFile, Result, SystemClock, SystemEntropy};
use tokio::process::Command;
use tokio::time::Instant;

use super::report::Cost;
use super::{REPOSITORY, make_dir, meter};
use crate::client::{self, Client};
use crate::command::fleet::{self, Process};
use crate::identities::{self, Identities};
use crate::output::Output;
use crate::{Global, follow};

const SERVICE: &str = "bench";
/// A replica each.
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const LISTEN: &str = "127.0.0.1:0";
const JOINING: Duration = Duration::from_secs(30);

/// A coordinator and its agents, as processes of their own.
pub(super) struct Fleet<'a> {
    home: PathBuf,
    repository: String,
    pages: bool,
    global: Global,
    output: &'a Output,
    server: String,
    identities: Identities,
    client: Client,
    coordinator: Process,
    agents: Vec<Process>,
}

impl<'a> Fleet<'a> {
    pub(super) async fn start(
        home: &Path,
        data: &[PathBuf],
        pages: bool,
        repository: Option<&str>,
        global: &Global,
        output: &'a Output,
    ) -> Result<Self> {
        KeyFile::generate(&SystemEntropy::new())?.write(&home.join("operator.key"))?;
        let state = home.join("coordinator");
        make_dir(&state)?;
        let config = home.join("coordinator.toml");
        let identities =
            Identities::new(home.join("certs"), LISTEN, SERVICE, &NODES[..data.len().min(NODES.len())]);
        identities.keep(&SystemClock)?;
        let text = format!(
            "name = \"bench\"\nlisten = {LISTEN:?}\nstate = {state:?}\nkeys = [{:?}]\n\n{}",
            home.join("operator.key"),
            identities::section(&identities.coordinator()),
        );
        std::fs::write(&config, text).map_err(|e| Error::io("write the configuration", e))?;
        let mut coordinator = Process::start("coordinator", "the coordinator", &config)?;
        let server = fleet::address(&mut coordinator, &state).await?;
        identities.write_file(home, &server)?;
        // Bars would be measured with the rest.
        let global = Global { state: Some(home.to_owned()), no_progress: true, ..global.clone() };
        let mut client = client::connect(&global).await?;
        let folder = home.join(REPOSITORY);
        make_dir(&folder)?;
        let repository = repository.map_or_else(|| format!("file://{}", folder.display()), str::to_owned);
        let node = |name: &&str| v1::NodeSpec { name: (*name).into(), ..Default::default() };
        let service = v1::Service {
            name: SERVICE.into(),
            r#type: "files".into(),
            repository: repository.clone(),
            nodes: NODES.iter().take(data.len()).map(node).collect(),
            ..Default::default()
        };
        client
            .apply_service(v1::ApplyServiceRequest { service: Some(service), ..Default::default() })
            .await
            .map_err(from_status)?;
        let (home, agents) = (home.to_owned(), Vec::new());
        let mut fleet =
            Self { home, repository, pages, global, output, server, identities, client, coordinator, agents };
        for (node, data) in NODES.into_iter().zip(data) {
            fleet.start_agent("agent", node, data).await?;
        }
        Ok(fleet)
    }

    async fn start_agent(&mut self, name: &str, node: &str, data: &Path) -> Result<()> {
        let config = self.home.join(format!("{name}-{node}.toml"));
        let paged = if self.pages { "paged = [{ glob = \"**/*.db\", page_size = 8192 }]\n" } else { "" };
        let text = format!(
            "service = {SERVICE:?}\nnode = {node:?}\ncoordinator = [{:?}]\nstate = {:?}\nkeys = [{:?}]\n\n\
             {}[engine]\ntype = \"files\"\nroot = {data:?}\n{paged}",
            self.server,
            self.home.join(format!("{name}-{node}-state")),
            self.home.join("operator.key"),
            identities::section(&self.identities.agent(node)),
        );
        std::fs::write(&config, text).map_err(|e| Error::io("write the configuration", e))?;
        self.agents.push(Process::start("agent", "the agent", &config)?);
        let deadline = Instant::now() + JOINING;
        loop {
            let request = v1::ListNodesRequest { service: SERVICE.into() };
            let nodes = self.client.list_nodes(request).await.map_err(from_status)?.into_inner().nodes;
            let fresh = |known: &v1::Node| {
                known.name == node && known.connected && (name == "agent" || known.data_empty)
            };
            if nodes.iter().any(fresh) {
                return Ok(());
            }
            self.coordinator.check()?;
            self.agents.iter_mut().try_for_each(Process::check)?;
            if Instant::now() > deadline {
                return Err(Error::unavailable("the agent does not join"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn backup(&mut self) -> Result<(v1::Operation, Cost)> {
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
    pub(super) async fn restore(&mut self) -> Result<Cost> {
        for agent in self.agents.drain(..) {
            agent.stop().await?;
        }
        let target = self.home.join("restored");
        make_dir(&target)?;
        self.start_agent("replacement", NODES[0], &target).await?;
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

    /// The coordinator's last.
    fn pids(&self) -> Result<Vec<u32>> {
        let all = self.agents.iter().chain([&self.coordinator]);
        all.map(|process| process.id().ok_or_else(|| Error::internal("a process has ended"))).collect()
    }

    fn begin(&self) -> Result<(Instant, f64)> {
        // What others have written before is not to be waited for in this step.
        rustix::fs::sync();
        let pids = self.pids()?;
        pids.iter().copied().for_each(meter::reset_peak_memory);
        let cpu = pids.into_iter().map(meter::cpu_of).sum::<Result<f64>>()?;
        Ok((Instant::now(), cpu))
    }

    fn end(&self, (began, cpu): &(Instant, f64), operation: &v1::Operation) -> Result<Cost> {
        let seconds = began.elapsed().as_secs_f64();
        let pids = self.pids()?;
        let used = pids.iter().copied().map(meter::cpu_of).sum::<Result<f64>>()? - cpu;
        let peaks = pids.into_iter().map(meter::peak_memory).collect::<Result<Vec<u64>>>()?;
        let (coordinator, agents) = peaks.split_last().ok_or_else(|| Error::internal("no process"))?;
        let progress = operation.progress.unwrap_or_default();
        Ok(Cost {
            seconds,
            cpu: used,
            requests: progress.requests.map(|requests| requests.total()),
            memory: peaks.iter().max().copied(),
            agent_memory: agents.iter().max().copied(),
            coordinator_memory: Some(*coordinator),
            ..Cost::default()
        })
    }

    /// One file, by a process of its own that knows the repository and a key, and no coordinator.
    pub(super) async fn restore_one(&self, file: &Path, target: &Path) -> Result<Cost> {
        let mut command = Command::new(std::env::current_exe().map_err(|e| Error::io("find myself", e))?);
        command.args(["restore", "--yes", "--repository", &self.repository, "--keys"]);
        command.arg(self.home.join("operator.key")).arg("--target").arg(target).arg("--include").arg(file);
        Ok(meter::run("palinurus", command).await?.0)
    }

    /// What lies in the store.
    pub(super) async fn stored(&self) -> Result<u64> {
        let storage = storage::open(&self.repository)?;
        Ok(list_all(&*storage, "").await?.iter().map(|object| object.size).sum())
    }

    pub(super) async fn stop(self) -> Result<()> {
        for agent in self.agents {
            agent.stop().await?;
        }
        self.coordinator.stop().await
    }
}
