//! Debian's ClickHouse as the nodes of a service: shards of replicas that meet in one ZooKeeper.
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{ClickHouse, PASSWORD, USER, Version, ZooKeeper};
use crate::world::World;

/// What `Distributed` tables call all of them together.
const NAME: &str = "all";

#[derive(Debug)]
pub struct Cluster {
    pub world: World,
    pub servers: BTreeMap<&'static str, ClickHouse>,
    pub keeper: ZooKeeper,
    /// Of each server.
    settings: String,
}

impl Cluster {
    /// Of nodes, each with its shard; their servers run, and their agents do not.
    pub async fn start(version: Version, nodes: &[(&'static str, &'static str)]) -> Self {
        let names: Vec<&str> = nodes.iter().map(|(node, _)| *node).collect();
        let mut world = World::new(&names);
        world.kind = "clickhouse".into();
        let keeper = ZooKeeper::start(&world.path("zookeeper")).await;
        let mut servers = BTreeMap::new();
        let mut shards: BTreeMap<&str, String> = BTreeMap::new();
        for (node, shard) in nodes {
            let server = ClickHouse::create(version, &world.path(node), Some((shard, node, keeper.port)));
            world.engines.insert((*node).to_owned(), server.engine());
            write!(
                shards.entry(shard).or_default(),
                "<replica><host>127.0.0.1</host><port>{}</port><user>{USER}</user><password>{PASSWORD}</password></replica>",
                server.others[0]
            )
            .unwrap();
            servers.insert(*node, server);
        }
        let shards: String = shards
            .values()
            .map(|replicas| {
                format!("<shard><internal_replication>true</internal_replication>{replicas}</shard>")
            })
            .collect();
        let settings = format!("<remote_servers><{NAME}>{shards}</{NAME}></remote_servers>");
        for server in servers.values_mut() {
            server.configure(&settings);
            server.start().await;
        }
        Self { world, servers, keeper, settings }
    }

    /// Statements `ON CLUSTER` reach every server from now on.
    pub async fn distributes_statements(&mut self, queue: &str) {
        let settings = format!("{}<distributed_ddl><path>{queue}</path></distributed_ddl>", self.settings);
        for server in self.servers.values_mut() {
            server.stop().await;
            server.configure(&settings);
            server.start().await;
        }
    }

    /// On every server.
    pub fn each(&self, sql: &str) {
        for server in self.servers.values() {
            server.sql(sql);
        }
    }

    /// Every server's data is gone, and what ZooKeeper knew of them; new ones run in their places.
    pub async fn renew(&mut self) {
        for server in self.servers.values_mut() {
            server.kill();
        }
        self.keeper.renew().await;
        for (node, server) in &mut self.servers {
            self.world.destroy_data(node);
            server.start().await;
        }
    }
}
