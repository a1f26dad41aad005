//! What an exit code means, in one place.
use std::process::ExitCode;

use palinurus_repository::{Error, ErrorKind};
use serde::Serialize;

use crate::output::Output;

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Done, but the operator should read what was said.
    Warnings,
    /// The operator said no; nothing was changed.
    Declined,
    /// What was looked at is damaged; all of it has been reported.
    Corrupt,
    /// An operation that was cancelled, or a comparison that differs.
    Failed,
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Declined | Outcome::Failed => 1,
            Outcome::Warnings => 3,
            Outcome::Corrupt => 6,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        outcome.code().into()
    }
}

pub(crate) fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound | ErrorKind::Internal => 1,
        ErrorKind::Invalid => 2,
        ErrorKind::Conflict | ErrorKind::Fenced => 4,
        ErrorKind::Unavailable => 5,
        ErrorKind::Corrupt => 6,
        ErrorKind::Denied => 7,
    }
}

/// On stderr under `--json`, as the last line.
#[derive(Serialize)]
struct Failed<'a> {
    error: &'a str,
    kind: &'static str,
    hint: Option<&'a str>,
    exit_code: u8,
}

pub(crate) fn failed(output: &Output, error: &Error) -> ExitCode {
    let (chain, code) = (error.chain(), code(error.kind()));
    if output.json {
        output.json_line(&Failed {
            error: &chain,
            kind: error.kind().name(),
            hint: error.hint(),
            exit_code: code,
        });
    } else {
        output.say(format!("error: {chain}"));
        if let Some(hint) = error.hint() {
            output.say(format!("hint: {hint}"));
        }
    }
    code.into()
}

/// What clap has to say: help and version on stdout with code 0, all else on stderr with code 2.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let asked_for_json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && asked_for_json {
        let text = error.to_string();
        let line = Failed { error: text.trim(), kind: "usage", hint: None, exit_code: 2 };
        Output::new(true, true).json_line(&line);
    } else {
        // A closed pipe is nobody's failure.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(2).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_manual() {
        let codes: Vec<u8> = ErrorKind::ALL.into_iter().map(code).collect();
        assert_eq!(codes, [2, 1, 4, 4, 5, 6, 7, 1]);
        assert_eq!(Outcome::Warnings.code(), 3);
        assert_eq!(Outcome::Corrupt.code(), code(ErrorKind::Corrupt));
    }
}
