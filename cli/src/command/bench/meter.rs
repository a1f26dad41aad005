//! What a process and its work cost, read from /proc.
use std::path::Path;

use palinurus_repository::{Error, Result};

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
