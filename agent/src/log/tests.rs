//! A scripted database against a store: what is stored, what the database may let go of, and what must stop it.
use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_repository::clock::SystemClock;
use palinurus_repository::entropy::SystemEntropy;
use palinurus_repository::log::{Grant, Lineage, LogReader, LogStore, Section};
use palinurus_repository::storage::{AllStores, Object, Storage};
use palinurus_repository::{KeyFile, Keyring, Repository, Stores};

use super::*;
use crate::engine::{LogStream, Mark, Marked, Next, Plan, ServerEnd, Wanted};
use crate::host::puppet;

mod ahead;

const SEGMENT: u64 = 1 << 20;

/// What the database holds at each position.
fn plain(from: u64, to: u64) -> Bytes {
    (from..to).map(|at| (at * 7 % 251) as u8).collect()
}

fn bytes(from: u64, to: u64, end: u64) -> Next {
    let marks = vec![Mark { end: to, what: Marked::End(to as i64) }];
    Next::Bytes { bytes: plain(from, to), marks, server: ServerEnd { position: end, ms: end } }
}

#[derive(Clone, Debug, Default)]
struct Script {
    history: Option<History>,
    next: Arc<Mutex<VecDeque<Next>>>,
    opened: Arc<Mutex<Vec<u64>>>,
    released: Arc<Mutex<Vec<u64>>>,
}

#[async_trait]
impl LogStream for Script {
    async fn next(&mut self) -> Result<Next> {
        let next = self.next.lock().unwrap().pop_front();
        match next {
            Some(next) => Ok(next),
            None => std::future::pending().await,
        }
    }

    async fn release(&mut self, position: u64) -> Result<()> {
        self.released.lock().unwrap().push(position);
        Ok(())
    }
}

#[async_trait]
impl Logs for Script {
    fn recovers(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "script"
    }

    fn is_stored(&self) -> bool {
        true
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(20)
    }

    async fn look(&self) -> Result<Option<History>> {
        Ok(self.history.clone())
    }

    async fn open(&self, _: &[u8], position: u64) -> Result<Box<dyn LogStream>> {
        self.opened.lock().unwrap().push(position);
        Ok(Box::new(self.clone()))
    }

    fn wanted(&self, _: &str, _: &Plan) -> Wanted {
        Wanted::Absent
    }

    fn following(&self, _: &str, _: &Plan) -> Vec<String> {
        Vec::new()
    }

    async fn prepare(&self, _: &Plan, _: &[String]) -> Result<()> {
        Ok(())
    }

    fn user(&self) -> Option<(u32, u32)> {
        None
    }
}

struct World {
    host: Arc<Host>,
    url: String,
    lineage: Lineage,
    status: watch::Sender<v1::LogStatus>,
    _dir: tempfile::TempDir,
}

impl World {
    /// A lineage that begins at the second segment, with a grant from there.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (key, store) = (dir.path().join("key"), dir.path().join("store"));
        std::fs::create_dir(&store).unwrap();
        let entropy = SystemEntropy::new();
        let file = KeyFile::generate(&entropy).unwrap();
        file.write(&key).unwrap();
        let url = format!("file://{}", store.display());
        let storage = AllStores.open(&url).unwrap();
        Repository::create(storage, &file, &entropy, Arc::new(SystemClock)).await.unwrap();
        let (mut host, _) = puppet::host(&dir.path().join("state"), crate::Config::default());
        Arc::get_mut(&mut host).unwrap().keys = Keyring::load(vec![key.into()]).await.unwrap();
        let lineage = palinurus_proto::logs::lineage(&v1::LogLineage {
            id: vec![7; 16].into(),
            from: SEGMENT,
            kind: "script".into(),
            identity: b"of this test".to_vec().into(),
            segment: SEGMENT as u32,
            ..v1::LogLineage::default()
        })
        .unwrap();
        let mut world =
            Self { host, url, lineage, status: watch::Sender::new(v1::LogStatus::default()), _dir: dir };
        world.grant(SEGMENT);
        world
    }

    fn grant(&mut self, from: u64) {
        let epoch = self.lineage.grants.len() as u32 + 1;
        self.lineage.grants.push(Grant { epoch, node: "n1".into(), from, key_epoch: None });
    }

    async fn store(&self, script: Vec<Next>, until: u64) -> Result<(End, Script)> {
        self.go_on(&mut None, script, until).await
    }

    async fn go_on(&self, held: &mut Option<Held>, script: Vec<Next>, until: u64) -> Result<(End, Script)> {
        let script = Script { next: Arc::new(Mutex::new(script.into())), ..Script::default() };
        let history =
            History { identity: self.lineage.identity.clone(), position: 9 * SEGMENT, ..History::default() };
        let lineage = Some(palinurus_proto::logs::lineage_to_wire(&self.lineage));
        let order = v1::LogGrant { lineage, repository: self.url.clone(), until, ..Default::default() };
        let mut append = Append::new(&self.host, &history, &self.status, held, order).await?;
        let (_orders, mut ordered) = watch::channel(None);
        let running = append.run(&script, &mut ordered);
        let end = tokio::time::timeout(Duration::from_secs(120), running).await.expect("it ends")?;
        Ok((end, script))
    }

    async fn reader(&self) -> LogReader {
        let unlocked = self.host.unlock(&self.url).await.unwrap();
        let store = LogStore::new(unlocked.storage, unlocked.keys);
        LogReader::open(store, vec![Section { lineage: self.lineage.clone(), to: None }], SEGMENT)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn what_is_released_is_stored_and_a_new_process_goes_on_where_it_ended() {
    let mut world = World::new().await;
    let (middle, end) = (SEGMENT + 300_000, 2 * SEGMENT + 100);
    let cut = SEGMENT + 100_000;
    let script = vec![bytes(SEGMENT, cut, middle), bytes(cut, middle, middle), Next::Ended];
    let (ended, script) = world.store(script, 0).await.unwrap();
    assert_eq!((ended, script.opened.lock().unwrap().as_slice()), (End::Ended, &[SEGMENT][..]));
    assert_eq!(script.released.lock().unwrap().last(), Some(&middle));
    let status = world.status.borrow().clone();
    assert_eq!((status.stored, status.stored_ms, status.failure), (middle, middle, None));
    let mut reader = world.reader().await;
    assert_eq!(reader.end_from(SEGMENT), middle);
    assert_eq!(reader.read(SEGMENT..middle).await.unwrap(), plain(SEGMENT, middle));

    // From the segment's start again, and only what is new is stored.
    world.grant(middle);
    let script = vec![bytes(SEGMENT, middle + 5, end), bytes(middle + 5, end, end), Next::Ended];
    let (_, script) = world.store(script, 0).await.unwrap();
    assert!(script.released.lock().unwrap().iter().all(|at| *at >= middle));
    let mut reader = world.reader().await;
    assert_eq!(reader.read(SEGMENT..end).await.unwrap(), plain(SEGMENT, end));

    // Another history under the same name is never put behind this one.
    world.grant(end);
    let other = Next::Bytes {
        bytes: vec![1; 1000].into(),
        marks: Vec::new(),
        server: ServerEnd { position: end + 900, ms: 1 },
    };
    let error = world.store(vec![other], 0).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.hint().unwrap().contains("--to"), "{error:?}");
    assert_eq!(world.reader().await.end_from(SEGMENT), end);
}

#[tokio::test]
async fn a_parent_is_given_up_to_where_it_was_left() {
    let world = World::new().await;
    let fork = SEGMENT + 1234;
    let script = vec![bytes(SEGMENT, SEGMENT + 1000, 0), bytes(SEGMENT + 1000, SEGMENT + 5000, 0)];
    let (ended, _) = world.store(script, fork).await.unwrap();
    assert_eq!((ended, world.status.borrow().stored), (End::Waits, fork));
    assert_eq!(world.reader().await.end_from(SEGMENT), fork);
    // Told again, there is nothing to do.
    assert_eq!(world.store(Vec::new(), SEGMENT).await.unwrap().0, End::Waits);
}

#[tokio::test]
async fn what_the_database_let_go_of_is_said_to_be_a_gap() {
    let world = World::new().await;
    let (ended, _) = world.store(vec![Next::Gone("removed".into())], 0).await.unwrap();
    let status = world.status.borrow().clone();
    assert_eq!((ended, status.slot_lost), (End::Waits, true));
    assert_eq!(status.gap, Some(v1::LogGap { from: SEGMENT, to: 9 * SEGMENT }));
}

#[tokio::test]
async fn at_a_segments_start_the_one_before_it_is_compared() {
    let mut world = World::new().await;
    let from = 2 * SEGMENT;
    world.store(vec![bytes(SEGMENT, from, from), Next::Ended], 0).await.unwrap();
    world.grant(from);
    let other = Next::Bytes {
        bytes: vec![1; 1000].into(),
        marks: Vec::new(),
        server: ServerEnd { position: from + 100, ms: 1 },
    };
    assert_eq!(world.store(vec![other], 0).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let (end, gone) = (from + 100, Next::Gone("recycled".into()));
    for script in [vec![bytes(SEGMENT, from, end)], vec![gone]] {
        let script = script.into_iter().chain([bytes(from, end, end), Next::Ended]).collect();
        let (ended, script) = world.store(script, 0).await.unwrap();
        assert_eq!((ended, script.opened.lock().unwrap()[0]), (End::Ended, SEGMENT));
        assert!(script.released.lock().unwrap().iter().all(|at| *at >= from));
        assert_eq!(world.reader().await.end_from(SEGMENT), end);
    }
}

#[tokio::test]
async fn a_gap_that_ends_before_what_is_stored_is_none() {
    let mut world = World::new().await;
    world.grant(9 * SEGMENT);
    let (ended, _) = world.store(vec![Next::Gone("removed".into())], 0).await.unwrap();
    assert_eq!((ended, world.status.borrow().gap), (End::Gone, None));
}

#[tokio::test]
async fn a_history_that_was_set_back_is_told_as_it_is() {
    let (host, _) = puppet::host(tempfile::tempdir().unwrap().path(), crate::Config::default());
    let history = History { identity: b"x".to_vec(), end: 10, ..History::default() };
    let logs = Arc::new(Script { history: Some(history), ..Script::default() });
    let grant = v1::LogGrant {
        lineage: Some(v1::LogLineage { identity: b"x".to_vec().into(), ..v1::LogLineage::default() }),
        ..v1::LogGrant::default()
    };
    let (_orders, orders) = watch::channel(Some(Order::Grant(grant)));
    let (open, status) = (watch::Sender::new(None), watch::Sender::new(v1::LogStatus::default()));
    status.send_modify(|status| (status.received, status.server_end) = (20, 20));
    let held = Held { lineage: LineageId([7; 16]), identity: b"x".to_vec(), epoch: 1, stored: 20 };
    let mut opened = open.subscribe();
    let told = status.subscribe();
    let mut writer = Writer { host, logs, wires: Wires { open, status, orders }, held: Some(held) };
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    tokio::select! {
        biased;
        // The grant of before is not taken up: it would not parse.
        ended = writer.once(&mut backoff) => panic!("{ended:?}"),
        _ = opened.wait_for(Option::is_some) => {}
    }
    assert_eq!(opened.borrow().as_ref().unwrap().position, 10);
    assert_eq!((told.borrow().received, told.borrow().server_end, writer.held), (0, 0, None));
}

#[tokio::test]
async fn what_a_new_slot_keeps_is_not_told_to_be_all_there_is() {
    let (host, _) = puppet::host(tempfile::tempdir().unwrap().path(), crate::Config::default());
    let (_orders, orders) = watch::channel(None);
    let (open, status) = (watch::Sender::new(None), watch::Sender::new(v1::LogStatus::default()));
    let writer =
        Writer { host, logs: Arc::new(Script::default()), wires: Wires { open, status, orders }, held: None };
    let open = writer.open(&History { position: 9, end: 10, ..History::default() });
    assert_eq!((open.oldest, open.position), (0, 10));
}

#[tokio::test]
async fn a_grant_of_another_node_is_none() {
    let mut world = World::new().await;
    world.lineage.grants[0].node = "n2".into();
    assert_eq!(world.store(Vec::new(), 0).await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn what_a_new_grant_leaves_out_is_put_again_under_it() {
    let mut world = World::new().await;
    let (first, second, end) = (SEGMENT + 300_000, SEGMENT + 500_000, SEGMENT + 500_100);
    let mut held = None;
    for to in [first, second] {
        world.go_on(&mut held, vec![bytes(SEGMENT, to, to), Next::Ended], 0).await.unwrap();
    }
    // As it was listed before the second piece was there, which the database has let go of since.
    world.grant(first);
    let (ended, script) = world.go_on(&mut held, vec![Next::Gone("removed".into())], 0).await.unwrap();
    assert_eq!(
        (ended, world.status.borrow().gap),
        (End::Waits, Some(v1::LogGap { from: second, to: 9 * SEGMENT }))
    );
    assert!(script.released.lock().unwrap().is_empty());
    let mut reader = world.reader().await;
    assert_eq!(reader.end_from(SEGMENT), second);
    assert_eq!(reader.read(SEGMENT..second).await.unwrap(), plain(SEGMENT, second));

    // Another node wrote in between: what this one holds is not taken for the same.
    world.grant(first);
    let at = world.lineage.grants.len();
    world.lineage.grants[at - 1].node = "n2".into();
    world.grant(first);
    world.go_on(&mut held, vec![bytes(SEGMENT, end, end), Next::Ended], 0).await.unwrap();
    let own = world.lineage.last_grant().unwrap().epoch;
    let unlocked = world.host.unlock(&world.url).await.unwrap();
    let stored = LogStore::new(unlocked.storage, unlocked.keys).list_from(&world.lineage, 0).await.unwrap();
    let ends: Vec<_> = stored.iter().filter(|it| it.piece.epoch == own).map(|it| it.piece.to).collect();
    assert_eq!(ends, [end], "as the database sends it");
}

/// A store that takes long for everything it is given.
#[derive(Debug)]
struct Slow(Duration);

#[derive(Debug)]
struct SlowStore(Arc<dyn Storage>, Duration);

impl Stores for Slow {
    fn open(&self, url: &str) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(SlowStore(AllStores.open(url)?, self.0)))
    }
}

#[async_trait]
impl Storage for SlowStore {
    async fn get(&self, key: &str, range: Option<std::ops::Range<u64>>) -> Result<Bytes> {
        self.0.get(key, range).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.0.size(key).await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        tokio::time::sleep(self.1).await;
        self.0.put_new(key, body).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.0.put(key, body).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.0.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.0.delete(keys).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_database_that_waits_for_a_store_that_is_away_is_left_alone() {
    let asks = |end| Next::Quiet { server: ServerEnd { position: end, ms: end }, asks: true };
    let (end, large) = (SEGMENT + 1000, SEGMENT + (4 << 20));
    let much = vec![bytes(SEGMENT, large, large), bytes(large, large + (4 << 20), large + (4 << 20))];
    for (seconds, script, left) in [
        (5, vec![bytes(SEGMENT, end, end), asks(end)], false),
        (15, vec![bytes(SEGMENT, end, end)], false),
        (15, vec![bytes(SEGMENT, end, end), asks(end)], true),
        (25, much.clone(), false),
        (35, much.clone(), true),
    ] {
        let mut world = World::new().await;
        Arc::get_mut(&mut world.host).unwrap().seams.stores = Arc::new(Slow(Duration::from_secs(seconds)));
        let mut held = None;
        let storing = world.go_on(&mut held, script, 0);
        // A database that has no more to say is listened to for ever.
        let ended = tokio::time::timeout(Duration::from_secs(2 * seconds), storing).await;
        assert_eq!(matches!(ended, Ok(Ok((End::Away, _)))), left, "{seconds} s: {ended:?}");
        // What was under way is not given up: a slow store is one that goes on.
        assert!(held.unwrap().stored > SEGMENT, "{seconds} s");
    }
}
