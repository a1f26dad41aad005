//! The engine by itself, against a server of the test's own.
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::engine::suite::{Fixture, keeps_to_the_contract, parts};

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
        Self { server: postgres.spawn().unwrap(), dir }
    }

    fn access(&self) -> Access {
        let text =
            format!("root = {:?}\nhost = {:?}", self.dir.path().join("data"), self.dir.path().join("socket"));
        let entropy = parts(&self.dir.path().join("state")).entropy;
        Access { config: Config::read(text.parse().unwrap()).unwrap(), entropy }
    }

    async fn answers(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while let Err(error) = server::look(&self.access()).await {
            assert!(tokio::time::Instant::now() < deadline, "{error:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl World {
    fn sessions(&self) -> Vec<PathBuf> {
        let sql = "select slot_name from pg_replication_slots \
                   union all select pid::text from pg_stat_activity where application_name = 'palinurus'";
        let mut psql = Command::new(bin().join("psql"));
        psql.args(["-XAtq", "-U", "postgres", "-c", sql, "-h"]).arg(self.dir.path().join("socket"));
        let output = psql.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()
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
        for _ in 0..200 {
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
