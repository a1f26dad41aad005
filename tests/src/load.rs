//! pgbench, and large objects, under a server's backups and restores.
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::postgres::{Postgres, succeeded};
use crate::world::wait;

/// What four tables must agree on after any whole transaction, and at no other time.
pub const BALANCES: &str = "select (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers) \
     and (select sum(bbalance) from pgbench_branches) = (select sum(abalance) from pgbench_accounts) \
     and (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) from pgbench_history)";
/// All of pgbench's, and large objects that come with a row.
pub const ROWS: &str = "(select xmin from pgbench_history union all select xmin from large) as rows";
/// What a test writes until it is killed.
#[derive(Debug)]
pub struct Load(Child);

impl Load {
    pub fn start(server: &Postgres, dir: &Path) -> Self {
        let script = dir.join("large.sql");
        fs::write(
            &script,
            "insert into large select lo_from_bytea(0, decode(repeat('c0ffee', 100), 'hex'));\n",
        )
        .unwrap();
        let large = format!("{}@1", script.display());
        let mut bench = server.tool("pgbench");
        bench.args(["-n", "-c", "3", "-T", "600", "-b", "tpcb-like@9", "-f", &large, "postgres"]);
        Self(bench.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Its server is dead.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Nothing that it asked for comes after this: a session whose client has gone still ends what it is at.
    pub async fn stop(self, server: &Postgres) {
        self.kill();
        gone(server).await;
    }
}

/// Every session of pgbench's.
pub async fn gone(server: &Postgres) {
    let there = "select count(*) from pg_stat_activity where application_name = 'pgbench'";
    wait("the load's last transactions end", || (server.sql(there) == "0").then_some(())).await;
}

pub fn fill(server: &Postgres) {
    succeeded(server.tool("pgbench").args(["-i", "-s", "1", "-q", "postgres"]).output().unwrap());
    server.sql("create table large (lo oid)");
}

/// `more` transactions from now.
pub async fn written(server: &Postgres, more: u64) {
    let count = || server.sql("select count(*) from pgbench_history").parse::<u64>().unwrap();
    let before = count();
    wait("transactions are committed", || (count() >= before + more).then_some(())).await;
}
