//! A PostgreSQL server of a test's own: on a socket in its directory, and on no port.
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::Process;
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

impl Postgres {
    /// A new cluster with page checksums in `data`, an empty directory, which is the server's own from now on.
    pub fn create(data: &Path) -> Self {
        let server = Self::at(data);
        let initdb = ["-N", "-k", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D"];
        succeeded(as_user(&bin().join("initdb")).args(initdb).arg(data).output().unwrap());
        server.configure("listen_addresses = ''\nshared_buffers = '32MB'\nfsync = off\n");
        server
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
        standby.configure("");
        standby
    }

    /// The directories, with the owner and modes that a server wants.
    fn at(data: &Path) -> Self {
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

    fn configure(&self, settings: &str) {
        let conf = self.data.join("postgresql.conf");
        let socket = format!("unix_socket_directories = '{}'\n", self.socket.display());
        fs::write(&conf, fs::read_to_string(&conf).unwrap() + settings + &socket).unwrap();
    }

    /// Starts it, with more `name=value` settings, and waits until it answers.
    pub async fn start(&mut self, settings: &[&str]) {
        let mut command = as_user(&bin().join("postgres"));
        command.arg("-D").arg(&self.data);
        settings.iter().for_each(|setting| {
            command.args(["-c", setting]);
        });
        let mut server = Process::start("the PostgreSQL server", command, &self.log);
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

    pub fn psql(&self) -> Command {
        let mut command = self.tool("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        command
    }

    /// One of PostgreSQL's programs, which is to talk to this server.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(bin().join(name));
        command.arg("-h").arg(&self.socket).args(["-U", "postgres"]).stdin(Stdio::null());
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
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]).arg(program);
    command.env("HOME", "/tmp").current_dir("/");
    command
}

#[track_caller]
pub fn succeeded(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
