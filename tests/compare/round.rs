//! One round: a fresh copy of the data, fresh repositories, and every step by both.
use std::fs;
use std::path::PathBuf;

use palinurus_tests::World;
use palinurus_tests::archive::{quiet, stored};
use palinurus_tests::postgres::Postgres;

use crate::meter::{Meter, bytes_below};
use crate::pgbackrest::PgBackRest;
use crate::table::{Better, Table};
use crate::{Options, Template, archive, changed};

/// What a server is started with; the WAL stays for `pg_waldump`.
pub(crate) const SETTINGS: [&str; 8] = [
    "fsync=on",
    "shared_buffers=256MB",
    "max_wal_size=8GB",
    "checkpoint_timeout=30min",
    "autovacuum=off",
    "archive_mode=on",
    "wal_keep_size=4GB",
    "max_wal_senders=10",
];

/// The server, and both that back it up.
pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) server: Postgres,
    pub(crate) peer: PgBackRest,
}

impl Pair {
    /// Our agent runs, and does not archive yet.
    pub(crate) async fn new(template: &Template) -> Self {
        let mut world = World::new(&["n1"]);
        world.kind = "postgresql".into();
        let mut server = template.server.copy(&world.data("n1"));
        server.start(&SETTINGS).await;
        let peer = PgBackRest::new(&world.path("pgbackrest"), &server);
        world.engine = format!("host = {:?}\n", server.socket);
        world.start().await;
        Self { world, server, peer }
    }

    pub(crate) fn pids(&mut self) -> [u32; 2] {
        [self.world.agent("n1").pid(), self.world.coordinator().pid()]
    }

    fn logs(&self) -> PathBuf {
        self.world.repository().join("l")
    }

    /// Of ours, without the log.
    fn bytes(&self) -> u64 {
        bytes_below(self.world.repository(), Some(&self.logs()))
    }

    /// Each adds a backup, in turn: seconds, processor and bytes.
    async fn backup(&mut self, step: &str, kind: &str, ours_first: bool, table: &mut Table) -> [f64; 2] {
        let mut stored = [0.0; 2];
        for ours in [ours_first, !ours_first] {
            self.server.sql("checkpoint");
            let cost = if ours {
                let before = self.bytes();
                let meter = Meter::begin(&self.pids());
                self.world.backup().await;
                let cost = meter.end();
                stored[0] = (self.bytes() - before) as f64;
                cost
            } else {
                self.peer.archives(&self.server, true);
                self.peer.drained().await;
                let before = self.peer.stored();
                let cost = self.peer.run(&["backup", &format!("--type={kind}")]);
                self.peer.drained().await;
                self.peer.archives(&self.server, false);
                stored[1] = (self.peer.stored() - before) as f64;
                cost
            };
            table.cost(ours, step, cost);
        }
        for (ours, bytes) in [(true, stored[0]), (false, stored[1])] {
            table.one(ours, &format!("{step}, MiB stored"), Better::Less, bytes / f64::from(1 << 20));
        }
        stored
    }
}

pub(crate) async fn run(template: &Template, options: &Options, ours_first: bool, table: &mut Table) {
    let mut pair = Pair::new(template).await;
    pair.backup("full", "full", ours_first, table).await;

    // From here on our log is stored; the first to lead along it is a backup of its own.
    pair.world.stop_agent("n1").await;
    pair.world.engine += "archive = true\n";
    pair.world.start_agent("n1");
    pair.world.joined().await;
    stored(&pair.world, &pair.server).await;
    quiet(&pair.world).await;

    pair.server.sql("checkpoint");
    let before = changed::pages(&pair.server.data);
    pair.server.sql(&format!(
        "update orders set note = md5(random()::text) || ' ' || md5(random()::text) \
         where id in (select 1 + (random() * {})::bigint from generate_series(1, 2000))",
        options.rows() - 1
    ));
    pair.server.sql("checkpoint");
    let (pages, least) = changed::changed(&pair.server.data, &before);
    let [ours, _] = pair.backup("incremental", "incr", ours_first, table).await;
    println!("  {pages} pages changed, {least} bytes compressed");
    table.ours("incremental, of the least", Better::Less, ours / least as f64);

    archive::run(&mut pair, ours_first, table).await;
    pair.world.stop().await;
    let _ = fs::remove_dir_all(pair.world.data("n1"));
}
