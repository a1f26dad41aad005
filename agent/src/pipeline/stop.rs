//! How the threads of one run end together: the first error stops all, and no wait outlives it.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use palinurus_repository::{Error, Result};

#[derive(Debug, Default)]
pub(crate) struct Stop {
    stopped: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Stop {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Keeps the first error; later ones are its consequences.
    pub(crate) fn fail(&self, error: Error) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(error);
        }
        self.stopped.store(true, Ordering::Release);
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_stopped() { Err(stopped()) } else { Ok(()) }
    }

    pub(crate) fn take(&self) -> Option<Error> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a thread ends with when another one failed; never shown, because the first error is.
pub(crate) fn stopped() -> Error {
    Error::unavailable("the run was stopped")
}
