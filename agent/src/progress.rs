//! Counts of a running task, shared by its threads and read by the reporter.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use palinurus_proto::v1;
use palinurus_repository::Storage;
use palinurus_repository::storage::Requests;

/// Mirrors [`v1::Progress`]. Each count stands alone: none orders any other memory.
#[derive(Debug, Default)]
pub struct Counters {
    pub files_total: AtomicU64,
    pub files_done: AtomicU64,
    pub bytes_total: AtomicU64,
    pub bytes_done: AtomicU64,
    pub bytes_read: AtomicU64,
    pub bytes_new: AtomicU64,
    pub bytes_stored: AtomicU64,
    meter: OnceLock<Meter>,
}

/// The store, and what it had been asked before this task.
#[derive(Debug)]
struct Meter {
    storage: Arc<dyn Storage>,
    before: Requests,
}

impl Counters {
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }

    pub fn snapshot(&self) -> v1::Progress {
        v1::Progress {
            files_total: self.files_total.load(Relaxed),
            files_done: self.files_done.load(Relaxed),
            bytes_total: self.bytes_total.load(Relaxed),
            bytes_done: self.bytes_done.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_new: self.bytes_new.load(Relaxed),
            bytes_stored: self.bytes_stored.load(Relaxed),
            requests: self.meter.get().and_then(Meter::requests).map(Into::into),
        }
    }

    /// From here on the requests to that store are this task's: an agent has one task at a time that asks for much.
    pub(crate) fn measure(&self, storage: &Arc<dyn Storage>, before: Requests) {
        let _ = self.meter.set(Meter { storage: storage.clone(), before }); // one task, one store
    }
}

impl Meter {
    fn requests(&self) -> Option<Requests> {
        Some(self.storage.sent()?.since(&self.before))
    }
}
