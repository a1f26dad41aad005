//! Who changed what: a line of JSON for every change that is asked for, on disk before it is begun, and one for what came
//! of it. Each line carries a hash of all before it. `verify.rs` reads it back.
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use palinurus_repository::{Blocking, Clock, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::access::Caller;

mod describe;
mod throttle;
mod verify;

pub(crate) use describe::{described, operation};
use throttle::Throttle;
pub use verify::{Verified, read};

/// Of a line; what was asked for is cut before.
const LINE_MAX: usize = 64 << 10;
const CHAIN: &str = ",\"chain\":\"";

/// One line, without its place in the chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    pub time: String,
    /// `opened`, `asked`, `answered` or `refused`.
    pub event: String,
    /// Counts the changes asked for; an answer has its question's.
    pub call: u64,
    pub who: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// How that is known: `certificate`, `token`, or `plaintext`, which is everybody on this machine.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rpc: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub request: Value,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// Refusals that were too many to be noted, before this one.
    #[serde(skip_serializing_if = "is_zero")]
    pub unlogged: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A change on its way.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) request: Value,
    line: Line,
}

impl Call {
    pub(crate) fn new(caller: &Caller, from: Option<SocketAddr>, path: &str) -> Self {
        let by = match caller {
            Caller::Local => "plaintext",
            Caller::Nobody => "",
            Caller::Holder(_) => "certificate",
            Caller::Token { .. } => "token",
        };
        let line = Line {
            who: caller.name(),
            role: caller.role().map_or_else(String::new, |role| role.to_string()),
            by: by.to_owned(),
            from: from.map_or_else(String::new, |from| from.to_string()),
            rpc: path.rsplit('/').next().unwrap_or_default().to_owned(),
            ..Line::default()
        };
        Self { path: path.to_owned(), request: Value::Null, line }
    }
}

#[derive(Debug)]
pub(crate) struct Audit {
    log: Arc<Mutex<Log>>,
    clock: Arc<dyn Clock>,
    blocking: Blocking,
    refusals: Mutex<Throttle>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    last: blake3::Hash,
    calls: u64,
    /// A write failed half way: what comes next begins on a line of its own.
    torn: bool,
}

impl Audit {
    pub(crate) async fn open(
        path: &Path,
        coordinator: &str,
        clock: Arc<dyn Clock>,
        blocking: Blocking,
    ) -> Result<Self> {
        let path = path.to_owned();
        let log = blocking.run(move || Log::open(path)).await?;
        let audit = Self { log: Arc::new(Mutex::new(log)), clock, blocking, refusals: Mutex::default() };
        let who = format!("coordinator {coordinator}");
        audit.write(Line { event: "opened".to_owned(), who, ..Line::default() }).await?;
        Ok(audit)
    }

    /// Durable when it returns.
    pub(crate) async fn asked(&self, mut call: Call) -> Result<Call> {
        let request = call.request.clone();
        let line = Line { event: "asked".to_owned(), request, ..call.line.clone() };
        call.line.call = self.write(line).await.map_err(|e| {
            Error::unavailable("the audit log cannot be written, so nothing is changed")
                .with_source(e.chain())
                .with_hint("make room where the coordinator's `audit` lies, then ask again")
        })?;
        Ok(call)
    }

    pub(crate) async fn answered(&self, call: Call, failed: Option<Error>, operation: String) {
        let outcome = failed.map_or_else(|| "ok".to_owned(), |e| outcome(&e));
        self.note(Line { event: "answered".to_owned(), outcome, operation, ..call.line }).await;
    }

    pub(crate) async fn refused(&self, call: Call, error: &Error) {
        let turn = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).turn();
        let Some(unlogged) = turn else { return };
        let (request, outcome) = (call.request, outcome(error));
        self.note(Line { event: "refused".to_owned(), request, outcome, unlogged, ..call.line }).await;
    }

    /// It has happened already, so it is only said that it could not be kept.
    async fn note(&self, line: Line) {
        if let Err(e) = self.write(line).await {
            tracing::error!(error = e.chain(), "a line of the audit log is lost");
        }
    }

    /// Returns the call's number.
    async fn write(&self, mut line: Line) -> Result<u64> {
        line.time = humantime::format_rfc3339_millis(
            std::time::UNIX_EPOCH + std::time::Duration::from_millis(self.clock.now().0),
        )
        .to_string();
        let log = self.log.clone();
        let append = move || log.lock().unwrap_or_else(PoisonError::into_inner).append(line);
        self.blocking.run(append).await
    }
}

fn outcome(error: &Error) -> String {
    let mut text = format!("{}: {}", error.kind().name(), error.chain());
    text.truncate(text.floor_char_boundary(1024));
    text
}

impl Log {
    fn open(path: PathBuf) -> Result<Self> {
        let failed = |e| {
            Error::io(format!("open the audit log {}", path.display()), e)
                .with_hint("name a file that the coordinator may append to with `audit`")
        };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        // Append alone: it may be a file that the system lets nobody change (chattr +a).
        let options = || File::options().append(true).create(true).mode(0o600).open(&path);
        let file = options().map_err(failed)?;
        let mut reading = File::open(&path).map_err(failed)?;
        let length = reading.metadata().map_err(failed)?.len();
        let from = length.saturating_sub(4 * LINE_MAX as u64);
        let mut tail = Vec::new();
        reading.seek(SeekFrom::Start(from)).map_err(failed)?;
        reading.read_to_end(&mut tail).map_err(failed)?;
        let torn = !tail.is_empty() && !tail.ends_with(b"\n");
        let text = String::from_utf8_lossy(&tail);
        let whole = text.lines().rev().find_map(verify::split);
        let Some((_, _, last)) = whole else {
            if length > 0 {
                return Err(Error::corrupt(format!("{} is not an audit log", path.display()))
                    .with_hint("move it away, and keep it: a new one is begun"));
            }
            return Ok(Self { path, file, last: verify::FIRST, calls: 0, torn: false });
        };
        // An answer may be the last line, with the number of an earlier question.
        let calls = text.lines().filter_map(verify::split).map(|(line, ..)| line.call).max();
        Ok(Self { file, last, calls: calls.unwrap_or_default(), torn, path })
    }

    fn append(&mut self, mut line: Line) -> Result<u64> {
        let failed = |e| Error::io(format!("write the audit log {}", self.path.display()), e);
        let calls =
            if line.event == "asked" || line.event == "refused" { self.calls + 1 } else { self.calls };
        if line.call == 0 {
            line.call = calls;
        }
        let body = serde_json::to_string(&line).map_err(|e| Error::internal("a line").with_source(e))?;
        let chain = verify::link(&self.last, &body);
        let open = body.strip_suffix('}').unwrap_or(&body);
        let begin = if self.torn { "\n" } else { "" };
        let text = format!("{begin}{open}{CHAIN}{}\"}}\n", chain.to_hex());
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        // What is half there may be all there; reading back skips what is no line.
        self.torn = written.is_err();
        written.map_err(failed)?;
        (self.last, self.calls) = (chain, calls);
        Ok(line.call)
    }
}

#[cfg(test)]
mod tests;
