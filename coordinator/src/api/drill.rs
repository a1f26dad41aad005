//! Drills, asked for by an operator.
use palinurus_proto::v1;
use palinurus_repository::Result;

use crate::actor::ask;
use crate::actor::service::ServiceMsg;
use crate::door::Lead;
use crate::drill::{Prepared, prepare};
use crate::operation::Detail;

impl Lead {
    pub(super) async fn start_drill(&self, request: v1::StartDrillRequest) -> Result<v1::Operation> {
        let service = self.service(&request.service).await?;
        let vault = Self::vault(&service).await?;
        let described = ask(&service, ServiceMsg::Describe).await?;
        let Prepared { detail, nodes } = prepare(&vault, &described.nodes, &request).await?;
        self.start(&request.service, Detail::Drill(detail), nodes).await
    }
}
