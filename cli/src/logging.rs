//! The log of a process that runs on: stderr, one line an event; JSON under `--json`.
use tracing_subscriber::EnvFilter;

use crate::output::Output;

/// `PALINURUS_LOG` has the last word (`debug`, or `palinurus_agent=trace,info`).
pub(crate) fn start(output: &Output, default: &str) {
    // That client tells key ids, each time that it reads them.
    let quiet = || EnvFilter::new(format!("{default},aws_config=warn"));
    let filter = EnvFilter::try_from_env("PALINURUS_LOG").unwrap_or_else(|_| quiet());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A second start in one process keeps the first.
    let _ = if output.json { log.json().try_init() } else { log.try_init() };
}
