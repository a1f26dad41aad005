//! Standing by, leading, and stepping down, over and over until the coordinator stops. Whatever acts in a leader's
//! name lives under one token and one root actor: both end before the lease is given back.
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::mutant::{self, Mutant};
use palinurus_repository::{Error, Result};
use ractor::Actor;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::actor::coordinator::CoordinatorActor;
use crate::door::Lead;
use crate::notify;
use crate::shared::{Base, Shared};
use crate::state::{Election, Lease, Records};

/// The service whose health says whether this coordinator leads.
pub(crate) const HEALTH: &str = "leader";
/// What the actors get for ending in order.
const STEP_DOWN: Duration = Duration::from_secs(20);
/// Before standing for election again after something failed.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Until cancelled.
pub(crate) async fn run(
    base: &Arc<Base>,
    election: &dyn Election,
    address: &str,
    lead: &watch::Sender<Option<Lead>>,
    health: &HealthReporter,
    cancel: &CancellationToken,
) -> Result<()> {
    while !cancel.is_cancelled() {
        let won = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            won = election.campaign(address) => won,
        };
        let led = match won {
            Ok(lease) => one(base, lease, lead, health, cancel).await,
            Err(e) => Err(e),
        };
        if let Err(e) = led {
            tracing::error!(
                error = e.chain(),
                hint = e.hint().unwrap_or_default(),
                "cannot lead, trying again"
            );
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(AGAIN_AFTER) => {}
            }
        }
    }
    Ok(())
}

/// Leads under one lease, to its end.
async fn one(
    base: &Arc<Base>,
    lease: Lease,
    lead: &watch::Sender<Option<Lead>>,
    health: &HealthReporter,
    cancel: &CancellationToken,
) -> Result<()> {
    let Lease { state, over, resign } = lease;
    let acting = cancel.child_token();
    let shared = Arc::new(Shared::new(base.clone(), Records::new(state), acting.clone()));
    let epoch = shared.records.epoch().0;
    tracing::info!(epoch, "leads");
    let mut notifying = AbortOnDropHandle::new(tokio::spawn(notify::run(shared.clone())));
    // Opening reads the state: a lease that ends meanwhile must not be waited out.
    let spawned = tokio::select! {
        biased;
        () = over.cancelled() => Err(Error::unavailable("the lease ended before the state was read")),
        spawned = CoordinatorActor::spawn(None, CoordinatorActor, shared.clone()) => spawned
            .map_err(|e| Error::unavailable("cannot begin to lead").with_source(e.to_string())),
    };
    let (root, mut ended) = match spawned {
        Ok(spawned) => spawned,
        Err(e) => {
            acting.cancel();
            end(&mut notifying).await;
            resign.resign().await;
            return Err(e);
        }
    };
    // In this order: whoever waits for the lead may ask for the health at once.
    health.set_service_status(HEALTH, ServingStatus::Serving).await;
    lead.send_replace(Some(Lead { root: root.clone(), shared }));
    let outcome = tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        () = over.cancelled(), if !mutant::on(Mutant::LeaderIgnoresLease) => {
            tracing::warn!(epoch, "the lease is over: stepping down");
            Ok(())
        }
        _ = &mut ended => Err(Error::internal("the root actor ended")),
    };
    // In this order: nothing new begins, nothing goes on, and only then may another lead at once.
    acting.cancel();
    lead.send_replace(None);
    health.set_service_status(HEALTH, ServingStatus::NotServing).await;
    if root.stop_and_wait(Some("it leads no longer".to_owned()), Some(STEP_DOWN)).await.is_err() {
        root.kill();
    }
    end(&mut notifying).await;
    resign.resign().await;
    outcome
}

/// Nothing of it goes on in the name of a leader that was.
async fn end(task: &mut AbortOnDropHandle<()>) {
    task.abort();
    let _ = task.await;
}
