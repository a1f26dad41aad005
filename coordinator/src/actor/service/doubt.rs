//! Writes of operations that were not answered: they may have landed.
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::{ErrorKind, Result};
use ractor::ActorRef;

use super::{Service, ServiceMsg};
use crate::actor::RESTART_AFTER;
use crate::operation::record;
use crate::state::{Expect, Versioned};
use crate::vault::Vault;

impl Service {
    /// After a write that failed, which may have landed.
    pub(super) async fn newest(&self, record: Versioned<v1::Operation>) -> Versioned<v1::Operation> {
        self.shared.records.operation(self.name(), &record.value.id).await.unwrap_or(record)
    }

    pub(super) async fn begin(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        vault: Arc<Vault>,
        record: Versioned<v1::Operation>,
    ) {
        let operation = &record.value;
        self.shared.board.publish(operation);
        tracing::info!(
            service = self.name(),
            operation = operation.id,
            kind = operation.kind().as_str_name(),
            "begins"
        );
        self.slot.failures = 0;
        self.run(me, vault, record).await;
    }

    /// Stores what was begun and not answered, or finds that it is stored: a record that says it runs must not be left
    /// without anybody who runs it.
    pub(super) async fn make_sure(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        vault: Arc<Vault>,
        operation: v1::Operation,
    ) {
        let stored = match self.shared.records.put_operation(&operation, Expect::Absent).await {
            Ok(revision) => Ok(Versioned { value: operation.clone(), revision }),
            Err(e) if e.kind() == ErrorKind::Conflict => {
                self.shared.records.operation(self.name(), &operation.id).await
            }
            Err(e) => Err(e),
        };
        match stored {
            Ok(record) => Box::pin(self.begin(me, vault, record)).await,
            // The next leader runs it, if it is there.
            Err(e) if e.kind() == ErrorKind::Fenced => {}
            Err(e) => {
                tracing::warn!(
                    operation = operation.id,
                    error = e.chain(),
                    "cannot tell whether the operation is stored, trying again"
                );
                self.slot.unsure = Some(operation);
                me.send_after(RESTART_AFTER, || ServiceMsg::Resume);
            }
        }
    }

    pub(super) async fn cancel_waiting(&mut self, at: usize) -> Result<v1::Operation> {
        let waiting = self.slot.waiting[at].clone();
        let mut next = waiting.value.clone();
        record::cancel(&mut next, self.shared.now());
        match self.shared.records.put_operation(&next, Expect::At(waiting.revision)).await {
            Ok(revision) => {
                self.shared.board.publish(&next);
                self.slot.waiting[at] = Versioned { value: next.clone(), revision };
                Ok(next)
            }
            Err(e) => {
                self.slot.waiting[at] = self.newest(waiting).await;
                Err(e)
            }
        }
    }
}
