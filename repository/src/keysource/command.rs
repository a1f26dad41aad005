//! Runs a key command: bounded in time and output, and nothing of it left behind.
use std::io::ErrorKind as Io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Error, Result};
use crate::group::{Group, read_tail};
use crate::keyfile::TEXT_MAX;

const LINE_MAX: usize = 200;
/// This many hex digits in a row may be a key: not shown.
const SECRET_DIGITS: usize = 32;

/// What the command prints: at most one byte more than a key file may have.
pub(super) async fn run(argv: &[String], timeout: Duration) -> Result<Vec<u8>> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Error::invalid("a key command without a program"));
    };
    let mut group =
        Group::start(program, arguments, &[], Stdio::piped()).map_err(|e| not_started(program, e))?;
    let (stdout, stderr) = (group.stdout(), group.stderr());
    let mut said = Vec::new();
    let work = async {
        // What holds an output open is still at it.
        let (text, ()) = tokio::join!(read_text(stdout), read_tail(stderr, &mut said));
        let status = group.wait().await?;
        Ok::<_, std::io::Error>((text?, status))
    };
    let ended = tokio::time::timeout(timeout, work).await;
    drop(group);
    let (mut text, status) = match ended {
        Ok(ended) => ended.map_err(|e| Error::io(format!("hear the key command {program:?}"), e))?,
        Err(_) => {
            let limit = humantime::format_duration(timeout);
            return Err(Error::unavailable(format!(
                "the key command {program:?} did not end within {limit}"
            ))
            .with_hint("it was killed; run it by hand to see what it waits for, or raise its timeout"));
        }
    };
    if status.success() {
        return Ok(text);
    }
    text.fill(0);
    Err(failed(program, status, &said))
}

fn not_started(program: &str, e: std::io::Error) -> Error {
    let hint = match e.kind() {
        Io::NotFound => "name the program with its full path; it is run without a shell",
        Io::PermissionDenied => "it must be executable for the user that runs palinurus",
        _ => "run it by hand to see what is wrong",
    };
    Error::io(format!("start the key command {program:?}"), e).with_hint(hint)
}

fn failed(program: &str, status: ExitStatus, said: &[u8]) -> Error {
    let error = Error::unavailable(format!("the key command {program:?} ended with {status}"))
        .with_hint("run it by hand as the user that runs palinurus");
    let said = String::from_utf8_lossy(said);
    match said.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => error.with_source(format!("it said: {}", harmless(line))),
        None => error,
    }
}

/// Short, without control characters, and without what may be a key.
fn harmless(line: &str) -> String {
    let mut shown = String::new();
    let mut digits = 0;
    for c in line.chars().filter(|c| !c.is_control()).take(LINE_MAX) {
        digits = if c.is_ascii_hexdigit() { digits + 1 } else { 0 };
        shown.push(c);
        if digits >= SECRET_DIGITS {
            shown.truncate(shown.len() - digits);
            shown.push_str("[hidden]");
            return shown;
        }
    }
    shown
}

/// Reads on to the end, so that the command does not hang on a full pipe, and keeps the beginning.
async fn read_text(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    // Never grown: a buffer that moves leaves its content behind.
    let mut text = Vec::with_capacity(TEXT_MAX + 1);
    let Some(mut from) = from else { return Ok(text) };
    let mut buffer = [0; 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        let kept = read.min(TEXT_MAX + 1 - text.len());
        text.extend_from_slice(&buffer[..kept]);
        buffer.fill(0);
        if read == 0 {
            return Ok(text);
        }
    }
}
