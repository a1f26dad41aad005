//! Three etcd members, coordinators and agents as real processes, each on a host of its own in a network of their
//! own. The test runs on one more host. Only the file system is common to all.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use palinurus_identity::Role;
use palinurus_proto::v1;
use palinurus_repository::{KeyFile, SystemEntropy};

use crate::certs::Certs;
use crate::netns::{self, Net};
use crate::operator::{Operator, PORT};
use crate::process::{Process, palinurus};
use crate::world::{Ran, SERVICE, run, wait_async};

pub const MEMBERS: [&str; 3] = ["e1", "e2", "e3"];
pub const COORDINATORS: [&str; 3] = ["c1", "c2", "c3"];
pub const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Machines that have an agent: one of them is the spare at the beginning.
pub const MACHINES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const OPERATOR: &str = "op";
/// Of the leader.
pub const LEASE: Duration = Duration::from_secs(3);
/// How long a node may be gone before its operation fails.
const PATIENCE: Duration = Duration::from_secs(35);
/// And before a spare takes its place: longer than any fault but a loss, also where the machine stands still meanwhile.
const FAILOVER_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Fleet {
    pub operator: Operator,
    certs: Certs,
    machines: BTreeMap<&'static str, Machine>,
    /// Whose machine is the spare.
    pub spare: &'static str,
    pub net: Net,
    // Last: processes end before their directory goes.
    dir: tempfile::TempDir,
}

/// What runs on a host.
#[derive(Debug, Default)]
struct Machine {
    process: Option<Process>,
    paused: bool,
    /// Gone for good: not started by whoever mends the rest.
    lost: bool,
}

/// Runs `test` on the operator's host of a new fleet in which everything has started and joined. One at a time: a fleet
/// is nine processes, and leases are not kept on a machine that is busy with another one.
pub fn on_a_network(test: impl AsyncFnOnce(&mut Fleet) + Send) {
    static TURN: Mutex<()> = Mutex::new(());
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !netns::possible() {
        return;
    }
    let there = Command::new("etcd").arg("--version").output().is_ok();
    assert!(there, "etcd is missing: install etcd-server (tests/run does)");
    crate::process::binary();
    let names = [&MEMBERS[..], &COORDINATORS, &MACHINES, &[OPERATOR]].concat();
    let net = Net::new(&names, NUMBER.fetch_add(1, Ordering::Relaxed));
    eprintln!("this machine offers: {}", net.offers());
    let operator = net.host(OPERATOR).clone();
    std::thread::scope(|threads| {
        let there = threads.spawn(|| {
            operator.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut fleet = Fleet::new(net);
                fleet.start_all().await;
                test(&mut fleet).await;
            });
        });
        if let Err(panic) = there.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Fleet {
    fn new(net: Net) -> Self {
        let dir = tempfile::Builder::new().prefix("fleet").tempdir().unwrap();
        KeyFile::generate(&SystemEntropy::new()).unwrap().write(&dir.path().join("key")).unwrap();
        fs::create_dir(dir.path().join("repository")).unwrap();
        for node in MACHINES {
            fs::create_dir_all(dir.path().join(node).join("data")).unwrap();
        }
        let coordinators = COORDINATORS.iter().map(|name| ((*name).to_owned(), net.host(name).address));
        let machines = [&MEMBERS[..], &COORDINATORS, &MACHINES].concat();
        let certs = Certs::new(&dir.path().join("certs"));
        Self {
            operator: Operator {
                coordinators: coordinators.collect(),
                tls: certs.dialer(&certs.operator("tester", Role::Admin)),
            },
            certs,
            machines: machines.into_iter().map(|name| (name, Machine::default())).collect(),
            spare: MACHINES[3],
            net,
            dir,
        }
    }

    async fn start_all(&mut self) {
        for name in MEMBERS.into_iter().chain(COORDINATORS) {
            self.start(name);
        }
        self.led().await;
        self.apply().await;
        for name in MACHINES {
            self.start(name);
        }
        self.joined().await;
    }

    /// The service with the nodes and the spare that there are.
    pub async fn apply(&self) {
        let node =
            |name: &str| v1::NodeSpec { name: name.into(), spare: name == self.spare, ..Default::default() };
        let patience = format!("{}s", FAILOVER_PATIENCE.as_secs());
        let settings = [("failover", "automatic".to_owned()), ("failover_patience", patience)];
        let service = v1::Service {
            name: SERVICE.into(),
            r#type: "files".into(),
            repository: self.repository_url(),
            nodes: MACHINES.map(node).into(),
            settings: settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            ..Default::default()
        };
        let request = v1::ApplyServiceRequest { service: Some(service), ..Default::default() };
        wait_async("the service is applied", async || {
            let apply =
                async |mut client: crate::operator::Client| client.apply_service(request.clone()).await;
            self.operator.ask("the service is applied", apply).await.ok()
        })
        .await;
    }

    /// The nodes that hold data.
    pub fn nodes(&self) -> [&'static str; 3] {
        let mut nodes = MACHINES.into_iter().filter(|name| *name != self.spare);
        std::array::from_fn(|_| nodes.next().unwrap())
    }

    /// Its machine is gone for good.
    pub fn lose(&mut self, name: &str) {
        self.kill(name);
        self.machines.get_mut(name).unwrap().lost = true;
    }

    /// The machine is another one: nothing is on it.
    pub fn renew(&mut self, name: &'static str) {
        self.kill(name);
        fs::remove_dir_all(self.path(name)).unwrap();
        fs::create_dir_all(self.data(name)).unwrap();
        self.bring(name);
    }

    /// The machine is back as it was.
    pub fn bring(&mut self, name: &'static str) {
        self.machines.get_mut(name).unwrap().lost = false;
        self.start(name);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn data(&self, node: &str) -> PathBuf {
        self.path(node).join("data")
    }

    /// There while the node is frozen.
    pub fn frozen(&self, node: &str) -> PathBuf {
        self.path(node).join("frozen")
    }

    pub fn key(&self) -> PathBuf {
        self.path("key")
    }

    pub fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    pub fn repository_url(&self) -> String {
        format!("file://{}", self.repository().display())
    }

    fn url(&self, name: &str, port: u16) -> String {
        format!("http://{}:{port}", self.net.host(name).address)
    }

    fn server(&self, coordinator: &str) -> String {
        self.url(coordinator, PORT).replace("http:", "https:")
    }

    /// Starts what belongs on that host, if it does not run.
    pub fn start(&mut self, name: &'static str) {
        if self.machines[name].process.is_some() || self.machines[name].lost {
            return;
        }
        let command = match () {
            () if MEMBERS.contains(&name) => self.member(name),
            () if COORDINATORS.contains(&name) => self.coordinator(name),
            () => self.agent(name),
        };
        let command = self.net.host(name).command(&command);
        let process = Process::start(name, command, &self.log(name));
        self.machines.insert(name, Machine { process: Some(process), ..Machine::default() });
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    fn member(&self, name: &str) -> Command {
        let cluster = MEMBERS.map(|member| format!("{member}={}", self.url(member, 2380))).join(",");
        let (clients, peers) = (self.url(name, 2379), self.url(name, 2380));
        let mut command = Command::new("etcd");
        command.args(["--name", name, "--initial-cluster", &cluster, "--initial-cluster-state", "new"]);
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--heartbeat-interval", "100", "--election-timeout", "1000"]);
        command.args(["--logger", "zap", "--log-level", "warn"]);
        command.arg("--data-dir").arg(self.path(name));
        command
    }

    fn coordinator(&self, name: &str) -> Command {
        let address = self.net.host(name).address;
        let config = self.path(&format!("{name}.toml"));
        let endpoints = MEMBERS.map(|member| self.url(member, 2379));
        let text = format!(
            "name = {name:?}\nlisten = \"{address}:{PORT}\"\nadvertise = \"{address}:{PORT}\"\nstate = {:?}\n\
             keys = [{:?}]\nheartbeat = \"500ms\"\npatience = \"{}s\"\ncancel_limit = \"10s\"\n\
             freeze_limit = \"20s\"\n\n[etcd]\nendpoints = {endpoints:?}\nlease = \"{}s\"\ntimeout = \"800ms\"\n{}",
            self.path(name),
            self.key(),
            PATIENCE.as_secs(),
            LEASE.as_secs(),
            self.certs.coordinator(name, &address.to_string()),
        );
        fs::create_dir_all(self.path(name)).unwrap();
        fs::write(&config, text).unwrap();
        let mut command = palinurus();
        command.args(["coordinator", "--config"]).arg(&config);
        command
    }

    fn agent(&self, name: &str) -> Command {
        let config = self.path(&format!("{name}.toml"));
        let coordinators = COORDINATORS.map(|coordinator| self.server(coordinator));
        let frozen = self.frozen(name);
        let frozen = frozen.display();
        let text = format!(
            "service = {SERVICE:?}\nnode = {name:?}\ncoordinator = {coordinators:?}\nstate = {:?}\nkeys = [{:?}]\n\
             {}[session]\nconnect_timeout = \"800ms\"\nkeep_alive = \"2s\"\nretry_min = \"50ms\"\nretry_max = \"500ms\"\n\
             retry_refused = \"1s\"\nprogress = \"100ms\"\n\n[engine]\ntype = \"files\"\nroot = {:?}\n\
             freeze_command = [\"/bin/sh\", \"-c\", \"touch {frozen}; sleep 0.2\"]\n\
             thaw_command = [\"rm\", \"-f\", \"{frozen}\"]\n",
            self.path(name).join("state"),
            self.key(),
            self.certs.agent(SERVICE, name, false),
            self.data(name),
        );
        fs::write(&config, text).unwrap();
        let mut command = palinurus();
        command.args(["agent", "--config"]).arg(&config);
        command
    }

    /// kill -9, if it runs; a freeze command of an agent's that came late would freeze for ever.
    pub fn kill(&mut self, name: &str) {
        let machine = self.machines.get_mut(name).unwrap();
        if let Some(process) = machine.process.take() {
            process.kill_with_children();
        }
    }

    /// SIGTERM, if it runs: it has to end by itself, and well.
    pub async fn stop(&mut self, name: &str) {
        self.resume(name);
        let machine = self.machines.get_mut(name).unwrap();
        if let Some(process) = machine.process.take() {
            let status = process.terminate().await;
            assert!(status.success(), "{name} was told to end: {status}");
        }
    }

    /// SIGSTOP, if it runs.
    pub fn pause(&mut self, name: &str) {
        let machine = self.machines.get_mut(name).unwrap();
        if let Some(process) = &machine.process {
            process.pause();
            machine.paused = true;
        }
    }

    pub fn resume(&mut self, name: &str) {
        let machine = self.machines.get_mut(name).unwrap();
        if let Some(process) = machine.process.as_ref().filter(|_| machine.paused) {
            process.resume();
        }
        machine.paused = false;
    }

    /// Everything runs and every line is whole.
    pub fn heal(&mut self) {
        self.net.heal();
        let names: Vec<&'static str> = self.machines.keys().copied().collect();
        for name in names {
            self.resume(name);
            self.start(name);
        }
    }

    /// Nothing has ended by itself.
    pub fn check(&mut self) {
        for process in self.machines.values_mut().filter_map(|machine| machine.process.as_mut()) {
            process.check();
        }
    }

    /// Of the processes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.machines.values().filter_map(|machine| Some(machine.process.as_ref()?.pid())).collect()
    }

    pub async fn led(&mut self) {
        let operator = self.operator.clone();
        wait_async("exactly one coordinator leads", async || {
            self.check();
            (operator.leaders().await.len() == 1).then_some(())
        })
        .await;
    }

    pub async fn joined(&mut self) {
        let operator = self.operator.clone();
        wait_async("all agents have joined", async || {
            self.check();
            operator.nodes().await.iter().all(|node| node.connected).then_some(())
        })
        .await;
    }

    /// `palinurus` as an operator calls it who knows one coordinator; it has to end well.
    pub async fn cli(&self, coordinator: &str, arguments: &[&str]) -> Ran {
        let mut command = palinurus();
        let operator = self.path("certs").join("operator-tester");
        command.args(["--json", "--server", &self.server(coordinator)]);
        command.arg("--ca").arg(self.certs.ca()).arg("--cert").arg(operator.with_extension("pem"));
        command.arg("--cert-key").arg(operator.with_extension("key"));
        command.args(arguments);
        run(command).await.expect(0)
    }

    /// `palinurus repository ...` and `palinurus restore ...` straight on the repository, which have to end well.
    pub async fn offline(&self, arguments: &[&str]) -> Ran {
        let mut command = palinurus();
        command.arg("--json").args(arguments).args(["--repository", &self.repository_url(), "--keys"]);
        command.arg(self.key());
        run(command).await.expect(0)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("-- everything is kept in {}", self.dir.path().display());
        }
    }
}
