//! Against real members: Debian's etcd, started by each test.
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::{Clock, SystemClock, SystemEntropy};

use super::EtcdElection;
use super::server::{Etcd, Setup, Standstill, until};
use crate::config::EtcdConfig;
use crate::state::{Election, Lease, suite};

mod election;
mod follow;
mod refusals;
mod write;

/// For what is to happen when it ends.
const LEASE: Duration = Duration::from_secs(2);
/// For what a leader must outlive, on a machine that now and then stands still.
const LONG: Duration = Duration::from_secs(120);
/// Whatever is waited for has happened by then, and a long lease has not ended.
const WAIT: Duration = Duration::from_secs(80);
/// What is said at once. By itself a candidate looks again later than that.
const SOON: Duration = Duration::from_secs(12);
/// For what nobody answers.
const IMPATIENT: Duration = Duration::from_millis(500);

fn config(etcd: &Etcd, lease: Duration) -> EtcdConfig {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("PALINURUS_LOG"))
        .with_test_writer()
        .try_init();
    let timeout = if lease == LONG { LONG / 12 } else { IMPATIENT };
    EtcdConfig { endpoints: etcd.endpoints(), lease, timeout, ..EtcdConfig::default() }
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
    within(WAIT, "it leads", election.campaign("127.0.0.1:1")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_a_state() {
    let etcd = Etcd::start().await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let lease = lead(&election).await;
    suite::run(lease.state.clone()).await;
    assert!(!lease.over.is_cancelled());
    lease.resign.resign().await;
}

/// The one that is asked, and may be etcd's own leader, dies on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_are_a_state_and_two_of_them_too() {
    let mut etcd = Etcd::with(3, Setup::default()).await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let lease = lead(&election).await;
    let running = tokio::spawn(suite::run(lease.state.clone()));
    let reader = election.reader();
    within(WAIT, "the suite begins", async { while reader.get("l/a").await.unwrap().is_none() {} }).await;
    etcd.kill(0);
    running.await.unwrap();
    assert!(!lease.over.is_cancelled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_dead_from_the_start_is_left_alone() {
    let mut etcd = Etcd::with(3, Setup::default()).await;
    etcd.kill(0);
    let election = election(&config(&etcd, LONG), "c1").await;
    suite::run(lead(&election).await.state).await;
}
