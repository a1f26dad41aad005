//! Who asks a cluster of coordinators for work: finds the one that leads, and asks again when it goes.
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use palinurus_identity::Dialer;
use palinurus_proto::v1;
use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::world::{SERVICE, wait_async};

pub const PORT: u16 = 7410;
/// For one call to one coordinator, which may be paused or cut off.
const PATIENCE: Duration = Duration::from_secs(4);

pub type Client = CoordinatorClient<Channel>;

/// Coordinators by name and address, and who asks them.
#[derive(Clone, Debug)]
pub struct Operator {
    pub coordinators: Vec<(String, Ipv4Addr)>,
    pub tls: Dialer,
}

impl Operator {
    async fn channel(&self, address: Ipv4Addr) -> Option<Channel> {
        let uri = format!("https://{address}:{PORT}").parse().unwrap();
        let tune =
            |endpoint: Endpoint| endpoint.connect_timeout(Duration::from_millis(500)).timeout(PATIENCE);
        // The connection's own time-out ends before HTTP/2 is spoken.
        tokio::time::timeout(Duration::from_secs(1), self.tls.connect(&uri, tune)).await.ok()?.ok()
    }

    /// One call to one coordinator.
    pub async fn ask_one<T>(
        &self,
        name: &str,
        call: impl AsyncFnOnce(Client) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let (_, address) =
            self.coordinators.iter().find(|(known, _)| known == name).expect("a coordinator's name");
        let channel = self.channel(*address).await.ok_or_else(|| Status::unavailable("no connection"))?;
        call(Client::new(channel).max_decoding_message_size(64 << 20)).await
    }

    /// The answer of whichever coordinator leads, however long it takes until one does.
    pub async fn ask<T>(
        &self,
        what: &str,
        mut call: impl AsyncFnMut(Client) -> Result<T, Status>,
    ) -> Result<T, Status> {
        wait_async(what, async || {
            for (name, _) in &self.coordinators {
                match self.ask_one(name, &mut call).await {
                    Err(status) if passes(&status) => {}
                    answered => return Some(answered),
                }
            }
            None
        })
        .await
    }

    /// Those that say of themselves that they lead. More than one only while an old leader has not noticed.
    pub async fn leaders(&self) -> Vec<String> {
        let mut leaders = Vec::new();
        for (name, address) in &self.coordinators {
            if self.leads(*address).await.unwrap_or(false) {
                leaders.push(name.clone());
            }
        }
        leaders
    }

    async fn leads(&self, address: Ipv4Addr) -> Option<bool> {
        let mut client = HealthClient::new(self.channel(address).await?);
        let request = HealthCheckRequest { service: "leader".into() };
        let reply =
            tokio::time::timeout(Duration::from_millis(500), client.check(request)).await.ok()?.ok()?;
        Some(reply.into_inner().status() == ServingStatus::Serving)
    }

    /// Whom `name` takes for the leader; empty: nobody, or `name` does not answer.
    pub async fn leader_by(&self, name: &str) -> String {
        let cluster =
            self.ask_one(name, async |mut client| client.get_cluster(v1::GetClusterRequest {}).await);
        cluster.await.map_or_else(|_| String::new(), |cluster| cluster.into_inner().leader)
    }

    pub async fn leader(&self) -> String {
        wait_async("somebody leads", async || self.leaders().await.pop()).await
    }

    /// Starts one, or finds that an earlier call whose answer was lost had started one, which may be over by now.
    pub async fn start(
        &self,
        kind: v1::OperationKind,
        mut call: impl AsyncFnMut(Client) -> Result<v1::Operation, Status>,
    ) -> Result<v1::Operation, Status> {
        let known: BTreeSet<String> = self.operations(false).await.into_iter().map(|each| each.id).collect();
        let refused = match self.ask(kind.as_str_name(), &mut call).await {
            Err(refused) => refused,
            started => return started,
        };
        let new = self.operations(false).await.into_iter().filter(|each| !known.contains(&each.id));
        match new.into_iter().rfind(|each| each.kind() == kind) {
            Some(started) => Ok(started),
            // Of another kind: nobody asked for it, and it keeps this one from being begun.
            None if refused.code() == Code::Aborted => self.running().await.pop().ok_or(refused),
            None => Err(refused),
        }
    }

    pub async fn start_backup(&self) -> v1::Operation {
        let request = v1::StartBackupRequest { service: SERVICE.into(), full: false };
        wait_async("a backup starts", async || {
            let started = self.start(v1::OperationKind::Backup, async |mut client| {
                Ok(client.start_backup(request.clone()).await?.into_inner())
            });
            started.await.ok()
        })
        .await
    }

    pub async fn start_delete(&self, backup: &str) -> Result<v1::Operation, Status> {
        let request = v1::DeleteBackupRequest { service: SERVICE.into(), backup: backup.into() };
        self.start(v1::OperationKind::Delete, async |mut client| {
            Ok(client.delete_backup(request.clone()).await?.into_inner())
        })
        .await
    }

    pub async fn start_restore(
        &self,
        backup: &str,
        node: &str,
        delta: bool,
    ) -> Result<v1::Operation, Status> {
        let nodes = vec![node.to_owned()];
        let request = v1::RestoreRequest {
            service: SERVICE.into(),
            backup: backup.into(),
            nodes,
            delta,
            ..Default::default()
        };
        self.start(v1::OperationKind::Restore, async |mut client| {
            Ok(client.apply_restore(request.clone()).await?.into_inner())
        })
        .await
    }

    pub async fn running(&self) -> Vec<v1::Operation> {
        self.operations(true).await
    }

    async fn operations(&self, running: bool) -> Vec<v1::Operation> {
        let request = v1::ListOperationsRequest { running, ..Default::default() };
        self.ask("the operations", async |mut client| {
            Ok(client.list_operations(request.clone()).await?.into_inner().operations)
        })
        .await
        .unwrap()
    }

    /// The operation once it has ended, however that is.
    pub async fn ended(&self, id: &str) -> v1::Operation {
        let request = v1::GetOperationRequest { id: id.to_owned() };
        wait_async(&format!("operation {id} ends"), async || {
            let call =
                async |mut client: Client| Ok(client.get_operation(request.clone()).await?.into_inner());
            let operation = self.ask("an operation", call).await.ok()?;
            let ended =
                !matches!(operation.state(), v1::OperationState::Running | v1::OperationState::Cancelling);
            ended.then_some(operation)
        })
        .await
    }

    pub async fn nodes(&self) -> Vec<v1::Node> {
        self.ask("the nodes", async |mut client| {
            Ok(client.list_nodes(v1::ListNodesRequest::default()).await?.into_inner().nodes)
        })
        .await
        .unwrap()
    }
}

/// Another coordinator, or the same one later, may answer.
fn passes(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::FailedPrecondition
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
    )
}
