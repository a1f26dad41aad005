//! The scratch server: the program of the one in use, started under a guard, waited for, stopped.
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_repository::{Error, Result};

use super::scratch::Scratch;
use crate::drill::{Guarded, Owner};
use crate::engine::ProofOrder;
use crate::engine::clickhouse::client::Client;
use crate::engine::clickhouse::config::Config;

/// What the program is called, in packages and in /proc.
pub(super) const NAMES: [&str; 2] = ["clickhouse-server", "clickhouse"];
const PLACES: [&str; 3] =
    ["/usr/bin/clickhouse-server", "/usr/sbin/clickhouse-server", "/usr/local/bin/clickhouse-server"];
const LOOK: Duration = Duration::from_millis(200);
/// For an empty server to answer.
const START: Duration = Duration::from_secs(300);
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Server(Guarded);

/// `engine.server`, or the running server's program, or where packages put it. Blocks.
pub(super) fn program(config: &Config) -> Result<PathBuf> {
    let candidates: Vec<PathBuf> = match &config.server {
        Some(given) => vec![given.clone()],
        None => running(&config.root).into_iter().chain(PLACES.map(PathBuf::from)).collect(),
    };
    candidates.into_iter().find(|path| path.exists()).ok_or_else(|| {
        Error::invalid("no ClickHouse server is installed here: a drill needs its program")
            .with_hint("install it, set engine.server to it, or drill at another node")
    })
}

/// Of the server that uses `root`, which writes its number there. It is run as the owner of that file's directory.
fn running(root: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(root.join("status")).ok()?;
    let pid: u32 = text.lines().find_map(|line| line.strip_prefix("PID:"))?.trim().parse().ok()?;
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    program.file_name().is_some_and(|name| NAMES.iter().any(|known| name == *known)).then_some(program)
}

impl Server {
    pub(super) fn start(program: &Path, order: &ProofOrder, scratch: &Scratch, owner: Owner) -> Result<Self> {
        let server = Guarded::start(&order.guard, owner, &scratch.log, |command| {
            command.arg(program);
            if program.file_name().is_some_and(|name| name == "clickhouse") {
                command.arg("server");
            }
            command.arg(format!("--config-file={}", scratch.file.display()));
            // What it leaves running is known by where it works; and the guard watches over it, no process of its own.
            command.current_dir(&order.place).env("CLICKHOUSE_WATCHDOG_ENABLE", "0");
        })?;
        Ok(Self(server))
    }

    /// Its version, when it answers.
    pub(super) async fn ready(&mut self, client: &Client) -> Result<String> {
        let began = tokio::time::Instant::now();
        loop {
            if self.0.has_ended()? || began.elapsed() > START {
                // It is empty: nothing of this is the backup's.
                let said = self.said().await;
                return Err(Error::unavailable(format!("the scratch server does not start: {said}"))
                    .with_hint("see drill.settings in docs/operations/drills.md, and engine.server"));
            }
            if let Ok(Ok(version)) = tokio::time::timeout(ANSWER, client.value("SELECT version()")).await {
                return Ok(version);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        match self.0.stop().await?.success() {
            true => Ok(()),
            false => {
                let said = self.said().await;
                Err(Error::unavailable(format!("the scratch server did not end well: {said}")))
            }
        }
    }

    /// The last of its log that names an error.
    async fn said(&self) -> String {
        let log = self.0.said().await;
        let named = |line: &&str| line.contains("Exception") || line.contains("<Error>");
        let line = log.lines().rfind(named).or_else(|| log.lines().last()).unwrap_or("nothing in its log");
        line.chars().filter(|c| !c.is_control()).take(400).collect()
    }
}
