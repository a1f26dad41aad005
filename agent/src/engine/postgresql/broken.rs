//! Whether what holds a backup together still does: its session, and the stream of its WAL. When one of them breaks
//! the other is given up too, so that the server keeps nothing for a backup that will never be one.
use std::sync::{Mutex, PoisonError};

use palinurus_repository::{Error, Result};
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(super) struct Broken {
    first: Mutex<Option<String>>,
    cancel: CancellationToken,
}

impl Broken {
    /// `cancel` ends both.
    pub(super) fn new(cancel: CancellationToken) -> Self {
        Self { first: Mutex::default(), cancel }
    }

    /// The first is the cause.
    pub(super) fn set(&self, error: &Error) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            tracing::error!(error = error.chain(), "a backup of PostgreSQL broke");
            *first = Some(error.chain());
        }
        drop(first);
        self.cancel.cancel();
    }

    pub(super) fn check(&self) -> Result<()> {
        match &*self.first.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(why) => Err(Error::conflict("what was read is no backup: its hold on PostgreSQL broke")
                .with_source(why.clone())
                .with_hint("see why, then start the backup again")),
        }
    }
}
