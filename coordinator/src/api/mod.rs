//! What operators call. Every coordinator answers reads; what changes something, or needs to know who is connected
//! now, is the leader's. Whatever is started is an operation.
use palinurus_proto::v1::coordinator_server::Coordinator;
use palinurus_proto::{to_status, v1};
use palinurus_repository::Result;
use ractor::ActorRef;
use tonic::{Request, Response, Status};

use crate::access::Sees;
use crate::actor::ask;
use crate::actor::coordinator::CoordinatorMsg;
use crate::actor::service::ServiceMsg;
use crate::door::{Door, Lead};

mod apply;
mod backups;
mod drill;
mod failover;
mod logs;
mod power;
mod reads;
mod restore;
mod retention;

pub(crate) use reads::Reads;
use reads::Watched;
use retention::Keep;

#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) door: Door,
}

impl Api {
    /// For what only the leader may answer.
    fn lead(&self) -> Result<Lead, Status> {
        Ok(self.door.lead()?)
    }

    fn reads(&self) -> Result<Box<dyn Reads>, Status> {
        self.door.reads()
    }
}

impl Lead {
    async fn service(&self, name: &str) -> Result<ActorRef<ServiceMsg>> {
        ask(&self.root, |to| CoordinatorMsg::Find(name.to_owned(), to)).await
    }

    async fn services(&self) -> Result<Vec<ActorRef<ServiceMsg>>> {
        ask(&self.root, CoordinatorMsg::All).await
    }

    async fn set_limits(&self, request: v1::SetLimitsRequest) -> Result<v1::ListNodesReply> {
        let service = self.service(&request.service).await?;
        let nodes = ask(&service, |to| ServiceMsg::SetLimits(Box::new(request), to)).await?;
        Ok(v1::ListNodesReply { nodes })
    }

    async fn cancel_operation(&self, id: &str) -> Result<v1::Operation> {
        let operation = v1::Operation::clone(&self.shared.board.find(id)?.borrow());
        let service = self.service(&operation.service).await?;
        ask(&service, |to| ServiceMsg::Cancel(operation.id, to)).await
    }
}

fn sees<T>(request: &Request<T>) -> Result<Sees, Status> {
    Sees::of(request).map_err(|e| to_status(&e))
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
    type WatchOperationStream = Watched;

    async fn apply_service(
        &self,
        request: Request<v1::ApplyServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        let lead = self.lead()?;
        let applied = match lead.apply(request.into_inner()).await {
            Ok(service) => Ok((&lead as &dyn Reads).standing(service).await),
            Err(e) => Err(e),
        };
        answer(applied)
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesReply>, Status> {
        answer(self.reads()?.list_services(&sees(&request)?).await)
    }

    async fn get_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        let sees = sees(&request)?;
        answer(sees.told(self.reads()?.get_service(request.into_inner()).await))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesReply>, Status> {
        let sees = sees(&request)?;
        answer(sees.told(self.reads()?.list_nodes(request.into_inner(), &sees).await))
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
        let sees = sees(&request)?;
        answer(sees.told(self.reads()?.list_backups(request.into_inner(), &sees).await))
    }

    async fn get_backup(
        &self,
        request: Request<v1::GetBackupRequest>,
    ) -> Result<Response<v1::Backup>, Status> {
        let sees = sees(&request)?;
        answer(sees.told(self.reads()?.get_backup(request.into_inner()).await))
    }

    async fn delete_backup(
        &self,
        request: Request<v1::DeleteBackupRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.delete_backup(request.into_inner()).await)
    }

    async fn plan_retention(
        &self,
        request: Request<v1::RetentionRequest>,
    ) -> Result<Response<v1::RetentionPlan>, Status> {
        let sees = sees(&request)?;
        answer(sees.told(self.reads()?.plan_retention(request.into_inner()).await))
    }

    async fn apply_retention(
        &self,
        request: Request<v1::RetentionRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.apply_retention(request.into_inner()).await)
    }

    async fn pin_backup(
        &self,
        request: Request<v1::PinBackupRequest>,
    ) -> Result<Response<v1::Backup>, Status> {
        let v1::PinBackupRequest { service, backup, reason } = request.into_inner();
        answer(self.lead()?.keep(&service, &backup, Keep::Pin(reason)).await)
    }

    async fn unpin_backup(
        &self,
        request: Request<v1::UnpinBackupRequest>,
    ) -> Result<Response<v1::Backup>, Status> {
        let v1::UnpinBackupRequest { service, backup } = request.into_inner();
        answer(self.lead()?.keep(&service, &backup, Keep::Unpin).await)
    }

    async fn hold_backup(
        &self,
        request: Request<v1::HoldBackupRequest>,
    ) -> Result<Response<v1::Backup>, Status> {
        let v1::HoldBackupRequest { service, backup, until_ms, reason } = request.into_inner();
        let hold = Keep::Hold(palinurus_repository::Timestamp(until_ms), reason);
        answer(self.lead()?.keep(&service, &backup, hold).await)
    }

    async fn unhold_backup(
        &self,
        request: Request<v1::UnholdBackupRequest>,
    ) -> Result<Response<v1::Backup>, Status> {
        let v1::UnholdBackupRequest { service, backup } = request.into_inner();
        answer(self.lead()?.keep(&service, &backup, Keep::Unhold).await)
    }

    async fn plan_restore(
        &self,
        request: Request<v1::RestoreRequest>,
    ) -> Result<Response<v1::RestorePlan>, Status> {
        let lead = self.lead()?;
        answer(Box::pin(lead.plan_restore(request.get_ref())).await.map(|planned| planned.plan))
    }

    async fn apply_restore(
        &self,
        request: Request<v1::RestoreRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let lead = self.lead()?;
        answer(Box::pin(lead.apply_restore(request.get_ref())).await)
    }

    async fn start_drill(
        &self,
        request: Request<v1::StartDrillRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let lead = self.lead()?;
        answer(Box::pin(lead.start_drill(request.into_inner())).await)
    }

    async fn check_repository(
        &self,
        request: Request<v1::CheckRepositoryRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.check_repository(request.into_inner()).await)
    }

    async fn repair_repository(
        &self,
        request: Request<v1::RepairRepositoryRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.repair_repository(request.into_inner()).await)
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsReply>, Status> {
        let sees = sees(&request)?;
        answer(sees.told(self.reads()?.list_operations(request.into_inner(), &sees).await))
    }

    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let (reads, sees) = (self.reads()?, sees(&request)?);
        answer(reads.own(&sees, &request.get_ref().id).and_then(|id| reads.get_operation(&id)))
    }

    async fn watch_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        let (reads, sees) = (self.reads()?, sees(&request)?);
        answer(reads.own(&sees, &request.get_ref().id).and_then(|id| reads.watch_operation(&id)))
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

    async fn show_logs(&self, request: Request<v1::ShowLogsRequest>) -> Result<Response<v1::Logs>, Status> {
        let (lead, sees) = (self.lead()?, sees(&request)?);
        answer(sees.told(Box::pin(lead.show_logs(&request.get_ref().service)).await))
    }

    async fn list_plans(
        &self,
        request: Request<v1::ListPlansRequest>,
    ) -> Result<Response<v1::ListPlansReply>, Status> {
        let plans = self.door.plans().list(&request.get_ref().r#type);
        answer(plans.map(|plans| v1::ListPlansReply { plans }))
    }

    async fn get_cluster(&self, _: Request<v1::GetClusterRequest>) -> Result<Response<v1::Cluster>, Status> {
        Ok(Response::new(self.door.cluster()))
    }

    async fn power_off(
        &self,
        request: Request<v1::PowerOffRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        answer(self.lead()?.power_off(request.into_inner()).await)
    }

    async fn power_on(&self, request: Request<v1::PowerOnRequest>) -> Result<Response<v1::Service>, Status> {
        answer(self.lead()?.power_on(request.into_inner()).await)
    }

    async fn delete_service(
        &self,
        request: Request<v1::DeleteServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        answer(self.lead()?.delete_service(&request.get_ref().service).await)
    }

    async fn set_limits(
        &self,
        request: Request<v1::SetLimitsRequest>,
    ) -> Result<Response<v1::ListNodesReply>, Status> {
        answer(self.lead()?.set_limits(request.into_inner()).await)
    }

    async fn cancel_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        answer(self.lead()?.cancel_operation(&request.get_ref().id).await)
    }
}
