//! What a full backup takes from the server's clients.
use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::Instant;

use crate::Template;
use crate::round::Pair;
use crate::table::{Better, Table};

/// Before each backup, to compare with.
const ALONE: Duration = Duration::from_secs(6);

pub(crate) async fn run(template: &Template, ours_first: bool, table: &mut Table) {
    let mut pair = Pair::new(template).await;
    pair.peer.archives(&pair.server, true);
    let log = pair.world.path("pgbench.log");
    let mut bench = pair.server.tool("pgbench");
    bench.args(["-n", "-c", "4", "-T", "600", "-P", "1", "postgres"]);
    bench.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    let mut bench = bench.spawn().unwrap();
    let began = Instant::now();
    let mut spans = Vec::new();
    for ours in [ours_first, !ours_first] {
        let alone = began.elapsed().as_secs_f64();
        tokio::time::sleep(ALONE).await;
        let from = began.elapsed().as_secs_f64();
        if ours {
            pair.world.backup().await;
        } else {
            tokio::task::block_in_place(|| pair.peer.run(&["backup", "--type=full"]));
        }
        spans.push((ours, alone, from, began.elapsed().as_secs_f64()));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.kill().unwrap();
    bench.wait().unwrap();
    let seconds = rates(&std::fs::read_to_string(&log).unwrap());
    for (ours, alone, from, to) in spans {
        let (before, during) = (mean(&seconds, alone, from), mean(&seconds, from, to));
        println!("  {before:.0} transactions a second alone, {during:.0} in {:.1} s of a backup", to - from);
        table.one(ours, "pgbench in a full backup, % of alone", Better::More, 100.0 * during / before);
        table.one(
            ours,
            "pgbench transactions missed",
            Better::Less,
            ((before - during) * (to - from)).max(1.0),
        );
    }
    pair.server.stop().await;
    pair.world.stop().await;
}

/// `progress: 3.0 s, 1234.5 tps, …`: each line is of the second before it.
fn rates(text: &str) -> Vec<(f64, f64)> {
    let line = |line: &str| {
        let (at, rest) = line.strip_prefix("progress: ")?.split_once(" s, ")?;
        Some((at.parse().ok()?, rest.split(' ').next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn mean(seconds: &[(f64, f64)], from: f64, to: f64) -> f64 {
    let inside: Vec<f64> =
        seconds.iter().filter(|(at, _)| *at > from + 0.5 && *at <= to + 0.5).map(|(_, rate)| *rate).collect();
    inside.iter().sum::<f64>() / inside.len().max(1) as f64
}
