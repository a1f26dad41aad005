//! A restore that is stopped at each of its statements, and run again to the end.
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use palinurus_repository::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::source::{SourceKind, SourceListReader};

/// More than go into one statement.
const PARTS: usize = 70;
const DETACHED: &str = "data/data/d/wide/detached";

/// What the server sees of the statement at which a restore is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Nothing.
    Before,
    /// All of it: its answer reaches nobody.
    After,
    /// It died over it: of parts to be attached one is, and one has the name that it then leaves.
    Within,
}

/// Stands between an agent and its server, and cuts the agent off for good at one statement.
struct Gate {
    port: u16,
    /// Statements that pass, and whether the next is done though nobody hears of it.
    passes: Arc<AtomicUsize>,
    then_done: Arc<AtomicUsize>,
    /// The one at which it was cut off.
    cut: Arc<Mutex<String>>,
    _serving: AbortOnDropHandle<()>,
}

impl Gate {
    async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (passes, then_done, cut) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::<Mutex<String>>::default());
        let seen = (Arc::clone(&passes), Arc::clone(&then_done), Arc::clone(&cut));
        let serving = tokio::spawn(async move {
            // One after the other, as the restore asks.
            while let Ok((agent, _)) = listener.accept().await {
                let _ = pass(agent, server, &seen.0, &seen.1, &seen.2).await;
            }
        });
        Self { port, passes, then_done, cut, _serving: AbortOnDropHandle::new(serving) }
    }

    fn set(&self, passes: usize, stop: Stop) {
        self.cut.lock().unwrap().clear();
        self.passes.store(passes, Ordering::SeqCst);
        self.then_done.store(usize::from(stop == Stop::After), Ordering::SeqCst);
    }

    fn cut(&self) -> String {
        self.cut.lock().unwrap().clone()
    }
}

async fn pass(
    mut agent: TcpStream,
    server: u16,
    passes: &AtomicUsize,
    then_done: &AtomicUsize,
    cut: &Mutex<String>,
) -> io::Result<()> {
    let (head, sql) = request(&mut agent).await?;
    let take = |left: &AtomicUsize| {
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    };
    let passed = take(passes);
    if !passed {
        let mut cut = cut.lock().unwrap();
        if cut.is_empty() {
            *cut = String::from_utf8_lossy(&sql).into_owned();
        }
    }
    if !passed && !take(then_done) {
        return Ok(());
    }
    let mut stream = TcpStream::connect(("127.0.0.1", server)).await?;
    // The answer ends with the connection.
    let head = head.replacen(" HTTP/1.1\r\n", " HTTP/1.0\r\n", 1);
    stream.write_all(&[head.as_bytes(), &sql].concat()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if passed { agent.write_all(&answer).await } else { Ok(()) }
}

async fn request(agent: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(at) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        if agent.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let mut sql = read.split_off(end);
    let head = String::from_utf8(read).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let length: usize = length.parse().unwrap();
    while sql.len() < length {
        if agent.read_buf(&mut sql).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((head, sql))
}

/// A backup as a restore would write it.
async fn write_backup(world: &World, to: &Path) {
    let engine = world.engine();
    let list = world.spool().join("walk");
    let order = SnapshotOrder {
        list: list.clone(),
        added: world.spool().join("added"),
        counters: Arc::default(),
        cancel: CancellationToken::new(),
    };
    engine.snapshot("op1", order).await.unwrap();
    fs::create_dir(to).unwrap();
    let tree = engine.tree("op1").unwrap();
    for entry in SourceListReader::open(&list).unwrap() {
        let entry = entry.unwrap();
        let path = to.join(OsStr::from_bytes(&entry.path));
        match entry.kind {
            SourceKind::Directory => fs::create_dir_all(path).unwrap(),
            SourceKind::File { .. } => {
                let mut bytes = Vec::new();
                tree.open_file(&entry).unwrap().read_to_end(&mut bytes).unwrap();
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            other => panic!("{other:?} in a backup of ClickHouse"),
        }
    }
    engine.release("op1").await.unwrap();
}

async fn seen(client: &Client) -> Vec<String> {
    let mut seen = Vec::new();
    for sql in [
        "SELECT concat(toString(count()), ' ', toString(sum(a))) FROM d.wide",
        "SELECT concat(toString(count()), ' ', toString(sum(a))) FROM d.viewed",
        "SELECT concat(toString(count()), ' ', toString(sum(a))) FROM d.log",
        "SELECT toString(count()) FROM d.view",
        "SELECT toString(count()) FROM system.parts WHERE active AND table = 'wide'",
    ] {
        seen.push(client.value(sql).await.map_err(Error::from).unwrap());
    }
    seen
}

/// What a server that was killed within this statement leaves.
async fn half_done(world: &World, client: &Client, attach: &str) {
    let named: Vec<&str> = attach.split('\'').skip(1).step_by(2).collect();
    let table = attach.split(" ATTACH ").next().unwrap();
    client.run(format!("{table} ATTACH PART '{}'", named[0])).await.map_err(Error::from).unwrap();
    let detached = world.dir.path().join(DETACHED);
    fs::rename(detached.join(named[1]), detached.join(format!("attaching_{}", named[1]))).unwrap();
}

#[tokio::test]
async fn a_restore_that_is_stopped_at_any_statement_is_run_again_to_the_end() {
    let world = World::start().await;
    let client = Client::new(world.config());
    for sql in [
        "CREATE DATABASE d",
        "CREATE TABLE d.wide (a UInt64) ENGINE = MergeTree PARTITION BY a ORDER BY a",
        "CREATE TABLE d.log (a UInt64) ENGINE = Log",
        "CREATE VIEW d.view AS SELECT a FROM d.wide WHERE a > 7",
        "CREATE MATERIALIZED VIEW d.viewed ENGINE = MergeTree ORDER BY a AS SELECT a FROM d.log",
        &format!("INSERT INTO d.wide SELECT number FROM numbers({PARTS})"),
        "INSERT INTO d.log SELECT number FROM numbers(9)",
        "DROP TABLE t",
    ] {
        client.run(sql).await.map_err(Error::from).unwrap();
    }
    let before = seen(&client).await;
    let kept = world.dir.path().join("backup");
    write_backup(&world, &kept).await;
    let gate = Gate::start(world.port).await;
    let aside = Aside::new(&world.config().root);
    let detached = world.dir.path().join(DETACHED);

    let mut stops: Vec<(usize, Stop)> = Vec::new();
    let mut cut_at: Vec<String> = Vec::new();
    let mut next = (0, Stop::Before);
    loop {
        let (passes, stop) = next;
        client.run("DROP DATABASE d").await.map_err(Error::from).unwrap();
        fs::create_dir_all(aside.path()).unwrap();
        let copied = Command::new("cp").arg("-a").args([&kept, &aside.backup()]).status().unwrap();
        assert!(copied.success());
        gate.set(passes, stop);
        let mut through = world.table();
        through.insert("port".into(), i64::from(gate.port).into());
        let engine = open(through, parts(&world.dir.path().join("state"))).unwrap();
        let tried = engine.restore_finish().await;
        drop(engine);
        let cut = gate.cut();
        if let Err(error) = &tried {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{stop:?} {cut}: {error:?}");
            assert!(aside.is_loading() || passes == 0, "{stop:?} {cut}");
            if stop == Stop::Within {
                half_done(&world, &client, &cut).await;
            }
            let again = world.engine().restore_finish().await;
            again.unwrap_or_else(|e| panic!("{stop:?} {passes} {cut}: {}", e.chain()));
        }
        assert_eq!(seen(&client).await, before, "{stop:?} {passes} {cut}");
        assert!(!aside.path().exists(), "{stop:?} {passes} {cut}");
        assert_eq!(durable::names(&detached).unwrap(), [""; 0], "{stop:?} {passes} {cut}");
        match stop {
            // How many there are is known when one was not stopped.
            Stop::Before if tried.is_err() => {
                // An answer that only tells is the same as none.
                if !cut.starts_with("SELECT") {
                    stops.push((passes, Stop::After));
                }
                if cut.contains("`wide` ATTACH PART") {
                    stops.push((passes, Stop::Within));
                }
                cut_at.push(cut);
                next = (passes + 1, Stop::Before);
                continue;
            }
            Stop::Before => assert!(cut.is_empty(), "{cut}"),
            _ => assert!(tried.is_err(), "{stop:?} {passes}"),
        }
        match stops.pop() {
            Some(stop) => next = stop,
            None => break,
        }
    }
    let attached = cut_at.iter().filter(|cut| cut.contains("`wide` ATTACH PART")).count();
    assert_eq!(attached, 2, "between two of them, too: {cut_at:#?}");
    println!("stopped at each of {} statements", cut_at.len());
}
