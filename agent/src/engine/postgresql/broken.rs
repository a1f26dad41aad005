//! Whether what holds a backup together still does: its session, and the stream of its WAL.
use std::sync::{Mutex, PoisonError};

use palinurus_repository::{Error, Result};

#[derive(Debug, Default)]
pub(super) struct Broken(Mutex<Option<String>>);

impl Broken {
    /// The first is the cause.
    pub(super) fn set(&self, error: &Error) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            tracing::error!(error = error.chain(), "a backup of PostgreSQL broke");
            *first = Some(error.chain());
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(why) => Err(Error::conflict("what was read is no backup: its hold on PostgreSQL broke")
                .with_source(why.clone())
                .with_hint("see why, then start the backup again")),
        }
    }
}
