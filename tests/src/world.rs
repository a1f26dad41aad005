//! A coordinator and agents as real processes on loopback, their data and repository in a directory that goes
//! when the test ends. Nothing sleeps for luck: every wait polls what it waits for, against a deadline.
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_identity::Role;
use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use palinurus_repository::{KeyFile, SystemEntropy};
use tonic::transport::{Channel, Endpoint};

use crate::certs::Certs;
use crate::process::{Process, palinurus};
use crate::watchdog::Watchdog;

mod asked;
mod processes;

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

    fn service_of(&self, node: &str) -> &'static str {
        if self.forks.contains(&node) { FORK } else { SERVICE }
    }

    pub fn fork_repository(&self) -> PathBuf {
        self.path("fork-repository")
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
