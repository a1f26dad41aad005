//! Seconds, processor seconds and bytes.
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// What one step took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    pub(crate) cpu: f64,
}

/// A step that has begun: of processes that go on, or (none) of children that are waited for.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    cpu: f64,
    pids: Vec<u32>,
}

impl Meter {
    pub(crate) fn begin(pids: &[u32]) -> Self {
        // What others have written before is not to be waited for in this step.
        rustix::fs::sync();
        Self { began: Instant::now(), cpu: used(pids), pids: pids.to_vec() }
    }

    pub(crate) fn end(&self) -> Cost {
        Cost { seconds: self.began.elapsed().as_secs_f64(), cpu: used(&self.pids) - self.cpu }
    }
}

fn used(pids: &[u32]) -> f64 {
    match pids {
        [] => ticks("/proc/self/stat", [15, 16]),
        pids => pids.iter().map(|pid| ticks(&format!("/proc/{pid}/stat"), [13, 14])).sum(),
    }
}

/// Fields by their number in proc(5), from 0, all behind the name in parentheses.
fn ticks(path: &str, fields: [usize; 2]) -> f64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let behind: Vec<&str> = text.rsplit_once(") ").map_or("", |(_, behind)| behind).split(' ').collect();
    let field =
        |number: usize| behind.get(number - 2).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    fields.map(field).iter().sum::<f64>() / rustix::param::clock_ticks_per_second() as f64
}

/// Lengths of all files below, but those below `but`.
pub(crate) fn bytes_below(path: &Path, but: Option<&Path>) -> u64 {
    let Ok(listing) = std::fs::read_dir(path) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        _ if Some(&*entry.path()) == but => 0,
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path(), but),
        Ok(meta) => meta.len(),
        // A partial file that has its name now.
        Err(_) => 0,
    };
    listing.flatten().map(size).sum()
}

/// Until `done`, looked at often: for what takes seconds.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !done().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
