//! Replicas share the upload: what two nodes hold is stored once.
use std::fs;
use std::process::Command;

use palinurus_tests::seeded::Random;
use palinurus_tests::{World, compare, oddities};

#[tokio::test(flavor = "multi_thread")]
async fn what_replicas_hold_is_stored_once_and_each_restores() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    let mut random = Random::new(1);
    let n1 = world.data("n1");
    const FILES: usize = 60;
    const LEN: usize = 400_000;
    for i in 0..FILES {
        fs::create_dir_all(n1.join(format!("table-{}", i % 7))).unwrap();
        fs::write(n1.join(format!("table-{}/{i}", i % 7)), random.bytes(LEN)).unwrap();
    }
    fs::remove_dir(world.data("n2")).unwrap();
    assert!(Command::new("cp").arg("-a").args([&n1, &world.data("n2")]).status().unwrap().success());
    fs::write(world.data("n3").join("own"), random.bytes(1_000_000)).unwrap();
    world.start().await;
    let operation = world.backup().await;
    let one_copy = (FILES * LEN + 1_000_000) as u64;
    let stored = operation.progress.unwrap().bytes_stored;
    assert!(stored < one_copy + one_copy / 20, "stored {stored} bytes for {one_copy} different ones");

    // Both shared in the work, or at least neither did it all twice.
    let backup = world.backups().await.pop().unwrap();
    let new: u64 = backup.nodes.iter().map(|node| node.bytes_new).sum();
    assert_eq!(new, one_copy, "{:?}", backup.nodes);

    // The third's data from the first, and the second's own.
    for (node, source) in [("n2", "n2"), ("n3", "n1")] {
        world.destroy_data(node);
        world.seen_empty(node).await;
        let arguments = ["restore", "apply", "--yes", "--node", &format!("{node}={source}")];
        world.run(&arguments).await.expect(0);
        compare::assert_equal(&world.data("n1"), &world.data(node), &[]);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_backup_reads_only_what_changed() {
    let mut world = World::new(&["n1"]);
    let mut random = Random::new(2);
    let data = world.data("n1");
    for i in 0..50 {
        fs::write(data.join(format!("{i}")), random.bytes(200_000)).unwrap();
        oddities::age(&data.join(format!("{i}")));
    }
    world.start().await;
    world.backup().await;
    let mut changed = fs::read(data.join("7")).unwrap();
    changed[100_000] ^= 1;
    fs::write(data.join("7"), &changed).unwrap();
    let second = world.backup().await;
    let progress = second.progress.unwrap();
    assert_eq!(progress.bytes_read, 200_000);
    assert!(progress.bytes_stored < 300_000, "stored {}", progress.bytes_stored);
    let backups = world.backups().await;
    assert_eq!(backups.len(), 2);
    let want = world.move_data("n1");
    world.restore("n1", false).await;
    compare::assert_equal(&want, &data, &[]);

    // The first one is still whole after the second is gone, and what only the second used is freed.
    let delete = world.run(&["backup", "delete", "--yes", "latest"]).await.expect(0);
    assert_eq!(delete.json()["state"], "succeeded");
    assert_eq!(world.backups().await.len(), 1);
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
    world.destroy_data("n1");
    world.restore("n1", false).await;
    changed[100_000] ^= 1;
    assert!(fs::read(data.join("7")).unwrap() == changed, "the first backup's content");
}
