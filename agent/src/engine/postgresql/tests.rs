//! The engine by itself, against a server of the test's own.
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, Command, Stdio};

use super::config::Archive;
use super::lsn::{Lsn, Segment};
use super::*;
use crate::engine::suite::{Fixture, keeps_to_the_contract, parts};
use crate::engine::{History, Marked, Next};

/// A server on a socket, ended with the test.
struct World {
    server: Child,
    dir: tempfile::TempDir,
}

fn bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let found =
        versions.map(|entry| entry.unwrap().path().join("bin")).filter(|bin| bin.join("initdb").exists());
    found.max().expect("no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql, or run tests/run")
}

/// PostgreSQL refuses root.
fn as_user(program: &str) -> Command {
    let program = bin().join(program);
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program).current_dir("/");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        for name in ["data", "socket"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
            if rustix::process::geteuid().is_root() {
                let id = Command::new("id").args(["-u", "postgres"]).output().unwrap();
                let id: u32 = String::from_utf8_lossy(&id.stdout).trim().parse().unwrap();
                chown(&path, Some(id), Some(id)).unwrap();
            }
        }
        fs::create_dir(dir.path().join("spool")).unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let data = dir.path().join("data");
        let initdb =
            as_user("initdb").args(["-N", "-k", "-U", "postgres", "--auth=trust", "-D"]).arg(&data).status();
        assert!(initdb.unwrap().success());
        let socket = format!("unix_socket_directories={}", dir.path().join("socket").display());
        let mut postgres = as_user("postgres");
        postgres.arg("-D").arg(&data).args(["-c", &socket, "-c", "listen_addresses=", "-c", "fsync=off"]);
        // Nothing is written but by the test.
        postgres.args(["-c", "autovacuum=off"]);
        Self { server: postgres.spawn().unwrap(), dir }
    }

    fn access(&self) -> Access {
        let text =
            format!("root = {:?}\nhost = {:?}", self.dir.path().join("data"), self.dir.path().join("socket"));
        let entropy = parts(&self.dir.path().join("state")).entropy;
        Access { config: Config::read(text.parse().unwrap()).unwrap(), entropy }
    }

    async fn answers(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        while let Err(error) = server::look(&self.access()).await {
            assert!(tokio::time::Instant::now() < deadline, "{error:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl World {
    fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new(bin().join("psql"));
        psql.args(["-XAtq", "-U", "postgres", "-c", sql, "-h"]).arg(self.dir.path().join("socket"));
        let output = psql.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn sessions(&self) -> Vec<PathBuf> {
        let sql = "select slot_name from pg_replication_slots \
                   union all select pid::text from pg_stat_activity where application_name = 'palinurus'";
        self.sql(sql).lines().map(PathBuf::from).collect()
    }
}

async fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while !met() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.server);
        // Fast: it takes its children and shared memory with it.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.server.wait();
    }
}

impl Fixture for World {
    fn engine(&self) -> Arc<dyn Engine> {
        let table = toml::Table::try_from(self.access().config).unwrap();
        super::open(table, parts(&self.dir.path().join("state"))).unwrap()
    }

    /// Slots and sessions; what lies in the spool goes with the operation's. A session that was dropped is closed a
    /// moment later.
    fn leftovers(&self) -> Vec<PathBuf> {
        let mut left = self.sessions();
        for _ in 0..1200 {
            if left.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            left = self.sessions();
        }
        left
    }

    fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_to_the_contract() {
    let world = World::new();
    world.answers().await;
    keeps_to_the_contract(&world).await;
}

/// What flows is what lies in `pg_wal`, and the ends of transactions are those that PostgreSQL's own reader finds.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_the_wal_and_its_marks_are_right() {
    let world = World::new();
    world.answers().await;
    let mut access = world.access();
    access.config.archive = Archive::Stream;
    let engine =
        super::open(toml::Table::try_from(access.config).unwrap(), parts(&world.dir.path().join("state")))
            .unwrap();
    let logs = engine.logs().expect("it archives");
    let history = logs.look().await.unwrap().expect("a primary");
    // The server says on its own, now and then, what runs.
    let again = logs.look().await.unwrap().unwrap();
    assert!(again.end >= history.end, "{again:?}");
    assert_eq!(history, History { end: history.end, ..again });
    assert_eq!((history.segment, history.account.len()), (16 << 20, 0));
    world.sql("create table t (a int, b text)");
    for number in 0..50 {
        world.sql(&format!("insert into t select {number}, repeat('x', g) from generate_series(1, 200) g"));
    }
    world.sql("select pg_create_restore_point('before the end')");
    world.sql("select pg_switch_wal()");
    world.sql("begin; insert into t values (1); rollback");
    world.sql("begin; savepoint a; insert into t values (2); release a; insert into t values (3); commit");
    let until: Lsn = world.sql("select pg_current_wal_flush_lsn()").parse().unwrap();

    let mut stream = logs.open(&history.identity, history.position).await.unwrap();
    let (mut wal, mut marks) = (Vec::new(), Vec::new());
    while history.position + (wal.len() as u64) < until.0 {
        match stream.next().await.unwrap() {
            Next::Bytes { bytes, marks: found, .. } => {
                wal.extend_from_slice(&bytes);
                marks.extend(found);
            }
            Next::Quiet { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    marks.retain(|mark| mark.end <= until.0);
    stream.release(until.0).await.unwrap();
    let kept = || world.sql("select restart_lsn from pg_replication_slots").parse::<Lsn>().unwrap();
    eventually("the server may let go of it", || kept() >= until).await;

    for (number, segment) in wal.chunks(16 << 20).enumerate() {
        let start = Lsn(history.position + ((number as u64) << 24));
        let file = world.dir.path().join("data/pg_wal").join(Segment::of(1, start, 16 << 20).name());
        assert!(fs::read(&file).unwrap().starts_with(segment), "{}", file.display());
    }
    let mut waldump = Command::new(bin().join("pg_waldump"));
    waldump.args(["-p"]).arg(world.dir.path().join("data/pg_wal"));
    waldump.args(["-s", &Lsn(history.position).to_string(), "-e", &until.to_string()]);
    let output = waldump.env("TZ", "UTC").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected: Vec<&str> = text
        .lines()
        .filter(|line| {
            ["COMMIT", "ABORT", "RESTORE_POINT"].iter().any(|word| line.contains(&format!("desc: {word} ")))
        })
        .collect();
    assert!(expected.len() > 50);
    assert_eq!(expected.len(), marks.len(), "{marks:#?}");
    for (line, mark) in expected.iter().zip(&marks) {
        match &mark.what {
            Marked::Name(name) => assert!(line.contains(name.as_str()), "{line}"),
            Marked::End(at) => {
                assert!(line.contains(&format!(".{:06} UTC", at.rem_euclid(1_000_000))), "{line}: {at}")
            }
        }
        let start: Lsn = line.split("lsn: ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        assert!(start.0 < mark.end && mark.end < start.0 + (64 << 10), "{start}: {}", mark.end);
    }
    assert!(marks.iter().any(|mark| mark.what == Marked::Name("before the end".into())));

    // Let go of, gone; and a slot that is lost is made anew.
    drop(stream);
    let streams = || world.sql("select active from pg_replication_slots") == "t";
    eventually("the server hears of the end", || !streams()).await;
    world.sql("select pg_switch_wal(); checkpoint");
    world.sql("insert into t values (4)");
    world.sql("select pg_switch_wal(); checkpoint");
    let mut gone = logs.open(&history.identity, history.position).await.unwrap();
    let said = gone.next().await.unwrap();
    assert!(matches!(&said, Next::Gone(why) if why.contains("already been removed")), "{said:?}");
    drop(gone);
    eventually("the slot alone is left", || world.sessions().len() == 1).await;
    world.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots");
    let anew = logs.look().await.unwrap().unwrap();
    assert!(anew.position > history.position && anew.identity == history.identity, "{anew:?}");
}
