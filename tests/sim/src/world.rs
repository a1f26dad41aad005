//! What the hosts of one run share: network, state, stores, disks; and what has been found.
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palinurus_repository::{Clock, KeyFile, Timestamp};
use tokio::time::Instant;

use crate::chance::Chance;
use crate::disk::Disk;
use crate::invariant::{Invariant, Violation};
use crate::network::Network;
use crate::state::Registry;
use crate::store::Vault;
use crate::trace::Trace;
use crate::wal::Wals;

/// Unix time of a run's beginning, in milliseconds.
const BEGAN: u64 = 1_900_000_000_000;
/// More says no more.
const VIOLATIONS_KEPT: usize = 20;

pub(crate) type HostId = usize;

pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) directory: PathBuf,
    pub(crate) key: KeyFile,
    pub(crate) hosts: Vec<String>,
    pub(crate) network: Mutex<Network>,
    pub(crate) registry: Mutex<Registry>,
    /// By URL.
    pub(crate) vaults: Mutex<BTreeMap<String, Vault>>,
    /// By machine.
    pub(crate) disks: Mutex<BTreeMap<HostId, Disk>>,
    /// By service.
    pub(crate) wals: Mutex<BTreeMap<String, Wals>>,
    pub(crate) faults: Mutex<BTreeMap<HostId, Faults>>,
    /// Buffers for packs, each of many MiB.
    pub(crate) buffers: Mutex<Vec<Vec<u8>>>,
    /// What the operator wants done to machines.
    pub(crate) orders: Mutex<Vec<Order>>,
    /// Machines that are gone for good, unless the operator brings them back.
    pub(crate) lost: Mutex<BTreeSet<HostId>>,
    trace: Mutex<Trace>,
    now: Mutex<u64>,
    /// The last that each agent obeyed.
    epochs: Mutex<BTreeMap<HostId, u64>>,
    violations: Mutex<Vec<Violation>>,
}

/// What goes wrong for one host, in percent of its calls where not said otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// The store answers nothing.
    pub(crate) store_away: bool,
    /// It fails before the deed.
    pub(crate) store_refuses: u64,
    /// It does the deed and does not answer.
    pub(crate) store_unanswered: u64,
    /// Milliseconds that a call may take.
    pub(crate) store_slow: u64,
    pub(crate) state_away: bool,
    pub(crate) state_unanswered: u64,
    /// Its lease is neither renewed nor seen to end, and all else goes on: worse than any pause.
    pub(crate) lease_blind: bool,
    pub(crate) engine: u64,
    /// Milliseconds by which its wall clock is wrong.
    pub(crate) skew: i64,
}

/// What an operator does to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// It goes, and nobody hears of it.
    Lose(HostId),
    /// It is started.
    Start(HostId),
    /// It begins anew, with nothing on it.
    Renew(HostId),
    /// It is taken away, with all that is on it.
    Retire(HostId),
}

/// Where the code runs that runs now.
#[derive(Clone, Debug)]
struct Here {
    host: HostId,
    base: Instant,
    began: u64,
    rate: u64,
}

thread_local! {
    static WORLD: RefCell<Option<Arc<World>>> = const { RefCell::new(None) };
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// Errors name the stores they come from: those must not tell of everything.
impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World(..)")
    }
}

impl World {
    pub(crate) fn new(
        seed: u64,
        tell: bool,
        hosts: Vec<String>,
        directory: PathBuf,
        key: KeyFile,
        buffers: Vec<Vec<u8>>,
    ) -> Arc<Self> {
        let chance = Chance::new(seed);
        Arc::new(Self {
            network: Mutex::new(Network::new(hosts.len(), chance.named("network"))),
            chance,
            directory,
            key,
            hosts,
            registry: Mutex::default(),
            vaults: Mutex::default(),
            disks: Mutex::default(),
            wals: Mutex::default(),
            faults: Mutex::default(),
            buffers: Mutex::new(buffers),
            orders: Mutex::default(),
            lost: Mutex::default(),
            trace: Mutex::new(Trace { tell, ..Trace::default() }),
            now: Mutex::new(0),
            epochs: Mutex::default(),
            violations: Mutex::default(),
        })
    }

    pub(crate) fn network(&self) -> MutexGuard<'_, Network> {
        lock(&self.network)
    }

    pub(crate) fn faults(&self, host: HostId) -> Faults {
        lock(&self.faults).get(&host).cloned().unwrap_or_default()
    }

    pub(crate) fn set_faults(&self, host: HostId, change: impl FnOnce(&mut Faults)) {
        change(lock(&self.faults).entry(host).or_default());
    }

    /// With a disk, which stays whatever becomes of its agent.
    pub(crate) fn disk<T>(&self, host: HostId, look: impl FnOnce(&mut Disk) -> T) -> T {
        look(lock(&self.disks).entry(host).or_default())
    }

    pub(crate) fn order(&self, order: Order) {
        lock(&self.orders).push(order);
    }

    pub(crate) fn set_now(&self, now: u64) {
        *lock(&self.now) = now;
    }

    pub(crate) fn violate(&self, invariant: Invariant, what: impl Into<String>) {
        let violation = Violation { invariant, at: now(), what: what.into() };
        trace(&format!("VIOLATION {violation}"));
        let mut all = lock(&self.violations);
        if all.len() < VIOLATIONS_KEPT {
            all.push(violation);
        }
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        lock(&self.violations).clone()
    }

    pub(crate) fn broken(&self) -> bool {
        !lock(&self.violations).is_empty()
    }

    pub(crate) fn committed(&self) -> usize {
        let mut vaults = lock(&self.vaults);
        vaults.values_mut().filter_map(|vault| vault.read(&self.key, |state| state.backups().count())).sum()
    }

    /// An agent obeys no epoch lower than the highest it has heard (I2).
    pub(crate) fn heard(&self, host: HostId, epoch: u64) {
        let highest = lock(&self.epochs).insert(host, epoch).unwrap_or_default();
        if epoch < highest {
            self.violate(Invariant::I2OneEpoch, format!("obeys epoch {epoch} after {highest}"));
        }
    }

    /// The host has a new state directory.
    pub(crate) fn forget(&self, host: HostId) {
        lock(&self.epochs).remove(&host);
    }

    pub(crate) fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.trace)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes it the world of this thread.
pub(crate) fn enter(world: Option<Arc<World>>) {
    WORLD.with(|slot| *slot.borrow_mut() = world);
}

fn current() -> Option<Arc<World>> {
    WORLD.with(|slot| slot.try_borrow().ok().and_then(|world| world.clone()))
}

/// Runs `work` as that host, whose clock began at `began` and runs at `rate` thousandths.
pub(crate) fn on<T>(host: HostId, base: Instant, began: u64, rate: u64, work: impl FnOnce() -> T) -> T {
    HERE.with(|here| *here.borrow_mut() = Some(Here { host, base, began, rate }));
    let done = work();
    HERE.with(|here| *here.borrow_mut() = None);
    done
}

/// Milliseconds of the run, as far as whoever asks can know.
pub(crate) fn now() -> u64 {
    let here = HERE.with(|here| here.borrow().clone());
    match here {
        Some(here) if tokio::runtime::Handle::try_current().is_ok() => {
            let local = Instant::now().saturating_duration_since(here.base).as_millis() as u64;
            here.began + local * 1000 / here.rate
        }
        _ => current().map_or(0, |world| *lock(&world.now)),
    }
}

pub(crate) fn here() -> Option<HostId> {
    HERE.with(|here| here.borrow().as_ref().map(|here| here.host))
}

/// What an agent says of whom it obeys.
pub(crate) fn obeys(epoch: u64) {
    if let (Some(world), Some(host)) = (current(), here()) {
        world.heard(host, epoch);
    }
}

pub(crate) fn trace(text: &str) {
    let Some(world) = current() else { return };
    let host = here().and_then(|host| world.hosts.get(host).cloned()).unwrap_or_default();
    let directory = world.directory.display().to_string();
    world.trace().push(now(), &host, &text.replace(&directory, "$D"));
}

/// A panic is a finding like any other.
pub(crate) fn panicked(what: &str) -> bool {
    let Some(world) = current() else { return false };
    world.violate(Invariant::Sound, format!("panic: {what}"));
    true
}

/// A host's wall clock.
#[derive(Debug)]
pub(crate) struct WallClock {
    pub(crate) world: Arc<World>,
    pub(crate) host: HostId,
}

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let skew = self.world.faults(self.host).skew;
        Timestamp((BEGAN + now()).saturating_add_signed(skew))
    }
}

pub(crate) async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
