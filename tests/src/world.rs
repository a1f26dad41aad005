//! A coordinator and agents as real processes on loopback, their data and repository in a directory that goes
//! when the test ends. Nothing sleeps for luck: every wait polls what it waits for, against a deadline.
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_identity::Role;
use palinurus_proto::v1;
use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use palinurus_repository::{KeyFile, SystemEntropy};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::certs::Certs;
use crate::operator::Client;
use crate::process::{Process, palinurus};
use crate::store::free_ports;
use crate::watchdog::Watchdog;

pub const SERVICE: &str = "s";
/// The service that is to become a fork of it.
pub const FORK: &str = "fork";
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// What is measured may be given more minutes, by `TEST_MINUTES`.
pub(crate) fn deadline() -> Duration {
    std::env::var("TEST_MINUTES")
        .ok()
        .and_then(|text| text.parse().ok())
        .map_or(DEADLINE, |minutes: u64| Duration::from_secs(60 * minutes))
}

#[derive(Debug)]
pub struct World {
    nodes: Vec<String>,
    address: Option<String>,
    coordinator: Option<Process>,
    agents: BTreeMap<String, Process>,
    /// The engine.
    pub kind: String,
    /// The service's; empty: none.
    pub plan: String,
    /// More lines for an agent's [engine] table; `{node}` is the node's directory.
    pub engine: String,
    /// And for that of one node.
    pub engines: BTreeMap<String, String>,
    /// Settings of the service, for when it is applied.
    pub service: BTreeMap<String, String>,
    /// More lines for the coordinator's settings.
    pub settings: String,
    /// Which of the nodes hold no data.
    pub spares: Vec<&'static str>,
    /// Which of the nodes are not of [`SERVICE`], but of [`FORK`].
    pub forks: Vec<&'static str>,
    /// The operator keys of all of them, as TOML.
    pub keys: String,
    /// Or of that one node.
    pub own_keys: BTreeMap<String, String>,
    /// Then everything is encrypted, and the test is an admin.
    pub certs: Option<Certs>,
    repository: PathBuf,
    /// Where the repository is when not in that directory.
    url: Option<String>,
    /// More of the environment of all that is started.
    pub environment: BTreeMap<String, String>,
    _watchdog: Watchdog,
    // Last: processes end before their directory goes.
    dir: tempfile::TempDir,
}

impl World {
    /// Directories and key; nothing runs yet.
    pub fn new(nodes: &[&str]) -> Self {
        // Where it is built here, that takes none of the test's time.
        crate::process::binary();
        let dir = tempfile::Builder::new().prefix("w").tempdir().unwrap();
        KeyFile::generate(&SystemEntropy::new()).unwrap().write(&dir.path().join("key")).unwrap();
        for node in nodes {
            fs::create_dir_all(dir.path().join(node).join("data")).unwrap();
        }
        let repository = dir.path().join("repository");
        fs::create_dir(&repository).unwrap();
        Self {
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            address: None,
            coordinator: None,
            agents: BTreeMap::new(),
            kind: "files".into(),
            plan: String::new(),
            engine: String::new(),
            engines: BTreeMap::new(),
            service: BTreeMap::new(),
            settings: String::new(),
            spares: Vec::new(),
            forks: Vec::new(),
            own_keys: BTreeMap::new(),
            keys: format!("[{:?}]", dir.path().join("key")),
            certs: None,
            repository,
            url: None,
            environment: BTreeMap::new(),
            _watchdog: Watchdog::over(dir.path()),
            dir,
        }
    }

    pub fn encrypted(nodes: &[&str]) -> Self {
        let mut world = Self::new(nodes);
        let certs = Certs::new(&world.path("certs"));
        certs.operator("tester", Role::Admin);
        world.certs = Some(certs);
        world
    }

    /// Keeps the repository elsewhere: on a disk that fills up.
    pub fn keep_repository_in(&mut self, dir: &Path) {
        self.repository = dir.to_owned();
    }

    /// Keeps the repository in an object store.
    pub fn keep_repository_at(&mut self, url: String) {
        self.url = Some(url);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn data(&self, node: &str) -> PathBuf {
        self.path(node).join("data")
    }

    pub fn agent_state(&self, node: &str) -> PathBuf {
        self.path(node).join("state")
    }

    pub fn key(&self) -> PathBuf {
        self.path("key")
    }

    pub fn repository(&self) -> &Path {
        &self.repository
    }

    pub fn repository_url(&self) -> String {
        self.url.clone().unwrap_or_else(|| format!("file://{}", self.repository.display()))
    }

    pub fn server(&self) -> String {
        let scheme = if self.certs.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address.as_ref().expect("the coordinator has been started"))
    }

    /// Starts everything, applies the service and waits until all nodes have joined.
    pub async fn start(&mut self) {
        self.start_coordinator().await;
        self.apply_service().await;
        for node in self.nodes.clone() {
            self.start_agent(&node);
        }
        self.joined().await;
    }

    pub async fn start_coordinator(&mut self) {
        let state = self.path("coordinator");
        fs::create_dir_all(&state).unwrap();
        for old in ["address", "metrics-address"] {
            let _ = fs::remove_file(state.join(old));
        }
        // The same port after a restart: the agents know no other.
        let listen = self.address.clone().unwrap_or_else(|| {
            let [port] = free_ports();
            format!("127.0.0.1:{port}")
        });
        let config = self.path("coordinator.toml");
        let text = format!(
            "name = \"c\"\nlisten = {listen:?}\nstate = {state:?}\nkeys = {}\n\
             heartbeat = \"500ms\"\npatience = \"20s\"\n{}{}",
            self.keys,
            self.settings,
            self.certs.as_ref().map_or_else(String::new, |certs| certs.coordinator("c", "127.0.0.1")),
        );
        fs::write(&config, text).unwrap();
        let mut command = palinurus();
        if self.certs.is_none() {
            command.arg("--insecure-plaintext");
        }
        command.args(["coordinator", "--config"]).arg(&config).envs(&self.environment);
        let mut process = Process::start("the coordinator", command, &self.path("coordinator.log"));
        let address = wait("the coordinator listens", || {
            process.check();
            fs::read_to_string(state.join("address")).ok().filter(|text| text.ends_with('\n'))
        })
        .await;
        self.address = Some(address.trim().to_owned());
        self.coordinator = Some(process);
    }

    fn service_of(&self, node: &str) -> &'static str {
        if self.forks.contains(&node) { FORK } else { SERVICE }
    }

    pub fn fork_repository(&self) -> PathBuf {
        self.path("fork-repository")
    }

    pub async fn apply_service(&self) {
        let fork = format!("file://{}", self.fork_repository().display());
        for (name, repository) in [(SERVICE, self.repository_url()), (FORK, fork)] {
            let nodes = self.nodes.iter().filter(|node| self.service_of(node) == name);
            let service = v1::Service {
                name: name.into(),
                r#type: self.kind.clone(),
                plan: self.plan.clone(),
                repository,
                nodes: nodes
                    .map(|name| v1::NodeSpec {
                        name: name.clone(),
                        spare: self.spares.contains(&name.as_str()),
                        ..Default::default()
                    })
                    .collect(),
                settings: self.service.clone().into_iter().collect(),
                ..Default::default()
            };
            if service.nodes.is_empty() {
                continue;
            }
            let request = v1::ApplyServiceRequest { service: Some(service), ..Default::default() };
            self.client().await.apply_service(request).await.unwrap();
        }
    }

    /// Their agents end, and the service is applied without them.
    pub async fn leave_out(&mut self, nodes: &[&str]) {
        for node in nodes {
            self.stop_agent(node).await;
        }
        self.nodes.retain(|node| !nodes.contains(&node.as_str()));
        self.apply_service().await;
    }

    pub async fn take_in(&mut self, nodes: &[&str]) {
        self.nodes.extend(nodes.iter().map(|node| (*node).to_owned()));
        self.apply_service().await;
        nodes.iter().for_each(|node| self.start_agent(node));
    }

    pub fn agent_config(&self, node: &str) -> String {
        format!(
            "service = {:?}\nnode = {node:?}\ncoordinator = [{:?}]\nstate = {:?}\nkeys = {}\n\
             {}\n[session]\nretry_min = \"50ms\"\nretry_max = \"500ms\"\nretry_refused = \"1s\"\nprogress = \"100ms\"\n\n\
             [engine]\ntype = {:?}\nroot = {:?}\n{}{}",
            self.service_of(node),
            self.server(),
            self.agent_state(node),
            self.own_keys.get(node).unwrap_or(&self.keys),
            self.certs.as_ref().map_or_else(String::new, |certs| {
                certs.agent(self.service_of(node), node, self.spares.contains(&node))
            }),
            self.kind,
            self.data(node),
            self.engine.replace("{node}", &self.path(node).to_string_lossy()),
            self.engines.get(node).map_or("", String::as_str),
        )
    }

    pub fn start_agent(&mut self, node: &str) {
        let config = self.path(&format!("{node}.toml"));
        fs::write(&config, self.agent_config(node)).unwrap();
        let _ = fs::remove_file(self.agent_state(node).join("metrics-address"));
        let mut command = palinurus();
        command.args(["agent", "--config"]).arg(&config).envs(&self.environment);
        let log = self.path(&format!("{node}.log"));
        self.agents.insert(node.to_owned(), Process::start(&format!("the agent of {node}"), command, &log));
    }

    pub fn kill_coordinator(&mut self) {
        self.coordinator.take().expect("it runs").kill();
    }

    pub fn kill_agent(&mut self, node: &str) {
        self.agents.remove(node).expect("it runs").kill();
    }

    pub async fn stop_agent(&mut self, node: &str) {
        assert!(self.agents.remove(node).expect("it runs").terminate().await.success());
    }

    pub fn agent(&mut self, node: &str) -> &mut Process {
        self.agents.get_mut(node).expect("it runs")
    }

    pub fn coordinator(&mut self) -> &mut Process {
        self.coordinator.as_mut().expect("it runs")
    }

    /// Ends everything in order.
    pub async fn stop(&mut self) {
        for (_, agent) in std::mem::take(&mut self.agents) {
            assert!(agent.terminate().await.success());
        }
        if let Some(coordinator) = self.coordinator.take() {
            assert!(coordinator.terminate().await.success());
        }
    }

    pub async fn joined(&mut self) {
        let mut client = self.client().await;
        for node in self.nodes.clone() {
            wait_async(&format!("{node} joins"), async || {
                for agent in self.agents.values_mut() {
                    agent.check();
                }
                let request = v1::ListNodesRequest { service: self.service_of(&node).into() };
                let nodes = client.list_nodes(request).await.ok()?.into_inner().nodes;
                nodes.iter().any(|known| known.name == node && known.connected).then_some(())
            })
            .await;
        }
    }

    /// Other services may have a node of that name.
    pub async fn node(&self, name: &str) -> v1::Node {
        let request = v1::ListNodesRequest { service: self.service_of(name).into() };
        let reply = self.client().await.list_nodes(request).await.unwrap().into_inner();
        reply.nodes.into_iter().find(|node| node.name == name).expect("a node of the service")
    }

    pub async fn client(&self) -> CoordinatorClient<Channel> {
        CoordinatorClient::new(self.channel().await.unwrap()).max_decoding_message_size(64 << 20)
    }

    async fn channel(&self) -> Option<Channel> {
        let Some(certs) = &self.certs else {
            return patient(Endpoint::from_shared(self.server()).unwrap()).connect().await.ok();
        };
        let tester = certs.path("operator-tester");
        certs.dialer(&tester).connect(&self.server().parse().unwrap(), patient).await.ok()
    }

    /// Runs the command with this world's coordinator; its stdout is parsed as JSON.
    pub async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        let mut command = palinurus();
        command.arg("--json");
        if self.address.is_some() {
            command.env("PALINURUS_SERVER", self.server());
        }
        if let Some(certs) = &self.certs {
            let tester = certs.path("operator-tester");
            command.env("PALINURUS_CA", certs.ca()).env("PALINURUS_CERT", tester.certificate);
            command.env("PALINURUS_CERT_KEY", tester.key);
        }
        command.args(arguments).envs(&self.environment);
        run(command).await
    }

    pub async fn start_backup(&self) -> v1::Operation {
        let request = v1::StartBackupRequest { service: SERVICE.into(), full: false };
        self.client().await.start_backup(request).await.unwrap().into_inner()
    }

    /// A backup that has to end well; warnings are well.
    pub async fn backup(&self) -> v1::Operation {
        let operation = self.start_backup().await;
        let ended = self.ended(&operation.id).await;
        let good = matches!(ended.state(), v1::OperationState::Succeeded | v1::OperationState::Warnings);
        assert!(good, "the backup ended as {:?}: {:?}", ended.state(), ended.failure);
        ended
    }

    /// The operation once it has ended, however that is. Survives a coordinator that comes and goes.
    pub async fn ended(&self, id: &str) -> v1::Operation {
        wait_async(&format!("operation {id} ends"), async || {
            let mut client = CoordinatorClient::new(self.channel().await?);
            let request = v1::GetOperationRequest { id: id.to_owned() };
            let operation = client.get_operation(request).await.ok()?.into_inner();
            let ended =
                !matches!(operation.state(), v1::OperationState::Running | v1::OperationState::Cancelling);
            ended.then_some(operation)
        })
        .await
    }

    /// It stands at `phase`, or this fails.
    pub async fn comes_to(&self, id: &str, phase: &str) {
        assert!(self.is_met_at(id, phase).await, "it was over too soon");
    }

    /// Whether it was seen to stand at `phase`, or was over before.
    pub async fn is_met_at(&self, id: &str, phase: &str) -> bool {
        wait_async(&format!("the operation comes to {phase}"), async || {
            let now = self.operation(id).await.phase;
            (now == phase || now == "done").then_some(now == phase)
        })
        .await
    }

    pub async fn failovers(&self) -> Vec<v1::Operation> {
        let request = v1::ListOperationsRequest { service: SERVICE.into(), running: false };
        let all = self.client().await.list_operations(request).await.unwrap().into_inner().operations;
        all.into_iter().filter(|operation| operation.kind() == v1::OperationKind::Failover).collect()
    }

    /// The only failover, once it has begun.
    pub async fn failover(&self) -> v1::Operation {
        wait_async("a failover begins", async || self.failovers().await.pop()).await
    }

    pub async fn operation(&self, id: &str) -> v1::Operation {
        let request = v1::GetOperationRequest { id: id.to_owned() };
        self.client().await.get_operation(request).await.unwrap().into_inner()
    }

    pub async fn backups(&self) -> Vec<v1::Backup> {
        self.backups_of(SERVICE).await
    }

    pub async fn backups_of(&self, service: &str) -> Vec<v1::Backup> {
        let request = v1::ListBackupsRequest { service: service.into() };
        self.client().await.list_backups(request).await.unwrap().into_inner().backups
    }

    /// A restore of `node` from the latest backup.
    pub async fn start_restore(&self, node: &str, delta: bool) -> v1::Operation {
        self.apply_restore(v1::RestoreRequest {
            service: SERVICE.into(),
            backup: "latest".into(),
            nodes: vec![node.to_owned()],
            delta,
            target: None,
            ..Default::default()
        })
        .await
    }

    pub async fn apply_restore(&self, request: v1::RestoreRequest) -> v1::Operation {
        let apply = async |mut client: Client| client.apply_restore(request.clone()).await;
        self.begun(apply).await
    }

    /// What is refused while an agent is not there. One that has stood still for longer than its beats comes back.
    pub async fn begun(
        &self,
        mut start: impl AsyncFnMut(Client) -> Result<Response<v1::Operation>, Status>,
    ) -> v1::Operation {
        wait_async("the agents are there", async || match start(self.client().await).await {
            Err(status) if status.message().contains("is not connected") => None,
            started => Some(started.unwrap().into_inner()),
        })
        .await
    }

    /// A restore of these tables of the latest backup, on every node.
    pub async fn start_chosen(&self, tables: &[&str], renames: &[&str]) -> v1::Operation {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let request = v1::RestoreRequest {
            service: SERVICE.into(),
            backup: "latest".into(),
            choice: Some(v1::Choice { tables: texts(tables), renames: texts(renames) }),
            ..Default::default()
        };
        self.apply_restore(request).await
    }

    /// Restores `node` from the latest backup, which has to end well.
    pub async fn restore(&self, node: &str, delta: bool) -> v1::Operation {
        if !delta {
            self.seen_empty(node).await;
        }
        let operation = self.start_restore(node, delta).await;
        let ended = self.ended(&operation.id).await;
        let good = matches!(ended.state(), v1::OperationState::Succeeded | v1::OperationState::Warnings);
        assert!(good, "the restore ended as {:?}: {:?}", ended.state(), ended.failure);
        ended
    }

    /// An agent that has stood still for longer than its beats is gone for a moment.
    pub async fn is_there(&self, node: &str) {
        let there = async || self.node(node).await.connected.then_some(());
        wait_async(&format!("{node} is connected"), there).await;
    }

    /// And of one that was filled: until then it may still be taken for empty.
    pub async fn seen_filled(&self, node: &str) {
        let filled = async || (!self.node(node).await.data_empty).then_some(());
        wait_async(&format!("{node} is seen to hold data"), filled).await;
    }

    /// The coordinator learns of an emptied directory with the next heartbeat.
    pub async fn seen_empty(&self, node: &str) {
        wait_async(&format!("{node} is seen to be empty"), async || {
            let node = self.node(node).await;
            (node.connected && node.data_empty).then_some(())
        })
        .await;
    }

    /// And of a server that is written.
    pub async fn seen_primary(&self, node: &str) {
        wait_async(&format!("{node} is seen to be the primary"), async || {
            let node = self.node(node).await;
            (node.connected && node.primary).then_some(())
        })
        .await;
    }

    /// Nothing is kept of any operation. What has just ended is forgotten a moment later, hence the wait.
    pub async fn nothing_left_behind(&self, node: &str) {
        let state = self.agent_state(node);
        let mut left = Vec::new();
        for _ in 0..1200 {
            left = ["journal", "spool"].iter().flat_map(|part| files_below(&state.join(part))).collect();
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("{node} has left behind: {left:#?}");
    }

    /// Moves a node's data aside and leaves an empty directory. Returns where it is now.
    pub fn move_data(&self, node: &str) -> PathBuf {
        let aside = self.path(&format!("{node} as it was"));
        fs::rename(self.data(node), &aside).unwrap();
        fs::create_dir(self.data(node)).unwrap();
        aside
    }

    pub fn destroy_data(&self, node: &str) {
        fs::remove_dir_all(self.data(node)).unwrap();
        fs::create_dir(self.data(node)).unwrap();
    }
}

#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON ({error}):\n{}\n{}", self.stdout, self.stderr))
    }

    /// The last line on stderr, which says why a command failed.
    pub fn error(&self) -> serde_json::Value {
        let line = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON error ({error}):\n{}", self.stderr))
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// But not for ever.
fn patient(endpoint: Endpoint) -> Endpoint {
    endpoint.connect_timeout(DEADLINE).timeout(deadline())
}

pub async fn run(command: std::process::Command) -> Ran {
    let output = tokio::process::Command::from(command).kill_on_drop(true).output();
    let output = tokio::time::timeout(deadline(), output).await.expect("the command ends in time").unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Every file and directory below, without what they are.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(listing) = fs::read_dir(dir) else { return found };
    for entry in listing {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_below(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

pub async fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    wait_async(what, async || look()).await
}

pub async fn wait_async<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let seen = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let waited = tokio::time::timeout(deadline(), seen).await;
    waited.unwrap_or_else(|_| panic!("waited {:?} in vain: {what}", deadline()))
}
