//! PostgreSQL's own tools, over all of a scratch server's data.
use std::path::Path;
use std::process::{Output, Stdio};

use palinurus_repository::{Error, Result};
use tokio::process::Command;
use tokio::time::Instant;

use super::Owner;
use super::programs::Programs;
use super::scratch::{PORT, Scratch};
use crate::engine::Check;
use crate::engine::postgresql::client::{Client, Mode};
use crate::engine::postgresql::config::Access;

/// Lines that are told of what a tool says.
const LINES: usize = 20;
const LINE_LEN: usize = 400;

pub(super) struct Tools<'a> {
    pub(super) programs: &'a Programs,
    pub(super) scratch: &'a Scratch,
    pub(super) owner: Owner,
    pub(super) superuser: &'a str,
}

impl Tools<'_> {
    fn client(&self, program: &str) -> Command {
        let mut command = self.programs.command(program, self.owner);
        command.env("PGHOST", &self.scratch.sockets).env("PGPORT", PORT.to_string());
        command.env("PGUSER", self.superuser).env("PGDATABASE", "postgres");
        command.stdin(Stdio::null());
        command
    }

    /// Every heap and every B-tree, and that each row is in each index of it.
    pub(super) async fn amcheck(&self) -> Result<Check> {
        let began = Instant::now();
        let name = "pg_amcheck --heapallindexed";
        let skipped =
            |told: &str| Check { name: name.into(), told: told.into(), skipped: true, ..Check::default() };
        if !self.programs.has("pg_amcheck") {
            return Ok(skipped("PostgreSQL has it from 14 on"));
        }
        let mut command = self.client("pg_amcheck");
        command.args(["--all", "--install-missing", "--heapallindexed"]);
        let ran = run(&mut command, name).await?;
        let said = [lines(&ran.stdout), lines(&ran.stderr)].concat();
        if said.iter().any(|line| line.contains("extension control file")) {
            return Ok(skipped("the extension amcheck is not installed here"));
        }
        Ok(ended(name, began, &ran, said, "every table and B-tree of every database"))
    }

    /// All there is, read as SQL and thrown away.
    pub(super) async fn dump(&self, access: &Access) -> Result<Vec<Check>> {
        let mut client = Client::connect(access, Mode::Sql).await?;
        let rows = client.query("select datname from pg_database where datallowconn order by oid").await;
        client.end().await;
        let databases: Vec<String> =
            rows?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
        let mut checks = Vec::with_capacity(databases.len() + 1);
        for database in databases {
            let began = Instant::now();
            let mut command = self.client("pg_dump");
            command.env("PGDATABASE", &database).args(["--no-sync", "--file", "/dev/null"]);
            let name = format!("pg_dump {database}");
            let ran = run(&mut command, &name).await?;
            checks.push(ended(&name, began, &ran, lines(&ran.stderr), "read to the end"));
        }
        let began = Instant::now();
        let name = "pg_dumpall --globals-only";
        let ran =
            run(self.client("pg_dumpall").args(["--globals-only", "--no-sync", "--file", "/dev/null"]), name)
                .await?;
        checks.push(ended(name, began, &ran, lines(&ran.stderr), "read to the end"));
        Ok(checks)
    }

    /// After a clean stop.
    pub(super) async fn checksums(&self, data: &Path, enabled: bool) -> Result<Check> {
        let (began, name) = (Instant::now(), "pg_checksums --check");
        if !enabled {
            let told = "the cluster has no page checksums".to_owned();
            return Ok(Check { name: name.into(), told, skipped: true, ..Check::default() });
        }
        let mut command = self.programs.command("pg_checksums", self.owner);
        let ran = run(command.arg("--check").arg("-D").arg(data), name).await?;
        Ok(ended(name, began, &ran, lines(&ran.stderr), "every page"))
    }
}

async fn run(command: &mut Command, name: &str) -> Result<Output> {
    command.output().await.map_err(|e| {
        Error::io(format!("run {name}"), e)
            .with_hint("a drill needs all of PostgreSQL's programs: see engine.bin")
    })
}

fn ended(name: &str, began: Instant, ran: &Output, said: Vec<String>, told: &str) -> Check {
    let findings = match (ran.status.success(), said.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => vec![format!("it ended with {}", ran.status)],
        (false, false) => said,
    };
    Check { name: name.to_owned(), took: began.elapsed(), told: told.to_owned(), skipped: false, findings }
}

fn lines(said: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(said);
    let cut = |line: &str| line.chars().filter(|c| !c.is_control()).take(LINE_LEN).collect::<String>();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(cut).take(LINES).collect()
}
