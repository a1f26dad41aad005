//! Real etcd for tests: one member or several, on loopback addresses and free ports of their own, to be stopped,
//! killed and started again. What was started ends with the test.
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use palinurus_repository::{Entropy, SystemEntropy};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

const READY: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(20);

pub(crate) struct Etcd {
    pub(crate) directory: tempfile::TempDir,
    setup: Setup,
    members: Vec<Member>,
}

type Files<T> = Box<dyn Fn(&Path, &str) -> T + Send + Sync>;

/// What differs from a plain member. The functions are given the directory and the host's address.
pub(crate) struct Setup {
    pub(crate) scheme: &'static str,
    pub(crate) arguments: Files<Vec<String>>,
    pub(crate) options: Files<ConnectOptions>,
}

struct Member {
    name: String,
    client: String,
    peer: String,
    running: Option<Child>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            scheme: "http",
            arguments: Box::new(|_, _| Vec::new()),
            options: Box::new(|_, _| ConnectOptions::new()),
        }
    }
}

impl Etcd {
    pub(crate) async fn start() -> Self {
        Self::with(1, Setup::default()).await
    }

    pub(crate) async fn with(count: usize, setup: Setup) -> Self {
        // In memory where there is room: these tests are about etcd's answers, not about the disk's.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix("palinurus-etcd-").tempdir_in(base).unwrap();
        let mut etcd = Self { directory, setup, members: Vec::new() };
        // Between being found free and being listened on, a port may become somebody else's.
        for _ in 0..3 {
            etcd.members = members(count, etcd.setup.scheme);
            for index in 0..count {
                etcd.spawn(index);
            }
            if etcd.ready().await {
                return etcd;
            }
            for index in 0..count {
                etcd.kill(index);
                let _ = std::fs::remove_dir_all(etcd.data(index));
            }
        }
        panic!("etcd does not start: {}", std::fs::read_to_string(etcd.log(0)).unwrap_or_default());
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    /// For what the test itself does to etcd.
    pub(crate) async fn client(&self) -> Client {
        let running = self.members.iter().find(|member| member.running.is_some()).unwrap();
        let options = (self.setup.options)(self.directory.path(), host(&running.client));
        Client::connect([&running.client], Some(options)).await.unwrap()
    }

    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut running) = self.members[index].running.take() {
            let _ = running.kill();
            let _ = running.wait();
        }
    }

    pub(crate) async fn restart(&mut self, index: usize) {
        self.kill(index);
        self.spawn(index);
        assert!(self.ready().await, "etcd ended");
    }

    /// When it returns, not one instruction runs any more.
    pub(crate) async fn pause(&self, index: usize) {
        let pid = self.signal(index, Signal::STOP);
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        until("etcd stops", || {
            let state = std::fs::read_to_string(&stat).unwrap();
            state.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        })
        .await;
    }

    pub(crate) fn resume(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    fn signal(&self, index: usize, signal: Signal) -> Pid {
        let running = self.members[index].running.as_ref().unwrap();
        let pid = Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        pid
    }

    fn data(&self, index: usize) -> PathBuf {
        self.directory.path().join(&self.members[index].name)
    }

    fn log(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("{}.log", self.members[index].name))
    }

    fn spawn(&mut self, index: usize) {
        let all: Vec<String> = self.members.iter().map(|m| format!("{}={}", m.name, m.peer)).collect();
        let member = &self.members[index];
        let log = std::fs::File::options().create(true).append(true).open(self.log(index)).unwrap();
        let mut command = Command::new("etcd");
        command.args(["--name", &member.name, "--data-dir"]).arg(self.data(index));
        command.args(["--listen-client-urls", &member.client, "--advertise-client-urls", &member.client]);
        command.args(["--listen-peer-urls", &member.peer, "--initial-advertise-peer-urls", &member.peer]);
        command.args(["--initial-cluster", &all.join(",")]);
        command.args((self.setup.arguments)(self.directory.path(), host(&member.client)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let spawned = command.spawn();
        let running = spawned.expect("etcd is not on PATH: install Debian's package etcd-server");
        self.members[index].running = Some(running);
    }

    /// False when a member has ended instead.
    async fn ready(&mut self) -> bool {
        let deadline = Instant::now() + READY;
        for index in 0..self.members.len() {
            let endpoint = self.members[index].client.clone();
            while let Some(running) = &mut self.members[index].running {
                if running.try_wait().unwrap().is_some() {
                    return false;
                }
                let options = (self.setup.options)(self.directory.path(), host(&endpoint));
                let asking =
                    async { Client::connect([&endpoint], Some(options)).await?.get("x", None).await };
                let answer = tokio::time::timeout(Duration::from_secs(1), asking).await;
                match answer {
                    Ok(Ok(_)) => break,
                    Ok(Err(etcd_client::Error::GRpcStatus(s))) if s.message().contains("user name") => break,
                    _ => assert!(Instant::now() < deadline, "etcd is not ready: {answer:?}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        true
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}

/// On an address that other tests are unlikely to draw too, so that a port given up for a moment stays free.
fn members(count: usize, scheme: &str) -> Vec<Member> {
    let mut drawn = [0; 2];
    SystemEntropy::new().fill(&mut drawn).unwrap();
    let host = format!("127.{}.{}.1", 1 + drawn[0] % 250, drawn[1]);
    let held: Vec<TcpListener> = (0..2 * count).map(|_| TcpListener::bind((&*host, 0)).unwrap()).collect();
    let url = |scheme: &str, index: usize| format!("{scheme}://{}", held[index].local_addr().unwrap());
    let member = |index: usize| Member {
        name: format!("m{index}"),
        client: url(scheme, 2 * index),
        peer: url("http", 2 * index + 1),
        running: None,
    };
    (0..count).map(member).collect()
}

fn host(url: &str) -> &str {
    url.split_once("://").unwrap().1.rsplit_once(':').unwrap().0
}

/// How long this process stood still since it began to look, as on a machine that has too much to do. No claim of how soon
/// something happens can count that.
pub(crate) struct Standstill {
    late_ms: Arc<AtomicU64>,
    _looking: AbortOnDropHandle<()>,
}

impl Standstill {
    pub(crate) fn watch() -> Self {
        let late_ms = Arc::new(AtomicU64::new(0));
        let sum = late_ms.clone();
        let looking = async move {
            loop {
                let from = Instant::now();
                tokio::time::sleep(TICK).await;
                let late = from.elapsed().saturating_sub(TICK * 2);
                sum.fetch_add(late.as_millis() as u64, Ordering::Relaxed);
            }
        };
        Self { late_ms, _looking: AbortOnDropHandle::new(tokio::spawn(looking)) }
    }

    /// Until now, the last of it included.
    pub(crate) async fn total(&self) -> Duration {
        tokio::time::sleep(TICK * 4).await;
        Duration::from_millis(self.late_ms.load(Ordering::Relaxed))
    }
}

/// Polls what a test waits for, against a deadline.
pub(crate) async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + READY;
    while !met() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
