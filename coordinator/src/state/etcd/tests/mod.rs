//! Against real members: Debian's etcd, started by each test.
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::{Clock, SystemClock, SystemEntropy};

use super::EtcdElection;
use super::server::{Etcd, Setup, until};
use crate::config::EtcdConfig;
use crate::state::{Election, Lease, suite};

mod election;
mod follow;
mod refusals;
mod write;

const LEASE: Duration = Duration::from_secs(2);
/// For what a leader must outlive.
const LONG: Duration = Duration::from_secs(8);

fn config(etcd: &Etcd, lease: Duration) -> EtcdConfig {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("PALINURUS_LOG"))
        .with_test_writer()
        .try_init();
    let timeout = Duration::from_millis(500);
    EtcdConfig { endpoints: etcd.endpoints(), lease, timeout, ..EtcdConfig::default() }
}

/// Three members elect a leader of their own when one dies, which takes them a while on a busy machine.
fn patient(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig { timeout: LONG / 4, ..config(etcd, LONG) }
}

async fn election(config: &EtcdConfig, name: &str) -> EtcdElection {
    election_by(config, name, Arc::new(SystemClock)).await
}

async fn election_by(config: &EtcdConfig, name: &str, clock: Arc<dyn Clock>) -> EtcdElection {
    EtcdElection::open(config, name, clock, Arc::new(SystemEntropy::new())).await.unwrap()
}

async fn within<T>(limit: Duration, what: &str, waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, waiting).await.unwrap_or_else(|_| panic!("not within {limit:?}: {what}"))
}

async fn lead(election: &EtcdElection) -> Lease {
    within(Duration::from_secs(20), "it leads", election.campaign("127.0.0.1:1")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_a_state() {
    let etcd = Etcd::start().await;
    let election = election(&config(&etcd, LEASE), "c1").await;
    let lease = lead(&election).await;
    suite::run(lease.state.clone()).await;
    assert!(!lease.over.is_cancelled());
    lease.resign.resign().await;
}

/// The one that is asked, and may be etcd's own leader, dies on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_are_a_state_and_two_of_them_too() {
    let mut etcd = Etcd::with(3, Setup::default()).await;
    let election = election(&patient(&etcd), "c1").await;
    let lease = lead(&election).await;
    let running = tokio::spawn(suite::run(lease.state.clone()));
    let reader = election.reader();
    within(LONG, "the suite begins", async { while reader.get("l/a").await.unwrap().is_none() {} }).await;
    etcd.kill(0);
    running.await.unwrap();
    assert!(!lease.over.is_cancelled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_dead_from_the_start_is_left_alone() {
    let mut etcd = Etcd::with(3, Setup::default()).await;
    etcd.kill(0);
    let election = election(&patient(&etcd), "c1").await;
    suite::run(lead(&election).await.state).await;
}
