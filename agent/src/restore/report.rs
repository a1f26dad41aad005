//! What all threads of a restore share to say how it goes: counts, damages, warnings, and the one error that
//! stops them.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use palinurus_repository::storage::Requests;
use palinurus_repository::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use super::fault::{Fault, shown};
use super::{RestoreResult, lock};
use crate::progress::Counters;
use crate::warning::Warnings;

/// Damages named in the final error; all are counted and logged.
const NAMED: usize = 20;
/// Kinds of warnings that are told apart.
const KINDS: usize = 100;

#[derive(Debug)]
pub(super) struct Report {
    pub(super) progress: Arc<Counters>,
    /// Cancelled from outside, or by the first error.
    pub(super) stop: CancellationToken,
    failure: Mutex<Option<Error>>,
    damages: Mutex<Damages>,
    warnings: Mutex<BTreeMap<String, Repeated>>,
    files: AtomicU64,
    bytes: AtomicU64,
    pub(super) written: AtomicU64,
}

#[derive(Debug, Default)]
struct Damages {
    named: Vec<(Vec<u8>, Error)>,
    count: u64,
    corrupt: bool,
}

/// One warning, however many files it is about.
#[derive(Debug)]
struct Repeated {
    path: Vec<u8>,
    message: String,
    count: u64,
}

impl Report {
    pub(super) fn new(progress: Arc<Counters>, stop: CancellationToken) -> Self {
        Self {
            progress,
            stop,
            failure: Mutex::default(),
            damages: Mutex::default(),
            warnings: Mutex::default(),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.is_stopped() { Err(cancelled()) } else { Ok(()) }
    }

    /// Stops everything. Keeps the first error; later ones are its consequences.
    pub(super) fn fail(&self, error: Error) {
        let mut failure = lock(&self.failure);
        if failure.is_none() && !self.is_stopped() {
            *failure = Some(error);
        }
        self.stop.cancel();
    }

    /// A file that is not restored, and why.
    pub(super) fn damage(&self, path: &[u8], error: Error) {
        let mut damages = lock(&self.damages);
        damages.count += 1;
        damages.corrupt |= matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound);
        if damages.named.len() < NAMED {
            tracing::error!(path = shown(path), error = error.chain(), "not restored");
            damages.named.push((path.to_vec(), error));
        }
    }

    /// The fault of a file that must not stay as it is.
    pub(super) fn fault(&self, path: &[u8], fault: Fault) {
        match fault {
            Fault::File(error) => self.damage(path, error),
            Fault::Run(error) => self.fail(error),
        }
    }

    /// Something about `path` could not be restored that is not its content. Once for each `kind`, with a count.
    pub(super) fn warn(&self, kind: &str, path: &[u8], message: impl FnOnce() -> String) {
        let mut warnings = lock(&self.warnings);
        if let Some(known) = warnings.get_mut(kind) {
            known.count += 1;
        } else if warnings.len() < KINDS {
            warnings.insert(kind.to_owned(), Repeated { path: path.to_vec(), message: message(), count: 1 });
        }
    }

    pub(super) fn file_done(&self, size: u64) {
        self.files.fetch_add(1, Relaxed);
        self.bytes.fetch_add(size, Relaxed);
        Counters::add(&self.progress.files_done, 1);
    }

    /// The error that stopped the run.
    pub(super) fn failure(&self) -> Option<Error> {
        let failure = lock(&self.failure).take();
        failure.or_else(|| self.is_stopped().then(cancelled))
    }

    /// The damages as one error.
    pub(super) fn damaged(&self) -> Option<Error> {
        let damages = lock(&self.damages);
        if damages.count == 0 {
            return None;
        }
        let named: Vec<String> =
            damages.named.iter().map(|(path, error)| format!("{}: {}", shown(path), error.chain())).collect();
        let more = damages.count - damages.named.len() as u64;
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let kind = if damages.corrupt { ErrorKind::Corrupt } else { damages.named[0].1.kind() };
        let what = format!("{} files are not restored: {}{more}", damages.count, named.join("; "));
        Some(Error::new(kind, what).with_hint(
            "everything else is in place; `palinurus repository check` says what is damaged, \
             and the same restore run again tries only these files",
        ))
    }

    pub(super) fn result(&self, requests: &Requests) -> RestoreResult {
        RestoreResult {
            files: self.files.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            bytes_written: self.written.load(Relaxed),
            bytes_fetched: requests.bytes_got,
            gets: requests.gets,
            warnings: self.warnings(),
        }
    }

    fn warnings(&self) -> Warnings {
        let mut all = Warnings::default();
        for warning in lock(&self.warnings).values() {
            let more = match warning.count {
                1 => String::new(),
                count => format!(" (and for {} more)", count - 1),
            };
            all.push(&warning.path, format!("{}{more}", warning.message));
        }
        all
    }
}

pub(super) fn cancelled() -> Error {
    Error::unavailable("the restore was cancelled").with_hint("run the same restore again: it is continued")
}
