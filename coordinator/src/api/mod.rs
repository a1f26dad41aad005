//! What operators call. Reads come from the actors, the ledger and the board; whatever is started is an operation.
use std::sync::Arc;

use palinurus_proto::v1::coordinator_server::Coordinator;
use palinurus_proto::{to_status, v1};
use palinurus_repository::{Error, Result};
use ractor::ActorRef;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::actor::ask;
use crate::actor::coordinator::CoordinatorMsg;
use crate::actor::service::{Described, ServiceMsg};
use crate::door::{Door, Lead};
use crate::operation::finished;
use crate::shared::Base;

mod apply;
mod backups;
mod failover;

#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) door: Door,
    pub(crate) base: Arc<Base>,
    pub(crate) cancel: CancellationToken,
}

impl Api {
    fn lead(&self) -> Result<Lead, Status> {
        Ok(self.door.lead()?)
    }
}

impl Lead {
    async fn service(&self, name: &str) -> Result<ActorRef<ServiceMsg>> {
        ask(&self.root, |to| CoordinatorMsg::Find(name.to_owned(), to)).await
    }

    /// That service, or all of them.
    async fn services(&self, name: &str) -> Result<Vec<ActorRef<ServiceMsg>>> {
        match name {
            "" => ask(&self.root, CoordinatorMsg::All).await,
            name => Ok(vec![self.service(name).await?]),
        }
    }

    async fn described(&self, name: &str) -> Result<Vec<Described>> {
        let mut described = Vec::new();
        for service in self.services(name).await? {
            described.push(ask(&service, ServiceMsg::Describe).await?);
        }
        Ok(described)
    }

    async fn list_nodes(&self, request: v1::ListNodesRequest) -> Result<v1::ListNodesReply> {
        let described = self.described(&request.service).await?;
        Ok(v1::ListNodesReply { nodes: described.into_iter().flat_map(|service| service.nodes).collect() })
    }

    async fn list_operations(&self, request: v1::ListOperationsRequest) -> Result<v1::ListOperationsReply> {
        if !request.service.is_empty() {
            self.service(&request.service).await?;
        }
        let all = self.shared.board.list();
        let wanted = all.iter().filter(|operation| {
            (request.service.is_empty() || operation.service == request.service)
                && !(request.running && finished(operation.state()))
        });
        Ok(v1::ListOperationsReply {
            operations: wanted.map(|operation| v1::Operation::clone(operation)).collect(),
        })
    }

    fn get_operation(&self, id: &str) -> Result<v1::Operation> {
        Ok(v1::Operation::clone(&self.shared.board.find(id)?.borrow()))
    }

    async fn cancel_operation(&self, id: &str) -> Result<v1::Operation> {
        let operation = self.get_operation(id)?;
        let service = self.service(&operation.service).await?;
        ask(&service, |to| ServiceMsg::Cancel(operation.id, to)).await
    }

    fn watch_operation(&self, id: &str) -> Result<ReceiverStream<Result<v1::Operation, Status>>> {
        let mut watched = self.shared.board.find(id)?;
        let cancel = self.shared.cancel.clone();
        let (shown, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let operation = v1::Operation::clone(&watched.borrow_and_update());
                let last = finished(operation.state());
                if shown.send(Ok(operation)).await.is_err() || last {
                    return;
                }
                tokio::select! {
                    biased;
                    () = shown.closed() => return,
                    () = cancel.cancelled() => {
                        let stops = Error::unavailable("the coordinator stops").with_hint("the operation goes on when it starts again");
                        let _ = shown.send(Err(to_status(&stops))).await;
                        return;
                    }
                    changed = watched.changed() => if changed.is_err() {
                        return; // too old to be kept
                    },
                }
            }
        });
        Ok(ReceiverStream::new(stream))
    }
}

fn answer<T>(result: Result<T>) -> Result<Response<T>, Status> {
    match result {
        Ok(value) => Ok(Response::new(value)),
        Err(e) => {
            if e.kind() == palinurus_repository::ErrorKind::Internal {
                tracing::error!(error = e.chain(), "a call failed");
            }
            Err(to_status(&e))
        }
    }
}

#[tonic::async_trait]
impl Coordinator for Api {
    type WatchOperationStream = ReceiverStream<Result<v1::Operation, Status>>;

    async fn apply_service(
        &self,
        request: Request<v1::ApplyServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        answer(self.lead()?.apply(request.into_inner().service.unwrap_or_default()).await)
    }

    async fn list_services(
        &self,
        _: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesReply>, Status> {
        let described = self.lead()?.described("").await;
        answer(described.map(|all| v1::ListServicesReply {
            services: all.into_iter().map(|each| each.service).collect(),
        }))
    }

    async fn get_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        let lead = self.lead()?;
        let get = async {
            let service = lead.service(&request.get_ref().service).await?;
            Ok(ask(&service, ServiceMsg::Describe).await?.service)
        };
        answer(get.await)
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesReply>, Status> {
        answer(self.lead()?.list_nodes(request.into_inner()).await)
    }

    async fn start_backup(
        &self,
        request: Request<v1::StartBackupRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.start_backup(request.into_inner()).await)
    }

    async fn list_backups(
        &self,
        request: Request<v1::ListBackupsRequest>,
    ) -> Result<Response<v1::ListBackupsReply>, Status> {
        answer(self.lead()?.list_backups(&request.get_ref().service).await)
    }

    async fn get_backup(
        &self,
        request: Request<v1::GetBackupRequest>,
    ) -> Result<Response<v1::Backup>, Status> {
        answer(self.lead()?.get_backup(request.into_inner()).await)
    }

    async fn delete_backup(
        &self,
        request: Request<v1::DeleteBackupRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.delete_backup(request.into_inner()).await)
    }

    async fn plan_restore(
        &self,
        request: Request<v1::RestoreRequest>,
    ) -> Result<Response<v1::RestorePlan>, Status> {
        answer(self.lead()?.plan_restore(request.get_ref()).await.map(|planned| planned.plan))
    }

    async fn apply_restore(
        &self,
        request: Request<v1::RestoreRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.apply_restore(request.get_ref()).await)
    }

    async fn check_repository(
        &self,
        request: Request<v1::CheckRepositoryRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.check_repository(request.into_inner()).await)
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsReply>, Status> {
        answer(self.lead()?.list_operations(request.into_inner()).await)
    }

    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.get_operation(&request.get_ref().id))
    }

    async fn watch_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        answer(self.lead()?.watch_operation(&request.get_ref().id))
    }

    async fn plan_failover(
        &self,
        request: Request<v1::FailoverRequest>,
    ) -> Result<Response<v1::FailoverPlan>, Status> {
        answer(self.lead()?.plan_failover(request.into_inner()).await)
    }

    async fn apply_failover(
        &self,
        request: Request<v1::FailoverRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.apply_failover(request.into_inner()).await)
    }

    async fn get_cluster(&self, _: Request<v1::GetClusterRequest>) -> Result<Response<v1::Cluster>, Status> {
        Err(Status::unimplemented("cluster"))
    }

    async fn cancel_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.cancel_operation(&request.get_ref().id).await)
    }
}
