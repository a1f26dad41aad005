//! PostgreSQL beside pgBackRest: the same server, disk and data in the same run, both compressed with zstd at level 3 and
//! encrypted, in turns and each round in another order. Only ratios of one run mean anything.
//!
//! ```text
//! cargo build --release -p palinurus
//! TEST_BINARY=$PWD/target/release/palinurus cargo test -p palinurus-tests --test compare -- --rounds 3 --size 1024 --json out.json
//! ```
//! With `--neighbour 20`, instead: pgbench in windows of 20 seconds, alone, beside backups, and beside backups with limits.
//! It needs pgbackrest and zstd (the neighbour does not), and in TMPDIR room for about six times the size.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot go on says where and why by panicking"
)]

mod archive;
mod changed;
mod meter;
mod neighbour;
mod pgbackrest;
mod round;
mod table;
mod throughput;

use palinurus_tests::postgres::Postgres;
use table::Table;

/// What to measure with.
#[derive(Clone, Debug)]
struct Options {
    rounds: usize,
    /// Of the large table with its indexes.
    mebibytes: u64,
    json: Option<String>,
    /// Instead of all this: what a backup takes from pgbench, in windows of so many seconds.
    neighbour: Option<u64>,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { rounds: 3, mebibytes: 1024, json: None, neighbour: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_else(|| panic!("{word} has no value"));
            match word.as_str() {
                "--rounds" => options.rounds = value.parse().expect("a number of rounds"),
                "--size" => options.mebibytes = value.parse().expect("a number of MiB"),
                "--json" => options.json = Some(value),
                "--neighbour" => options.neighbour = Some(value.parse().expect("a number of seconds")),
                _ => panic!("{word}: there are --rounds, --size, --json and --neighbour"),
            }
        }
        options
    }

    /// With its indexes a row takes about so many bytes.
    fn rows(&self) -> u64 {
        (self.mebibytes << 20) / 171
    }
}

#[tokio::main]
async fn main() {
    let options = Options::read();
    let mut table = Table::default();
    let dir = tempfile::Builder::new().prefix("compare").tempdir().unwrap();
    println!("making {} MiB, {} rows ...", options.mebibytes, options.rows());
    let template = template(&dir.path().join("template"), &options).await;
    if let Some(seconds) = options.neighbour {
        return neighbour::run(&template, &options, seconds).await;
    }
    for number in 0..options.rounds {
        println!("round {} of {} ...", number + 1, options.rounds);
        let ours_first = number % 2 == 0;
        round::run(&template, &options, ours_first, &mut table).await;
        throughput::run(&template, ours_first, &mut table).await;
        println!("{}", table.show());
    }
    if let Some(path) = &options.json {
        let mut json = table.json();
        json["peer"] = pgbackrest::version().into();
        json["rounds"] = options.rounds.into();
        json["mebibytes"] = options.mebibytes.into();
        json["server"] = template.version.into();
        std::fs::write(path, format!("{json:#}\n")).unwrap();
    }
}

/// A cluster that is stopped, to be copied.
#[derive(Debug)]
struct Template {
    server: Postgres,
    version: String,
}

async fn template(at: &std::path::Path, options: &Options) -> Template {
    std::fs::create_dir_all(at.join("data")).unwrap();
    let mut server = Postgres::create(&at.join("data"));
    server.start(&["shared_buffers=256MB", "max_wal_size=8GB", "maintenance_work_mem=256MB"]).await;
    let version = server.sql("show server_version");
    // Half of what a row holds compresses, as text does.
    server.sql(&format!(
        "create table orders as select g as id, g % 50000 as account, now() + g * interval '1s' as at, \
         md5(g::text) || ' ' || md5((g * 7)::text) as note from generate_series(1, {}) g",
        options.rows()
    ));
    server.sql("alter table orders add primary key (id)");
    server.sql("create index on orders (account, at)");
    let made = server.tool("pgbench").args(["-i", "-s", "10", "-q", "postgres"]).output().unwrap();
    palinurus_tests::postgres::succeeded(made);
    server.sql("vacuum (freeze, analyze)");
    println!("{}", server.sql("select 'table ' || pg_size_pretty(pg_table_size('orders')) || ', indexes ' || pg_size_pretty(pg_indexes_size('orders'))"));
    server.stop().await;
    Template { server, version }
}
