//! Asks a store behind a network again. All policy is here: no backend and no client beneath it retries by itself.
//!
//! Only `Unavailable` is tried again, with growing, jittered pauses, until the call's patience ends. A budget shared by
//! all calls bounds the retries of a store that is down, so that an outage does not multiply the load on it.
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::counted::Count;
use super::{Locked, Mark, Object, Requests, Storage};
use crate::entropy::Entropy;
use crate::error::{Error, ErrorKind, Result};

/// Requests on their way at once: the clients beneath bound only their idle connections.
const AT_ONCE: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a call goes on. One more second is given for each [`SLOWEST`] bytes.
const PATIENCE: Duration = Duration::from_secs(300);
/// As long as a store has answered nothing yet: its URL is more likely wrong than it is down.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(10);
/// Bytes a second. A store that takes less for long counts as one that does not answer.
pub(super) const SLOWEST: u64 = 256 * 1024;
/// Retries that may come at once; each then takes its turn, [`TURNS`] a second, and a call that succeeds gives back
/// one.
const BURST: f64 = 64.0;
const TURNS: f64 = 2.0;
/// How long [`put_own`] goes on. Shorter than [`PATIENCE`], so that a store behind a network, which has been asked for
/// as long as that, is not asked for as long again.
const PATIENCE_OF_OTHERS: Duration = Duration::from_secs(60);

pub struct Retried<S> {
    inner: S,
    entropy: Arc<dyn Entropy>,
    busy: Semaphore,
    budget: Mutex<Budget>,
    answered: AtomicBool,
    retries: Count,
}

impl<S: fmt::Debug> fmt::Debug for Retried<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f) // messages name the store
    }
}

impl<S: Storage> Retried<S> {
    pub fn new(inner: S, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            inner,
            entropy,
            busy: Semaphore::new(AT_ONCE),
            budget: Mutex::default(),
            answered: AtomicBool::new(false),
            retries: Count::default(),
        }
    }

    /// Makes `call`, and again as long as that may help; it is told whether this is another try.
    async fn trying<T, F>(&self, what: &str, bytes: u64, call: impl Fn(bool) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let patience = if self.answered.load(Ordering::Relaxed) { PATIENCE } else { PATIENCE_AT_FIRST };
        let began = Instant::now();
        let deadline = began + patience + slowest(bytes);
        let mut pause = FIRST_PAUSE;
        let mut tries = 0u32;
        loop {
            let error = match self.once(deadline, call(tries > 0)).await {
                Err(e) if e.kind() == ErrorKind::Unavailable => e,
                answer => {
                    self.answered.store(true, Ordering::Relaxed);
                    self.budget().earn();
                    return answer;
                }
            };
            tries += 1;
            let now = Instant::now();
            let wait = self.jittered(pause)?.max(self.budget().reserve(now));
            if now + wait >= deadline {
                self.budget().earn(); // it is not made
                return Err(error.with_note(format_args!("tried {tries} times in {:.0?}", now - began)));
            }
            tracing::debug!(what, tries, ?wait, error = error.chain(), "the store is asked again");
            sleep(wait).await;
            self.retries.add(1);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn once<T>(&self, deadline: Instant, call: impl Future<Output = Result<T>>) -> Result<T> {
        let within = timeout_at(deadline, async {
            let _turn = self.busy.acquire().await.map_err(|_| Error::internal("the store is closed"))?;
            call.await
        });
        within.await.unwrap_or_else(|_| Err(Error::unavailable("the store did not answer in time")))
    }

    /// Between half of `pause` and all of it.
    fn jittered(&self, pause: Duration) -> Result<Duration> {
        let random = u32::from_le_bytes(self.entropy.array()?);
        Ok(pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0))
    }

    fn budget(&self) -> std::sync::MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `bytes` may take at the least rate that counts as alive.
pub(super) fn slowest(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// A bucket of retries. Below zero it is a queue: who finds it empty waits for a turn.
#[derive(Debug, Default)]
struct Budget {
    spent: f64,
    at: Option<Instant>,
}

impl Budget {
    /// Takes one retry; how long until it may be made.
    fn reserve(&mut self, now: Instant) -> Duration {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.spent = (self.spent - passed.as_secs_f64() * TURNS).max(0.0) + 1.0;
        Duration::from_secs_f64((self.spent - BURST).max(0.0) / TURNS)
    }

    fn earn(&mut self) {
        self.spent = (self.spent - 1.0).max(0.0);
    }
}

#[async_trait]
impl<S: Storage> Storage for Retried<S> {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.put_marked(key, body, &Mark::draw(&*self.entropy)?).await
    }

    async fn put_marked(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()> {
        let again = mark.again();
        self.trying(key, body.len() as u64, |another| {
            self.inner.put_marked(key, body.clone(), if another { &again } else { mark })
        })
        .await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.trying(key, body.len() as u64, |_| self.inner.put(key, body.clone())).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let bytes = range.as_ref().map_or(0, |range| range.end.saturating_sub(range.start));
        self.trying(key, bytes.min(1 << 32), |_| self.inner.get(key, range.clone())).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.trying(key, 0, |_| self.inner.size(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.trying(prefix, 0, |_| self.inner.list(prefix, after, limit)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        let first = keys.first().map_or("", String::as_str);
        self.trying(first, 0, |_| self.inner.delete(keys)).await
    }

    async fn locked(&self, keys: &[String]) -> Result<Vec<Locked>> {
        let first = keys.first().map_or("", String::as_str);
        self.trying(first, 0, |_| self.inner.locked(keys)).await
    }

    async fn tidy(&self) -> Result<u64> {
        self.trying("tidy", 0, |_| self.inner.tidy()).await
    }

    fn sent(&self) -> Option<Requests> {
        let sent = self.inner.sent()?;
        Some(Requests { retries: sent.retries + self.retries.read(), ..sent })
    }
}

/// Creates an object whose name only the caller can have drawn, and again for as long as that may help: a directory, on a
/// mount that goes and comes, does not ask again by itself. When an answer was lost, a conflict on a later try is with
/// the first one, and its length proves it.
pub async fn put_own(storage: &dyn Storage, key: &str, body: Bytes) -> Result<()> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut tries = 0u32;
    loop {
        match storage.put_new(key, body.clone()).await {
            Err(e) if e.kind() == ErrorKind::Conflict && tries > 0 => {
                return match storage.size(key).await? {
                    size if size == body.len() as u64 => Ok(()),
                    size => Err(Error::corrupt(format!("{key} has {size} bytes, we wrote {}", body.len()))),
                };
            }
            Err(e)
                if e.kind() == ErrorKind::Unavailable
                    && !e.is_full()
                    && began.elapsed() + pause < PATIENCE_OF_OTHERS =>
            {
                tries += 1;
                tracing::warn!(key, tries, error = %e.chain(), "put failed, trying again");
            }
            done => return done,
        }
        sleep(pause).await;
        pause *= 2;
    }
}

#[cfg(test)]
mod tests;
