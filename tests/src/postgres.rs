//! A PostgreSQL server of a test's own: on a socket in its directory, and on no port.
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::World;
use crate::process::{Process, children};
use crate::world::wait;

/// Who runs the server where the test is root's: PostgreSQL refuses root.
const USER: &str = "postgres";

#[derive(Debug)]
pub struct Postgres {
    pub data: PathBuf,
    pub socket: PathBuf,
    log: PathBuf,
    server: Option<Process>,
}

/// The programs' directory; `TEST_POSTGRESQL` names another version's.
pub fn bin() -> PathBuf {
    if let Some(named) = std::env::var_os("TEST_POSTGRESQL") {
        return named.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found.pop().expect("no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql, or run tests/run")
}

/// A service of a primary on n1 and its standby on n2: both servers run, nothing else yet. The standby has what `prepare` makes.
pub async fn pair(
    engine: &str,
    settings: &[&str],
    prepare: impl FnOnce(&Postgres),
) -> (World, Postgres, Postgres) {
    let mut world = World::new(&["n1", "n2"]);
    world.kind = "postgresql".into();
    world.engine = format!("host = \"{{node}}/socket\"\n{engine}");
    let mut first = Postgres::create(&world.data("n1"));
    first.start(settings).await;
    prepare(&first);
    let mut second = first.standby(&world.data("n2"));
    second.start(settings).await;
    (world, first, second)
}

impl Postgres {
    /// A new cluster with page checksums in `data`, an empty directory, which is the server's own from now on.
    pub fn create(data: &Path) -> Self {
        let server = Self::at(data);
        let initdb = ["-N", "-k", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D"];
        succeeded(as_user(&bin().join("initdb")).args(initdb).arg(data).output().unwrap());
        server.configure("listen_addresses = ''\nshared_buffers = '32MB'\nfsync = off\n");
        server
    }

    /// A copy of this cluster, whose server must be stopped.
    pub fn copy(&self, data: &Path) -> Self {
        let copy = Self::at(data);
        let status = Command::new("cp").arg("-a").arg(self.data.join(".")).arg(data).status().unwrap();
        assert!(status.success());
        copy.configure("");
        copy
    }

    /// A standby of this server, which must run.
    pub fn standby(&self, data: &Path) -> Self {
        let standby = Self::at(data);
        let mut copy = as_user(&bin().join("pg_basebackup"));
        copy.arg("-h")
            .arg(&self.socket)
            .args(["-U", "postgres", "-R", "-X", "stream", "-c", "fast", "-D"])
            .arg(data);
        succeeded(copy.output().unwrap());
        standby
    }

    /// The directories, with the owner and modes that a server wants, and whatever will be in them.
    pub fn at(data: &Path) -> Self {
        let parent = data.parent().unwrap();
        let (socket, log) = (parent.join("socket"), parent.join("postgres.log"));
        fs::create_dir_all(&socket).unwrap();
        for above in data.ancestors().skip(1).take_while(|path| *path != std::env::temp_dir()) {
            let mode = above.metadata().unwrap().permissions().mode();
            fs::set_permissions(above, Permissions::from_mode(mode | 0o011)).unwrap();
        }
        for own in [data, &socket] {
            give(own);
            fs::set_permissions(own, Permissions::from_mode(0o700)).unwrap();
        }
        Self { data: data.to_owned(), socket, log, server: None }
    }

    /// Reads its settings and who may log in again, and has done so when this returns.
    pub async fn reload(&self) {
        let loaded = || self.sql("select pg_conf_load_time()");
        let before = loaded();
        self.sql("select pg_reload_conf()");
        wait("the server has read its settings", || (loaded() != before).then_some(())).await;
    }

    /// Into its configuration, behind what is there.
    pub fn configure(&self, settings: &str) {
        let conf = self.data.join("postgresql.conf");
        fs::write(&conf, fs::read_to_string(&conf).unwrap() + settings).unwrap();
    }

    fn spawn(&self, settings: &[&str]) -> Process {
        let mut command = as_user(&bin().join("postgres"));
        // Of another server may be what its data says of the socket.
        let socket = format!("unix_socket_directories={}", self.socket.display());
        command.arg("-D").arg(&self.data).args(["-c", &socket]);
        settings.iter().for_each(|setting| {
            command.args(["-c", setting]);
        });
        Process::start("the PostgreSQL server", command, &self.log)
    }

    /// Starts it, which it refuses; gives all that its log says.
    pub async fn start_in_vain(&self) -> String {
        assert!(!self.spawn(&[]).ended().await.success());
        fs::read_to_string(&self.log).unwrap()
    }

    /// Starts it, with more `name=value` settings, and waits until it answers.
    pub async fn start(&mut self, settings: &[&str]) {
        let mut server = self.spawn(settings);
        wait("PostgreSQL answers", || {
            server.check();
            self.try_sql("select 1").ok()
        })
        .await;
        self.server = Some(server);
    }

    /// As `pg_ctl stop -m fast`.
    pub async fn stop(&mut self) {
        let server = self.server.take().expect("it runs");
        kill_process(Pid::from_raw(server.pid() as i32).unwrap(), Signal::INT).unwrap();
        wait("PostgreSQL ends", || (!self.data.join("postmaster.pid").exists()).then_some(())).await;
    }

    /// As settings of an agent that starts the server in `data` itself, with its socket in `socket`.
    pub fn start_command(data: &str, socket: &str) -> Vec<String> {
        let options = format!("-c unix_socket_directories='{socket}'");
        let log = format!("{socket}/started.log");
        let program = as_user(&bin().join("pg_ctl"));
        let words = std::iter::once(program.get_program()).chain(program.get_args());
        let words = words.map(|word| word.to_str().unwrap().to_owned());
        words.chain(["start", "-W", "-D", data, "-l", &log, "-o", &options].map(str::to_owned)).collect()
    }

    /// Ends a server that an agent has started.
    pub fn end_started(&self) {
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else { return };
        if let Some(pid) =
            text.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::INT);
        }
    }

    /// kill -9 of the server's every process.
    pub async fn kill(&mut self) {
        let server = self.server.take().expect("it runs");
        server.pause();
        let children = children(server.pid());
        children.iter().for_each(|child| signal(*child, Signal::KILL));
        server.kill();
        let gone = |pid: &u32| !Path::new(&format!("/proc/{pid}")).exists();
        wait("the server's processes are gone", || children.iter().all(gone).then_some(())).await;
    }

    /// Holds one of the server's processes, so that it stands where it is.
    pub fn pause(&self, backend: &str) -> Paused {
        let query = format!("select pid from pg_stat_activity where {backend}");
        let pid = self.sql(&query).parse().unwrap_or_else(|_| panic!("no one process with {backend}"));
        Paused::new(pid)
    }

    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").pid()
    }

    pub fn psql(&self) -> Command {
        let mut command = self.tool("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        command.env("PGOPTIONS", "-c statement_timeout=120s");
        command
    }

    /// One of PostgreSQL's programs, which is to talk to this server.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(bin().join(name));
        command.arg("-h").arg(&self.socket).args(["-U", "postgres"]).stdin(Stdio::null());
        command.env("PGCONNECT_TIMEOUT", "60");
        command
    }

    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let output = self.psql().args(["-c", sql]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Of sessions that an agent has open here, slots included.
    pub fn sessions(&self) -> String {
        self.sql(
            "select (select count(*) from pg_stat_activity where application_name = 'palinurus') \
                  + (select count(*) from pg_replication_slots)",
        )
    }

    /// The file of a relation.
    pub fn file(&self, relation: &str) -> PathBuf {
        self.data.join(self.sql(&format!("select pg_relation_filepath('{relation}')")))
    }
}

/// SIGSTOP until dropped.
#[derive(Debug)]
pub struct Paused(u32);

impl Paused {
    pub fn new(pid: u32) -> Self {
        signal(pid, Signal::STOP);
        Self(pid)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.quit();
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

/// Of a process that may be gone.
fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}

/// Makes it the server's user's.
pub fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let id = |flag| {
            let output = Command::new("id").args([flag, USER]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("a user \"postgres\"")
        };
        chown(path, Some(id("-u")), Some(id("-g"))).unwrap();
    }
}

pub fn as_user(program: &Path) -> Command {
    let mut command = Command::new("env");
    // The server that is no package's has a libpq of its own, which its standbys need, and does not say where.
    if std::env::var_os("TEST_POSTGRESQL").is_some() {
        command.arg(format!("LD_LIBRARY_PATH={}", bin().join("../lib").display()));
    }
    if rustix::process::geteuid().is_root() {
        command.args(["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        command.env("HOME", "/tmp").current_dir("/");
    }
    command.arg(program);
    command
}

#[track_caller]
pub fn succeeded(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
