//! The simulation's own test: each planted bug is found, by the invariant that it breaks.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use palinurus_sim::Invariant::{I2OneEpoch, I3NothingLost, I4Ends, I5NothingLeft, I7Damage};
use palinurus_sim::{Invariant, Mutant, Options, run};

/// A bug that hides from so many seeds would hide from CI.
const SEEDS: u64 = 150;

fn found(mutant: Mutant, by: &[Invariant]) {
    for seed in 1..=SEEDS {
        let outcome = run(seed, Options { mutant: Some(mutant), ..Options::default() }).unwrap();
        if let Some(first) = outcome.violations.first() {
            println!("{mutant:?} is found by seed {seed}: {first}");
            assert!(by.contains(&first.invariant), "{mutant:?} by seed {seed}: {first}");
            return;
        }
    }
    panic!("{mutant:?} is not found by {SEEDS} seeds");
}

#[test]
fn an_append_that_no_rule_guards() {
    found(Mutant::UnguardedAppend, &[I2OneEpoch]);
}

#[test]
fn a_sweep_that_ignores_a_running_operation() {
    // The operation that it pushes aside is not cleaned up after, which may show first.
    found(Mutant::SweepIgnoresOpen, &[I3NothingLost, I5NothingLeft]);
}

#[test]
fn a_leader_that_ignores_its_lease() {
    found(Mutant::LeaderIgnoresLease, &[I2OneEpoch]);
}

#[test]
fn an_agent_that_ignores_epochs() {
    found(Mutant::AgentIgnoresEpochs, &[I2OneEpoch]);
}

#[test]
fn a_release_that_forgets() {
    found(Mutant::ReleaseForgets, &[I5NothingLeft]);
}

#[test]
fn patience_without_end() {
    found(Mutant::EndlessPatience, &[I4Ends]);
}

#[test]
fn a_check_that_sees_nothing() {
    found(Mutant::BlindCheck, &[I7Damage]);
}
