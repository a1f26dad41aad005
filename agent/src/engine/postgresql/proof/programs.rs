//! PostgreSQL's own programs, of the restored data's major version.
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use tokio::process::Command;

use crate::drill::Owner;
use crate::engine::postgresql::config::Config;

#[derive(Clone, Debug)]
pub(super) struct Programs {
    bin: PathBuf,
}

/// What the restored `pg_control` says, as far as a server must be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// A recovery refuses less than the original server had of these.
    pub(super) limits: Vec<(&'static str, u64)>,
    pub(super) checksums: bool,
}

const LIMITS: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

/// Refuses a backup that the programs in `bin` are too old or too new for. Blocks.
pub(super) fn check_speaks(bin: &Path, version: &Path) -> Result<()> {
    let major = std::fs::read_to_string(version)
        .map_err(|e| Error::corrupt("PG_VERSION of the backup cannot be read").with_source(e))?;
    let owner = Owner::of(version)?;
    if speaks(bin, major.trim(), owner) {
        return Ok(());
    }
    let (bin, major) = (bin.display(), major.trim());
    Err(Error::invalid(format!("the backup is of PostgreSQL {major}, and {bin} has another version"))
        .with_hint(format!("install PostgreSQL {major} on this node and name it in engine.bin, or fork onto nodes that have it")))
}

impl Programs {
    /// `engine.bin`, or where the running server's program is, or where packages put it. Blocks.
    pub(super) fn find(config: &Config, data: &Path, owner: Owner) -> Result<Self> {
        let version = data.join("PG_VERSION");
        let text = std::fs::read_to_string(&version).map_err(|e| {
            // Whatever the backup says it is: it is no cluster.
            Error::corrupt(format!("{} of the backup cannot be read", version.display())).with_source(e)
        })?;
        let major = text.trim();
        let known = ["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/pgsql/bin", "/usr/bin"];
        let known = known.map(|path| PathBuf::from(path.replace("{}", major)));
        let candidates = match &config.bin {
            Some(bin) => vec![bin.clone()],
            None => running(&config.root).into_iter().chain(known).collect(),
        };
        let fits = |bin: &PathBuf| speaks(bin, major, owner);
        match candidates.iter().find(|bin| fits(bin)) {
            Some(bin) => Ok(Self { bin: bin.clone() }),
            None => Err(Error::invalid(format!(
                "no PostgreSQL {major} is installed here: a drill needs its programs"
            ))
            .with_hint(
                "install it, set engine.bin to the directory of its programs, or drill at another node",
            )),
        }
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    pub(super) fn has(&self, program: &str) -> bool {
        self.path(program).exists()
    }

    /// To be run as that user, knowing nothing of this process's environment; killed when it is dropped.
    pub(super) fn command(&self, program: &str, owner: Owner) -> Command {
        let mut command = Command::new(self.path(program));
        owner.isolate(&mut command);
        command.kill_on_drop(true);
        command
    }

    pub(super) async fn control(&self, data: &Path, owner: Owner) -> Result<Settings> {
        let ran = self.command("pg_controldata", owner).arg(data).output().await;
        let ran = ran.map_err(|e| Error::io("run pg_controldata", e))?;
        let text = String::from_utf8_lossy(&ran.stdout);
        if !ran.status.success() {
            let why = String::from_utf8_lossy(&ran.stderr);
            return Err(Error::corrupt(format!("pg_controldata refuses the restored files: {}", why.trim())));
        }
        Ok(parse(&text))
    }
}

fn parse(text: &str) -> Settings {
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key) && line[key.len()..].starts_with(':'))?;
        line.rsplit(':').next()?.trim().parse::<u64>().ok()
    };
    Settings {
        limits: LIMITS.into_iter().filter_map(|(key, name)| Some((name, value(key)?))).collect(),
        checksums: value("Data page checksum version").is_some_and(|version| version > 0),
    }
}

/// Of the server in the agent's own data directory.
fn running(root: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(root.join("postmaster.pid")).ok()?;
    let pid: u32 = text.lines().next()?.trim().parse().ok()?;
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    (program.file_name()? == "postgres").then(|| program.parent().map(Path::to_owned)).flatten()
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-1)`. Asked as the owner: who may write `postmaster.pid` chooses the program.
fn speaks(bin: &Path, major: &str, owner: Owner) -> bool {
    let mut command = std::process::Command::new(bin.join("postgres"));
    owner.run_as(&mut command);
    let ran = command.arg("--version").output();
    let Ok(ran) = ran else { return false };
    let text = String::from_utf8_lossy(&ran.stdout);
    text.split_whitespace().nth(2).and_then(|version| version.split(['.', 'b', 'r', 'd']).next())
        == Some(major)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_must_be_told_is_read() {
        let text = "pg_control version number:            1300\n\
                    max_connections setting:              250\nmax_prepared_xacts setting:           7\n\
                    max_locks_per_xact setting:           x\nData page checksum version:           1\n";
        let settings = parse(text);
        assert_eq!(settings.limits, [("max_connections", 250), ("max_prepared_transactions", 7)]);
        assert!(settings.checksums && !parse("").checksums);
        assert!(!speaks(Path::new("/nowhere"), "15", Owner { uid: 1, gid: 1 }));
    }

    #[test]
    fn another_major_version_is_refused_by_what_the_program_says() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let dir = tempfile::tempdir().unwrap();
        let (bin, version) = (dir.path().join("bin"), dir.path().join("PG_VERSION"));
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(
            bin.join("postgres"),
            "#!/bin/sh\necho 'postgres (PostgreSQL) 15.18 (Debian 15.18-1)'\n",
        )
        .unwrap();
        for path in [dir.path(), &bin.join("postgres")] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let checked = |major: &str| {
            std::fs::write(&version, format!("{major}\n")).unwrap();
            if rustix::process::geteuid().is_root() {
                chown(&version, Some(1), Some(1)).unwrap();
            }
            check_speaks(&bin, &version)
        };
        checked("15").unwrap();
        for other in ["14", "16", "1"] {
            let refused = checked(other).unwrap_err();
            assert!(refused.what().contains(&format!("PostgreSQL {other},")) && refused.hint().is_some());
        }
    }
}
