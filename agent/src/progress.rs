//! Counts of a running task, shared by its threads and read by the reporter.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use palinurus_proto::v1;

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
    pub puts: AtomicU64,
    pub gets: AtomicU64,
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
            puts: self.puts.load(Relaxed),
            gets: self.gets.load(Relaxed),
        }
    }
}
