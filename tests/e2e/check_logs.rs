//! A server's log of which objects have gone: the check says which stretch is lost, and what can be restored all the same.
use std::fs;
use std::path::PathBuf;

use palinurus_tests::archive::{backup, logs, quiet, stored, world};
use palinurus_tests::commits::lsn;
use palinurus_tests::world::{SERVICE, files_below, wait_async};

/// The pieces that are stored, by their positions.
fn pieces(files: Vec<PathBuf>) -> Vec<(u64, u64, PathBuf)> {
    let parse = |file: PathBuf| {
        let name = file.file_name()?.to_str()?.to_owned();
        let (from, to) = name.split_once('-')?;
        Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?, file))
    };
    let mut pieces: Vec<_> = files.into_iter().filter_map(parse).collect();
    pieces.sort();
    pieces
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_log_with_lost_pieces_it_is_said_what_stays() {
    let (mut world, server) = world(&[]).await;
    server.sql("create table t (id int)");
    stored(&world, &server).await;
    backup(&world).await;
    for id in 0..8 {
        server.sql(&format!("insert into t values ({id})"));
        stored(&world, &server).await;
    }
    world.backup().await;
    wait_async("a second window", async || (logs(&world).await.windows.len() > 1).then_some(())).await;
    server.sql("insert into t values (8)");
    stored(&world, &server).await;
    quiet(&world).await;

    let whole =
        world.run(&["repository", "check", "--service", SERVICE, "--read-data"]).await.expect(0).json();
    let log = &whole["logs"][0];
    assert!(log["timeline"] == 1 && log["pieces"].as_u64() >= Some(9), "{log}");
    assert!(log["stretches"].as_array().unwrap().len() == 1 && log["lost"] == serde_json::json!([]), "{log}");
    // The server writes now and then by itself: what is stored now is all.
    world.stop_agent("n1").await;
    let windows = logs(&world).await.windows;
    let (first, second) = (&windows[0], &windows[1]);
    world.stop().await;

    // Behind the first backup, and before the second: one has gone, one is damaged.
    let between: Vec<_> = pieces(files_below(&world.repository().join("l")))
        .into_iter()
        .filter(|(from, to, _)| first.from <= *from && *to <= second.from)
        .collect();
    assert!(between.len() >= 5, "{between:?}");
    let (gone, damaged) = (&between[1], &between[3]);
    fs::remove_file(&gone.2).unwrap();
    let mut bytes = fs::read(&damaged.2).unwrap();
    let end = bytes.len() - 20;
    bytes[end] ^= 1;
    fs::write(&damaged.2, bytes).unwrap();

    let (url, key) = (world.repository_url(), world.key());
    let keys = key.to_str().unwrap();
    let check = ["repository", "check", "--repository", &url, "--keys", keys];
    let found = world.run(&check).await.expect(6).json();
    let log = &found["logs"][0];
    let stretch =
        |at: &serde_json::Value| (lsn(at["from"].as_str().unwrap()), lsn(at["to"].as_str().unwrap()));
    let lost: Vec<_> = log["lost"].as_array().unwrap().iter().map(stretch).collect();
    assert_eq!(lost, [(gone.0, gone.1), (damaged.0, damaged.1)]);
    assert!(log["gaps"].as_array().unwrap().is_empty(), "{log}");
    // The first backup leads to the hole, the second one as far as ever.
    let left: Vec<_> = log["windows"].as_array().unwrap().iter().map(stretch).collect();
    assert_eq!(left, [(first.from, gone.0), (second.from, second.to)]);
    let damages = found["damages"].as_array().unwrap();
    assert_eq!(damages.len(), 2, "{damages:?}");
    for damage in damages {
        let what = damage["what"].as_str().unwrap();
        assert!(what.contains("begin again at") && what.contains(&second.backup_id), "{what}");
    }
    let name = damaged.2.strip_prefix(world.repository()).unwrap().to_str().unwrap();
    assert!(damages.iter().any(|damage| damage["object"] == name), "{damages:?}");
}
