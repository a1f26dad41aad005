//! For threads that work: they wait at a gate, and give up when their run does.
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::Result;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;

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
        while gate.is_limited() {
            wanted()?;
            let taken = self.runtime.block_on(async { tokio::time::timeout(LOOK, gate.take(amount)).await });
            if taken.is_ok() {
                break;
            }
        }
        Ok(())
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
