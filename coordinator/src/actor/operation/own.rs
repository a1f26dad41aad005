//! Tasks of the coordinator's own: each in a task of its own, stopped with the operation's actor.
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use palinurus_proto::v1;
use palinurus_repository::{Error, Result};
use ractor::{ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{OperationMsg, Running, STORE_AGAIN_AFTER};
use crate::operation::{OWN, Patch, Work, own, record};

/// Of progress that the coordinator's own tasks make, so much is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

impl Running {
    pub(super) fn start_own(&mut self, me: &ActorRef<OperationMsg>, work: Work) {
        if self.own.contains_key(&work) {
            return;
        }
        let stop = CancellationToken::new();
        let (operation, vault, places, me, stopped) =
            (self.record.value.clone(), self.vault.clone(), self.places.clone(), me.clone(), stop.clone());
        let patience = self.shared.config.store_patience;
        let run = async move {
            let shown = std::sync::Mutex::new(None::<Instant>);
            let progress = |progress: v1::Progress| {
                let mut last = shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if last.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY) {
                    *last = Some(Instant::now());
                    let _ = me.cast(OperationMsg::OwnProgress { work, progress });
                }
            };
            let before = vault.requests();
            let done = own::persevere(work, &operation, &vault, &*places, patience, &stopped, &progress);
            // A panic in a task of its own would be silence: the operation must hear of it.
            let ended = AssertUnwindSafe(done).catch_unwind().await.unwrap_or_else(|_| {
                Err(palinurus_proto::failure(&Error::internal(format!("{} panicked", work.name()))))
            });
            let requests = vault.requests().since(&before).into();
            let _ = me.cast(OperationMsg::Own { work, ended, requests });
        };
        self.own.insert(work, (stop, AbortOnDropHandle::new(tokio::spawn(run))));
    }

    pub(super) async fn own_ended(
        &mut self,
        me: &ActorRef<OperationMsg>,
        work: Work,
        ended: Result<Patch, v1::Failure>,
        requests: v1::Requests,
    ) -> Result<(), ActorProcessingErr> {
        let settled = self.settle().await?;
        let mut next = self.record.value.clone();
        record::own_requests(&mut next, work, requests);
        record::own(&mut next, work, ended.clone(), self.shared.now());
        if settled && self.store(next).await? {
            self.own.remove(&work);
            self.seen.told.remove(&(OWN.to_owned(), work));
        } else {
            me.send_after(STORE_AGAIN_AFTER, move || OperationMsg::Own { work, ended, requests });
        }
        Ok(())
    }
}
