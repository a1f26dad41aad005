//! Drills of ClickHouse: a server of the drill's own is given the backup, and every part is checked.
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use palinurus_proto::v1::OperationState;
use palinurus_tests::clickhouse::{ClickHouse, Version};
use palinurus_tests::world::files_below;

use crate::clickhouse::{fill, seen, world};
use crate::drill::{drill, met, no_server_stays};

/// A part with rows in it.
fn table(server: &ClickHouse, name: &str) -> PathBuf {
    server.sql(format!("CREATE TABLE d.{name} (a UInt64, s String) ENGINE = MergeTree ORDER BY a"));
    server.sql(format!("INSERT INTO d.{name} SELECT number, toString(rand64()) FROM numbers(20000)"));
    server.part(name)
}

/// The part's file with the most of its rows.
fn rows_of(part: &Path) -> PathBuf {
    let files = files_below(part).into_iter();
    let data = files.filter(|path| path.extension().is_some_and(|name| name == "bin"));
    data.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

async fn proved_and_damage_is_named(version: Version) {
    let (mut world, server) = world(version).await;
    let probe = "\n[drill]\nprobe = [\"SELECT count() = 20000 FROM d.whole\"]\n";
    world.engines.get_mut("n1").unwrap().push_str(probe);
    fill(&server);
    let (hurt, lost) = (table(&server, "hurt"), table(&server, "lost"));
    table(&server, "whole");
    let before = seen(&server);
    world.start().await;
    world.backup().await;
    let ended = drill(&world, &[]).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?} {:?}", ended.failure, ended.drill);
    let result = &ended.drill.unwrap().results[0];
    let ran: Vec<&str> = result.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(
        ran,
        ["restore", "recorded", "load", "checksums", "CHECK TABLE", "probe", "stop"],
        "{result:?}"
    );
    assert!(result.rto_ms >= result.restored_ms && result.recovered_ms > 0, "{result:?}");
    let (sums, checked) = (&result.checks[3].told, &result.checks[4].told);
    assert!(!sums.starts_with("0 files") && !sums.contains("no checksums.txt"), "{sums}");
    assert_eq!(checked.contains("cannot check"), version == Version::Old, "{checked}");
    no_server_stays(&world).await;
    assert_eq!(seen(&server), before, "the server itself was not touched");
    assert_eq!(server.frozen(), Vec::<String>::new());

    // The backup keeps both as they are.
    let hurt = fs::File::options().write(true).open(rows_of(&hurt)).unwrap();
    hurt.write_all_at(b"damage", hurt.metadata().unwrap().len() / 2).unwrap();
    fs::remove_file(rows_of(&lost)).unwrap();
    world.backup().await;
    let ended = drill(&world, &[]).await;
    let failure = ended.failure.unwrap();
    assert_eq!(failure.kind, "corrupt", "{failure:?}");
    let result = &ended.drill.unwrap().results[0];
    let found = result.findings.join("\n");
    assert!(found.contains("d.hurt") && found.contains("d.lost"), "{found}");
    // Of the server's own hashes, whatever the server says itself.
    assert!(found.contains(" has another hash than it had") && found.contains(" is missing"), "{found}");
    assert!(
        !found.contains("d.whole") && result.checks.iter().any(|check| check.name == "stop"),
        "{result:?}"
    );
    no_server_stays(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_server_of_18_a_good_backup_is_proved_and_damaged_parts_are_named() {
    proved_and_damage_is_named(Version::Old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_server_of_26_a_good_backup_is_proved_and_damaged_parts_are_named() {
    proved_and_damage_is_named(Version::New).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_leaves_no_server_and_the_drill_begins_anew() {
    let (mut world, server) = world(Version::Old).await;
    fill(&server);
    world.start().await;
    world.backup().await;
    let scratch = world.agent_state("n1").join("drill");
    let runs = |_: &_| files_below(&scratch).iter().any(|path| path.ends_with("server/status"));
    let begun = met(&world, "a scratch server runs", runs).await;
    world.kill_agent("n1");
    world.start_agent("n1");
    let ended = world.ended(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);
    no_server_stays(&world).await;
    world.stop().await;
}
