//! A machine with one process on it: a runtime of its own, whose time stands still unless it is run. So a process can be
//! killed at any await, be paused for minutes and find that all its timers are late, or have a clock that is wrong.
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::world::{self, HostId, World, lock};

type Main = Pin<Box<dyn Future<Output = palinurus_repository::Result<()>>>>;

pub(crate) struct Host {
    id: HostId,
    /// Thousandths: how fast its clock runs.
    pub(crate) rate: u64,
    process: Option<Process>,
    /// It runs again from then on.
    pub(crate) paused_until: Option<u64>,
    pub(crate) down_until: Option<u64>,
}

struct Process {
    runtime: Runtime,
    /// None when it has ended.
    main: Option<Main>,
    base: Instant,
    began: u64,
    /// How far it has run.
    reached: u64,
}

impl Host {
    pub(crate) fn new(id: HostId, starts: bool) -> Self {
        Self { id, rate: 1000, process: None, paused_until: None, down_until: starts.then_some(0) }
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Not to be started by itself.
    pub(crate) fn is_gone(&self) -> bool {
        self.process.is_none() && self.down_until.is_none()
    }

    pub(crate) fn reached(&self) -> u64 {
        self.process.as_ref().map_or(0, |process| process.reached)
    }

    pub(crate) fn stands(&self) -> bool {
        self.process.is_none() || self.paused_until.is_some()
    }

    /// Starts the process; `main` is called within its runtime.
    pub(crate) fn start<F>(&mut self, world: &World, now: u64, main: impl FnOnce() -> F)
    where
        F: Future<Output = palinurus_repository::Result<()>> + 'static,
    {
        let Ok(runtime) = Builder::new_current_thread().enable_time().start_paused(true).build() else {
            world.violate(crate::Invariant::Sound, "no runtime");
            return;
        };
        world.network().up(self.id);
        let base = runtime.block_on(async { Instant::now() });
        world::on(self.id, base, now, self.rate, || world::trace("starts"));
        let main: Main = Box::pin(main());
        self.process = Some(Process { runtime, main: Some(main), base, began: now, reached: now });
        (self.down_until, self.paused_until) = (None, None);
    }

    /// Runs it up to that moment. True when its process has ended by itself.
    pub(crate) fn run(&mut self, to: u64) -> bool {
        if self.paused_until.is_some() {
            return false;
        }
        let Some(process) = &mut self.process else { return false };
        if to > process.reached {
            let target = process.base + Duration::from_millis((to - process.began) * self.rate / 1000);
            let (runtime, slot) = (&process.runtime, &mut process.main);
            world::on(self.id, process.base, process.began, self.rate, || {
                runtime.block_on(until(slot, target))
            });
            process.reached = to;
        }
        process.main.is_none()
    }

    /// Goes on after a pause: what would have happened meanwhile is late.
    pub(crate) fn wake(&mut self, now: u64) {
        self.paused_until = None;
        let Some(process) = &mut self.process else { return };
        let target = process.base + Duration::from_millis((now - process.began) * self.rate / 1000);
        let runtime = &process.runtime;
        world::on(self.id, process.base, process.began, self.rate, || {
            world::trace("wakes");
            runtime.block_on(async {
                tokio::time::advance(target.saturating_duration_since(Instant::now())).await;
            });
        });
        process.reached = now;
    }

    /// At whatever await it stands. With `dark`, the machine goes too, and nobody hears of it.
    pub(crate) fn kill(&mut self, world: &Arc<World>, dark: bool) {
        let Some(process) = self.process.take() else { return };
        let waiting = world.network().down(self.id, dark);
        world::on(self.id, process.base, process.began, self.rate, || {
            world::trace(if dark { "loses its power" } else { "is killed" });
            drop(waiting);
            let within = process.runtime.enter();
            drop(process.main);
            drop(within);
            drop(process.runtime);
        });
        lock(&world.registry).gone(self.id);
    }
}

/// Also when the process has ended, what it spawned goes on to that moment.
async fn until(slot: &mut Option<Main>, target: Instant) {
    if let Some(main) = slot {
        let ended = tokio::select! {
            biased;
            ended = main => ended,
            () = tokio::time::sleep_until(target) => return,
        };
        if let Err(e) = ended {
            world::trace(&format!("ends: {}", e.chain()));
        }
        *slot = None;
    }
    tokio::time::sleep_until(target).await;
}
