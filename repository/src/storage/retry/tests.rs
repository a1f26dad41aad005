use std::collections::VecDeque;

use tokio::time::advance;

use super::*;
use crate::entropy::SeededEntropy;
use crate::storage::MemoryStorage;

/// A store whose next calls fare as told.
#[derive(Debug, Default)]
struct Moody {
    inner: MemoryStorage,
    moods: Mutex<VecDeque<Mood>>,
    marks: Mutex<Vec<(String, String)>>,
    calls: Count,
}

#[derive(Clone, Copy, Debug)]
enum Mood {
    /// Nothing is done.
    Refuses,
    /// Done, but the answer is lost.
    Forgets,
    Hangs,
}

impl Moody {
    fn with(moods: impl IntoIterator<Item = Mood>) -> Self {
        Self { moods: Mutex::new(moods.into_iter().collect()), ..Self::default() }
    }

    async fn fares<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.calls.add(1);
        let mood = self.moods.lock().unwrap().pop_front();
        match mood {
            None => work.await,
            Some(Mood::Refuses) => Err(Error::unavailable("not now").with_hint("wait")),
            Some(Mood::Hangs) => std::future::pending().await,
            Some(Mood::Forgets) => {
                let _ = work.await;
                Err(Error::unavailable("what was it?"))
            }
        }
    }
}

#[async_trait]
impl Storage for Moody {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.fares(self.inner.put_new(key, body)).await
    }

    async fn put_marked(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()> {
        self.fares(async {
            let bearing = (key.to_owned(), mark.text().to_owned());
            if mark.is_again() && self.marks.lock().unwrap().contains(&bearing) {
                return Ok(());
            }
            self.inner.put_new(key, body).await?;
            self.marks.lock().unwrap().push(bearing);
            Ok(())
        })
        .await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.fares(self.inner.put(key, body)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.fares(self.inner.get(key, range)).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.fares(self.inner.size(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.fares(self.inner.list(prefix, after, limit)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.fares(self.inner.delete(keys)).await
    }
}

fn retried(moods: impl IntoIterator<Item = Mood>) -> Retried<Moody> {
    Retried::new(Moody::with(moods), Arc::new(SeededEntropy::new(1)))
}

/// One that has answered before, and so is given time.
async fn known(moods: impl IntoIterator<Item = Mood>) -> Retried<Moody> {
    let storage = retried([]);
    storage.size("absent").await.unwrap_err();
    storage.inner.moods.lock().unwrap().extend(moods);
    storage
}

#[tokio::test(start_paused = true)]
async fn every_call_is_tried_again() {
    let storage = retried([]);
    let again = || storage.inner.moods.lock().unwrap().extend([Mood::Refuses, Mood::Refuses]);
    again();
    storage.put_new("a", Bytes::from_static(b"abc")).await.unwrap();
    again();
    storage.put("keys/a", Bytes::new()).await.unwrap();
    again();
    assert_eq!(storage.get("a", Some(1..3)).await.unwrap(), "bc");
    again();
    assert_eq!(storage.size("a").await.unwrap(), 3);
    again();
    assert_eq!(storage.list("", None, 10).await.unwrap().len(), 2);
    again();
    storage.delete(&["a".to_owned()]).await.unwrap();
    assert_eq!((storage.inner.calls.read(), storage.retries.read()), (18, 12));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_no_conflict() {
    let storage = retried([Mood::Forgets, Mood::Refuses]);
    storage.put_new("a", Bytes::from_static(b"mine")).await.unwrap();
    // The same words from another are one.
    storage.inner.moods.lock().unwrap().push_back(Mood::Refuses);
    let other = storage.put_new("a", Bytes::from_static(b"mine")).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn answers_are_not_questioned() {
    let storage = retried([]);
    assert_eq!(storage.get("absent", None).await.unwrap_err().kind(), ErrorKind::NotFound);
    storage.put_new("a", Bytes::new()).await.unwrap();
    assert_eq!(storage.get("a", Some(0..9)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!((storage.inner.calls.read(), storage.retries.read()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answered_is_given_up_soon() {
    let storage = retried([Mood::Refuses; 1000]);
    let began = Instant::now();
    let error = storage.size("a").await.unwrap_err();
    assert!(began.elapsed() <= PATIENCE_AT_FIRST, "{:?}", began.elapsed());
    assert_eq!((error.kind(), error.hint()), (ErrorKind::Unavailable, Some("wait")));
    assert!(error.what().starts_with("not now (tried "), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_has_answered_is_waited_for() {
    let storage = known([Mood::Refuses; 20]).await;
    let began = Instant::now();
    storage.size("absent").await.unwrap_err();
    assert_eq!(storage.retries.read(), 20);
    assert!(began.elapsed() > Duration::from_secs(60), "pauses grow: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_although_the_store_hangs() {
    let storage = known([Mood::Hangs]).await;
    let began = Instant::now();
    assert_eq!(storage.size("a").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(began.elapsed(), PATIENCE);
}

/// 64 callers of a store that is down: what it is asked is bounded by the budget, not by them.
#[tokio::test(start_paused = true)]
async fn an_outage_is_not_multiplied() {
    let storage = Arc::new(known(vec![Mood::Refuses; 100_000]).await);
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.size("a").await })
        })
        .collect();
    advance(Duration::from_millis(1)).await;
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    }
    let bound = BURST + PATIENCE.as_secs_f64() * TURNS;
    assert!((storage.retries.read() as f64) < bound + 64.0, "{} retries", storage.retries.read());
    assert!((storage.retries.read() as f64) > bound / 2.0, "{} retries", storage.retries.read());
}

#[tokio::test(start_paused = true)]
async fn no_more_than_some_at_once() {
    let storage = Arc::new(known([Mood::Hangs; AT_ONCE]).await);
    let before = storage.inner.calls.read();
    let callers: Vec<_> = (0..AT_ONCE + 1)
        .map(|_| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.size("a").await.map(drop) })
        })
        .collect();
    advance(Duration::from_secs(1)).await;
    assert_eq!(storage.inner.calls.read() - before, AT_ONCE as u64);
    callers.into_iter().for_each(|caller| caller.abort());
}

#[tokio::test(start_paused = true)]
async fn ones_own_object_is_put_again_for_a_minute() {
    let body = || Bytes::from_static(b"abc");
    let storage = Moody::with([Mood::Refuses, Mood::Forgets]);
    put_own(&storage, "a", body()).await.unwrap();
    assert_eq!(storage.inner.get("a", None).await.unwrap(), body());

    // Somebody else's, and one of ours that is not what was put.
    assert_eq!(put_own(&storage, "a", body()).await.unwrap_err().kind(), ErrorKind::Conflict);
    let storage = Moody::with([Mood::Refuses]);
    storage.inner.put_new("a", Bytes::from_static(b"ab")).await.unwrap();
    assert_eq!(put_own(&storage, "a", body()).await.unwrap_err().kind(), ErrorKind::Corrupt);

    let storage = Moody::with([Mood::Refuses; 1000]);
    let began = Instant::now();
    assert_eq!(put_own(&storage, "a", body()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() > Duration::from_secs(30) && began.elapsed() <= PATIENCE_OF_OTHERS);
    assert_eq!(storage.calls.read(), 9);
}

#[tokio::test(start_paused = true)]
async fn what_a_store_has_tried_long_is_not_tried_as_long_again() {
    let storage = known(vec![Mood::Hangs; 100]).await;
    let began = Instant::now();
    assert_eq!(put_own(&storage, "a", Bytes::new()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(began.elapsed(), PATIENCE);
}
