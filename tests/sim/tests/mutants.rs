//! The simulation's own test: each planted bug is found, by the invariant that it breaks.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use palinurus_sim::Invariant::{
    I2OneEpoch, I3NothingLost, I4Ends, I5NothingLeft, I7Damage, I10Log, OnePlace,
};
use palinurus_sim::{Invariant, Mutant, Options, run};

/// A bug that hides from so many seeds would hide from CI.
const SEEDS: u64 = 200;

fn found(mutant: Mutant, by: &[Invariant]) {
    found_in(Options { mutant: Some(mutant), ..Options::default() }, by);
}

/// For what shows only when two lead at once, and then in one run of thirty.
fn found_with_two_leaders(mutant: Mutant, by: &[Invariant]) {
    found_in(Options { mutant: Some(mutant), two_leaders: true, ..Options::default() }, by);
}

fn found_in(options: Options, by: &[Invariant]) {
    let mutant = options.mutant.unwrap();
    for seed in 1..=SEEDS {
        let outcome = run(seed, options).unwrap();
        let first = outcome.violations.iter().find(|violation| by.contains(&violation.invariant));
        if let Some(first) = first {
            println!("{mutant:?} is found by seed {seed}: {first}");
            return;
        }
    }
    panic!("{mutant:?} is not found by {SEEDS} seeds");
}

#[test]
fn an_append_that_no_rule_guards() {
    found_with_two_leaders(Mutant::UnguardedAppend, &[I2OneEpoch]);
}

#[test]
fn a_sweep_that_ignores_a_running_operation() {
    // The operation that it pushes aside is not cleaned up after, which may show first.
    found(Mutant::SweepIgnoresOpen, &[I3NothingLost, I4Ends, I5NothingLeft]);
}

#[test]
fn a_leader_that_ignores_its_lease() {
    found(Mutant::LeaderIgnoresLease, &[I2OneEpoch]);
}

#[test]
fn an_agent_that_ignores_epochs() {
    found_with_two_leaders(Mutant::AgentIgnoresEpochs, &[I2OneEpoch]);
}

#[test]
fn a_release_that_forgets() {
    found(Mutant::ReleaseForgets, &[I5NothingLeft]);
}

#[test]
fn a_check_that_sees_nothing() {
    found(Mutant::BlindCheck, &[I7Damage]);
}

#[test]
fn a_failover_that_fences_nobody() {
    found(Mutant::UnfencedFailover, &[OnePlace]);
}

#[test]
fn an_agent_that_lost_its_place_and_is_welcomed() {
    found(Mutant::FencedIsSeated, &[OnePlace]);
}

#[test]
fn an_empty_replacement_that_is_backed_up() {
    found(Mutant::ReplacementIsNode, &[OnePlace]);
}

#[test]
fn a_log_that_is_acknowledged_before_it_is_stored() {
    found(Mutant::LogAckedUnstored, &[I10Log]);
}
