//! What a process and its work cost, read from /proc.
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use palinurus_repository::{Error, Result};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::report::Cost;

/// How often a child's peak is looked at: the kernel keeps it, so only what it adds in its last moment is missed.
const LOOK: Duration = Duration::from_millis(10);

/// A program that does one step: its seconds, processor seconds and peak of memory. Its words are in the error.
pub(super) async fn run(name: &str, mut command: Command) -> Result<(Cost, String)> {
    rustix::fs::sync();
    let failed = |e| Error::io(format!("run {name}"), e);
    let (began, cpu) = (Instant::now(), cpu_of_children()?);
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.kill_on_drop(true).spawn().map_err(failed)?;
    let (pid, mut out, mut err) = (child.id(), child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let mut peak = None;
    let talk = async {
        tokio::join!(
            async {
                if let Some(out) = &mut out {
                    let _ = out.read_to_end(&mut said).await;
                }
            },
            async {
                if let Some(err) = &mut err {
                    let _ = err.read_to_end(&mut complained).await;
                }
            },
        );
    };
    let look = async {
        loop {
            peak = pid.and_then(|pid| peak_memory(pid).ok()).or(peak);
            sleep(LOOK).await;
        }
    };
    let wait = async {
        talk.await;
        child.wait().await
    };
    let status = tokio::select! {
        status = wait => status.map_err(failed)?,
        () = look => return Err(Error::internal("a look without end has ended")),
    };
    let seconds = began.elapsed().as_secs_f64();
    if !status.success() {
        let text = String::from_utf8_lossy(&complained);
        let last: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = last[last.len().saturating_sub(3)..].join(" | ");
        return Err(Error::unavailable(format!("{name} failed ({status}): {last}")));
    }
    let cost = Cost { seconds, cpu: cpu_of_children()? - cpu, memory: peak, ..Cost::default() };
    Ok((cost, String::from_utf8_lossy(&said).into_owned()))
}

/// Seconds of processor time that a running process has used.
pub(super) fn cpu_of(pid: u32) -> Result<f64> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    ticks(&stat, [13, 14])
}

/// Of the children that this process has waited for.
pub(super) fn cpu_of_children() -> Result<f64> {
    let stat = read("/proc/self/stat")?;
    ticks(&stat, [15, 16])
}

/// Fields by their number in proc(5), from 0, all behind the name in parentheses.
fn ticks(stat: &str, fields: [usize; 2]) -> Result<f64> {
    let behind = stat.rsplit_once(") ").map(|(_, behind)| behind).unwrap_or_default();
    let values: Vec<&str> = behind.split(' ').collect();
    let field = |number: usize| values.get(number - 2).and_then(|value| value.parse::<f64>().ok());
    let sum = fields.into_iter().map(field).sum::<Option<f64>>();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    sum.map(|sum| sum / per_second).ok_or_else(|| Error::internal("/proc stat does not parse"))
}

/// The most memory that a process has held since the last reset, in bytes.
pub(super) fn peak_memory(pid: u32) -> Result<u64> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.map(|kb| kb * 1024).ok_or_else(|| Error::internal("/proc status has no VmHWM"))
}

pub(super) fn reset_peak_memory(pid: u32) {
    // Refused on some kernels: then the peak is of the whole run.
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io(format!("read {path}"), e))
}

/// Lengths of all files below a directory.
pub(super) fn bytes_below(path: &Path) -> Result<u64> {
    let failed = |e| Error::io(format!("read {}", path.display()), e);
    let mut sum = 0;
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let meta = entry.metadata().map_err(failed)?;
        sum += if meta.is_dir() { bytes_below(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}
