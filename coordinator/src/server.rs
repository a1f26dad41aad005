//! A coordinator as a whole: state, actors and the gRPC server, started and stopped together.
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use palinurus_proto::FILE_DESCRIPTOR_SET;
use palinurus_proto::v1::coordinator_server::CoordinatorServer;
use palinurus_proto::v1::fleet_server::FleetServer;
use palinurus_repository::{Error, Result};
use ractor::{Actor, ActorRef};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::ServingStatus;

use crate::actor::coordinator::{CoordinatorActor, CoordinatorMsg};
use crate::api::Api;
use crate::config::Config;
use crate::fleet::FleetService;
use crate::shared::{Shared, World, off_runtime};
use crate::state::{EmbeddedState, Records};

/// Questions of 8192 ids and answers with a place for each fit many times over.
const MESSAGE_MAX: usize = 64 << 20;
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Claims are many and small: a window that never makes them wait for an acknowledgement.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// What open calls get for ending once the coordinator stops.
const DRAIN: Duration = Duration::from_secs(10);

/// A running coordinator. Stops when the token it was started with is cancelled.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    running: JoinHandle<Result<()>>,
}

impl Server {
    pub async fn start(config: Config, cancel: CancellationToken) -> Result<Self> {
        Self::start_in(World::default(), config, cancel).await
    }

    /// With clock and chance of the caller's.
    pub async fn start_in(world: World, config: Config, cancel: CancellationToken) -> Result<Self> {
        config.check()?;
        let directory = config.state.clone();
        let state = off_runtime(move || {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
            made.map_err(|e| Error::io(format!("make the state directory {}", directory.display()), e))?;
            EmbeddedState::open(&directory.join("state.redb"))
        });
        let state = state.await?;
        let listener = TcpListener::bind(&config.listen)
            .await
            .map_err(|e| Error::io(format!("listen on {}", config.listen), e))?;
        let address = listener.local_addr().map_err(|e| Error::io("the address listened on", e))?;
        let shared = Arc::new(Shared::new(config, world, Records::new(Arc::new(state.clone())), cancel)?);
        tracing::info!(name = shared.config.name, %address, epoch = shared.records.epoch().0, "coordinator starts");
        let (root, ended) = CoordinatorActor::spawn(None, CoordinatorActor, shared.clone())
            .await
            .map_err(|e| Error::internal("cannot start the coordinator").with_source(e.to_string()))?;
        let running = tokio::spawn(run(shared, state, root, ended, listener));
        Ok(Self { address, running })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Until the coordinator has stopped: in order, or because it cannot go on.
    pub async fn join(self) -> Result<()> {
        self.running.await.map_err(|e| Error::internal("the coordinator").with_source(e))?
    }
}

async fn run(
    shared: Arc<Shared>,
    state: EmbeddedState,
    root: ActorRef<CoordinatorMsg>,
    mut ended: JoinHandle<()>,
    listener: TcpListener,
) -> Result<()> {
    let cancel = shared.cancel.clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let router = router(shared, root.clone()).await?;
    let mut serving =
        tokio::spawn(router.serve_with_incoming_shutdown(incoming, cancel.clone().cancelled_owned()));
    let outcome = tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        _ = &mut ended => Err(Error::internal("the coordinator's root actor ended")),
        served = &mut serving => Err(Error::unavailable("the gRPC server ended").with_source(format!("{served:?}"))),
    };
    // Everything that streams selects on this token: without it, open streams would keep the server for ever.
    cancel.cancel();
    let _ = root.stop_and_wait(Some("the coordinator stops".to_owned()), Some(DRAIN * 2)).await;
    if !serving.is_finished() && tokio::time::timeout(DRAIN, &mut serving).await.is_err() {
        tracing::warn!("calls are still open: leaving them");
        serving.abort();
    }
    if !state.close(DRAIN).await {
        tracing::warn!("the state file is still in use");
    }
    tracing::info!("coordinator stopped");
    outcome
}

async fn router(shared: Arc<Shared>, root: ActorRef<CoordinatorMsg>) -> Result<Router> {
    let api = Api { root: root.clone(), shared: shared.clone() };
    let fleet = FleetService { root, shared };
    let reflection = |e| Error::internal("reflection").with_source(e);
    let reflect = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<CoordinatorServer<Api>>().await;
    health.set_serving::<FleetServer<FleetService>>().await;
    health.set_service_status("leader", ServingStatus::Serving).await;
    Ok(tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(Some(STREAM_WINDOW))
        .initial_connection_window_size(Some(CONNECTION_WINDOW))
        .add_service(reflect().build_v1().map_err(reflection)?)
        .add_service(reflect().build_v1alpha().map_err(reflection)?)
        .add_service(health_service)
        .add_service(
            CoordinatorServer::new(api)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
        )
        .add_service(
            FleetServer::new(fleet)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
        ))
}
