//! `palinurus coordinator` and `palinurus agent`: the processes that run until they are told to stop.
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use tokio_util::sync::CancellationToken;

use crate::exit::Outcome;
use crate::output::Output;
use crate::{config, logging, signal};

#[derive(Debug, clap::Args)]
pub(crate) struct Daemon {
    /// TOML; deploy/config/ has commented ones.
    #[arg(long)]
    config: PathBuf,
    /// End when standard input does: for a parent that must not leave children behind.
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Daemon {
    fn cancel(&self) -> Result<CancellationToken> {
        let cancel = signal::cancel_on_signal()?;
        if self.until_stdin_closes {
            let cancel = cancel.clone();
            // A thread of its own that nobody waits for: no signal ends a read.
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while std::io::stdin().lock().read(&mut buffer).is_ok_and(|read| read > 0) {}
                cancel.cancel();
            });
        }
        Ok(cancel)
    }
}

pub(crate) async fn coordinator(
    daemon: Daemon,
    insecure_plaintext: bool,
    output: &Output,
) -> Result<Outcome> {
    logging::start(output, "info");
    let config = config::coordinator(&daemon.config)?;
    config.check_plaintext(insecure_plaintext)?;
    let state = config.state.clone();
    let cancel = daemon.cancel()?;
    let server = palinurus_coordinator::Server::start(config, cancel).await?;
    write_address(&state, &server.local_addr().to_string())?;
    output.note(format!("the coordinator listens on {}", server.local_addr()));
    server.join().await?;
    Ok(Outcome::Done)
}

pub(crate) async fn agent(daemon: Daemon, output: &Output) -> Result<Outcome> {
    logging::start(output, "info");
    let config = config::agent(&daemon.config, output)?;
    let cancel = daemon.cancel()?;
    let mut seams = palinurus_agent::Seams::default();
    seams.program.push("agent".into());
    palinurus_agent::run_with(config, seams, cancel).await?;
    Ok(Outcome::Done)
}

/// For whoever started it with port 0. Whole or not there.
pub(crate) fn write_address(state: &Path, address: &str) -> Result<()> {
    let file = state.join("address");
    let failed = |error| Error::io(format!("write {}", file.display()), error);
    let mut new = tempfile::NamedTempFile::new_in(state).map_err(failed)?;
    writeln!(new, "{address}").map_err(failed)?;
    new.persist(&file).map_err(|error| failed(error.error))?;
    Ok(())
}
