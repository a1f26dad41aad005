//! Whole fleets in one thread, each host with its own clock, everything drawn from a seed: coordinators and agents are
//! the real ones, what lies around them is not. `docs/decisions/006-simulation.md` says what is real and why.
//!
//! Read [`run`](crate::run()) first, then `chaos.rs` for what goes wrong and `check.rs` for what must hold.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where and why by panicking"
)]
use std::cell::RefCell;
use std::process::ExitCode;
use std::sync::Once;

mod chance;
mod chaos;
mod check;
mod disk;
mod fleet;
mod host;
mod invariant;
mod log;
mod mend;
mod mover;
mod network;
mod operator;
mod place;
mod run;
mod state;
mod store;
mod trace;
mod wal;
mod world;

pub use invariant::{Invariant, Violation};
pub use palinurus_repository::mutant::Mutant;
pub use run::{Options, Outcome, run};

thread_local! {
    /// Buffers for packs are large: one run leaves them to the next.
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What the program does: runs `count` seeds, and says which failed and how.
pub fn command(from: u64, count: u64, options: Options) -> ExitCode {
    let began = tokio::time::Instant::now();
    let (mut failed, mut lived) = (0, 0);
    for seed in from..from.saturating_add(count) {
        match run(seed, options) {
            Ok(outcome) => {
                lived += outcome.lived;
                if !outcome.violations.is_empty() {
                    failed += 1;
                    told(&outcome, options.tell);
                }
            }
            Err(e) => {
                failed += 1;
                eprintln!("seed {seed} could not be run: {}", e.chain());
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    eprintln!(
        "{count} seeds from {from}: {failed} failed; {:.0} s of fleets in {took:.1} s, {:.0} seeds a minute",
        lived as f64 / 1000.0,
        count as f64 * 60.0 / took
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How a seed failed, so that somebody can look.
pub fn told(outcome: &Outcome, whole: bool) {
    if !whole {
        outcome.last.iter().for_each(|line| eprintln!("{line}"));
    }
    for violation in &outcome.violations {
        eprintln!("seed {}: {violation}", outcome.seed);
    }
    eprintln!("again, with all that happens: tests/sim/run --seed {}", outcome.seed);
}

/// A panic anywhere in a fleet is a finding, although the runtime would swallow it.
fn panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !world::panicked(&info.to_string()) {
                before(info);
            }
        }));
    });
}
