//! A store that misbehaves: everything completes or fails cleanly, with never a wrong byte, and nobody is told that his
//! own object is another's.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use palinurus_repository::storage;
use palinurus_repository::storage::suite::{self, Order};
use palinurus_repository::{ErrorKind, Storage};
use palinurus_tests::store::proxy::Fault;
use palinurus_tests::store::{Faults, Proxy, Server};

const OBJECTS: usize = 300;
const TASKS: usize = 8;

fn body(number: usize) -> Bytes {
    let size = [0, 1, 100, 5_000, 70_000, 400_000][number % 6];
    (0..size as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ number as u8).collect()
}

fn key(number: usize) -> String {
    format!("t/{:02}/{number:04}", number % 7)
}

/// Puts, reads and lists some hundred objects. What fails must say `Unavailable`; returns how many did.
async fn workload(storage: Arc<dyn Storage>, faults: &str) -> usize {
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (storage, faults) = (storage.clone(), faults.to_owned());
            tokio::spawn(async move {
                let mut failed = 0;
                for number in (task..OBJECTS).step_by(TASKS) {
                    failed += usize::from(!object(&*storage, number, &faults).await);
                }
                failed
            })
        })
        .collect();
    let mut failed = 0;
    for task in tasks {
        failed += task.await.unwrap();
    }
    failed
}

async fn object(storage: &dyn Storage, number: usize, faults: &str) -> bool {
    let (key, body) = (key(number), body(number));
    let fine = |outcome: palinurus_repository::Result<bool>| match outcome {
        Ok(right) => {
            assert!(right, "{faults}: {key} has wrong bytes");
            true
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Unavailable, "{faults}: {key}: {e:?}");
            false
        }
    };
    if !fine(storage.put_new(&key, body.clone()).await.map(|()| true)) {
        return false;
    }
    let middle = body.len() / 3..body.len() / 2;
    let range = middle.start as u64..middle.end as u64;
    fine(storage.get(&key, None).await.map(|there| there == body))
        & fine(storage.get(&key, Some(range)).await.map(|there| there == body[middle]))
        & fine(storage.size(&key).await.map(|size| size == body.len() as u64))
}

/// What is there, seen without the proxy: whole objects with the right bytes, and each that was reported put.
async fn is_right(server: &Server, prefix: &str, failed: usize) {
    let storage = storage::open(&server.url(prefix)).unwrap();
    let there = storage::list_all(&*storage, "t/").await.unwrap();
    assert!(there.len() + failed >= OBJECTS, "{} objects, {failed} failed", there.len());
    for object in &there {
        let number: usize = object.key[5..].parse().unwrap();
        assert!(storage.get(&object.key, None).await.unwrap() == body(number), "{}", object.key);
    }
}

async fn suffers(server: &Server, percent: u64, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let faults = Faults { seed, percent, kinds: Fault::QUICK.to_vec() };
        let told = format!("seed {seed}, {percent} %");
        let proxy = Proxy::before(server.address, faults).await;
        let prefix = format!("faults-{seed}");
        let storage = storage::open(&server.url_through(proxy.address, &prefix)).unwrap();
        let failed = workload(storage.clone(), &told).await;
        let sent = storage.sent().unwrap();
        eprintln!(
            "{told}: {} of {} requests faulty, {failed} objects failed, {sent:?}",
            proxy.faulty(),
            proxy.requests()
        );
        assert_eq!(failed, 0, "{told}: such a store is still good enough");
        assert!(proxy.faulty() * 150 > proxy.requests() * percent, "{told}: the faults happen");
        is_right(server, &prefix, failed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seaweedfs_behind_a_bad_network() {
    let server = Server::weed().await;
    suffers(&server, 10, 0..2).await;
    suffers(&server, 30, 2..3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_behind_a_bad_network() {
    suffers(&Server::azurite().await, 10, 10..11).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fake_gcs_server_behind_a_bad_network() {
    suffers(&Server::gcs().await, 10, 12..13).await;
}

/// The whole suite, with all that it says about who wins a race.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_holds_behind_a_bad_network() {
    let server = Server::weed().await;
    let faults = Faults { seed: 7, percent: 10, kinds: Fault::QUICK.to_vec() };
    let proxy = Proxy::before(server.address, faults).await;
    let storage = storage::open(&server.url_through(proxy.address, "suite")).unwrap();
    suite::run_sorted(storage.clone(), "faults", Order::Parts).await;
    eprintln!("{} of {} requests faulty, {:?}", proxy.faulty(), proxy.requests(), storage.sent().unwrap());
}

/// Every put is carried out and no answer ever comes: each is told that it succeeded, once it can ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_knows_its_own_object() {
    for server in [Server::weed().await, Server::azurite().await, Server::gcs().await] {
        let only = |kind, percent| Faults { seed: 1, percent, kinds: vec![kind] };
        let proxy = Proxy::before(server.address, Faults::none()).await;
        let storage = storage::open(&server.url_through(proxy.address, "own")).unwrap();
        storage.list("", None, 1).await.unwrap();
        for (number, kind) in [Fault::Lost, Fault::Disowned, Fault::Twice].into_iter().enumerate() {
            proxy.set(only(kind, 100));
            let own = format!("own-{number}");
            let put = tokio::spawn({
                let (storage, own) = (storage.clone(), own.clone());
                async move { storage.put_new(&own, Bytes::from_static(b"mine")).await }
            });
            // Once something was carried out, answers come through again.
            let before = proxy.faulty();
            while proxy.faulty() == before && !put.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            proxy.set(Faults::none());
            put.await.unwrap().unwrap_or_else(|e| panic!("{kind:?}: {e:?}"));
            let others = storage.put_new(&own, Bytes::from_static(b"mine")).await.unwrap_err();
            assert_eq!(others.kind(), ErrorKind::Conflict, "{kind:?}: {others:?}");
            assert_eq!(storage.get(&own, None).await.unwrap(), "mine");
        }
    }
}

/// An answer that stops in the middle is given up and asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_body_is_not_waited_for() {
    let server = Server::weed().await;
    let proxy = Proxy::before(server.address, Faults::none()).await;
    let storage = storage::open(&server.url_through(proxy.address, "stall")).unwrap();
    storage.put_new("t/pack", body(5)).await.unwrap();
    proxy.set(Faults { seed: 1, percent: 100, kinds: vec![Fault::Stalled] });
    let began = tokio::time::Instant::now();
    let reading = tokio::spawn({
        let storage = storage.clone();
        async move { storage.get("t/pack", None).await }
    });
    while proxy.faulty() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    proxy.set(Faults::none());
    assert!(reading.await.unwrap().unwrap() == body(5));
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    assert!(storage.sent().unwrap().retries > 0);
}

/// In parts, where the last call decides and may come twice as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_object_survives_lost_answers() {
    let server = Server::weed().await;
    let faults = Faults { seed: 3, percent: 15, kinds: vec![Fault::Lost, Fault::Twice, Fault::Busy] };
    let proxy = Proxy::before(server.address, faults).await;
    let storage = storage::open(&server.url_through(proxy.address, "large")).unwrap();
    let mut body = vec![0; 66 << 20];
    body.chunks_exact_mut(4).zip(0u32..).for_each(|(place, i)| place.copy_from_slice(&i.to_le_bytes()));
    let body = Bytes::from(body);
    storage.put_new("t/pack", body.clone()).await.unwrap();
    let direct = storage::open(&server.url("large")).unwrap();
    assert!(direct.get("t/pack", None).await.unwrap() == body);
}
