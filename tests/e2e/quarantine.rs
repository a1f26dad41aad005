//! Damage that a check has found ends with the backup it was found in: the next one stores anew what was lost, and
//! what it holds restores byte for byte.
use std::fs;
use std::path::{Path, PathBuf};

use palinurus_tests::seeded::Random;
use palinurus_tests::world::files_below;
use palinurus_tests::{World, compare, oddities};

/// A new file: objects are hard links of what was put.
pub(crate) fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

pub(crate) fn of_kind(world: &World, kind: &str) -> Vec<PathBuf> {
    let part = format!("/{kind}/");
    let mut found = files_below(world.repository());
    found.retain(|path| path.is_file() && path.to_str().unwrap().contains(&part));
    found.sort();
    found
}

pub(crate) fn fill(world: &World, random: &mut Random) {
    for node in ["n1", "n2"] {
        for i in 0..8 {
            let path = world.data(node).join(format!("{node}-{i}"));
            fs::write(&path, random.bytes(300_000)).unwrap();
            oddities::age(&path);
        }
    }
}

pub(crate) async fn restored_equals(world: &World, backup: &str, node: &str, expected: i32) {
    let target = world.path("target");
    let (url, key) = (world.repository_url(), world.key());
    let keys = key.to_str().unwrap();
    let name = target.to_str().unwrap();
    let restore = [
        "restore",
        "--repository",
        &url,
        "--keys",
        keys,
        "--backup",
        backup,
        "--node",
        node,
        "--target",
        name,
    ];
    world.run(&restore).await.expect(expected);
    if expected == 0 {
        compare::assert_equal(&world.data(node), &target, &[]);
    }
    fs::remove_dir_all(&target).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_backup_stores_anew_what_a_check_found_damaged() {
    let mut world = World::new(&["n1", "n2"]);
    fill(&world, &mut Random::new(11));
    world.start().await;
    let first = world.backup().await.backup.unwrap().backup_id;
    let packs = of_kind(&world, "p");
    flip(&packs[0]);

    // Undiscovered, it lives on by deduplication; a check that reads it ends that.
    let second = world.backup().await.backup.unwrap().backup_id;
    let checked = world.run(&["repository", "check", "--read-data"]).await.expect(6);
    let found = checked.json();
    let damage = &found["damages"][0];
    assert!(damage["object"].as_str().unwrap().contains("/p/"), "{found}");
    assert_eq!(damage["backups"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(damage["file_count"], damage["files"].as_array().unwrap().len() as u64, "{found}");
    let spoiled: Vec<bool> = world.backups().await.iter().map(|backup| backup.spoiled).collect();
    assert_eq!(spoiled, [true, true]);
    let listed = world.run(&["backup", "list"]).await.expect(0).stdout;
    assert_eq!(listed.matches("\"spoiled\": true").count(), 2, "{listed}");

    let third = world.backup().await;
    let stored = third.progress.unwrap().bytes_new;
    assert!((300_000..=8 * 300_000).contains(&stored), "{stored} bytes were stored anew");
    let third = third.backup.unwrap().backup_id;
    let spoiled: Vec<bool> = world.backups().await.iter().map(|backup| backup.spoiled).collect();
    assert_eq!(spoiled, [true, true, false]);
    for node in ["n1", "n2"] {
        restored_equals(&world, &third, node, 0).await;
    }
    // What is damaged is served to nobody.
    let node = damage["files"][0].as_str().unwrap().split(':').next().unwrap().to_owned();
    for backup in [&first, &second] {
        restored_equals(&world, backup, &node, 6).await;
    }
    // Nothing more is stored, whoever leads and however little it remembers.
    world.kill_coordinator();
    for index in files_below(&world.path("")) {
        if index.extension().is_some_and(|end| end == "redb") && index.to_str().unwrap().contains("index-") {
            fs::remove_file(index).unwrap();
        }
    }
    world.start_coordinator().await;
    world.joined().await;
    let fourth = world.backup().await;
    assert_eq!(fourth.progress.unwrap().bytes_new, 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_no_base_and_stands_for_no_later_backup() {
    let mut world = World::new(&["n1", "n2"]);
    fill(&world, &mut Random::new(12));
    world.start().await;
    world.backup().await;
    for manifest in of_kind(&world, "m") {
        flip(&manifest);
    }
    // Nobody has told: it is noticed when it is opened, and costs reading.
    let second = world.backup().await.backup.unwrap().backup_id;
    for node in ["n1", "n2"] {
        restored_equals(&world, &second, node, 0).await;
    }
    world.run(&["repository", "check"]).await.expect(6);
    let spoiled: Vec<bool> = world.backups().await.iter().map(|backup| backup.spoiled).collect();
    assert_eq!(spoiled, [true, false]);
    world.stop().await;
}

/// One flipped bit, and every backup is whole again: from the nodes by way of a backup, without a copy.
#[tokio::test(flavor = "multi_thread")]
async fn older_backups_are_repaired_from_the_nodes() {
    let mut world = World::new(&["n1", "n2"]);
    fill(&world, &mut Random::new(13));
    world.start().await;
    let first = world.backup().await.backup.unwrap().backup_id;
    let victim = of_kind(&world, "p").remove(0);
    fs::remove_file(&victim).unwrap();
    let repaired = world.run(&["repository", "repair", "--yes"]).await.expect(0).json();
    assert!(repaired["backups"].as_u64() == Some(1) && repaired["chunks_lost"] == 0, "{repaired}");
    assert!(world.backups().await.iter().all(|backup| !backup.spoiled));
    for node in ["n1", "n2"] {
        restored_equals(&world, &first, node, 0).await;
    }
    world.run(&["repository", "check", "--read-data=50%"]).await.expect(0);
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_restores_and_repairs_what_no_node_holds_any_more() {
    let mut world = World::new(&["n1", "n2"]);
    fill(&world, &mut Random::new(14));
    world.start().await;
    let first = world.backup().await.backup.unwrap().backup_id;
    let copy = format!("file://{}", world.path("copy").display());
    fs::create_dir(world.path("copy")).unwrap();
    let (url, key) = (world.repository_url(), world.key());
    let keys = key.to_str().unwrap();
    let copying = ["repository", "copy", "--from", &url, "--to", &copy, "--keys", keys];
    let copied = world.run(&copying).await.expect(0).json();
    assert_eq!((&copied["backups"], &copied["damaged_count"]), (&1.into(), &0.into()), "{copied}");
    let target = world.path("target");
    let name = target.to_str().unwrap();
    let restore = ["restore", "--repository", &copy, "--keys", keys, "--node", "n1", "--target", name];
    world.run(&restore).await.expect(0);
    compare::assert_equal(&world.data("n1"), &target, &[]);
    fs::remove_dir_all(&target).unwrap();

    for pack in of_kind(&world, "p") {
        flip(&pack);
    }
    fs::remove_file(of_kind(&world, "m").remove(0)).unwrap();
    world.run(&["repository", "check", "--read-data"]).await.expect(6);
    let repair = ["repository", "repair", "--repository", &url, "--from", &copy, "--keys", keys, "--yes"];
    let repaired = world.run(&repair).await.expect(0).json();
    assert_eq!(repaired["left"], serde_json::json!([]), "{repaired}");
    for node in ["n1", "n2"] {
        restored_equals(&world, &first, node, 0).await;
    }
    world.run(&["repository", "check"]).await.expect(0);
    assert!(world.backups().await.iter().all(|backup| !backup.spoiled), "the mark is taken off");
    // Another service's place is refused.
    fs::write(world.path("copy").join("repo"), [0; 56]).unwrap();
    assert_ne!(world.run(&copying).await.code, 0);
    world.stop().await;
}
