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

    /// Keeps the first error; later ones are its consequences. A consequence can arrive before its cause, so
    /// [`stopped`] never counts as one.
    pub(crate) fn fail(&self, error: Error) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() && error.what() != STOPPED {
            *first = Some(error);
        }
        self.stopped.store(true, Ordering::Release);
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_stopped() { Err(stopped()) } else { Ok(()) }
    }

    /// How the run ended, when all its threads have: nothing is whole if any of them stopped.
    pub(crate) fn end(&self) -> Result<()> {
        match self.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => self.check(),
        }
    }
}

const STOPPED: &str = "the run was stopped";

/// What a thread ends with when another one failed; not shown while the cause is known.
pub(crate) fn stopped() -> Error {
    Error::unavailable(STOPPED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_told_also_when_its_consequence_came_first() {
        let stop = Stop::default();
        stop.end().unwrap();
        stop.fail(stopped());
        stop.fail(Error::corrupt("the cause"));
        stop.fail(Error::internal("a later one"));
        assert_eq!(stop.end().unwrap_err().what(), "the cause");
        assert!(stop.end().is_err(), "stopped stays stopped");
    }
}
