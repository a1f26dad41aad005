//! Under load, and to any moment: every transaction before it is there, and none after. What must be there is read from
//! the dead server's WAL by PostgreSQL's own `pg_waldump`.
use std::collections::BTreeSet;
use std::fs;

use palinurus_proto::v1::log_target::Target;
use palinurus_tests::archive::{backup, bring_back, end_of, logs, quiet, restore, stored, timeline, world};
use palinurus_tests::commits::{self, Commit, Moment, commits, present};
use palinurus_tests::load::{BALANCES, Load, ROWS, fill, written};
use palinurus_tests::postgres::{Postgres, as_user, bin, give, succeeded};
use palinurus_tests::seeded::Random;

/// The WAL stays to be read by the test.
const KEEP: &str = "wal_keep_size=2GB";

#[track_caller]
fn is_exact(server: &Postgres, all: &[Commit], rows: &BTreeSet<u32>, moment: Moment) {
    let want: BTreeSet<u32> = commits::until(all, moment).intersection(rows).copied().collect();
    let found = present(server, ROWS);
    let lost: Vec<_> = want.difference(&found).collect();
    let later: Vec<_> = found.difference(&want).collect();
    assert!(
        lost.is_empty() && later.is_empty(),
        "{moment:?}: of {} lost {lost:?}, and later {later:?}",
        want.len()
    );
    assert_eq!(server.sql(BALANCES), "t", "{moment:?}");
}

/// How long before a commit a moment may be drawn, in microseconds, and how far behind it.
const BACK: i64 = 20_000;
const AHEAD: u64 = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn any_moment_under_load_comes_back_exactly() {
    let mut random = Random::fresh();
    let (world, mut server) = world(&[KEEP]).await;
    let fast = world.path("fast");
    fs::create_dir(&fast).unwrap();
    give(&fast);
    fill(&server);
    server.sql(&format!("create tablespace fast location '{}'", fast.display()));
    server.sql("alter table pgbench_history set tablespace fast");
    let load = Load::start(&server, &world.path("."));
    let lineage = stored(&world, &server).await;
    backup(&world).await;
    // A table that is no WAL's, and one that is there at only some moments.
    server.sql("create unlogged table volatile as select generate_series(1, 100) as id");
    server.sql("create table dropped as select 1 as id");
    let position = || commits::lsn(&server.sql("select pg_current_wal_insert_lsn()"));
    let made = position();
    written(&server, 500).await;
    let last = position();
    server.sql("drop table dropped");
    let gone = position();
    written(&server, 1000).await;
    load.stop(&server).await;
    assert_eq!(stored(&world, &server).await, lineage);
    let rows = present(&server, ROWS);
    server.stop().await;
    let all = commits(&server.data);
    server.start(&[]).await;
    // The window begins in time with the piece after the backup's end, later than in the log.
    let window = logs(&world).await.windows.remove(0);
    let inside: Vec<&Commit> = all
        .iter()
        .filter(|commit| {
            commit.at > window.from
                && commit.at + AHEAD < window.to
                && commit.time_us - BACK > window.from_ms as i64 * 1000
                && rows.contains(&commit.xid)
        })
        .collect();
    println!("{} transactions, {} of them behind the backup", rows.len(), inside.len());

    for round in 0..6 {
        let commit = inside[random.below(inside.len() as u64) as usize];
        let moment = match round {
            0 => Moment::TimeUs(commit.time_us),
            1 => Moment::TimeUs(commit.time_us - 1),
            2 => Moment::TimeUs(commit.time_us - random.below(BACK as u64) as i64),
            3 => Moment::Position(commit.at),
            4 => Moment::Position(commit.end),
            _ => Moment::Position(commit.at + random.below(AHEAD)),
        };
        let target = match moment {
            Moment::TimeUs(at) => Target::TimeUs(at),
            Moment::Position(at) | Moment::End(at) => Target::Position(at),
        };
        for old in fs::read_dir(&fast).unwrap() {
            fs::remove_dir_all(old.unwrap().path()).unwrap();
        }
        restore(&world, &mut server, target, &lineage).await;
        is_exact(&server, &all, &rows, moment);
        assert_eq!(server.sql("select count(*) from large where length(lo_get(lo)) <> 300"), "0");
        let oid = server.sql("select oid from pg_tablespace where spcname = 'fast'");
        assert_eq!(fs::read_link(server.data.join(format!("pg_tblspc/{oid}"))).unwrap(), fast);
        let there = server.sql("select count(*) from pg_class where relname = 'dropped'");
        match moment {
            Moment::Position(at) if at >= gone => assert_eq!(there, "0", "{moment:?}, dropped before {gone}"),
            Moment::Position(at) if (made..last).contains(&at) => assert_eq!(there, "1", "{moment:?}"),
            _ => {}
        }
        if server.sql("select count(*) from pg_class where relname = 'volatile'") == "1" {
            assert_eq!(server.sql("select count(*) from volatile"), "0");
        }
    }
    quiet(&world).await;
    server.stop().await;
    succeeded(
        as_user(&bin().join("pg_checksums")).args(["--check", "-D"]).arg(&server.data).output().unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_primary_comes_back_as_far_as_it_was_stored() {
    let (mut world, mut server) = world(&[KEEP]).await;
    fill(&server);
    let lineage = stored(&world, &server).await;
    let load = Load::start(&server, &world.path("."));
    backup(&world).await;
    written(&server, 500).await;
    // First the agent, so that there is WAL that only the server had.
    world.kill_agent("n1");
    written(&server, 200).await;
    let rows = present(&server, ROWS);
    server.kill().await;
    load.kill();
    let lost = world.move_data("n1");
    let all = commits(&lost);
    world.start_agent("n1");
    world.joined().await;
    let end = end_of(&world, &lineage).await;
    let missing = all.iter().filter(|commit| commit.end > end).count();
    assert!(missing >= 200, "{missing}");
    bring_back(&world, &mut server, Target::Latest(true), &lineage).await;
    is_exact(&server, &all, &rows.union(&present(&server, ROWS)).copied().collect(), Moment::End(end));
    quiet(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_changed_its_timeline_while_the_agent_was_down_has_no_gap() {
    let (mut world, mut server) = world(&[KEEP]).await;
    fill(&server);
    let first = stored(&world, &server).await;
    let load = Load::start(&server, &world.path("."));
    backup(&world).await;
    written(&server, 200).await;
    world.stop_agent("n1").await;
    // The end of the old timeline nobody has stored yet.
    written(&server, 300).await;
    load.stop(&server).await;
    server.stop().await;
    let before = commits(&server.data);
    fs::write(server.data.join("standby.signal"), "").unwrap();
    give(&server.data.join("standby.signal"));
    server.start(&[KEEP]).await;
    server.sql("select pg_promote()");
    let load = Load::start(&server, &world.path("."));
    written(&server, 300).await;
    world.start_agent("n1");
    written(&server, 100).await;
    load.stop(&server).await;
    let second = stored(&world, &server).await;
    let rows = present(&server, ROWS);
    let lineages = logs(&world).await.lineages;
    let of = |id: &[u8]| lineages.iter().find(|view| view.lineage.as_ref().unwrap().id == id).unwrap();
    let child = of(&second).lineage.as_ref().unwrap();
    assert_eq!((timeline(&child.identity), &child.parent[..]), (2, &first[..]));
    assert_eq!(of(&first).stretches.len(), 1, "{lineages:?}");
    assert_eq!(of(&second).stretches.len(), 1, "{lineages:?}");
    assert!(of(&first).stretches[0].to >= child.from, "stored up to where the second begins: {lineages:?}");

    // A moment of the time when nobody stored anything, on the old timeline, and the newest on the new one.
    let commit = before.iter().rev().filter(|commit| rows.contains(&commit.xid)).nth(150).unwrap();
    restore(&world, &mut server, Target::TimeUs(commit.time_us), &first).await;
    is_exact(&server, &before, &rows, Moment::TimeUs(commit.time_us));
    restore(&world, &mut server, Target::Latest(true), &second).await;
    assert_eq!(present(&server, ROWS), rows);
    assert_eq!(server.sql(BALANCES), "t");
    quiet(&world).await;
    world.stop().await;
}
