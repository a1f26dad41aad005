//! What a backup takes from the clients of the server beside it: pgbench alone, beside full backups without limits, and beside
//! full backups with them, in windows of the same length, in turns, each round in another order.
use std::process::Stdio;
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_tests::World;
use palinurus_tests::postgres::Postgres;
use palinurus_tests::world::SERVICE;
use tokio::time::{Instant, sleep};

use crate::round::SETTINGS;
use crate::{Options, Template};

const WAYS: [&str; 3] = ["alone", "backup", "backup with limits"];
const LIMITS: [&str; 6] = ["--read", "50MiB", "--send", "20MiB", "--cpu", "25%"];
const NONE: [&str; 6] = ["--read", "none", "--send", "none", "--cpu", "none"];
const CLIENTS: &str = "4";

/// Of one window.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Transactions a second.
    rate: f64,
    /// Milliseconds, in the mean; and in the worst second.
    latency: f64,
    worst: f64,
    /// Backups that ended in it.
    backups: usize,
}

pub(crate) async fn run(template: &Template, options: &Options, seconds: u64) {
    let mut world = World::new(&["n1"]);
    world.kind = "postgresql".into();
    let mut server = template.server.copy(&world.data("n1"));
    server.start(&SETTINGS).await;
    world.engine = format!("host = {:?}\n", server.socket);
    world.start().await;
    let mut seen: Vec<[Option<Seen>; 3]> = Vec::new();
    for round in 0..options.rounds {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("round {} of {}, load {} ...", round + 1, options.rounds, load.trim());
        let mut this = [None; 3];
        for turn in 0..WAYS.len() {
            let way = (round + turn) % WAYS.len();
            let one = window(&world, &server, way, seconds).await;
            println!(
                "  {}: {:.0} transactions a second, {:.2} ms, {:.2} ms in the worst second, {} backups",
                WAYS[way], one.rate, one.latency, one.worst, one.backups
            );
            this[way] = Some(one);
        }
        seen.push(this);
    }
    show(&seen);
    server.stop().await;
    world.stop().await;
}

async fn window(world: &World, server: &Postgres, way: usize, seconds: u64) -> Seen {
    let limits = if way == 2 { LIMITS } else { NONE };
    world.run(&[&["node", "limits"][..], &limits[..]].concat()).await.expect(0);
    server.sql("checkpoint");
    let mut bench = server.tool("pgbench");
    bench.args(["-n", "-c", CLIENTS, "-T", &seconds.to_string(), "-P", "1", "postgres"]);
    let bench = bench.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let clients = tokio::task::spawn_blocking(move || bench.wait_with_output().unwrap());
    let (mut running, mut backups): (Option<String>, usize) = (None, 0);
    while !clients.is_finished() {
        running = match running {
            None if way > 0 => Some(begin(world).await),
            Some(id) if world.operation(&id).await.finished_ms > 0 => {
                backups += 1;
                None
            }
            other => other,
        };
        sleep(Duration::from_millis(50)).await;
    }
    if let Some(id) = running {
        world.run(&["operation", "cancel", &id]).await;
        let began = Instant::now();
        while world.operation(&id).await.finished_ms == 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "the backup does not end");
            sleep(Duration::from_millis(50)).await;
        }
    }
    let said = clients.await.unwrap();
    assert!(said.status.success());
    let lines = progress(&String::from_utf8_lossy(&said.stderr));
    let mean = |of: fn(&(f64, f64)) -> f64| lines.iter().map(of).sum::<f64>() / lines.len().max(1) as f64;
    let worst = lines.iter().map(|(_, latency)| *latency).fold(0.0, f64::max);
    Seen { rate: mean(|(rate, _)| *rate), latency: mean(|(_, latency)| *latency), worst, backups }
}

async fn begin(world: &World) -> String {
    let request = v1::StartBackupRequest { service: SERVICE.into(), full: true };
    world.client().await.start_backup(request).await.unwrap().into_inner().id
}

/// `progress: 3.0 s, 1234.5 tps, lat 3.240 ms stddev 1.1, …`: each line is of the second before it.
fn progress(text: &str) -> Vec<(f64, f64)> {
    let line = |line: &str| {
        let (_, rest) = line.strip_prefix("progress: ")?.split_once(" s, ")?;
        let (rate, rest) = rest.split_once(" tps, lat ")?;
        Some((rate.parse().ok()?, rest.split(' ').next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Of the same round: alone is 100 %.
fn show(seen: &[[Option<Seen>; 3]]) {
    for (way, name) in WAYS.iter().enumerate().skip(1) {
        let ratio = |of: fn(Seen) -> f64| {
            let mut ratios: Vec<f64> = seen
                .iter()
                .filter_map(|round| Some(100.0 * of(round[way]?) / of(round[0]?).max(1e-9)))
                .collect();
            ratios.sort_by(f64::total_cmp);
            match (ratios.first(), ratios.get(ratios.len() / 2), ratios.last()) {
                (Some(least), Some(middle), Some(most)) => {
                    format!("{middle:.0} % ({least:.0} to {most:.0})")
                }
                _ => "-".to_owned(),
            }
        };
        println!(
            "{name}, of alone: transactions {}, latency {}, in the worst second {}",
            ratio(|seen| seen.rate),
            ratio(|seen| seen.latency),
            ratio(|seen| seen.worst)
        );
    }
}
