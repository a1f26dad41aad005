//! What it asks of its coordinator, and what it waits for.
use palinurus_proto::v1;
use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use tonic::{Response, Status};

use super::{FORK, SERVICE, World, wait_async};
use crate::operator::Client;

impl World {
    pub async fn apply_service(&self) {
        let fork = format!("file://{}", self.fork_repository().display());
        for (name, repository) in [(SERVICE, self.repository_url()), (FORK, fork)] {
            let nodes = self.nodes.iter().filter(|node| self.service_of(node) == name);
            let service = v1::Service {
                name: name.into(),
                r#type: self.kind.clone(),
                plan: self.plan.clone(),
                repository,
                nodes: nodes
                    .map(|name| v1::NodeSpec {
                        name: name.clone(),
                        spare: self.spares.contains(&name.as_str()),
                        ..Default::default()
                    })
                    .collect(),
                settings: self.service.clone().into_iter().collect(),
                ..Default::default()
            };
            if service.nodes.is_empty() {
                continue;
            }
            let request = v1::ApplyServiceRequest { service: Some(service), ..Default::default() };
            self.client().await.apply_service(request).await.unwrap();
        }
    }

    /// Their agents end, and the service is applied without them.
    pub async fn leave_out(&mut self, nodes: &[&str]) {
        for node in nodes {
            self.stop_agent(node).await;
        }
        self.nodes.retain(|node| !nodes.contains(&node.as_str()));
        self.apply_service().await;
    }

    pub async fn take_in(&mut self, nodes: &[&str]) {
        self.nodes.extend(nodes.iter().map(|node| (*node).to_owned()));
        self.apply_service().await;
        nodes.iter().for_each(|node| self.start_agent(node));
    }

    pub async fn joined(&mut self) {
        let mut client = self.client().await;
        for node in self.nodes.clone() {
            wait_async(&format!("{node} joins"), async || {
                for agent in self.agents.values_mut() {
                    agent.check();
                }
                let request = v1::ListNodesRequest { service: self.service_of(&node).into() };
                let nodes = client.list_nodes(request).await.ok()?.into_inner().nodes;
                nodes.iter().any(|known| known.name == node && known.connected).then_some(())
            })
            .await;
        }
    }

    /// Other services may have a node of that name.
    pub async fn node(&self, name: &str) -> v1::Node {
        let request = v1::ListNodesRequest { service: self.service_of(name).into() };
        let reply = self.client().await.list_nodes(request).await.unwrap().into_inner();
        reply.nodes.into_iter().find(|node| node.name == name).expect("a node of the service")
    }

    pub async fn start_backup(&self) -> v1::Operation {
        let request = v1::StartBackupRequest { service: SERVICE.into(), full: false };
        self.client().await.start_backup(request).await.unwrap().into_inner()
    }

    /// A backup that has to end well; warnings are well.
    pub async fn backup(&self) -> v1::Operation {
        let operation = self.start_backup().await;
        let ended = self.ended(&operation.id).await;
        let good = matches!(ended.state(), v1::OperationState::Succeeded | v1::OperationState::Warnings);
        assert!(good, "the backup ended as {:?}: {:?}", ended.state(), ended.failure);
        ended
    }

    /// The operation once it has ended, however that is. Survives a coordinator that comes and goes.
    pub async fn ended(&self, id: &str) -> v1::Operation {
        wait_async(&format!("operation {id} ends"), async || {
            let mut client = CoordinatorClient::new(self.channel().await?);
            let request = v1::GetOperationRequest { id: id.to_owned() };
            let operation = client.get_operation(request).await.ok()?.into_inner();
            let ended =
                !matches!(operation.state(), v1::OperationState::Running | v1::OperationState::Cancelling);
            ended.then_some(operation)
        })
        .await
    }

    /// It stands at `phase`, or this fails.
    pub async fn comes_to(&self, id: &str, phase: &str) {
        assert!(self.is_met_at(id, phase).await, "it was over too soon");
    }

    /// Whether it was seen to stand at `phase`, or was over before.
    pub async fn is_met_at(&self, id: &str, phase: &str) -> bool {
        wait_async(&format!("the operation comes to {phase}"), async || {
            let now = self.operation(id).await.phase;
            (now == phase || now == "done").then_some(now == phase)
        })
        .await
    }

    pub async fn failovers(&self) -> Vec<v1::Operation> {
        let request = v1::ListOperationsRequest { service: SERVICE.into(), running: false };
        let all = self.client().await.list_operations(request).await.unwrap().into_inner().operations;
        all.into_iter().filter(|operation| operation.kind() == v1::OperationKind::Failover).collect()
    }

    /// The only failover, once it has begun.
    pub async fn failover(&self) -> v1::Operation {
        wait_async("a failover begins", async || self.failovers().await.pop()).await
    }

    pub async fn operation(&self, id: &str) -> v1::Operation {
        let request = v1::GetOperationRequest { id: id.to_owned() };
        self.client().await.get_operation(request).await.unwrap().into_inner()
    }

    pub async fn backups(&self) -> Vec<v1::Backup> {
        self.backups_of(SERVICE).await
    }

    pub async fn backups_of(&self, service: &str) -> Vec<v1::Backup> {
        let request = v1::ListBackupsRequest { service: service.into() };
        self.client().await.list_backups(request).await.unwrap().into_inner().backups
    }

    /// A restore of `node` from the latest backup.
    pub async fn start_restore(&self, node: &str, delta: bool) -> v1::Operation {
        self.apply_restore(v1::RestoreRequest {
            service: SERVICE.into(),
            backup: "latest".into(),
            nodes: vec![node.to_owned()],
            delta,
            target: None,
            ..Default::default()
        })
        .await
    }

    pub async fn apply_restore(&self, request: v1::RestoreRequest) -> v1::Operation {
        let apply = async |mut client: Client| client.apply_restore(request.clone()).await;
        self.begun(apply).await
    }

    /// What is refused while an agent is not there. One that has stood still for longer than its beats comes back.
    pub async fn begun(
        &self,
        mut start: impl AsyncFnMut(Client) -> Result<Response<v1::Operation>, Status>,
    ) -> v1::Operation {
        wait_async("the agents are there", async || match start(self.client().await).await {
            Err(status) if status.message().contains("is not connected") => None,
            started => Some(started.unwrap().into_inner()),
        })
        .await
    }

    /// A restore of these tables of the latest backup, on every node.
    pub async fn start_chosen(&self, tables: &[&str], renames: &[&str]) -> v1::Operation {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let request = v1::RestoreRequest {
            service: SERVICE.into(),
            backup: "latest".into(),
            choice: Some(v1::Choice { tables: texts(tables), renames: texts(renames) }),
            ..Default::default()
        };
        self.apply_restore(request).await
    }

    /// Restores `node` from the latest backup, which has to end well.
    pub async fn restore(&self, node: &str, delta: bool) -> v1::Operation {
        if !delta {
            self.seen_empty(node).await;
        }
        let operation = self.start_restore(node, delta).await;
        let ended = self.ended(&operation.id).await;
        let good = matches!(ended.state(), v1::OperationState::Succeeded | v1::OperationState::Warnings);
        assert!(good, "the restore ended as {:?}: {:?}", ended.state(), ended.failure);
        ended
    }

    /// An agent that has stood still for longer than its beats is gone for a moment.
    pub async fn is_there(&self, node: &str) {
        let there = async || self.node(node).await.connected.then_some(());
        wait_async(&format!("{node} is connected"), there).await;
    }

    /// And of one that was filled: until then it may still be taken for empty.
    pub async fn seen_filled(&self, node: &str) {
        let filled = async || (!self.node(node).await.data_empty).then_some(());
        wait_async(&format!("{node} is seen to hold data"), filled).await;
    }

    /// The coordinator learns of an emptied directory with the next heartbeat.
    pub async fn seen_empty(&self, node: &str) {
        wait_async(&format!("{node} is seen to be empty"), async || {
            let node = self.node(node).await;
            (node.connected && node.data_empty).then_some(())
        })
        .await;
    }

    /// And of a server that is written.
    pub async fn seen_primary(&self, node: &str) {
        wait_async(&format!("{node} is seen to be the primary"), async || {
            let node = self.node(node).await;
            (node.connected && node.primary).then_some(())
        })
        .await;
    }
}
