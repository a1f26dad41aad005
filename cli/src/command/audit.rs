use std::path::PathBuf;

use palinurus_coordinator::audit::{self, Line};
use palinurus_repository::Result;
use serde::Serialize;

use crate::exit::Outcome;
use crate::human;
use crate::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Who changed what, from a coordinator's own file.
    Show {
        file: PathBuf,
        /// Only what this one asked for.
        #[arg(long)]
        who: Option<String>,
        /// Only these calls, such as DeleteBackup.
        #[arg(long)]
        rpc: Option<String>,
        /// Only from this moment on, such as 2026-05-01T12:00:00Z.
        #[arg(long, value_parser = humantime::parse_rfc3339)]
        since: Option<std::time::SystemTime>,
    },
    /// Says whether every line is as it was written, and prints the chain's head: note it elsewhere.
    Verify { file: PathBuf },
}

#[derive(Serialize)]
struct Shown {
    lines: Vec<Line>,
}

#[derive(Serialize)]
struct Verified {
    lines: u64,
    torn: u64,
    head: String,
}

pub(crate) fn run(verb: Verb, output: &Output) -> Result<Outcome> {
    match verb {
        Verb::Show { file, who, rpc, since } => {
            let since = since.map(|since| humantime::format_rfc3339_millis(since).to_string());
            let wanted = |line: &Line| {
                who.as_ref().is_none_or(|who| *who == line.who)
                    && rpc.as_ref().is_none_or(|rpc| *rpc == line.rpc)
                    && since.as_ref().is_none_or(|since| *since <= line.time)
            };
            let mut lines = Vec::new();
            let read = audit::read(&file, |line| {
                if wanted(&line) {
                    lines.push(line);
                }
            });
            // What stands before a line that was changed is shown all the same.
            output.data(&Shown { lines }, show);
            torn(read?.torn, output)
        }
        Verb::Verify { file } => {
            let found = audit::read(&file, |_| {})?;
            let verified = Verified { lines: found.lines, torn: found.torn, head: found.head };
            output.data(&verified, |found| format!("{} lines, head {}", found.lines, found.head));
            torn(verified.torn, output)
        }
    }
}

fn torn(torn: u64, output: &Output) -> Result<Outcome> {
    if torn == 0 {
        return Ok(Outcome::Done);
    }
    output.warn(format!(
        "{torn} lines are no lines of an audit log: a crash leaves such, and so does somebody's hand"
    ));
    Ok(Outcome::Warnings)
}

fn show(shown: &Shown) -> String {
    let row = |line: &Line| {
        let request = if line.request.is_null() { String::new() } else { line.request.to_string() };
        let came = [&line.outcome, &line.operation, &request].map(|part| human::name(part.as_bytes()));
        let who =
            if line.role.is_empty() { line.who.clone() } else { format!("{} ({})", line.who, line.role) };
        vec![
            line.time.clone(),
            line.call.to_string(),
            line.event.clone(),
            human::name(who.as_bytes()),
            line.rpc.clone(),
            came.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
        ]
    };
    let rows: Vec<Vec<String>> = shown.lines.iter().map(row).collect();
    table(&["TIME", "CALL", "EVENT", "WHO", "WHAT", ""], &[1], &rows)
}
