//! A coordinator with its folders, and an operator's client.
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use palinurus_coordinator::{Config, Server, World as Given};
use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use palinurus_proto::{from_status, v1};
use palinurus_repository::{
    Clock, Error, KeyFile, Repository, Result, SystemClock, SystemEntropy, Timestamp, storage,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::peer::{Peer, PeerConfig};

pub(crate) const SERVICE: &str = "shop";

/// A clock that can be set; who leads reads it when it begins to.
#[derive(Debug, Default)]
pub(crate) struct Ahead(AtomicU64);

impl Ahead {
    pub(crate) fn by(&self, more: Duration) {
        self.0.fetch_add(more.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 + self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) config: Config,
    running: Option<(Server, CancellationToken)>,
    /// What the coordinators' clocks are ahead of this machine's.
    pub(crate) ahead: Arc<Ahead>,
    pub(crate) addresses: watch::Sender<Vec<String>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut world = Self::folders(change);
        world.start().await;
        world
    }

    /// Without a coordinator.
    pub(crate) fn folders(change: impl FnOnce(&mut Config)) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_env("PALINURUS_LOG"))
            .with_test_writer()
            .try_init();
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("operator.key");
        KeyFile::generate(&SystemEntropy::new()).unwrap().write(&key).unwrap();
        let mut config = Config {
            name: "c1".to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            state: directory.path().join("coordinator"),
            keys: vec![key.into()],
            // A machine that stands still for a while makes nobody silent: sessions end when a test ends them.
            heartbeat: Duration::from_secs(60),
            ..Config::default()
        };
        change(&mut config);
        Self { directory, config, running: None, ahead: Arc::default(), addresses: watch::Sender::default() }
    }

    pub(crate) async fn start(&mut self) {
        let cancel = CancellationToken::new();
        let server = Server::start_in(self.given(), self.config.clone(), cancel.clone()).await.unwrap();
        self.addresses.send_replace(vec![format!("http://{}", server.local_addr())]);
        self.running = Some((server, cancel));
    }

    pub(crate) fn given(&self) -> Given {
        Given { clock: self.ahead.clone(), ..Given::default() }
    }

    pub(crate) async fn stop(&mut self) {
        let (server, cancel) = self.running.take().unwrap();
        cancel.cancel();
        server.join().await.unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    pub(crate) fn address(&self) -> String {
        self.addresses.borrow()[0].clone()
    }

    pub(crate) fn repository_path(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.repository_path().display())
    }

    pub(crate) fn key(&self) -> KeyFile {
        KeyFile::read(&self.directory.path().join("operator.key")).unwrap().0
    }

    /// Looked at past the coordinator: what a restore without one would see.
    pub(crate) async fn repository(&self) -> Repository {
        Repository::open(storage::open(&self.url()).unwrap(), &[self.key()]).await.unwrap()
    }

    pub(crate) async fn operator(&self) -> Operator {
        Operator(CoordinatorClient::connect(self.address()).await.unwrap())
    }

    pub(crate) fn service(&self, nodes: &[&str]) -> v1::Service {
        let nodes = nodes.iter().map(|name| v1::NodeSpec { name: (*name).to_owned(), ..Default::default() });
        v1::Service {
            name: SERVICE.to_owned(),
            r#type: "files".to_owned(),
            repository: self.url(),
            nodes: nodes.collect(),
            ..Default::default()
        }
    }

    /// Some of the nodes are spares.
    pub(crate) fn service_with(
        &self,
        nodes: &[&str],
        spares: &[&str],
        settings: &[(&str, &str)],
    ) -> v1::Service {
        let all: Vec<&str> = nodes.iter().chain(spares).copied().collect();
        let mut service = self.service(&all);
        for spec in &mut service.nodes {
            spec.spare = spares.contains(&spec.name.as_str());
        }
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        service.settings = settings.collect();
        service
    }

    pub(crate) async fn apply_with(&self, nodes: &[&str], settings: &[(&str, &str)]) -> Operator {
        let mut operator = self.operator().await;
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let service = v1::Service { settings: settings.collect(), ..self.service(nodes) };
        operator.apply(service).await.unwrap();
        operator
    }

    pub(crate) async fn apply(&self, nodes: &[&str]) -> Operator {
        let mut operator = self.operator().await;
        operator.apply(self.service(nodes)).await.unwrap();
        operator
    }

    /// An agent for that node, whose files hold those chunks of its own making.
    pub(crate) fn peer(&self, node: &str, files: &[(&str, Vec<u64>)]) -> Peer {
        self.peer_with(node, files, |_| {})
    }

    pub(crate) fn peer_with(
        &self,
        node: &str,
        files: &[(&str, Vec<u64>)],
        change: impl FnOnce(&mut PeerConfig),
    ) -> Peer {
        let mut config = PeerConfig {
            service: SERVICE.to_owned(),
            node: node.to_owned(),
            instance: format!("instance-of-{node}"),
            engine: "files".to_owned(),
            epoch: 0,
            data_empty: false,
            now_ms: 0,
            files: files.iter().map(|(name, chunks)| ((*name).to_owned(), chunks.clone())).collect(),
            key: Arc::new(self.key()),
        };
        change(&mut config);
        Peer::start(config, self.addresses.subscribe())
    }
}

/// An operator's client, whose errors are what the CLI would show.
#[derive(Clone)]
pub(crate) struct Operator(pub(crate) CoordinatorClient<Channel>);

impl Operator {
    pub(crate) async fn apply(&mut self, service: v1::Service) -> Result<v1::Service> {
        let request = v1::ApplyServiceRequest { service: Some(service), ..Default::default() };
        self.0.apply_service(request).await.map(tonic::Response::into_inner).map_err(from_status)
    }

    pub(crate) async fn start_backup(&mut self) -> Result<v1::Operation> {
        let request = v1::StartBackupRequest { service: SERVICE.to_owned(), full: false };
        self.0.start_backup(request).await.map(tonic::Response::into_inner).map_err(from_status)
    }

    pub(crate) async fn backup(&mut self) -> v1::Operation {
        let operation = self.start_backup().await.unwrap();
        self.finished(&operation.id).await
    }

    /// Watches until the operation is as wanted, or has ended.
    pub(crate) async fn until(&mut self, id: &str, wanted: impl Fn(&v1::Operation) -> bool) -> v1::Operation {
        let request = v1::GetOperationRequest { id: id.to_owned() };
        let mut last = None;
        let watching = async {
            let mut stream = self.0.watch_operation(request).await.map_err(from_status)?.into_inner();
            while let Some(operation) = stream.message().await.map_err(from_status)? {
                if wanted(&operation) {
                    return Ok(Some(operation));
                }
                last = Some(operation);
            }
            Ok::<_, Error>(None)
        };
        let found = tokio::time::timeout(Duration::from_secs(120), watching).await;
        match found {
            Ok(Ok(Some(operation))) => operation,
            other => panic!("it never was as wanted: {other:?}, last {last:#?}"),
        }
    }

    pub(crate) async fn finished(&mut self, id: &str) -> v1::Operation {
        self.until(id, |operation| operation.finished_ms > 0).await
    }

    pub(crate) async fn failovers(&mut self) -> Vec<v1::Operation> {
        self.operations(v1::OperationKind::Failover).await
    }

    pub(crate) async fn operations(&mut self, kind: v1::OperationKind) -> Vec<v1::Operation> {
        let request = v1::ListOperationsRequest { service: SERVICE.to_owned(), running: false };
        let all = self.0.list_operations(request).await.unwrap().into_inner().operations;
        all.into_iter().filter(|operation| operation.kind() == kind).collect()
    }

    /// The failover of this number, from the first on, once it has begun.
    pub(crate) async fn failover(&mut self, number: usize) -> v1::Operation {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(found) = self.failovers().await.into_iter().nth(number) {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "no failover begins");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn backups(&mut self) -> Vec<v1::Backup> {
        let request = v1::ListBackupsRequest { service: SERVICE.to_owned() };
        self.0.list_backups(request).await.unwrap().into_inner().backups
    }

    /// Until the coordinator has noticed that the node's agent is gone.
    pub(crate) async fn misses(&mut self, node: &str) {
        self.node_is(node, |node| !node.connected).await;
    }

    pub(crate) async fn node_is(&mut self, name: &str, wanted: impl Fn(&v1::Node) -> bool) {
        let looking = async {
            while !self.nodes().await.iter().any(|node| node.name == name && wanted(node)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), looking).await.unwrap();
    }

    pub(crate) async fn nodes(&mut self) -> Vec<v1::Node> {
        self.0.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner().nodes
    }
}

pub(crate) fn task<'a>(operation: &'a v1::Operation, node: &str, name: &str) -> Option<&'a v1::TaskRecord> {
    operation.tasks.iter().find(|task| task.node == node && task.name == name)
}
