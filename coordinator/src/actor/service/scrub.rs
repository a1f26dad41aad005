//! Begins the parts of a scrub when they are due. Whatever else is to run goes first.
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_repository::Result;
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::{Service, ServiceMsg};
use crate::operation::Detail;
use crate::scrub::{self, Verdict};

/// After a part was begun, or could not be.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// After a start: agents come first.
const SOON: Duration = Duration::from_secs(60);

/// When it is looked at next.
pub(super) type Timer = Option<AbortOnDropHandle<Result<(), ractor::MessagingErr<ServiceMsg>>>>;

impl Service {
    pub(super) fn scrub_soon(&mut self, me: &ActorRef<ServiceMsg>) {
        if self.vault.is_ok() {
            self.scrub_after(me, SOON + SOON.mul_f64(self.chance()));
        }
    }

    fn scrub_after(&mut self, me: &ActorRef<ServiceMsg>, after: Duration) {
        self.scrubbing = Some(AbortOnDropHandle::new(me.send_after(after, || ServiceMsg::Scrub)));
    }

    pub(super) async fn scrub(&mut self, me: &ActorRef<ServiceMsg>) {
        let now = self.shared.now();
        let past = self.history.values().map(|operation| &operation.value);
        let after = match scrub::consider(&self.settings(), past, now) {
            Verdict::Off => {
                self.scrubbing = None;
                return;
            }
            Verdict::Wait(until) => until.since(now),
            Verdict::Read { percent, part } => {
                if self.slot.current().is_none()
                    && let Err(e) = Box::pin(self.begin_scrub(me, percent, part)).await
                {
                    tracing::info!(service = self.name(), error = e.chain(), "the scrub waits");
                }
                AGAIN
            }
        };
        self.scrub_after(me, after);
    }

    async fn begin_scrub(&mut self, me: &ActorRef<ServiceMsg>, percent: u32, part: u64) -> Result<()> {
        let vault = self.vault()?;
        let node = self.reader()?;
        let nodes = vec![node.clone()];
        let detail = v1::VerifyDetail {
            read_data: true,
            percent,
            day: part,
            automatic: true,
            node,
            ..Default::default()
        };
        let why = ["the service's setting scrub".to_owned()];
        Box::pin(self.begin_new(me, vault, nodes, Detail::Verify(detail), &why)).await.map(drop)
    }

    /// Of those that say nothing, the last one is enough to go on from.
    pub(super) async fn drop_old_scrubs(&mut self) {
        let old: Vec<v1::Operation> = scrub::forgettable(self.history.values().map(|each| &each.value));
        for operation in old {
            if let Err(e) = self.shared.records.delete_operation(&operation).await {
                tracing::warn!(operation = operation.id, error = e.chain(), "cannot delete an old operation");
                return;
            }
            self.history.remove(&operation.id);
            self.shared.board.remove(&operation.id);
        }
    }
}
