//! Runs seeds, as many as asked for or as fit into a time.
use std::process::ExitCode;

use clap::Parser;

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
    /// Say nothing of seeds that end well
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (from, count, tell) = match arguments.seed {
        Some(seed) => (seed, 1, true),
        None => (arguments.from, arguments.seeds, false),
    };
    palinurus_sim::command(from, count, tell)
}
