//! A scratch server that runs under its guard, and with this agent ends.
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use palinurus_repository::{Error, Result};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;

use super::Owner;

/// For a clean stop.
const STOP: Duration = Duration::from_secs(600);
/// Of the server's log.
const TAIL: u64 = 64 << 10;

#[derive(Debug)]
pub(crate) struct Guarded {
    guard: Child,
    log: PathBuf,
}

impl Guarded {
    /// `guard` is the program that guards, with its arguments; `log` is there already. `words` gives it the server's.
    pub(crate) fn start(
        guard: &[String],
        owner: Owner,
        log: &Path,
        words: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let [program, arguments @ ..] = guard else {
            return Err(Error::internal("no program guards a scratch server"));
        };
        let output = File::options().append(true).open(log);
        let output = output.map_err(|e| Error::io(format!("open {}", log.display()), e))?;
        let mut command = Command::new(program);
        owner.isolate(&mut command);
        command.args(arguments);
        words(&mut command);
        // Whatever is killed, the guard is not: it ends when its input does, after the server.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::from(output)).process_group(0);
        let guard = command.spawn().map_err(|e| {
            Error::io("start a scratch server", e)
                .with_hint("the database's user must be able to run the agent's own program")
        })?;
        Ok(Self { guard, log: log.to_owned() })
    }

    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        let ended = self.guard.try_wait().map_err(|e| Error::io("wait for the scratch server", e))?;
        Ok(ended.is_some())
    }

    /// A clean stop, however it ends.
    pub(crate) async fn stop(&mut self) -> Result<ExitStatus> {
        // Held to the end: a closed input asks for less than a clean stop.
        let mut input = self.guard.stdin.take();
        if let Some(input) = &mut input {
            let _ = input.write_all(b"stop\n").await; // one that has ended does not hear it, and is seen below
            let _ = input.flush().await;
        }
        let ended = tokio::time::timeout(STOP, self.guard.wait()).await;
        drop(input);
        let ended = ended.map_err(|_| Error::unavailable("the scratch server does not stop"))?;
        ended.map_err(|e| Error::io("wait for the scratch server", e))
    }

    /// The end of its log.
    pub(crate) async fn said(&self) -> String {
        let log = self.log.clone();
        let read = spawn_blocking(move || tail(&log)).await;
        read.ok().and_then(Result::ok).unwrap_or_default()
    }
}

fn tail(log: &Path) -> Result<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
        let mut text = Vec::new();
        file.take(TAIL).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    read().map_err(|e| Error::io(format!("read {}", log.display()), e))
}
