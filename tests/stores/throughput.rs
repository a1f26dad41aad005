//! How fast objects go to a store and come back, beside rclone: the same files, server, number at once and machine, in
//! turns. Worth its numbers only when optimised and on a quiet machine:
//! `cargo test --release -p palinurus-tests --test stores -- --ignored --nocapture throughput`
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use palinurus_repository::{Storage, storage};
use palinurus_tests::seeded::Random;
use palinurus_tests::store::Server;
use tokio::time::Instant;

const OBJECT: usize = 32 << 20;
const AT_ONCE: usize = 8;
const ROUNDS: usize = 3;

/// `TEST_MEGABYTES`, a gigabyte by default.
fn objects() -> usize {
    let megabytes = std::env::var("TEST_MEGABYTES").ok().and_then(|text| text.parse().ok());
    (megabytes.unwrap_or(1024usize) << 20).div_ceil(OBJECT)
}

#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    seconds: f64,
    cpu: f64,
}

/// Of this process, or of all children that have ended.
fn cpu(children: bool) -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let first = if children { 13 } else { 11 };
    let ticks: u64 = fields[first..first + 2].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

async fn ours(files: &[PathBuf], each: impl AsyncFn(PathBuf)) -> Cost {
    let (began, before) = (Instant::now(), cpu(false));
    stream::iter(files.to_vec()).for_each_concurrent(AT_ONCE, |file| each(file)).await;
    Cost { seconds: began.elapsed().as_secs_f64(), cpu: (cpu(false) - before).as_secs_f64() }
}

fn rclone(server: &Server, arguments: [&str; 2]) -> Cost {
    let (began, before) = (Instant::now(), cpu(true));
    let done = server.rclone_copy(arguments, AT_ONCE);
    assert!(done.status.success(), "rclone: {}", String::from_utf8_lossy(&done.stderr));
    Cost { seconds: began.elapsed().as_secs_f64(), cpu: (cpu(true) - before).as_secs_f64() }
}

fn report(what: &str, costs: &[(Cost, Cost)], gigabytes: f64) {
    let median = |pick: &dyn Fn(&(Cost, Cost)) -> f64| {
        let mut all: Vec<f64> = costs.iter().map(pick).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (our_time, their_time) = (median(&|(ours, _)| ours.seconds), median(&|(_, theirs)| theirs.seconds));
    let (our_cpu, their_cpu) = (median(&|(ours, _)| ours.cpu), median(&|(_, theirs)| theirs.cpu));
    eprintln!(
        "{what}: ours {:.0} MB/s and {:.2} CPU s a GB, rclone {:.0} MB/s and {:.2}; {:.0} % of rclone's rate",
        1000.0 * gigabytes / our_time,
        our_cpu / gigabytes,
        1000.0 * gigabytes / their_time,
        their_cpu / gigabytes,
        100.0 * their_time / our_time
    );
}

fn name(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a measurement"]
async fn throughput_beside_rclone() {
    let server = Server::weed().await;
    let (from, to) = (server.path("from"), server.path("to"));
    fs::create_dir(&from).unwrap();
    let mut random = Random::new(41);
    let files: Vec<PathBuf> = (0..objects()).map(|i| from.join(format!("o{i}"))).collect();
    files.iter().for_each(|file| fs::write(file, random.bytes(OBJECT)).unwrap());
    let gigabytes = (files.len() * OBJECT) as f64 / 1e9;
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let storage = storage::open(&server.url(&format!("ours-{round}"))).unwrap();
        storage.list("", None, 1).await.unwrap();
        let storage: Arc<dyn Storage> = storage;
        let put = ours(&files, async |file| {
            let body = tokio::fs::read(&file).await.unwrap();
            storage.put_new(&name(&file), body.into()).await.unwrap();
        });
        let put = put.await;
        let theirs = format!("theirs-{round}");
        puts.push((put, rclone(&server, [from.to_str().unwrap(), &format!("store:lab/{theirs}")])));
        for (dir, how) in [(&to, "ours"), (&server.path("to-theirs"), "theirs")] {
            let _ = fs::remove_dir_all(dir);
            fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{how}: {e}"));
        }
        let get = ours(&files, async |file| {
            let body = storage.get(&name(&file), None).await.unwrap();
            tokio::fs::write(to.join(name(&file)), body).await.unwrap();
        });
        let get = get.await;
        let into = server.path("to-theirs");
        gets.push((get, rclone(&server, [&format!("store:lab/{theirs}"), into.to_str().unwrap()])));
        for file in &files {
            assert!(fs::read(file).unwrap() == fs::read(to.join(name(file))).unwrap());
        }
    }
    report("put", &puts, gigabytes);
    report("get", &gets, gigabytes);
}
