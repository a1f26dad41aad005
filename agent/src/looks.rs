//! What was last seen of the data. One look at a time: a disk that hangs must not eat a thread each time.
use std::time::Duration;

use tokio::sync::watch;

use crate::engine::Health;

/// Between two when nothing has happened.
const PERIOD: Duration = Duration::from_secs(5);
/// A disk that hangs must not keep the agent from saying that it lives, nor a task from its end.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(crate) struct Looks {
    health: watch::Sender<Health>,
    /// How often one was asked for, and how many of these were before the last look that has ended.
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
}

impl Looks {
    pub(crate) fn seen(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Until a look that begins from now on has ended. Nobody waits where nobody looks.
    pub(crate) async fn again(&self) {
        if self.asked.receiver_count() == 0 {
            return;
        }
        let (mut answered, mut number) = (self.answered.subscribe(), 0);
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let _ = tokio::time::timeout(PATIENCE, answered.wait_for(|answered| *answered >= number)).await;
    }

    /// Without end: when it is asked for, when a task may have changed something, and from time to time.
    pub(crate) async fn keep<Look: Future<Output = Health>>(
        &self,
        look: impl Fn() -> Look,
        mut changes: watch::Receiver<u64>,
    ) {
        let mut asked = self.asked.subscribe();
        loop {
            let number = *asked.borrow_and_update();
            let health = look().await;
            self.health.send_if_modified(|seen| {
                let differs = *seen != health;
                *seen = health;
                differs
            });
            self.answered.send_replace(number);
            let soon = async {
                tokio::select! {
                    biased;
                    _ = asked.changed() => {}
                    _ = changes.changed() => {}
                }
            };
            let _ = tokio::time::timeout(PERIOD, soon).await;
        }
    }
}
