//! A program of an operator's and whatever it started: one process group, and nothing of it left behind.
use std::io;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// Of what a program says on stderr, the last is kept.
pub const SAID_MAX: usize = 2 << 10;

/// Killed as a group when this goes.
#[derive(Debug)]
pub struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Group {
    /// Without a shell and without input; its stderr is there to be heard.
    pub fn start(
        program: &str,
        arguments: &[String],
        environment: &[(&str, &str)],
        stdout: Stdio,
    ) -> io::Result<Self> {
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self { child, id })
    }

    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// For the program's own end. What it leaves behind then is not killed any more.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        // Reaped: the number may be another's soon.
        self.id = None;
        Ok(status)
    }
}

/// Reads on to the end, so that the program does not hang on a full pipe, and keeps the last [`SAID_MAX`] bytes.
pub async fn read_tail(from: Option<impl AsyncRead + Unpin>, tail: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        tail.extend_from_slice(&buffer[..read]);
        let extra = tail.len().saturating_sub(SAID_MAX);
        tail.drain(..extra);
    }
}
