//! `palinurus-agent drill-guard PROGRAM ARGUMENTS`: runs a scratch server for as long as the agent holds the other end of its
//! input. An agent that is killed leaves no server behind.
//!
//! ```text
//! input   stop\n: SIGINT, a clean stop      its end: SIGQUIT, at once
//! ```
use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

const WORD: &str = "drill-guard";
const FAILED: u8 = 120;

/// The command by which `program` guards another.
pub(crate) fn words(program: &[String]) -> Vec<String> {
    program.iter().cloned().chain([WORD.to_owned()]).collect()
}

/// The exit code, when `arguments`, of a program or of its `agent`, are such a command.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let mut arguments = arguments.into_iter().skip(1).skip_while(|word| word == "agent");
    if arguments.next()? != WORD {
        return None;
    }
    let ended = arguments.next().ok_or_else(|| io::Error::other("no program")).and_then(|program| {
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn()?;
        Ok(guard(child, io::stdin().lock()))
    });
    Some(ended.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "palinurus {WORD}: {error}");
        FAILED
    }))
}

/// Ends with the child, as soon as that has; this process ends then, whatever its input does.
fn guard(mut child: Child, orders: impl BufRead) -> u8 {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let tell = |signal| pid.map(|pid| kill_process(pid, signal));
    let waiting = std::thread::spawn(move || {
        let code = child.wait().map_or(FAILED, |ended| match (ended.code(), ended.signal()) {
            (Some(code), _) => u8::try_from(code).unwrap_or(FAILED),
            _ => FAILED,
        });
        std::process::exit(code.into())
    });
    for line in orders.lines() {
        match line.as_deref() {
            Ok("stop") => drop(tell(Signal::INT)),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    let _ = tell(Signal::QUIT);
    let _ = waiting.join();
    FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_command_is_taken() {
        let words = |words: &[&str]| run(words.iter().map(OsString::from));
        assert_eq!(words(&["palinurus-agent", "--config", "x"]), None);
        assert_eq!(words(&["palinurus", "drill", "list"]), None);
        assert_eq!(words(&["palinurus-agent", WORD]), Some(FAILED));
        assert_eq!(words(&["palinurus", "agent", WORD, "/nowhere/at/all"]), Some(FAILED));
    }
}
