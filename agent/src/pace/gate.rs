//! Where everybody waits who wants of one thing that is limited: in the order in which they came, and only until the
//! limit allows it, also when that changes meanwhile.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::bucket::Bucket;

#[derive(Debug)]
pub(crate) struct Gate {
    /// Without one nothing is asked: no lock, and no look at the clock.
    limited: AtomicBool,
    bucket: Mutex<Bucket>,
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
    began: Instant,
    waited: AtomicU64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            limited: AtomicBool::new(false),
            bucket: Mutex::new(Bucket::new(0, Duration::ZERO)),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            began: Instant::now(),
            waited: AtomicU64::new(0),
        }
    }
}

impl Gate {
    /// So much a second; 0: without a limit. At once, also for those that wait.
    pub(crate) fn set(&self, rate: u64) {
        let now = self.began.elapsed();
        self.bucket().set(rate, now);
        self.limited.store(rate > 0, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Acquire)
    }

    /// How often somebody had to wait.
    #[cfg(test)]
    pub(crate) fn waited(&self) -> u64 {
        self.waited.load(Ordering::Acquire)
    }

    /// Given up while it waits, it has taken nothing.
    pub(crate) async fn take(&self, amount: u64) {
        if !self.is_limited() {
            return;
        }
        let _turn = self.turn.lock().await;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let now = self.began.elapsed();
            let Err(wait) = self.bucket().take(amount, now) else { return };
            self.waited.fetch_add(1, Ordering::AcqRel);
            tokio::select! {
                () = changed => {}
                () = sleep(wait) => {}
            }
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn taken_in(gate: &Gate, amounts: &[u64]) -> Duration {
        let began = Instant::now();
        for amount in amounts {
            gate.take(*amount).await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_at_the_rate_and_holds_nobody_without_one() {
        let gate = Gate::default();
        assert_eq!(taken_in(&gate, &[u64::MAX; 4]).await, Duration::ZERO);
        gate.set(1000);
        // The last is still to be paid for when it is given.
        let time = taken_in(&gate, &[500; 21]).await;
        assert!((Duration::from_millis(9900)..Duration::from_millis(10_100)).contains(&time), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_when_the_limit_changes() {
        let gate = Arc::new(Gate::default());
        gate.set(1);
        gate.take(1 << 30).await;
        let began = Instant::now();
        let waiting = {
            let gate = gate.clone();
            tokio::spawn(async move { gate.take(1).await })
        };
        while gate.waited() == 0 {
            tokio::task::yield_now().await;
        }
        gate.set(1 << 30);
        waiting.await.unwrap();
        let time = began.elapsed();
        assert!(time < Duration::from_secs(2), "{time:?} instead of 34 years");
        gate.take(1 << 40).await;
        let waiting = {
            let gate = gate.clone();
            tokio::spawn(async move { gate.take(1).await })
        };
        tokio::task::yield_now().await;
        gate.set(0);
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_has_taken_nothing() {
        let gate = Gate::default();
        gate.set(10);
        gate.take(100).await;
        let given_up = tokio::time::timeout(Duration::from_secs(1), gate.take(1 << 40)).await;
        assert!(given_up.is_err());
        let time = taken_in(&gate, &[1]).await;
        assert!(time < Duration::from_secs(10), "{time:?}");
    }
}
