//! Runs seeds, as many as asked for or as fit into a time.
use std::process::ExitCode;

use clap::Parser;
use palinurus_sim::{Mutant, Options};

#[derive(Debug, Parser)]
#[command(about = "Runs whole fleets from seeds and holds them to the invariants")]
struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this one, and say all that happens
    #[arg(long)]
    seed: Option<u64>,
    /// With a planted bug, by its name in repository/src/mutant.rs
    #[arg(long)]
    mutant: Option<String>,
    /// Two leaders at once in every run
    #[arg(long)]
    two_leaders: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (from, count, tell) = match arguments.seed {
        Some(seed) => (seed, 1, true),
        None => (arguments.from, arguments.seeds, false),
    };
    let known = |name: &String| Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == *name);
    let mutant = arguments.mutant.as_ref().and_then(known);
    if mutant.is_none() && arguments.mutant.is_some() {
        eprintln!("the mutants are {:?}", Mutant::ALL);
        return ExitCode::from(2);
    }
    palinurus_sim::command(from, count, Options { tell, mutant, two_leaders: arguments.two_leaders })
}
