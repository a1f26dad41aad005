//! One coordinator's way to the store.
use std::sync::Arc;

use palinurus_repository::{Error, Result};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reach {
    #[default]
    Whole,
    /// Calls arrive, answers do not.
    Unanswered,
    Cut,
}

/// One coordinator's way to the store, which a test may break. Calls over a broken one end in `Unavailable`.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub(super) reach: Arc<watch::Sender<Reach>>,
    asleep: Arc<watch::Sender<bool>>,
}

impl Link {
    /// Nothing arrives any more.
    pub fn cut(&self) {
        self.reach.send_replace(Reach::Cut);
    }

    /// What is asked is carried out, and who asked does not hear of it.
    pub fn cut_answers(&self) {
        self.reach.send_replace(Reach::Unanswered);
    }

    pub fn mend(&self) {
        self.reach.send_replace(Reach::Whole);
    }

    /// The lease is neither renewed nor seen to end, as in a process that is paused; all else goes on, which is worse
    /// than a pause.
    pub fn doze(&self) {
        self.asleep.send_replace(true);
    }

    pub fn wake(&self) {
        self.asleep.send_replace(false);
    }

    pub(super) async fn awake(&self) {
        let _ = self.asleep.subscribe().wait_for(|asleep| !asleep).await;
    }

    pub(super) async fn whole(&self) {
        let _ = self.reach.subscribe().wait_for(|reach| *reach == Reach::Whole).await;
    }

    pub(super) fn call<T>(&self, what: &str, work: impl FnOnce() -> T) -> Result<T> {
        let reach = *self.reach.borrow();
        let done = (reach != Reach::Cut).then(work);
        done.filter(|_| reach == Reach::Whole).ok_or_else(|| away(what))
    }
}

pub(super) fn away(what: &str) -> Error {
    Error::unavailable(format!("{what}: the store cannot be reached"))
}
