//! Objects that go in parts, and what is left of those that never ended.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use palinurus_repository::clock::{Clock, ManualClock};
use palinurus_repository::{ErrorKind, SystemClock, SystemEntropy, storage};
use palinurus_tests::store::{Faults, Proxy, Server};

/// More than goes in one request, and not a whole number of parts.
const SIZE: usize = (70 << 20) + 12_345;
const DAYS: Duration = Duration::from_secs(25 * 3600);

/// Incompressible enough, and each place different.
fn body() -> Bytes {
    let mut body = vec![0; SIZE];
    for (i, place) in body.chunks_mut(4).enumerate() {
        place.copy_from_slice(&(i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[..place.len()]);
    }
    body.into()
}

/// A buffer of a pool, which learns when it is given back.
struct Lent(Bytes, Arc<AtomicBool>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_in_parts_is_created_once_or_not_at_all() {
    let server = Server::weed().await;
    let storage = storage::open(&server.url("large")).unwrap();
    let body = body();
    let before = storage.sent().unwrap();
    storage.put_new("t/pack", body.clone()).await.unwrap();
    let sent = storage.sent().unwrap().since(&before);
    assert_eq!((sent.puts, sent.bytes_put), (2 + 5, SIZE as u64), "begin, 5 parts, complete");
    assert_eq!(storage.size("t/pack").await.unwrap(), SIZE as u64);
    assert!(storage.get("t/pack", None).await.unwrap() == body);
    let (from, to) = ((16 << 20) - 3, (32 << 20) + 3);
    assert!(storage.get("t/pack", Some(from..to)).await.unwrap() == body[from as usize..to as usize]);

    let other = Bytes::from(vec![7; SIZE]);
    assert_eq!(storage.put_new("t/pack", other.clone()).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(storage.get("t/pack", None).await.unwrap() == body);
    let clock = ManualClock::at(SystemClock.now().plus(DAYS));
    let bucket =
        storage::open_with(&server.url(""), Arc::new(clock), Arc::new(SystemEntropy::new())).unwrap();
    assert_eq!(bucket.tidy().await.unwrap(), 0, "the parts of the one that lost are gone");
    storage.put("t/pack", other.clone()).await.unwrap();
    assert!(storage.get("t/pack", None).await.unwrap() == other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buffers_are_given_back() {
    let server = Server::weed().await;
    let storage = storage::open(&server.url("lent")).unwrap();
    for (key, size) in [("small", 10), ("pack", 32 << 20), ("large", SIZE), ("pack", 32 << 20)] {
        let returned = Arc::new(AtomicBool::new(false));
        let lent = Bytes::from_owner(Lent(body().slice(..size), returned.clone()));
        let _ = storage.put_new(key, lent).await;
        // The connection's own task may be a moment behind.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        while !returned.load(Ordering::SeqCst) {
            assert!(tokio::time::Instant::now() < deadline, "{key} is held");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A writer dies between parts. A day later its parts are found and removed; not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_uploads_are_tidied_away() {
    let server = Server::weed().await;
    // Its last call, which makes the parts an object, is not taken: however fast it is, it does not end.
    let last = Faults::refusing("POST /lab/tidy/t/pack?uploadId=", "503 Slow Down", "SlowDown");
    let proxy = Proxy::before(server.address, last).await;
    let url = server.url_through(proxy.address, "tidy");
    let dying = storage::open(&url).unwrap();
    let task = tokio::spawn(async move { dying.put_new("t/pack", body()).await });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while proxy.parts() == 0 {
        assert!(tokio::time::Instant::now() < deadline && !task.is_finished());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    proxy.set(Faults::none());
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let storage = storage::open_with(&url, clock.clone(), Arc::new(SystemEntropy::new())).unwrap();
    assert_eq!(storage.tidy().await.unwrap(), 0, "its writer may live");
    clock.advance(DAYS);
    let elsewhere = storage::open_with(&server.url("tid"), clock, Arc::new(SystemEntropy::new())).unwrap();
    assert_eq!(elsewhere.tidy().await.unwrap(), 0, "it is another repository's");
    assert_eq!(storage.tidy().await.unwrap(), 1);
    assert_eq!(storage.tidy().await.unwrap(), 0);
    assert_eq!(storage.size("t/pack").await.unwrap_err().kind(), ErrorKind::NotFound);
}
