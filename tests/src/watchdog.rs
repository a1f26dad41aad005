//! The end of a test that hangs: it says what its processes said last, and ends, where it would have stood until whoever
//! waits for all tests gives up, and told nobody anything.
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{deadline, files_below};

/// Of one test, in what any of its waits may take: many times what the slowest does.
const LIMIT: u32 = 4;
/// Of a log's end.
const TAIL: usize = 60;

/// Watches over a test until it is dropped.
#[derive(Debug)]
pub struct Watchdog(#[expect(dead_code, reason = "its drop is the sign")] SyncSender<()>);

impl Watchdog {
    /// Over this thread's test, whose processes log below `dir`.
    pub fn over(dir: &Path) -> Self {
        let (ends, ended) = sync_channel(0);
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let dir = dir.to_owned();
        let watch = move || {
            let limit = LIMIT * deadline();
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                give_up(&test, &dir, limit);
            }
        };
        std::thread::Builder::new().name("watchdog".into()).spawn(watch).unwrap();
        Self(ends)
    }
}

/// Past libtest, which keeps what a test prints for a report that would never come.
fn give_up(test: &str, dir: &Path, limit: Duration) {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "\n== {test} has hung for {limit:?}. The ends of its logs:");
    let logs = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    for log in files_below(dir).into_iter().filter(logs) {
        let _ = writeln!(out, "-- {}", log.display());
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            let _ = writeln!(out, "{line}");
        }
    }
    let ours = descendants(std::process::id());
    let _ = writeln!(out, "-- its processes: {ours:?}");
    for pid in ours {
        if let Some(pid) = Pid::from_raw(pid as i32) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = fs::remove_dir_all(dir);
    std::process::exit(101);
}

fn descendants(of: u32) -> Vec<u32> {
    let Ok(output) = Command::new("ps").args(["-e", "-o", "pid=,ppid="]).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<(u32, u32)> = text
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
            numbers.next().zip(numbers.next())
        })
        .collect();
    let mut found = vec![of];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}
