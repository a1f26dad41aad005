//! What the machine has room for: what does not fit is not begun, and said.
use std::path::Path;

use palinurus_repository::{Error, Result};

use crate::human;

/// What an agent is allowed to take at its peak, in every scenario.
pub(super) const AGENT_MEMORY: u64 = 288 << 20;
/// For the coordinator and everything else.
const OTHERS: u64 = 256 << 20;
/// Left free on the disk.
const SPARE: u64 = 256 << 20;

/// None: there is room for so many bytes more on that disk, and for so many agents in memory.
pub(super) fn missing(dir: &Path, bytes: u64, agents: u64) -> Result<Option<String>> {
    let disk = rustix::fs::statvfs(dir)
        .map_err(|e| Error::io(format!("look at the disk of {}", dir.display()), e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = bytes.saturating_add(SPARE);
    if free < needed {
        return Ok(Some(format!(
            "it needs {} of disk, and {} has {}",
            human::size(needed),
            dir.display(),
            human::size(free)
        )));
    }
    let needed = agents * AGENT_MEMORY + OTHERS;
    Ok(available()?.filter(|free| *free < needed).map(|free| {
        format!("it needs {} of memory, and there are {}", human::size(needed), human::size(free))
    }))
}

/// None where the kernel does not say.
fn available() -> Result<Option<u64>> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|e| Error::io("look at the memory", e))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kilobytes.map(|kilobytes| kilobytes * 1024))
}

/// Of the last minute: others at work spoil numbers.
pub(super) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said() {
        let dir = std::env::temp_dir();
        assert_eq!(missing(&dir, 1, 0).unwrap(), None);
        assert!(missing(&dir, u64::MAX / 2, 1).unwrap().unwrap().contains("disk"));
        assert!(missing(&dir, 1, 1 << 20).unwrap().unwrap().contains("memory"));
    }
}
