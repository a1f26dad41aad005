//! Two coordinators on one etcd: the leader is gone without a word, and the other one goes on with its work.
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use palinurus_coordinator::{Config, Server};
use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use palinurus_proto::v1::{self, OperationState, TaskState};
use palinurus_repository::ErrorKind;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::etcd::{Etcd, Standstill};
use crate::world::{Operator, World, task};

/// For whose end is waited. Who leads outlives that the machine stands still for most of it.
const LEASE: Duration = Duration::from_secs(8);
/// That ends when a test says so.
const LONG: Duration = Duration::from_secs(300);
/// What is promised beyond the lease: etcd ends it a little late, and then the state is read.
const BEYOND: Duration = Duration::from_secs(4);

const WAIT: Duration = Duration::from_secs(120);

/// A coordinator with a runtime of its own, which can end in the middle of anything.
struct Coordinator {
    runtime: Option<Runtime>,
    address: String,
}

impl Coordinator {
    async fn start(world: &World, name: &str) -> Self {
        let mut config: Config = world.config.clone();
        config.name = name.to_owned();
        config.state = world.directory.path().join(name);
        let mut building = tokio::runtime::Builder::new_multi_thread();
        let runtime = building.worker_threads(2).enable_all().build().unwrap();
        let starting = runtime.spawn(Server::start(config, CancellationToken::new()));
        let address = format!("http://{}", starting.await.unwrap().unwrap().local_addr());
        Self { runtime: Some(runtime), address }
    }

    async fn leads(&self) -> bool {
        let endpoint = Endpoint::new(self.address.clone()).unwrap();
        let Ok(channel) = endpoint.connect().await else { return false };
        let request = HealthCheckRequest { service: "leader".to_owned() };
        let health = HealthClient::new(channel).check(request).await;
        health.is_ok_and(|health| health.into_inner().status() == ServingStatus::Serving)
    }

    /// As by SIGKILL: its connections break, and it gives nothing back.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An operator at whichever of them leads.
async fn leader(among: &[&Coordinator]) -> Operator {
    let asking = async {
        loop {
            for coordinator in among {
                if coordinator.leads().await {
                    return Operator(CoordinatorClient::connect(coordinator.address.clone()).await.unwrap());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT, asking).await.expect("nobody leads")
}

/// Peers try all of them.
fn dial(world: &World, all: &[&Coordinator]) {
    world.addresses.send_replace(all.iter().map(|coordinator| coordinator.address.clone()).collect());
}

fn world(etcd: &Etcd, lease: Duration) -> World {
    World::folders(|config| {
        config.etcd.endpoints = etcd.endpoints();
        config.etcd.lease = lease;
        config.etcd.timeout = LEASE / 6;
    })
}

/// What becomes of a lease that nobody renews, without waiting for it.
async fn ends_leases(etcd: &Etcd) {
    let mut admin = etcd.client().await;
    for lease in admin.leases().await.unwrap().leases() {
        admin.lease_client().revoke(lease.id()).await.unwrap();
    }
}

fn running(operation: &v1::Operation, node: &str, name: &str) -> bool {
    task(operation, node, name).is_some_and(|task| task.state() == TaskState::TaskRunning)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_backup_is_finished_by_the_next_leader() {
    let etcd = Etcd::start().await;
    let world = world(&etcd, LEASE);
    let mut one = Coordinator::start(&world, "c1").await;
    let mut operator = leader(&[&one]).await;
    let two = Coordinator::start(&world, "c2").await;
    dial(&world, &[&one, &two]);
    operator.apply(world.service(&["n1", "n2"])).await.unwrap();
    let peers = [world.peer("n1", &[("a", vec![1, 2])]), world.peer("n2", &[("a", vec![2, 3])])];
    peers[1].hold("upload");
    let started = operator.start_backup().await.unwrap();
    let halfway = |operation: &v1::Operation| {
        let done = task(operation, "n1", "upload").is_some_and(|task| task.state() == TaskState::TaskDone);
        done && running(operation, "n2", "upload")
    };
    operator.until(&started.id, halfway).await;
    let epoch = peers[0].epoch();

    let (standstill, killed) = (Standstill::watch(), Instant::now());
    one.kill();
    let mut operator = leader(&[&two]).await;
    let took = killed.elapsed();
    println!("takeover after {took:?} with a lease of {LEASE:?}");
    assert!(took <= LEASE + BEYOND + standstill.total().await, "{took:?}");

    let cluster = operator.0.get_cluster(v1::GetClusterRequest {}).await.unwrap().into_inner();
    assert_eq!((&*cluster.name, &*cluster.leader, &*cluster.state), ("main", "c2", "etcd"));
    let resumed = operator.until(&started.id, |_| true).await;
    assert_eq!(resumed.phase, "upload");
    peers[1].let_go();
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    for peer in &peers {
        peer.released(&started.id).await;
        assert_eq!(peer.began("upload"), 1, "what ran or had ended is not begun again");
        assert!(peer.epoch() > epoch);
    }
    assert_eq!(operator.backups().await.len(), 1);
    let repository = world.repository().await;
    let report = palinurus_repository::verify::check(&repository, true, &|_| {}).await.unwrap();
    assert_eq!(report.damages, []);
    assert!(repository.read(|state| state.open_transactions().is_empty()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cancelled_stays_cancelled_under_the_next_leader() {
    let etcd = Etcd::start().await;
    let world = world(&etcd, LONG);
    let mut one = Coordinator::start(&world, "c1").await;
    let mut operator = leader(&[&one]).await;
    let two = Coordinator::start(&world, "c2").await;
    dial(&world, &[&one, &two]);
    operator.apply(world.service(&["n1"])).await.unwrap();
    let peer = world.peer("n1", &[("a", vec![1])]);
    peer.hold("upload");
    peer.hold("release");
    let started = operator.start_backup().await.unwrap();
    operator.until(&started.id, |operation| running(operation, "n1", "upload")).await;
    operator.0.cancel_operation(v1::GetOperationRequest { id: started.id.clone() }).await.unwrap();
    operator.until(&started.id, |operation| task(operation, "n1", "release").is_some()).await;
    one.kill();
    ends_leases(&etcd).await;
    let mut operator = leader(&[&two]).await;
    peer.let_go();
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Cancelled, "{ended:#?}");
    peer.released(&started.id).await;
    assert!(operator.backups().await.is_empty());
}

/// Nobody leads while etcd is away, and nothing is committed; what the agents have is kept, and the work goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_away_for_longer_than_a_lease() {
    let etcd = Etcd::start().await;
    let world = world(&etcd, LEASE);
    let (one, two) = (Coordinator::start(&world, "c1").await, Coordinator::start(&world, "c2").await);
    let both = [&one, &two];
    dial(&world, &both);
    let mut operator = leader(&both).await;
    operator.apply(world.service(&["n1"])).await.unwrap();
    let peer = world.peer("n1", &[("a", vec![1, 2, 3])]);
    peer.hold("upload");
    let started = operator.start_backup().await.unwrap();
    operator.until(&started.id, |operation| running(operation, "n1", "upload")).await;
    let epoch = peer.epoch();

    etcd.pause(0).await;
    let (standstill, frozen) = (Standstill::watch(), Instant::now());
    let stepping_down = async {
        while one.leads().await || two.leads().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT, stepping_down).await.unwrap();
    let led = frozen.elapsed();
    assert!(led < LEASE + standstill.total().await, "it led for {led:?}");
    peer.let_go();
    assert!(tokio::time::timeout(LEASE / 4, peer.acknowledged(&started.id, "upload")).await.is_err());
    assert!(world.repository().await.backups().await.is_empty());

    etcd.resume(0);
    let mut operator = leader(&both).await;
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    peer.released(&started.id).await;
    assert_eq!(peer.began("upload"), 1);
    assert!(peer.epoch() > epoch);
    assert_eq!(operator.backups().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_before_etcd_does_and_leads_when_it_is_there() {
    let mut etcd = Etcd::start().await;
    let world = world(&etcd, LONG);
    etcd.kill(0);
    let one = Coordinator::start(&world, "c1").await;
    let mut operator = Operator(CoordinatorClient::connect(one.address.clone()).await.unwrap());
    let refused = operator.apply(world.service(&["n1"])).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:?}");
    etcd.restart(0).await;
    leader(&[&one]).await.apply(world.service(&["n1"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_of_another_cluster_does_not_start() {
    let etcd = Etcd::start().await;
    let world = world(&etcd, LONG);
    let one = Coordinator::start(&world, "c1").await;
    leader(&[&one]).await;
    let mut config = world.config.clone();
    config.etcd.cluster = "other".to_owned();
    let error = Server::start(config, CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.what().contains("\"main\"") && error.what().contains("\"other\""), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("prefix")), "{error:?}");
}

/// A process of its own, ended with the test.
struct Process(Child);

impl Process {
    fn start(world: &World, name: &str) -> Self {
        let mut config = world.config.clone();
        config.name = name.to_owned();
        config.state = world.directory.path().join(name);
        let file = world.directory.path().join(format!("{name}.toml"));
        std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_palinurus-coordinator"));
        Self(
            command
                .arg("--insecure-plaintext")
                .arg("--config")
                .arg(file)
                .stdin(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// It slept through the end of its lease: as it wakes it leads no longer, and sends operators to whoever does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_finds_itself_over_as_it_wakes() {
    let etcd = Etcd::start().await;
    let world = world(&etcd, LEASE);
    let one = Process::start(&world, "c1");
    let mut admin = etcd.client().await;
    let address = async {
        loop {
            if let Some(held) = admin.get("palinurus/leader", None).await.unwrap().kvs().first() {
                let holder: serde_json::Value = serde_json::from_slice(held.value()).unwrap();
                return holder["address"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let address = tokio::time::timeout(WAIT, address).await.unwrap();
    let paused = Coordinator { runtime: None, address: format!("http://{address}") };
    leader(&[&paused]).await.apply(world.service(&["n1"])).await.unwrap();
    let two = Coordinator::start(&world, "c2").await;

    one.signal(Signal::STOP);
    let (standstill, stopped) = (Standstill::watch(), Instant::now());
    leader(&[&two]).await;
    let took = stopped.elapsed();
    println!("takeover from a paused leader after {took:?} with a lease of {LEASE:?}");
    assert!(took <= LEASE + BEYOND + standstill.total().await, "{took:?}");

    one.signal(Signal::CONT);
    let woken = Instant::now();
    let mut operator = Operator(CoordinatorClient::connect(paused.address.clone()).await.unwrap());
    let refused = loop {
        match operator.apply(world.service(&["n1", "n2"])).await {
            Err(e) if e.kind() == ErrorKind::Fenced && e.what().contains("c2") => break e,
            Err(e) => assert!(woken.elapsed() < WAIT, "{e:?}"),
            Ok(_) => panic!("a write after the lease"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(refused.hint().is_some_and(|hint| hint.contains(two.address.trim_start_matches("http://"))));
    assert!(!paused.leads().await && two.leads().await);
}
