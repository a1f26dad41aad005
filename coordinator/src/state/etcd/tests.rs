//! Against real members: Debian's etcd, started by each test.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use palinurus_repository::{ErrorKind, SystemClock, SystemEntropy};
use tokio::time::Instant;

use super::EtcdElection;
use super::server::{Etcd, Setup, until};
use crate::config::EtcdConfig;
use crate::state::{Change, Election, Expect, Lease, State, suite};

const LEASE: Duration = Duration::from_secs(2);

fn config(etcd: &Etcd) -> EtcdConfig {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("PALINURUS_LOG"))
        .with_test_writer()
        .try_init();
    let timeout = Duration::from_millis(500);
    EtcdConfig { endpoints: etcd.endpoints(), lease: LEASE, timeout, ..EtcdConfig::default() }
}

async fn election(config: &EtcdConfig, name: &str) -> EtcdElection {
    EtcdElection::open(config, name, Arc::new(SystemClock), Arc::new(SystemEntropy::new())).await.unwrap()
}

async fn within<T>(limit: Duration, what: &str, waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, waiting).await.unwrap_or_else(|_| panic!("not within {limit:?}: {what}"))
}

async fn leads(election: &EtcdElection) -> Lease {
    within(Duration::from_secs(20), "it leads", election.campaign("127.0.0.1:1")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_a_state() {
    let etcd = Etcd::start().await;
    let election = election(&config(&etcd), "c1").await;
    let lease = leads(&election).await;
    suite::run(lease.state.clone()).await;
    assert!(!lease.over.is_cancelled());
    lease.resign.resign().await;
}
