//! The `palinurus` command. stdout carries data, stderr carries talk; `exit.rs` says what the exit codes mean.
mod client;
mod command;
mod config;
mod confirm;
mod exit;
mod follow;
mod given;
mod home;
mod human;
mod identities;
mod logging;
mod output;
mod signal;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use command::Command;
use output::Output;

/// Backs up and restores database clusters.
#[derive(Debug, Parser)]
#[command(name = "palinurus", version, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 done with warnings, 4 fenced or conflict, \
                        5 unavailable, 6 corrupt, 7 denied.")]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Default, clap::Args)]
struct Global {
    /// The coordinator to talk to, that of `palinurus up` if nothing is said; of several, separated by commas, the first
    /// that answers. The leader is found from any of them.
    #[arg(long, global = true, env = "PALINURUS_SERVER", default_value = "", hide_default_value = true)]
    server: String,
    /// Where `palinurus up` keeps everything, $XDG_STATE_HOME/palinurus or ~/.local/state/palinurus if nothing is said.
    /// Other commands find there how to reach it, and then look nowhere else.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Whose certificates are believed, for https; this and those below may stand in ~/.config/palinurus/cli.toml.
    #[arg(long, global = true, env = "PALINURUS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Your certificate.
    #[arg(long, global = true, env = "PALINURUS_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, global = true, env = "PALINURUS_CERT_KEY", value_name = "FILE")]
    cert_key: Option<PathBuf>,
    /// Which certificates of the authority are believed no longer: its revoked.pem.
    #[arg(long, global = true, env = "PALINURUS_REVOKED", value_name = "FILE")]
    revoked: Option<PathBuf>,
    /// A token instead of a certificate, or in the environment as PALINURUS_TOKEN.
    #[arg(long, global = true, env = "PALINURUS_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print one JSON object on stdout; progress and errors as JSON lines on stderr.
    #[arg(long, global = true)]
    json: bool,
    /// Show no progress.
    #[arg(long, global = true)]
    no_progress: bool,
    /// Let a coordinator, or `up`, encrypt nothing: for callers on its own machine only.
    #[arg(long, global = true)]
    insecure_plaintext: bool,
}

fn main() -> ExitCode {
    // Before all else: what it ends with is read by a database.
    let command = || std::env::args_os();
    if let Some(code) =
        palinurus_agent::log_command(command()).or_else(|| palinurus_agent::drill_command(command()))
    {
        return ExitCode::from(code);
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::usage(&error),
    };
    let output = Output::new(arguments.global.json, arguments.global.no_progress);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return exit::failed(&output, &palinurus_repository::Error::io("start the runtime", error));
        }
    };
    let result = runtime.block_on(Box::pin(command::run(arguments.command, &arguments.global, &output)));
    // A blocked read of a terminal or disk must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(outcome) => outcome.into(),
        Err(error) => exit::failed(&output, &error),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Arguments::command().debug_assert();
    }
}
