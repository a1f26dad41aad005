//! The engine by itself, against a server of the test's own.
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use super::*;
use crate::durable;
use crate::engine::suite::{Fixture, keeps_to_the_contract, parts};

mod stopped;

/// Debian's ClickHouse 18.16, ended with the test.
struct World {
    server: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl World {
    /// Between being found free and being listened on, a port may become somebody else's.
    async fn start() -> Self {
        for _ in 0..3 {
            if let Some(world) = Self::try_start().await {
                return world;
            }
        }
        panic!("ClickHouse ends as soon as it has started");
    }

    async fn try_start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["data", "tmp", "files", "schemas", "spool", "state"] {
            fs::create_dir(at(name)).unwrap();
        }
        // Not of those that the kernel gives out: a client's connection could take one before its server.
        let free = |first: u16| {
            (first..first + 5000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
        };
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let offset = (std::process::id() % 1000) as u16 + 7 * NEXT.fetch_add(1, Ordering::Relaxed);
        let (port, tcp) = (free(10_000 + offset), free(16_000 + offset));
        let home = dir.path().display();
        let config = format!(
            "<yandex><logger><level>warning</level><console>1</console></logger><listen_host>127.0.0.1</listen_host>\
             <http_port>{port}</http_port><tcp_port>{tcp}</tcp_port><path>{home}/data/</path>\
             <tmp_path>{home}/tmp/</tmp_path><user_files_path>{home}/files/</user_files_path>\
             <format_schema_path>{home}/schemas/</format_schema_path><users_config>{home}/users.xml</users_config>\
             <default_profile>default</default_profile><default_database>default</default_database>\
             <mark_cache_size>5368709</mark_cache_size></yandex>"
        );
        fs::write(at("config.xml"), config).unwrap();
        let users = "<yandex><profiles><default></default></profiles><quotas><default/></quotas><users><default>\
            <password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile>\
            <quota>default</quota></default></users></yandex>";
        fs::write(at("users.xml"), users).unwrap();
        let server = Command::new("/usr/sbin/clickhouse-server")
            .arg(format!("--config-file={home}/config.xml"))
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("no /usr/sbin/clickhouse-server: apt-get install clickhouse-server, or run tests/run");
        let mut world = Self { server, dir, port };
        let client = Client::new(world.config());
        for _ in 0..2400 {
            if world.server.try_wait().unwrap().is_some() {
                return None;
            }
            if client.run("SELECT 1").await.is_ok() {
                client.run("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").await.unwrap();
                client.run("INSERT INTO t SELECT number FROM numbers(1000)").await.unwrap();
                return Some(world);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("ClickHouse does not answer");
    }

    fn table(&self) -> toml::Table {
        let data = self.dir.path().join("data");
        format!("root = {data:?}\nport = {}", self.port).parse().unwrap()
    }

    fn config(&self) -> Config {
        Config::read(self.table()).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Fixture for World {
    fn engine(&self) -> Arc<dyn Engine> {
        open(self.table(), parts(&self.dir.path().join("state"))).unwrap()
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let below = |path: PathBuf| path.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path());
        let left =
            below(self.dir.path().join("data/shadow")).chain(below(self.dir.path().join("state/clickhouse")));
        left.filter(|path| !path.ends_with("increment.txt")).collect()
    }

    fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }
}

#[tokio::test]
async fn it_keeps_to_the_contract() {
    keeps_to_the_contract(&World::start().await).await;
}

#[tokio::test]
async fn freezes_without_a_record_go_and_those_of_others_stay() {
    let world = World::start().await;
    let engine = world.engine();
    let order = SnapshotOrder {
        list: world.spool().join("walk"),
        added: world.spool().join("added"),
        counters: Arc::default(),
        cancel: CancellationToken::new(),
    };
    engine.snapshot("op1", order).await.unwrap();
    Client::new(world.config()).run("ALTER TABLE t FREEZE WITH NAME 'theirs'").await.unwrap();
    fs::remove_dir_all(world.dir.path().join("state/clickhouse")).unwrap();
    world.engine().recover(&|_| true).await.unwrap();
    assert_eq!(world.leftovers(), [world.dir.path().join("data/shadow/theirs")]);
}

/// Each file of a part that the server wrote, damaged in each way.
#[tokio::test]
async fn a_part_is_held_against_what_the_server_wrote_of_it() {
    let world = World::start().await;
    let client = Client::new(world.config());
    let part = PathBuf::from(client.value("SELECT path FROM system.parts WHERE active").await.unwrap());
    let good = checksums::hold(&part).unwrap().unwrap();
    assert!(good.files > 3 && good.bytes > 1000 && good.findings.is_empty(), "{good:?}");
    let own = ["checksums.txt", "columns.txt"];
    let names = durable::names(&part).unwrap();
    assert_eq!(names.len() as u64, good.files + own.len() as u64, "{names:?}");
    for name in names {
        let (path, name) = (part.join(&name), name.into_string().unwrap());
        let text = fs::read(&path).unwrap();
        let mut changed = text.clone();
        *changed.last_mut().unwrap() ^= 1;
        fs::write(&path, changed).unwrap();
        let found = checksums::hold(&part).unwrap().unwrap().findings;
        match name.as_str() {
            "columns.txt" => assert!(found.is_empty(), "{found:?}"),
            "checksums.txt" => assert_eq!(found, ["checksums.txt is damaged: its own hash is another"]),
            _ => assert_eq!(found, [format!("{name} has another hash than it had")]),
        }
        if !own.contains(&name.as_str()) {
            fs::write(&path, &text[1..]).unwrap();
            let short = text.len() - 1;
            let found = checksums::hold(&part).unwrap().unwrap().findings;
            assert_eq!(found, [format!("{name} has {short} bytes, and had {}", text.len())]);
            fs::remove_file(&path).unwrap();
            assert_eq!(checksums::hold(&part).unwrap().unwrap().findings, [format!("{name} is missing")]);
        }
        fs::write(&path, text).unwrap();
    }
    assert_eq!(checksums::hold(&part).unwrap(), Some(good));
    fs::remove_file(part.join("checksums.txt")).unwrap();
    assert_eq!(checksums::hold(&part).unwrap(), None);
}
