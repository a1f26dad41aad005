//! A coordinator as a whole: state, actors and the gRPC server, started and stopped together.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use palinurus_proto::FILE_DESCRIPTOR_SET;
use palinurus_proto::v1::coordinator_server::CoordinatorServer;
use palinurus_proto::v1::fleet_server::FleetServer;
use palinurus_repository::{Error, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::access::{Access, Guard, Guarded};
use crate::api::Api;
use crate::bound::MESSAGE_MAX;
use crate::config::Config;
use crate::door::{Door, Lead};
use crate::fleet::FleetService;
use crate::listen::Listener;
use crate::shared::{Base, World};
use crate::state::{Election, EmbeddedState};
use crate::{election, leadership, metrics};

/// Of what operators are told.
const ANSWER_MAX: usize = 64 << 20;
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Claims are many and small: a window that never makes them wait for an acknowledgement.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls of one connection at a time. An agent has its session and a claim stream an upload.
const STREAMS: u32 = 32;
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

    /// With clock, chance and, where given, election, stores and network of the caller's.
    pub async fn start_in(world: World, config: Config, cancel: CancellationToken) -> Result<Self> {
        config.check()?;
        let base = Arc::new(Base::new(config, world).await?);
        let config = &base.config;
        let (election, file) = election::open(&base).await?;
        let access = Arc::new(Access::open(&base).await?);
        let listener = Listener::open(&base).await?;
        let address = listener.address()?;
        let encrypted = access.tls.is_some();
        // A name may mean more than it says.
        if !encrypted && base.world.listen.is_none() && !address.ip().is_loopback() {
            config.check_plaintext(true)?;
            return Err(Error::denied(format!(
                "{address} is not this machine alone, and nothing would be encrypted"
            )));
        }
        tracing::info!(name = config.name, %address, encrypted, state = election.kind(), "coordinator starts");
        let lead = watch::Sender::new(None);
        let door = Door::new(&base, &*election, lead.subscribe());
        metrics::serve(&base, door.clone(), cancel.clone()).await?;
        let (alone, mut leads) = (file.is_some(), lead.subscribe());
        let running =
            tokio::spawn(run(base, election, file, lead, Entrance { door, access, listener }, cancel));
        // With a state of its own it leads at once: whoever started it may ask it right away.
        if alone && leads.wait_for(Option::is_some).await.is_err() {
            running.await.map_err(|e| Error::internal("the coordinator").with_source(e))??;
            return Err(Error::unavailable("the coordinator stopped before it led"));
        }
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

/// Where callers come in, and who they must be.
struct Entrance {
    door: Door,
    access: Arc<Access>,
    listener: Listener,
}

async fn run(
    base: Arc<Base>,
    election: Arc<dyn Election>,
    file: Option<EmbeddedState>,
    lead: watch::Sender<Option<Lead>>,
    entrance: Entrance,
    cancel: CancellationToken,
) -> Result<()> {
    let Entrance { door, access, listener } = entrance;
    let address = base.config.reached_at(listener.address()?);
    let (standby, reader, leads) = (door.standby(), election.reader(), lead.subscribe());
    let following = AbortOnDropHandle::new(tokio::spawn(async move { standby.run(reader, leads).await }));
    let (health, health_service) = tonic_health::server::health_reporter();
    let router = router(door, access.clone(), &health, health_service, cancel.clone()).await?;
    let mut serving = listener.serve(router, access.tls.clone(), base.config.connections, cancel.clone());
    let outcome = {
        let leading = leadership::run(&base, &*election, &address, &lead, &health, &cancel);
        tokio::pin!(leading);
        tokio::select! {
            biased;
            ended = &mut leading => ended,
            served = &mut serving => {
                let asked = cancel.is_cancelled();
                cancel.cancel();
                let ended = leading.await;
                if asked {
                    ended
                } else {
                    ended.and(Err(Error::unavailable("the gRPC server ended").with_source(format!("{served:?}"))))
                }
            }
        }
    };
    // Everything that streams selects on this token: without it, open streams would keep the server for ever.
    cancel.cancel();
    if !serving.is_finished() && tokio::time::timeout(DRAIN, &mut serving).await.is_err() {
        tracing::warn!("calls are still open: leaving them");
        serving.abort();
    }
    drop((lead, election, following));
    if let Some(file) = file
        && !file.close(DRAIN).await
    {
        tracing::warn!("the state file is still in use");
    }
    tracing::info!("coordinator stopped");
    outcome
}

async fn router(
    door: Door,
    access: Arc<Access>,
    health: &HealthReporter,
    health_service: HealthServer<impl Health>,
    cancel: CancellationToken,
) -> Result<Router<Guarded>> {
    let api = Api { door: door.clone() };
    let fleet = FleetService { door, cancel };
    let reflection = |e| Error::internal("reflection").with_source(e);
    let reflect = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    health.set_serving::<CoordinatorServer<Api>>().await;
    health.set_serving::<FleetServer<FleetService>>().await;
    health.set_service_status(leadership::HEALTH, ServingStatus::NotServing).await;
    Ok(tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(Some(STREAM_WINDOW))
        .initial_connection_window_size(Some(CONNECTION_WINDOW))
        .max_concurrent_streams(Some(STREAMS))
        .layer(Guard(access))
        .add_service(reflect().build_v1().map_err(reflection)?)
        .add_service(reflect().build_v1alpha().map_err(reflection)?)
        .add_service(health_service)
        .add_service(
            CoordinatorServer::new(api)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(ANSWER_MAX),
        )
        .add_service(
            FleetServer::new(fleet)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(ANSWER_MAX),
        ))
}
