//! ClickHouse servers of a test's own: Debian's 18.16, which is a whole server, and 26.9 as chdb behind a small HTTP
//! interface, which is today's storage without replication, access control or a port of its own.
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::store::free_ports;
use crate::world::wait;

mod between;
mod cluster;
mod replicated;
mod zookeeper;

pub use between::Between;
pub use cluster::Cluster;
pub use replicated::Replicated;
pub use zookeeper::ZooKeeper;

const SERVER: &str = "/usr/sbin/clickhouse-server";
const USER: &str = "default";
const PASSWORD: &str = "s\u{e9}cret";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 18.16, from Debian.
    Old,
    /// 26.9, from chdb.
    New,
}

#[derive(Debug)]
pub struct ClickHouse {
    pub version: Version,
    /// The server's path, which is the node's data directory.
    pub data: PathBuf,
    home: PathBuf,
    pub port: u16,
    others: [u16; 2],
    /// Of its settings.
    cluster: String,
    server: Option<Process>,
}

impl ClickHouse {
    /// In the node's directory, beside its data. `replica` is its macros' shard and name, and the ZooKeeper's port.
    pub fn create(version: Version, node: &Path, replica: Option<(&str, &str, u16)>) -> Self {
        let home = node.join("clickhouse");
        for part in ["tmp", "files", "schemas"] {
            fs::create_dir_all(home.join(part)).unwrap();
        }
        let [port, tcp, between] = free_ports();
        let mut server = Self {
            version,
            data: node.join("data"),
            home,
            port,
            others: [tcp, between],
            cluster: String::new(),
            server: None,
        };
        fs::write(server.password_file(), PASSWORD).unwrap();
        fs::set_permissions(server.password_file(), fs::Permissions::from_mode(0o600)).unwrap();
        let mut more = String::new();
        if let Some((shard, name, keeper)) = replica {
            write!(
                more,
                "<macros><shard>{shard}</shard><replica>{name}</replica></macros>\
                 <zookeeper><node><host>127.0.0.1</host><port>{keeper}</port></node></zookeeper>\
                 <keeper_map_path_prefix>/keeper_map</keeper_map_path_prefix>"
            )
            .unwrap();
        }
        server.cluster = more;
        server.configure("");
        if version == Version::New {
            server.write_program();
        }
        let users = format!(
            "<yandex><profiles><default><insert_distributed_sync>1</insert_distributed_sync></default></profiles>\
             <quotas><default/></quotas><users><{USER}><password>{PASSWORD}</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile>\
             <quota>default</quota></{USER}></users></yandex>"
        );
        fs::write(server.home.join("users.xml"), users).unwrap();
        server
    }

    /// Writes its settings, `more` of them than it needs. It reads them when it starts.
    pub fn configure(&self, more: &str) {
        let (data, home, port, cluster) =
            (self.data.display(), self.home.display(), self.port, &self.cluster);
        let [tcp, between] = self.others;
        let unfreeze = match more.contains("<enable_system_unfreeze>") {
            true => "",
            false => "<enable_system_unfreeze>true</enable_system_unfreeze>",
        };
        let config = match self.version {
            Version::New => format!(
                "<clickhouse><logger><level>warning</level><log>{home}/server.log</log></logger>\
                 {unfreeze}{cluster}{more}</clickhouse>"
            ),
            Version::Old => format!(
                "<yandex><logger><level>warning</level><console>1</console></logger>\
                 <http_port>{port}</http_port><tcp_port>{tcp}</tcp_port><listen_host>127.0.0.1</listen_host>\
                 <interserver_http_port>{between}</interserver_http_port>\
                 <interserver_http_host>127.0.0.1</interserver_http_host>\
                 <path>{data}/</path><tmp_path>{home}/tmp/</tmp_path><user_files_path>{home}/files/</user_files_path>\
                 <format_schema_path>{home}/schemas/</format_schema_path><users_config>{home}/users.xml</users_config>\
                 <default_profile>default</default_profile><default_database>default</default_database>\
                 <mark_cache_size>5368709</mark_cache_size>{cluster}{more}</yandex>"
            ),
        };
        fs::write(self.home.join("config.xml"), config).unwrap();
    }

    fn password_file(&self) -> PathBuf {
        self.home.join("password")
    }

    /// The stand-in, under the name and with the words of a server.
    fn program(&self) -> PathBuf {
        match self.version {
            Version::Old => SERVER.into(),
            Version::New => self.home.join("clickhouse-server"),
        }
    }

    fn write_program(&self) {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tools = tests.parent().unwrap().join("target/tools");
        let chdb = tools.join("chdb");
        assert!(chdb.exists(), "no {}: run tests/run", chdb.display());
        let (python, stand_in) = (tools.join("venv/bin/python"), tests.join("src/clickhouse/stand_in.py"));
        let text = format!(
            "#!/bin/sh\nexport PYTHONPATH='{}' PYTHONIOENCODING=utf-8\nexec '{}' '{}' \"$@\"\n",
            chdb.display(),
            python.display(),
            stand_in.display()
        );
        fs::write(self.program(), text).unwrap();
        fs::set_permissions(self.program(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Lines for the agent's [engine] table.
    pub fn engine(&self) -> String {
        let tcp = match self.version {
            Version::Old => format!("tcp_port = {}\n", self.tcp_port()),
            Version::New => String::new(),
        };
        format!(
            "{tcp}port = {}\npassword_file = {:?}\nserver = {:?}\nquery_timeout = \"60s\"\nreplica_timeout = \"60s\"\n",
            self.port,
            self.password_file(),
            self.program()
        )
    }

    /// Starts it and waits until it answers.
    pub async fn start(&mut self) {
        let config = self.home.join("config.xml");
        let mut command = match self.version {
            Version::Old => {
                assert!(
                    Path::new(SERVER).exists(),
                    "no {SERVER}: apt-get install clickhouse-server, or run tests/run"
                );
                let mut command = Command::new(SERVER);
                command.arg(format!("--config-file={}", config.display()));
                command
            }
            Version::New => {
                let mut command = Command::new(self.program());
                command.arg(&self.data).arg(&config).arg(self.port.to_string()).args([USER, PASSWORD]);
                command
            }
        };
        command.current_dir(&self.home);
        let mut server = Process::start("ClickHouse", command, &self.home.join("output.log"));
        wait("ClickHouse answers", || {
            server.check();
            self.try_sql("SELECT 1").ok()
        })
        .await;
        let (version, want) =
            (self.sql("SELECT version()"), ["18.16.", "26.9."][usize::from(self.version == Version::New)]);
        assert!(version.starts_with(want), "the tests want {want}*, and this is {version}");
        self.server = Some(server);
    }

    pub async fn stop(&mut self) {
        self.server.take().expect("it runs").terminate().await;
    }

    pub fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
    }

    pub fn tcp_port(&self) -> u16 {
        self.others[0]
    }

    pub fn try_sql(&self, sql: impl AsRef<[u8]>) -> Result<String, String> {
        self.exchange(sql.as_ref()).unwrap_or_else(|error| Err(error.to_string()))
    }

    fn exchange(&self, sql: &[u8]) -> std::io::Result<Result<String, String>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        // Of HTTP 1.0 the answer has no chunks.
        let head = format!("{}Content-Length: {}\r\n\r\n", self.head("?wait_end_of_query=1"), sql.len());
        stream.write_all(&[head.as_bytes(), sql].concat())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let body = body.trim_end_matches('\n').to_owned();
        Ok(if head.split(' ').nth(1) == Some("200") { Ok(body) } else { Err(body) })
    }

    /// An insert that goes on for as long as it is held: until then nobody reads a `Log` table.
    pub async fn insert_without_end(&self, table: &str) -> TcpStream {
        let query = format!("INSERT INTO d.{table} FORMAT TabSeparated\n");
        // More than the server reads at a time.
        let rows = "1\n".repeat(1_100_000);
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        let (length, more) = (query.len() + rows.len() + 2, self.head(""));
        write!(stream, "{more}Content-Length: {length}\r\n\r\n{query}{rows}").unwrap();
        // Made when the table is locked.
        let marks = self.data.join("data/d").join(table).join("__marks.mrk");
        wait("the insert has begun", || marks.exists().then_some(())).await;
        stream
    }

    fn head(&self, arguments: &str) -> String {
        format!("POST /{arguments} HTTP/1.0\r\nX-ClickHouse-User: {USER}\r\nX-ClickHouse-Key: {PASSWORD}\r\n")
    }

    #[track_caller]
    pub fn sql(&self, sql: impl AsRef<[u8]>) -> String {
        let sql = sql.as_ref();
        self.try_sql(sql).unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(sql)))
    }

    /// Where the only part of that table lies.
    pub fn part(&self, table: &str) -> PathBuf {
        let sql = format!("SELECT path FROM system.parts WHERE active AND table = '{table}'");
        PathBuf::from(self.sql(sql))
    }

    /// Of each partition of a replicated table one part is left, the same on all replicas: nothing is merged any more.
    pub async fn merged(replicas: &[&Self], table: &str) {
        let of = format!("FROM system.parts WHERE active AND database = 'd' AND table = '{table}'");
        let alone = |server: &Self| server.sql(format!("SELECT count() = uniqExact(partition) {of}")) == "1";
        // The other sends it on to this one, without a password.
        let asked =
            format!("SELECT is_leader FROM system.replicas WHERE database = 'd' AND table = '{table}'");
        let leads = |server: &Self| server.sql(&asked) == "1";
        let parts = |server: &Self| server.sql(format!("SELECT name {of} ORDER BY name"));
        wait("all that is to be merged is merged", || {
            for server in replicas.iter().filter(|server| leads(server) && !alone(server)) {
                server.sql(format!("OPTIMIZE TABLE d.{table} FINAL"));
            }
            for server in replicas {
                server.sql(format!("SYSTEM SYNC REPLICA d.{table}"));
            }
            let first = parts(replicas[0]);
            replicas.iter().all(|server| alone(server) && parts(server) == first).then_some(())
        })
        .await;
    }

    /// What is frozen here, by anybody.
    pub fn frozen(&self) -> Vec<String> {
        let names = fs::read_dir(self.data.join("shadow")).into_iter().flatten();
        let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "increment.txt").collect()
    }
}
