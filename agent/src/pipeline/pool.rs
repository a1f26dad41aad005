//! Pack buffers: the only queue of the data path. Their number bounds the memory of a run.
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use palinurus_repository::Result;

use super::stop::Stop;

#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    free: Vec<Vec<u8>>,
    /// How many more may be made.
    unmade: usize,
}

impl Pool {
    pub(crate) fn new(buffers: usize) -> Arc<Self> {
        let state = State { free: Vec::new(), unmade: buffers };
        Arc::new(Self { state: Mutex::new(state), returned: Condvar::new() })
    }

    /// Waits until a buffer is free: an uploader that is slower than the readers stops them here.
    pub(crate) fn take(&self, stop: &Stop) -> Result<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            stop.check()?;
            if let Some(buffer) = state.free.pop() {
                return Ok(buffer);
            }
            if state.unmade > 0 {
                state.unmade -= 1;
                return Ok(Vec::new());
            }
            let waited = self.returned.wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn give_back(&self, buffer: Vec<u8>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).free.push(buffer);
        self.returned.notify_one();
    }
}

/// A filled buffer on its way to the store; returns to its pool when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct Lent {
    pool: Arc<Pool>,
    buffer: Vec<u8>,
    len: usize,
}

impl Lent {
    pub(crate) fn new(pool: Arc<Pool>, buffer: Vec<u8>, len: usize) -> Self {
        Self { pool, buffer, len }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffer));
    }
}
