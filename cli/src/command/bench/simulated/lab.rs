//! One measurement: a coordinator, an etcd, the fleet, and the steps that they go through.
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use palinurus_identity::{Authority, Dialer, Issued, TlsConfig, VALID, Who};
use palinurus_proto::from_status;
use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::{Clock, Entropy, Error, KeyFile, Keyring, Result, SystemClock, SystemEntropy};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agent::Agent;
use super::content::Held;
use super::etcd::{Counts, Etcd};
use super::operator;
use super::report::{self, Claimed, Run, Step};
use super::{Fleet, Simulated};
use crate::Global;
use crate::client::{self, Client};
use crate::command::bench::{make_dir, meter};
use crate::command::fleet::{self as process, Process};
use crate::identities::{self, Identities};
use crate::output::Output;

const LISTEN: &str = "127.0.0.1:0";
/// Handshakes at a time from one address, of 32 that the coordinator allows.
const KNOCKING: usize = 16;
const POLL: Duration = Duration::from_millis(250);
const JOINING: Duration = Duration::from_secs(300);

pub(super) struct Lab<'a> {
    bench: &'a Simulated,
    fleet: Arc<Fleet>,
    client: Client,
    coordinator: Process,
    pid: u32,
    etcd: Option<Etcd>,
    services: Vec<String>,
    agents: Vec<Arc<Agent>>,
    sessions: JoinSet<Result<()>>,
    stop: CancellationToken,
    steps: Vec<Step>,
    output: &'a Output,
}

/// What a step is measured against.
struct Before {
    at: Instant,
    cpu: f64,
    etcd_cpu: f64,
    etcd: Counts,
    asked: u64,
    stored: u64,
}

impl<'a> Lab<'a> {
    pub(super) async fn run(
        bench: &'a Simulated,
        with_etcd: bool,
        home: &Path,
        global: &Global,
        output: &'a Output,
    ) -> Result<Run> {
        let mut lab = Box::pin(Self::start(bench, with_etcd, home, global, output)).await?;
        let before = lab.before().await?;
        lab.join().await?;
        lab.step("join", before, None).await?;
        if bench.idle > 0 {
            let before = lab.before().await?;
            tokio::time::sleep(Duration::from_secs(bench.idle)).await;
            lab.step("idle", before, None).await?;
        }
        for (version, name) in (0..).zip(["cold", "1 % changed", "unchanged"]) {
            lab.fleet.version.store(version, Ordering::Relaxed);
            lab.fleet.unchanged.store(name == "unchanged", Ordering::Relaxed);
            let before = lab.before().await?;
            let operations = Box::pin(lab.backups()).await?;
            lab.step(name, before, Some(&operations)).await?;
        }
        let before = lab.before().await?;
        let planned = Box::pin(operator::plans(&mut lab.client, &lab.services)).await?;
        lab.step("restore plan", before, None).await?;
        let records = match &lab.etcd {
            Some(etcd) => Some(etcd.records().await?),
            None => None,
        };
        let manifests = lab.fleet.manifest_bytes.load(Ordering::Relaxed);
        let reconnects = lab.fleet.reconnects.load(Ordering::Relaxed);
        let told_again = lab.fleet.told_again.load(Ordering::Relaxed);
        let index = meter::bytes_below(&home.join("coordinator"))?;
        let steps = lab.end().await?;
        Ok(Run {
            agents: bench.agents,
            services: bench.services,
            files: bench.files,
            chunks: bench.chunks,
            state: if with_etcd { "etcd" } else { "embedded" },
            backups: planned.backups,
            files_planned: planned.files,
            manifest_bytes: manifests,
            index_bytes: index,
            reports_again: told_again,
            reconnects,
            records,
            steps,
        })
    }

    async fn start(
        bench: &'a Simulated,
        with_etcd: bool,
        home: &Path,
        global: &Global,
        output: &'a Output,
    ) -> Result<Self> {
        let key = home.join("operator.key");
        KeyFile::generate(&SystemEntropy::new())?.write(&key)?;
        let services: Vec<String> = (0..bench.services).map(|n| format!("s{n:04}")).collect();
        let identities = Identities::new(home.join("certs"), LISTEN, "s0000", &[]);
        identities.keep(&SystemClock)?;
        let etcd = if with_etcd { Some(Etcd::start(home).await?) } else { None };
        let state = home.join("coordinator");
        make_dir(&state)?;
        let config = home.join("coordinator.toml");
        let endpoints = etcd.as_ref().map(|etcd| {
            // Longer than by default: what is measured is work, not how long a busy machine keeps a lease.
            format!("[etcd]\nendpoints = [{:?}]\nlease = \"30s\"\ntimeout = \"5s\"\n", etcd.endpoint())
        });
        let text = format!(
            "name = \"bench\"\nlisten = {LISTEN:?}\nstate = {state:?}\nkeys = [{key:?}]\n\n{}{}",
            identities::section(&identities.coordinator()),
            endpoints.unwrap_or_default(),
        );
        std::fs::write(&config, text).map_err(|e| Error::io("write the configuration", e))?;
        let mut coordinator = Process::start("coordinator", "the coordinator", &config)?;
        let server = process::address(&mut coordinator, &state).await?;
        let pid = coordinator.id().ok_or_else(|| Error::unavailable("the coordinator has ended"))?;
        identities.write_file(home, &server)?;
        let global = Global { state: Some(home.to_owned()), no_progress: true, ..global.clone() };
        let client = client::connect(&global).await?;
        let fleet = Arc::new(Fleet {
            server,
            keys: Keyring::load(vec![key.as_path().into()]).await?,
            ask: bench.ask as usize,
            coordinator: pid,
            knocking: Semaphore::new(KNOCKING),
            writing: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
            unlocked: Mutex::default(),
            version: 0.into(),
            unchanged: false.into(),
            joined: 0.into(),
            asked: 0.into(),
            stored: 0.into(),
            told_again: 0.into(),
            reconnects: 0.into(),
            manifest_bytes: 0.into(),
            claims: std::sync::Mutex::default(),
        });
        output.note("  making certificates and services ...");
        let agents = agents(bench, &services, &fleet, home)?;
        let mut lab = Self {
            bench,
            fleet,
            client,
            coordinator,
            pid,
            etcd,
            services,
            agents,
            sessions: JoinSet::new(),
            stop: CancellationToken::new(),
            steps: Vec::new(),
            output,
        };
        let before = lab.before().await?;
        Box::pin(lab.apply(home)).await?;
        lab.step("apply services", before, None).await?;
        Ok(lab)
    }

    async fn apply(&mut self, home: &Path) -> Result<()> {
        let requests = self.services.iter().map(|name| {
            let folder = home.join("repositories").join(name);
            make_dir(&folder)?;
            let nodes = self.agents.iter().filter(|agent| agent.service == *name);
            let service = v1::Service {
                name: name.clone(),
                r#type: "files".into(),
                repository: format!("file://{}", folder.display()),
                nodes: nodes
                    .map(|agent| v1::NodeSpec { name: agent.node.clone(), ..Default::default() })
                    .collect(),
                ..Default::default()
            };
            Ok(v1::ApplyServiceRequest { service: Some(service), ..Default::default() })
        });
        let requests = requests.collect::<Result<Vec<_>>>()?;
        operator::apply(&self.client, requests).await
    }

    async fn join(&mut self) -> Result<()> {
        for agent in &self.agents {
            let (agent, stop) = (agent.clone(), self.stop.clone());
            self.sessions.spawn(async move { agent.run(stop).await });
        }
        let deadline = Instant::now() + JOINING;
        while self.fleet.joined.load(Ordering::Relaxed) < self.bench.agents {
            self.check()?;
            if Instant::now() > deadline {
                return Err(Error::unavailable("the agents do not all join"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// No session may end before it is told to.
    fn check(&mut self) -> Result<()> {
        self.coordinator.check()?;
        match self.sessions.try_join_next() {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(_) => Err(Error::internal("a session ended")),
        }
    }

    /// One of each service, all at once.
    async fn backups(&mut self) -> Result<Vec<v1::Operation>> {
        let mut ended = Vec::new();
        for id in operator::start_backups(&self.client, &self.services).await? {
            // All end at about the same time: one is looked at, then the next.
            ended.push(loop {
                self.check()?;
                let asked = self.client.get_operation(v1::GetOperationRequest { id: id.clone() }).await;
                let operation = asked.map_err(from_status)?.into_inner();
                match operation.state() {
                    OperationState::Running | OperationState::Cancelling => tokio::time::sleep(POLL).await,
                    OperationState::Succeeded => break operation,
                    _ => return Err(operator::failed(&operation)),
                }
            });
        }
        Ok(ended)
    }

    async fn before(&self) -> Result<Before> {
        meter::reset_peak_memory(self.pid);
        let (etcd_cpu, counts) = match &self.etcd {
            Some(etcd) => (meter::cpu_of(etcd.pid)?, etcd.counts().await?),
            None => Default::default(),
        };
        Ok(Before {
            at: Instant::now(),
            cpu: meter::cpu_of(self.pid)?,
            etcd_cpu,
            etcd: counts,
            asked: self.fleet.asked.load(Ordering::Relaxed),
            stored: self.fleet.stored.load(Ordering::Relaxed),
        })
    }

    async fn step(
        &mut self,
        name: &'static str,
        before: Before,
        operations: Option<&[v1::Operation]>,
    ) -> Result<()> {
        let seconds = before.at.elapsed().as_secs_f64();
        let cpu = meter::cpu_of(self.pid)? - before.cpu;
        let (etcd_cpu, etcd) = match &self.etcd {
            Some(etcd) => (Some(meter::cpu_of(etcd.pid)? - before.etcd_cpu), Some(etcd.counts().await?)),
            None => (None, None),
        };
        let claimed = self.fleet.take_claims().map(|claims| Claimed {
            asked: self.fleet.asked.load(Ordering::Relaxed) - before.asked,
            stored: self.fleet.stored.load(Ordering::Relaxed) - before.stored,
            seconds: claims.ended.0.duration_since(claims.began.0).as_secs_f64(),
            cpu: claims.ended.1 - claims.began.1,
        });
        let step = Step {
            name,
            seconds,
            cpu,
            memory: meter::peak_memory(self.pid)?,
            etcd_cpu,
            etcd_puts: etcd.map(|now| now.puts - before.etcd.puts),
            etcd_database: etcd.map(|now| now.database),
            claimed,
            plan_seconds: operations.map(|all| operator::longest(all, operator::until_planned)),
            commit_seconds: operations.map(|all| operator::longest(all, operator::until_released)),
        };
        self.output.note(report::line(&step));
        self.steps.push(step);
        Ok(())
    }

    async fn end(mut self) -> Result<Vec<Step>> {
        self.stop.cancel();
        while let Some(ended) = self.sessions.join_next().await {
            ended.map_err(|e| Error::internal("a session").with_source(e))??;
        }
        self.coordinator.stop().await?;
        Ok(self.steps)
    }
}

/// Certificates as a fleet has them: each agent its own.
fn agents(
    bench: &Simulated,
    services: &[String],
    fleet: &Arc<Fleet>,
    home: &Path,
) -> Result<Vec<Arc<Agent>>> {
    let authority = Authority::open(&home.join("certs"))?;
    let share = |all: u64, n: u64| {
        let at = |n: u64| (u128::from(all) * u128::from(n) / u128::from(bench.agents)) as u64;
        at(n + 1) - at(n)
    };
    let agent = |n: u64| {
        let service = services[(n % bench.services) as usize].clone();
        let node = format!("n{n:04}");
        let who = Who::Agent { service: service.clone(), node: node.clone(), spare: false };
        let Issued { certificate, key } = authority.issue(&who, &[], VALID, SystemClock.now(), true)?;
        let (ca, revoked) = (home.join("certs/ca.pem"), home.join("certs/revoked.pem"));
        let entropy: &dyn Entropy = &SystemEntropy::new();
        let instance = crate::human::hex(&entropy.array::<16>()?);
        Ok(Arc::new(Agent {
            service,
            node,
            instance,
            held: Held { seed: n, files: share(bench.files, n), chunks: share(bench.chunks, n) },
            dialer: Dialer::new(&TlsConfig { certificate, key, ca, revoked }, Arc::new(SystemClock))?,
            fleet: fleet.clone(),
            uploaded: Mutex::default(),
        }))
    };
    (0..bench.agents).map(agent).collect()
}
