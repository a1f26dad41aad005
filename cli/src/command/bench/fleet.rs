//! The coordinator and the agent that are measured.
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, KeyFile, Result, SystemClock, SystemEntropy};
use tokio::time::Instant;

use super::report::Cost;
use super::{REPOSITORY, make_dir, meter};
use crate::client::{self, Client};
use crate::command::fleet::{self, Process};
use crate::identities::{self, Identities};
use crate::output::Output;
use crate::{Global, follow};

const SERVICE: &str = "bench";
const NODE: &str = "n1";
const LISTEN: &str = "127.0.0.1:0";
const JOINING: Duration = Duration::from_secs(30);

/// A coordinator and an agent, as processes of their own.
pub(super) struct Fleet<'a> {
    home: PathBuf,
    pages: bool,
    global: Global,
    output: &'a Output,
    server: String,
    identities: Identities,
    client: Client,
    coordinator: Process,
    agent: Option<Process>,
}

impl<'a> Fleet<'a> {
    pub(super) async fn start(
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
        let identities = Identities::new(home.join("certs"), LISTEN, SERVICE, &[NODE]);
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
        let service = v1::Service {
            name: SERVICE.into(),
            r#type: "files".into(),
            repository: repository.map_or_else(|| format!("file://{}", folder.display()), str::to_owned),
            nodes: vec![v1::NodeSpec { name: NODE.into(), ..Default::default() }],
            ..Default::default()
        };
        client
            .apply_service(v1::ApplyServiceRequest { service: Some(service), ..Default::default() })
            .await
            .map_err(from_status)?;
        let (home, agent) = (home.to_owned(), None);
        let mut fleet = Self { home, pages, global, output, server, identities, client, coordinator, agent };
        fleet.start_agent("agent", data).await?;
        Ok(fleet)
    }

    async fn start_agent(&mut self, name: &str, data: &Path) -> Result<()> {
        let config = self.home.join(format!("{name}.toml"));
        let paged = if self.pages { "paged = [{ glob = \"**/*.db\", page_size = 8192 }]\n" } else { "" };
        let text = format!(
            "service = {SERVICE:?}\nnode = {NODE:?}\ncoordinator = [{:?}]\nstate = {:?}\nkeys = [{:?}]\n\n\
             {}[engine]\ntype = \"files\"\nroot = {data:?}\n{paged}",
            self.server,
            self.home.join(format!("{name}-state")),
            self.home.join("operator.key"),
            identities::section(&self.identities.agent(NODE)),
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

    pub(super) async fn stop(self) -> Result<()> {
        if let Some(agent) = self.agent {
            agent.stop().await?;
        }
        self.coordinator.stop().await
    }
}
