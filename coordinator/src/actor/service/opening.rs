//! Opening the service's repository, again and again until it succeeds, and what waits for it meanwhile.
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use palinurus_repository::{Error, Result};
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::{Service, ServiceMsg};
use crate::power;
use crate::vault::Vault;

/// Between tries to open a repository, longer each time.
pub(super) const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(1);
const DEFERRED_MAX: usize = 1000;
const OPEN_AGAIN_AT_MOST: Duration = Duration::from_secs(30);

impl Service {
    /// What needs the repository waits for the try that is under way.
    pub(super) fn unless_opening(&mut self, message: ServiceMsg) -> Option<ServiceMsg> {
        let needs = matches!(
            message,
            ServiceMsg::Start { .. } | ServiceMsg::Vault(_) | ServiceMsg::Claim(..) | ServiceMsg::Log(..)
        );
        if !needs || self.opening.is_none() || self.deferred.len() >= DEFERRED_MAX {
            return Some(message);
        }
        self.deferred.push(message);
        None
    }

    pub(super) fn vault(&self) -> Result<Arc<Vault>> {
        self.vault.as_ref().cloned().map_err(same)
    }

    /// Opens the repository in a task of its own; `Opened` says how that went.
    pub(super) fn open(&mut self, me: &ActorRef<ServiceMsg>) {
        let (shared, record, epoch, me) =
            (self.shared.clone(), self.record.value.clone(), self.epoch, me.clone());
        let open = async move {
            let opened = AssertUnwindSafe(Vault::open(&shared, &record, epoch)).catch_unwind().await;
            let opened = opened.unwrap_or_else(|_| Err(Error::internal("opening the repository panicked")));
            let _ = me.cast(ServiceMsg::Opened(opened.map(Arc::new)));
        };
        self.opening = Some(AbortOnDropHandle::new(tokio::spawn(open)));
    }

    pub(super) fn opened(&mut self, me: &ActorRef<ServiceMsg>, vault: Result<Arc<Vault>>) {
        self.opening = None;
        match &vault {
            Ok(_) => {
                tracing::info!(service = self.name(), epoch = self.epoch.0, "leads the repository");
                let _ = me.cast(ServiceMsg::Resume);
                let _ = me.cast(ServiceMsg::Reconsider);
            }
            Err(e) => {
                tracing::error!(service = self.name(), error = e.chain(), "cannot open the repository");
                me.send_after(self.open_again, || ServiceMsg::Open);
                self.open_again = (self.open_again * 2).min(OPEN_AGAIN_AT_MOST);
                if self.open_again == OPEN_AGAIN_AT_MOST {
                    self.tell_unopened(e);
                }
            }
        }
        if let Ok(vault) = &vault {
            vault.logs.close(!power::takes_log(&self.record.value));
        }
        self.vault = vault;
        let _ = me.cast(ServiceMsg::Power);
        self.after_failover(me);
        self.schedule_retention(me);
        self.schedule_soon(me);
        self.scrub_soon(me);
        self.drill_soon(me);
        for message in self.deferred.drain(..) {
            let _ = me.cast(message);
        }
    }
}

/// An error said once more.
fn same(error: &Error) -> Error {
    let again = Error::new(error.kind(), error.chain());
    match error.hint() {
        Some(hint) => again.with_hint(hint),
        None => again,
    }
}
