//! Several coordinators in this process, over one state in memory and one repository.
use std::sync::Arc;
use std::time::Duration;

use palinurus_coordinator::state::{Link, MemoryElection, MemoryStore};
use palinurus_coordinator::{Config, Server, World as Given};
use palinurus_proto::v1;
use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use tokio_util::sync::CancellationToken;

use crate::world::{Operator, World};

/// No machine stands still for so long. When it is to be over, a test lets it pass.
const TTL: Duration = Duration::from_secs(600);
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    pub(crate) world: World,
    store: Arc<MemoryStore>,
    members: Vec<Member>,
}

struct Member {
    name: String,
    election: Arc<MemoryElection>,
    address: String,
    running: Option<(Server, CancellationToken)>,
}

impl Cluster {
    pub(crate) async fn new(members: usize) -> Self {
        Self::within(World::folders(|_| {}), members).await
    }

    pub(crate) async fn within(world: World, members: usize) -> Self {
        let store = Arc::new(MemoryStore::default());
        let mut cluster = Self { world, store: store.clone(), members: Vec::new() };
        for i in 1..=members {
            let config = Config {
                name: format!("c{i}"),
                state: cluster.world.directory.path().join(format!("c{i}")),
                ..cluster.world.config.clone()
            };
            std::fs::create_dir(&config.state).unwrap();
            let election = Arc::new(MemoryElection::new(&store, &config.name, TTL));
            let given = Given { election: Some(election.clone()), ..cluster.world.given() };
            let (name, cancel) = (config.name.clone(), CancellationToken::new());
            let server = Server::start_in(given, config, cancel.clone()).await.unwrap();
            let address = server.local_addr().to_string();
            cluster.members.push(Member { name, election, address, running: Some((server, cancel)) });
            if i == 1 {
                cluster.leader().await;
            }
        }
        let addresses = cluster.members.iter().map(|member| format!("http://{}", member.address));
        cluster.world.addresses.send_replace(addresses.collect());
        cluster
    }

    pub(crate) fn name(&self, member: usize) -> &str {
        &self.members[member].name
    }

    pub(crate) fn address(&self, member: usize) -> &str {
        &self.members[member].address
    }

    pub(crate) fn link(&self, member: usize) -> Link {
        self.members[member].election.link()
    }

    /// It is cut off for as long as its lease lasts: it steps down, and only then is the lease over for the store.
    pub(crate) async fn cut_off(&self, member: usize) {
        self.link(member).cut();
        self.lease_passes(member).await;
    }

    /// Of one that leads and cannot renew it.
    pub(crate) async fn lease_passes(&self, member: usize) {
        self.store.pass(TTL - TTL / 5);
        let stepping_down = async {
            while self.leads(member).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, stepping_down).await.unwrap();
        self.store.pass(TTL);
    }

    /// It is not there to see that its lease ends.
    pub(crate) fn doze(&self, member: usize) {
        self.link(member).doze();
        self.store.pass(TTL);
    }

    pub(crate) async fn operator(&self, member: usize) -> Operator {
        let address = format!("http://{}", self.address(member));
        Operator(CoordinatorClient::connect(address).await.unwrap())
    }

    /// Stops it in order.
    pub(crate) async fn stop(&mut self, member: usize) {
        let (server, cancel) = self.members[member].running.take().unwrap();
        cancel.cancel();
        server.join().await.unwrap();
    }

    pub(crate) async fn cluster_at(&self, member: usize) -> v1::Cluster {
        let mut operator = self.operator(member).await;
        operator.0.get_cluster(v1::GetClusterRequest {}).await.unwrap().into_inner()
    }

    /// Until that coordinator sees as much.
    pub(crate) async fn sees(&self, member: usize, wanted: impl Fn(&v1::Cluster) -> bool) -> v1::Cluster {
        let looking = async {
            loop {
                let seen = self.cluster_at(member).await;
                if wanted(&seen) {
                    return seen;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, looking).await.unwrap()
    }

    /// Whoever leads and answers as the leader.
    pub(crate) async fn leader(&self) -> (usize, Operator) {
        self.leader_but(usize::MAX).await
    }

    /// Another than that one.
    pub(crate) async fn leader_but(&self, not: usize) -> (usize, Operator) {
        let looking = async {
            loop {
                for (at, member) in self.members.iter().enumerate() {
                    if at != not && member.running.is_some() && self.leads(at).await {
                        return (at, self.operator(at).await);
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, looking).await.unwrap()
    }

    /// How the operation ended, whoever leads until then.
    pub(crate) async fn finished(&self, id: &str) -> v1::Operation {
        let request = v1::GetOperationRequest { id: id.to_owned() };
        let watching = async {
            loop {
                let (_, mut operator) = self.leader().await;
                let Ok(watched) = operator.0.watch_operation(request.clone()).await else { continue };
                let mut watched = watched.into_inner();
                while let Ok(Some(operation)) = watched.message().await {
                    if operation.finished_ms > 0 {
                        return operation;
                    }
                }
            }
        };
        tokio::time::timeout(DEADLINE, watching).await.unwrap()
    }

    async fn leads(&self, member: usize) -> bool {
        use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client};
        let address = format!("http://{}", self.address(member));
        let channel = tonic::transport::Endpoint::new(address).unwrap().connect().await.unwrap();
        let request = HealthCheckRequest { service: "leader".to_owned() };
        let health = health_client::HealthClient::new(channel).check(request).await.unwrap().into_inner();
        health.status() == ServingStatus::Serving
    }
}
