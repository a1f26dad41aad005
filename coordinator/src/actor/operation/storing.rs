//! Writes of the operation's record, also over a state that does not always answer.
use palinurus_proto::v1;
use palinurus_repository::ErrorKind;
use ractor::ActorProcessingErr;

use super::Running;
use crate::operation::finished;
use crate::state::{Expect, Versioned};

impl Running {
    /// Its end is shown by the service, when the next one may begin: who is told of it does not meet it any more.
    pub(super) fn show(&self) {
        if !finished(self.record.value.state()) {
            self.shared.board.publish(&self.record.value);
        }
    }

    /// Looks whether a write that was not answered has landed: then that is the record to go on from. False when that
    /// cannot be told now.
    pub(super) async fn settle(&mut self) -> Result<bool, ActorProcessingErr> {
        if !self.doubt {
            return Ok(true);
        }
        let known = &self.record.value;
        match self.shared.records.operation(&known.service, &known.id).await {
            Ok(stored) if stored.value.epoch > self.vault.epoch.0 => Ok(false), // another leads by now
            Ok(stored) => {
                if stored.revision > self.record.revision {
                    self.record = stored;
                    self.doubt = false;
                    self.show();
                }
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::Unavailable => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// False when the record could not be stored now: nothing may follow from it yet.
    pub(super) async fn store(&mut self, next: v1::Operation) -> Result<bool, ActorProcessingErr> {
        match self.shared.records.put_operation(&next, Expect::At(self.record.revision)).await {
            Ok(revision) => {
                self.doubt = false;
                self.record = Versioned { value: next, revision };
                self.show();
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::Unavailable => {
                tracing::warn!(
                    operation = next.id,
                    error = e.chain(),
                    "cannot store the operation, trying again"
                );
                self.doubt = true;
                Ok(false)
            }
            // The write in doubt came after all.
            Err(e) if e.kind() == ErrorKind::Conflict && self.doubt => Ok(false),
            // Another leads: this actor is about to be stopped, and has nothing to say any more.
            Err(e) if e.kind() == ErrorKind::Fenced => {
                tracing::info!(
                    operation = next.id,
                    why = e.chain(),
                    "leaves the operation to the next leader"
                );
                Ok(false)
            }
            // Ours is not the newest: whoever supervises loads it again.
            Err(e) => Err(e.into()),
        }
    }
}
