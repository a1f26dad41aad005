//! What is fetched ahead of a database that recovers.
use std::sync::atomic::{AtomicUsize, Ordering};

use palinurus_proto::logs::chain_to_wire;
use tokio::sync::Semaphore;

use super::super::files::Files;
use super::*;

const FILES: u64 = 4;

/// Files `1` to `4`, a segment each.
#[derive(Debug)]
struct Numbered(Script);

#[async_trait]
impl Logs for Numbered {
    fn recovers(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn is_stored(&self) -> bool {
        true
    }

    fn interval(&self) -> Duration {
        self.0.interval()
    }

    async fn look(&self) -> Result<Option<History>> {
        self.0.look().await
    }

    async fn open(&self, identity: &[u8], position: u64) -> Result<Box<dyn LogStream>> {
        self.0.open(identity, position).await
    }

    fn wanted(&self, name: &str, _: &Plan) -> Wanted {
        let number: u64 = name.parse().unwrap();
        Wanted::Bytes { from: number * SEGMENT, to: (number + 1) * SEGMENT, len: SEGMENT }
    }

    fn following(&self, name: &str, _: &Plan) -> Vec<String> {
        let number: u64 = name.parse().unwrap();
        (number + 1..=FILES).map(|number| number.to_string()).collect()
    }

    async fn prepare(&self, _: &Plan, _: &[String]) -> Result<()> {
        Ok(())
    }

    fn user(&self) -> Option<(u32, u32)> {
        None
    }
}

/// Counts what it is asked for of the log, and gives it when it may.
#[derive(Debug)]
struct Gate {
    inner: Arc<dyn Storage>,
    asked: Arc<AtomicUsize>,
    open: Arc<Semaphore>,
}

#[derive(Debug)]
struct Gated(Arc<AtomicUsize>, Arc<Semaphore>);

impl Stores for Gated {
    fn open(&self, url: &str) -> Result<Arc<dyn Storage>> {
        let inner = AllStores.open(url)?;
        Ok(Arc::new(Gate { inner, asked: Arc::clone(&self.0), open: Arc::clone(&self.1) }))
    }
}

#[async_trait]
impl Storage for Gate {
    async fn get(&self, key: &str, range: Option<std::ops::Range<u64>>) -> Result<Bytes> {
        if palinurus_repository::log::Piece::from_key(key).is_ok() {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let _permit = self.open.acquire().await.unwrap();
            return self.inner.get(key, range).await;
        }
        self.inner.get(key, range).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.inner.size(key).await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.inner.put_new(key, body).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.inner.put(key, body).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.inner.delete(keys).await
    }
}

#[tokio::test]
async fn a_file_that_is_on_its_way_is_not_fetched_a_second_time() {
    let mut world = World::new().await;
    let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(1)));
    Arc::get_mut(&mut world.host).unwrap().seams.stores =
        Arc::new(Gated(Arc::clone(&asked), Arc::clone(&gate)));
    let end = (FILES + 1) * SEGMENT;
    world.store(vec![bytes(SEGMENT, end, end), Next::Ended], 0).await.unwrap();
    let before = asked.load(Ordering::SeqCst);
    let chain = [Section { lineage: world.lineage.clone(), to: None }];
    let task = v1::Task { repository: world.url.clone(), ..Default::default() };
    let target = v1::log_target::Target::Latest(true);
    let logs = v1::LogRestore {
        chain: chain_to_wire(&chain),
        first: SEGMENT,
        end,
        target: Some(v1::LogTarget { target: Some(target), ..Default::default() }),
        ..Default::default()
    };
    let state = world.host.state.path().to_owned();
    Recovery::of(&task, Some(&logs)).keep(&state).unwrap();
    let files = Arc::new(Files::new(Arc::clone(&world.host), Arc::new(Numbered(Script::default())), state));

    let file = |number: u64| plain(number * SEGMENT, (number + 1) * SEGMENT);
    assert_eq!(files.get("1").await.unwrap().unwrap(), file(1));
    // Those behind it are on their way from here on, and have to wait.
    let closed = gate.acquire().await.unwrap();
    let second = tokio::spawn({
        let files = Arc::clone(&files);
        async move { files.get("2").await }
    });
    while asked.load(Ordering::SeqCst) < before + 2 {
        tokio::task::yield_now().await;
    }
    drop(closed);
    assert_eq!(second.await.unwrap().unwrap().unwrap(), file(2));
    for number in 3..=FILES {
        assert_eq!(files.get(&number.to_string()).await.unwrap().unwrap(), file(number));
    }
    assert_eq!((asked.load(Ordering::SeqCst) - before) as u64, FILES, "each once");
    assert!(
        std::fs::read_dir(world.host.state.path().join("ahead"))
            .unwrap()
            .all(|lineage| { std::fs::read_dir(lineage.unwrap().path()).unwrap().next().is_none() })
    );
}
