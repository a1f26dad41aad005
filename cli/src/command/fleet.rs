//! The processes of demo and benchmark. Each ends with its parent, whatever way that ends: at its standard input's
//! end, which a killed parent brings about too, or by SIGKILL when its handle is dropped.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use palinurus_repository::{Error, Result};
use tokio::process::{Child, Command};
use tokio::time::Instant;

const STARTING: Duration = Duration::from_secs(30);
const STOPPING: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// `palinurus KIND --config FILE`, its talk in a log beside the configuration.
    pub(crate) fn start(kind: &str, name: &str, config: &Path) -> Result<Self> {
        let failed = |error| Error::io(format!("start {name}"), error);
        let log = config.with_extension("log");
        let file = File::options().create(true).append(true).open(&log).map_err(failed)?;
        let child = Command::new(std::env::current_exe().map_err(failed)?)
            .args([kind, "--until-stdin-closes", "--config"])
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file)
            // The terminal's Ctrl-C goes to the demo alone, which ends the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    /// While it has not been waited for.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// As a crash or a power cut would: no goodbye.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.map_err(|error| Error::io(format!("kill {}", self.name), error))
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        match tokio::time::timeout(STOPPING, self.child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::io(format!("end {}", self.name), error)),
            Err(_) => {
                let late = Error::internal(format!("{} did not end within {STOPPING:?}", self.name));
                self.kill().await?;
                Err(late)
            }
        }
    }

    /// An error with the end of the log when the process has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let mut tail: Vec<&str> = log.lines().rev().take(5).collect();
                tail.reverse();
                Err(Error::unavailable(format!(
                    "{} ended by itself ({status}): {}",
                    self.name,
                    tail.join(" | ")
                )))
            }
            Err(error) => Err(Error::io(format!("look after {}", self.name), error)),
        }
    }
}

/// The coordinator's address, once it listens.
pub(crate) async fn address(coordinator: &mut Process, state: &Path) -> Result<String> {
    let file = state.join("address");
    let deadline = Instant::now() + STARTING;
    loop {
        if let Ok(text) = std::fs::read_to_string(&file)
            && text.ends_with('\n')
        {
            return Ok(format!("https://{}", text.trim()));
        }
        coordinator.check()?;
        if Instant::now() > deadline {
            return Err(Error::unavailable(format!("the coordinator does not listen after {STARTING:?}")));
        }
        tokio::time::sleep(POLL).await;
    }
}
