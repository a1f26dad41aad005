//! For threads that work: they wait at a gate, and give up when their run does.
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::Result;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::{Gate, Pace};

/// How long a thread may wait before it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    pub(crate) pace: Arc<Pace>,
    pub(crate) runtime: Handle,
}

impl Pacer {
    /// Blocks the calling thread; not to be called on the runtime. `wanted` ends the wait with its error.
    pub(crate) fn hold(
        &self,
        gate: fn(&Pace) -> &Gate,
        amount: u64,
        wanted: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let gate = gate(&self.pace);
        if !gate.is_limited() {
            return Ok(());
        }
        self.runtime.block_on(async {
            // One wait, looked up from: who asks anew stands behind everybody again.
            let mut taken = pin!(gate.take(amount));
            loop {
                wanted()?;
                if timeout(LOOK, taken.as_mut()).await.is_ok() {
                    return Ok(());
                }
            }
        })
    }

    /// For what this thread has done since it last asked.
    pub(crate) fn hold_for_work(&self, time: &mut ThreadTime, wanted: impl Fn() -> Result<()>) -> Result<()> {
        if !self.pace.cpu.is_limited() {
            // What was done without a limit is not held against anybody.
            time.0 = None;
            return Ok(());
        }
        self.hold(|pace| &pace.cpu, time.spent(), wanted)
    }
}

/// Processor time of the thread that asks: the kernel's count, which no test needs to own.
#[derive(Debug, Default)]
pub(crate) struct ThreadTime(Option<u64>);

impl ThreadTime {
    /// Nanoseconds since it was last asked.
    fn spent(&mut self) -> u64 {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let now = u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
            + u64::try_from(time.tv_nsec).unwrap_or(0);
        let before = self.0.replace(now);
        before.map_or(0, |before| now.saturating_sub(before))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use palinurus_repository::Error;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thread_keeps_its_place_while_it_looks_whether_it_is_wanted() {
        let pace = Arc::new(Pace::default());
        pace.read.set(1);
        pace.read.take(1 << 30).await;
        let pacer = Pacer { pace: pace.clone(), runtime: Handle::current() };
        let looks = AtomicUsize::new(0);
        let held = tokio::task::spawn_blocking(move || {
            pacer.hold(
                |pace| &pace.read,
                1,
                || match looks.fetch_add(1, Ordering::AcqRel) {
                    4 => Err(Error::unavailable("cancelled")),
                    _ => Ok(()),
                },
            )
        });
        assert_eq!(held.await.unwrap().unwrap_err().what(), "cancelled");
        assert_eq!(pace.read.waited(), 1, "it asked once");
    }
}
