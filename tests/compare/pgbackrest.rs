//! The peer: one stanza, its repository compressed and encrypted, with as many processes as there are cores.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use palinurus_tests::postgres::{Postgres, as_user, give, succeeded};

use crate::meter::{Cost, Meter, bytes_below, until};

#[derive(Debug)]
pub(crate) struct PgBackRest {
    config: PathBuf,
    repository: PathBuf,
    ready: PathBuf,
}

pub(crate) fn version() -> String {
    let output = Command::new("pgbackrest").arg("version").output();
    let output = output.expect("pgbackrest is installed: apt-get install pgbackrest");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl PgBackRest {
    /// With a stanza for the server, which runs with `archive_mode = on`.
    pub(crate) fn new(home: &Path, server: &Postgres) -> Self {
        let sub = |name: &str| home.join(name);
        for dir in [home.to_owned(), sub("repository"), sub("log"), sub("lock"), sub("spool")] {
            fs::create_dir_all(&dir).unwrap();
            give(&dir);
        }
        let processes = std::thread::available_parallelism().map_or(1, usize::from);
        let text = format!(
            "[global]\nrepo1-path={}\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=a comparison protects nothing\n\
             compress-type=zst\ncompress-level=3\nprocess-max={processes}\nstart-fast=y\nlog-path={}\nlog-level-file=off\n\
             log-level-console=warn\nlock-path={}\nspool-path={}\n\n[global:archive-push]\narchive-async=y\n\n\
             [s]\npg1-path={}\npg1-socket-path={}\npg1-user=postgres\n",
            sub("repository").display(),
            sub("log").display(),
            sub("lock").display(),
            sub("spool").display(),
            server.data.display(),
            server.socket.display(),
        );
        let config = sub("pgbackrest.conf");
        fs::write(&config, text).unwrap();
        give(&config);
        let peer =
            Self { config, repository: sub("repository"), ready: server.data.join("pg_wal/archive_status") };
        peer.run(&["stanza-create"]);
        peer
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = as_user(Path::new("pgbackrest"));
        command.arg(format!("--config={}", self.config.display())).arg("--stanza=s");
        command
    }

    /// Waits for it.
    pub(crate) fn run(&self, arguments: &[&str]) -> Cost {
        let meter = Meter::begin(&[]);
        succeeded(self.command().args(arguments).output().unwrap());
        meter.end()
    }

    /// The server gives its WAL to it, or keeps it.
    pub(crate) fn archives(&self, server: &Postgres, on: bool) {
        let push = format!("pgbackrest --config={} --stanza=s archive-push %p", self.config.display());
        let command = if on { push.as_str() } else { "" };
        server.sql(&format!("alter system set archive_command = '{command}'"));
        server.sql("select pg_reload_conf()");
    }

    /// Segments that are not given yet.
    pub(crate) fn waiting(&self) -> Vec<String> {
        let names = fs::read_dir(&self.ready).into_iter().flatten().flatten();
        let mut names: Vec<String> = names
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".ready")?.to_owned()))
            .collect();
        names.sort();
        names
    }

    pub(crate) async fn drained(&self) {
        until("all WAL is archived", async || self.waiting().is_empty()).await;
    }

    pub(crate) fn stored(&self) -> u64 {
        bytes_below(&self.repository, None)
    }
}
