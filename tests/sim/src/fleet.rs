//! Who takes part: coordinators, agents and an operator, each the real thing with its seams in the simulation.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use palinurus_agent::Dial;
use palinurus_coordinator::Server;
use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::{Blocking, Result};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::chance::Chance;
use crate::disk::SimEngine;
use crate::mover::SimMover;
use crate::network::{self, SimListen};
use crate::state::SimElection;
use crate::store::SimStores;
use crate::world::{HostId, WallClock, World};

/// One host's part, the same at every start.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    Operator,
    Coordinator,
    /// `stored`: a machine that is started only when another's place is to be taken.
    Agent {
        service: String,
        node: String,
        stored: bool,
    },
}

impl Role {
    pub(crate) fn is_stored(&self) -> bool {
        matches!(self, Self::Agent { stored: true, .. })
    }
}

/// What is asked for of a service.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) nodes: Vec<String>,
    pub(crate) spare: Option<String>,
    pub(crate) settings: BTreeMap<String, String>,
    /// One of its nodes has a database with a log.
    pub(crate) logged: bool,
}

impl Wanted {
    pub(crate) fn mode(&self) -> &str {
        self.settings.get("failover").map_or("off", String::as_str)
    }
}

/// All of them, by host.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    pub(crate) roles: Vec<Role>,
    pub(crate) services: Vec<Wanted>,
}

impl Fleet {
    pub(crate) fn draw(chance: &mut Chance, two_leaders: bool) -> Self {
        let (mut policies, mut logs) = (chance.named("policies"), chance.named("logs"));
        let mut roles = vec![Role::Operator];
        roles.extend((0..chance.between(1, 3).max(1 + u64::from(two_leaders))).map(|_| Role::Coordinator));
        let mut services = Vec::new();
        for service in (0..chance.between(1, 2)).map(|n| format!("s{n}")) {
            let nodes: Vec<String> = (0..chance.between(1, 3)).map(|n| format!("n{n}")).collect();
            let agent =
                |node: &String, stored| Role::Agent { service: service.clone(), node: node.clone(), stored };
            roles.extend(nodes.iter().map(|node| agent(node, false)));
            let mode =
                *policies.pick(&["automatic", "automatic", "manual", "manual", "off"]).unwrap_or(&"off");
            let spare = (mode != "off" && policies.percent(50)).then(|| "spare".to_owned());
            roles.extend(spare.iter().map(|node| agent(node, false)));
            if policies.percent(50) {
                roles.extend(policies.pick(&nodes).map(|node| agent(node, true)));
            }
            let partial = if policies.percent(30) { "allow" } else { "refuse" };
            let patience = format!("{}s", policies.between(2, 15));
            let settings = [("failover", mode), ("failover_patience", &patience), ("partial", partial)];
            let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            services.push(Wanted { name: service, nodes, spare, settings, logged: logs.percent(40) });
        }
        Self { roles, services }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let name = |(id, role): (HostId, &Role)| match role {
            Role::Operator => "operator".to_owned(),
            Role::Coordinator => format!("c{id}"),
            Role::Agent { service, node, stored } => {
                format!("{service}.{node}{}", if *stored { "b" } else { "" })
            }
        };
        self.roles.iter().enumerate().map(name).collect()
    }

    pub(crate) fn coordinators(&self) -> Vec<HostId> {
        self.which(|role| matches!(role, Role::Coordinator))
    }

    pub(crate) fn agents(&self) -> Vec<HostId> {
        self.which(|role| matches!(role, Role::Agent { .. }))
    }

    pub(crate) fn is_logged(&self, of: &str) -> bool {
        self.services.iter().any(|service| service.name == of && service.logged)
    }

    /// The machines that may be that node.
    pub(crate) fn machines(&self, of: &str, name: &str) -> Vec<HostId> {
        self.which(|role| matches!(role, Role::Agent { service, node, .. } if service == of && node == name))
    }

    /// A service's machines.
    pub(crate) fn machines_of(&self, of: &str) -> Vec<HostId> {
        self.which(|role| matches!(role, Role::Agent { service, .. } if service == of))
    }

    fn which(&self, wanted: impl Fn(&Role) -> bool) -> Vec<HostId> {
        self.roles.iter().enumerate().filter(|(_, role)| wanted(role)).map(|(id, _)| id).collect()
    }
}

fn entropy(chance: &Chance) -> Arc<SeededEntropy> {
    Arc::new(SeededEntropy::new(chance.clone().draw()))
}

pub(crate) fn state_of(world: &World, host: HostId) -> std::path::PathBuf {
    world.directory.join(&world.hosts[host])
}

/// `chance` is of this life: no two lives draw the same.
pub(crate) async fn coordinator(world: Arc<World>, host: HostId, chance: Chance) -> Result<()> {
    let config = palinurus_coordinator::Config {
        name: world.hosts[host].clone(),
        listen: network::address(host).to_string(),
        state: state_of(&world, host),
        keys: vec![world.directory.join("key").into()],
        patience: Duration::from_secs(8),
        heartbeat: Duration::from_secs(2),
        freeze_limit: Duration::from_secs(20),
        cancel_limit: Duration::from_secs(5),
        store_patience: Duration::from_secs(15),
        history: 40,
        index_cache_mib: 4,
        ..Default::default()
    };
    std::fs::create_dir_all(&config.state)
        .map_err(|e| palinurus_repository::Error::io("make the state directory", e))?;
    let seams = palinurus_coordinator::World {
        clock: Arc::new(WallClock { world: world.clone(), host }),
        entropy: entropy(&chance),
        election: Some(Arc::new(SimElection::new(&world, host, chance.named("state")))),
        stores: Arc::new(SimStores {
            world: world.clone(),
            host,
            agent_of: None,
            chance: chance.named("store"),
        }),
        blocking: Blocking::Inline,
        listen: Some(Arc::new(SimListen { world, host })),
    };
    Server::start_in(seams, config, CancellationToken::new()).await?.join().await
}

pub(crate) async fn agent(
    world: Arc<World>,
    host: HostId,
    (service, node): (String, String),
    coordinators: Vec<HostId>,
    logged: bool,
    chance: Chance,
) -> Result<()> {
    let config = palinurus_agent::Config {
        service: service.clone(),
        node: node.clone(),
        coordinator: coordinators.iter().map(|id| format!("http://{}", network::address(*id))).collect(),
        state: state_of(&world, host),
        keys: vec![world.directory.join("key").into()],
        session: palinurus_agent::config::Session {
            connect_timeout: Duration::from_secs(2),
            keep_alive: Duration::from_secs(3),
            retry_max: Duration::from_secs(3),
            retry_refused: Duration::from_secs(5),
            progress: Duration::from_secs(2),
            ..Default::default()
        },
        ..Default::default()
    };
    let engine = SimEngine {
        world: world.clone(),
        host,
        service: service.clone(),
        node: node.clone(),
        logged,
        chance: Mutex::new(chance.named("engine")),
        dead_man: Arc::default(),
    };
    let seams = palinurus_agent::Seams {
        program: Vec::new(),
        clock: Arc::new(WallClock { world: world.clone(), host }),
        entropy: entropy(&chance),
        blocking: Blocking::Inline,
        stores: Arc::new(SimStores {
            world: world.clone(),
            host,
            agent_of: Some((service.clone(), node.clone())),
            chance: chance.named("store"),
        }),
        dial: Arc::new(SimDial { world: world.clone(), host }),
        engine: Some(Arc::new(engine)),
        mover: Arc::new(SimMover { world, host, service, node }),
    };
    palinurus_agent::run_with(config, seams, CancellationToken::new()).await
}

#[derive(Debug)]
struct SimDial {
    world: Arc<World>,
    host: HostId,
}

#[async_trait]
impl Dial for SimDial {
    async fn dial(&self, endpoint: Endpoint) -> Result<Channel, tonic::transport::Error> {
        let (world, host) = (self.world.clone(), self.host);
        endpoint
            .connect_with_connector(tower::service_fn(move |to: Uri| connect(world.clone(), host, to)))
            .await
    }
}

async fn connect(world: Arc<World>, host: HostId, to: Uri) -> std::io::Result<TokioIo<network::End>> {
    let to = to.authority().map(ToString::to_string).unwrap_or_default();
    network::dial(world, host, to).await.map(TokioIo::new)
}

/// A connection that is made when it is needed, and again after it broke.
pub(crate) fn channel(world: &Arc<World>, from: HostId, to: SocketAddr) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{to}")).ok()?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(3));
    let world = world.clone();
    Some(
        endpoint
            .connect_with_connector_lazy(tower::service_fn(move |to: Uri| connect(world.clone(), from, to))),
    )
}
