//! Scratch servers that were left running: by an agent that was killed together with their guard, or in the middle of a
//! drill that was cancelled.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_repository::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::spawn_blocking;

/// For servers to end by themselves, each time.
const ASKED: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// Ends every process of these `programs` that works in `place`: first it is asked to, then it is killed.
pub(crate) async fn end(place: &Path, programs: &[&str]) -> Result<()> {
    let Ok(place) = place.canonicalize() else { return Ok(()) };
    for signal in [Signal::QUIT, Signal::KILL] {
        let began = tokio::time::Instant::now();
        let mut asked = false;
        while began.elapsed() < ASKED {
            let (within, programs) =
                (place.clone(), programs.iter().map(|name| (*name).to_owned()).collect());
            let left = spawn_blocking(move || working_in(&within, programs)).await;
            let left = left.map_err(|e| Error::internal("a thread panicked").with_source(e))?;
            if left.is_empty() {
                return Ok(());
            }
            if !asked {
                tracing::info!(place = %place.display(), ?signal, "ends a scratch server that was left running");
                for pid in left {
                    let _ = kill_process(pid, signal); // one that has just ended
                }
                asked = true;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Err(Error::unavailable(format!(
        "processes of {} run in {} and do not end",
        programs.join(" or "),
        place.display()
    ))
    .with_hint("see what keeps them, and start the agent again"))
}

/// A server and its processes stand in its data directory.
fn working_in(place: &Path, programs: Vec<String>) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let here = |pid: &Pid| {
        let link = |name: &str| -> Option<PathBuf> {
            fs::read_link(format!("/proc/{}/{name}", pid.as_raw_nonzero())).ok()
        };
        let is_theirs = |path: PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            programs.iter().any(|program| program == name.strip_suffix(" (deleted)").unwrap_or(&name))
        };
        link("cwd").is_some_and(|cwd| cwd.starts_with(place)) && link("exe").is_some_and(is_theirs)
    };
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    pids.filter(here).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_works_in_the_place_is_ended() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let program = dir.path().join("postgres");
        fs::copy("/bin/sleep", &program).unwrap();
        let start =
            |at: &Path| std::process::Command::new(&program).arg("600").current_dir(at).spawn().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let (mut inside, mut outside) = (start(&data), start(other.path()));
        // A child that nobody waits for stays as a zombie, which works nowhere.
        end(dir.path(), &["postgres"]).await.unwrap();
        assert!(!inside.wait().unwrap().success());
        assert!(outside.try_wait().unwrap().is_none());
        outside.kill().unwrap();
        outside.wait().unwrap();
        end(Path::new("/nowhere"), &["postgres"]).await.unwrap();
    }
}
