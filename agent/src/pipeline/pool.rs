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
    waiting: usize,
}

impl Pool {
    pub(crate) fn new(buffers: usize) -> Arc<Self> {
        let state = State { free: Vec::new(), unmade: buffers, waiting: 0 };
        Arc::new(Self { state: Mutex::new(state), returned: Condvar::new() })
    }

    /// Waits until a buffer is free, and says whether it had to: an uploader that is slower than the readers stops them here.
    pub(crate) fn take(&self, stop: &Stop) -> Result<(Vec<u8>, bool)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waited = false;
        loop {
            stop.check()?;
            if let Some(buffer) = state.free.pop() {
                return Ok((buffer, waited));
            }
            if state.unmade > 0 {
                state.unmade -= 1;
                return Ok((Vec::new(), waited));
            }
            waited = true;
            state.waiting += 1;
            let returned = self.returned.wait_timeout(state, Duration::from_millis(100));
            state = returned.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.free.push(buffer);
        if state.waiting > 0 {
            self.returned.notify_one();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_to_wait_is_told() {
        let (pool, stop) = (Pool::new(1), Stop::default());
        let (buffer, waited) = pool.take(&stop).unwrap();
        assert!(!waited);
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| pool.take(&stop).unwrap().1);
            while pool.state.lock().unwrap().waiting == 0 {
                std::thread::yield_now();
            }
            drop(Lent::new(pool.clone(), buffer, 0));
            assert!(taken.join().unwrap());
        });
        drop(Lent::new(pool.clone(), Vec::new(), 0));
        assert!(!pool.take(&stop).unwrap().1);
    }
}
