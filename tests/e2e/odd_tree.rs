//! Every oddity survives a backup and a restore, by the judgement of rsync and getfattr.
use std::fs;
use std::time::Duration;

use palinurus_proto::v1::OperationState;
use palinurus_tests::{World, compare, oddities};

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_tree_comes_back_as_it_was() {
    let mut world = World::new(&["n1"]);
    let want = world.path("want");
    fs::create_dir(&want).unwrap();
    oddities::make(&want);
    fs::remove_dir(world.data("n1")).unwrap();
    fs::rename(&want, world.data("n1")).unwrap();
    world.start().await;

    let backup = world.backup().await;
    assert_eq!(backup.state(), OperationState::Warnings, "the skipped specials are said");
    for special in
        oddities::SKIPPED.iter().filter(|name| world.data("n1").join(name).symlink_metadata().is_ok())
    {
        let said = backup.warnings.iter().any(|warning| warning.path == special.as_bytes());
        assert!(said, "{special} is not among {:?}", backup.warnings);
    }
    let want = world.move_data("n1");
    world.restore("n1", false).await;
    compare::assert_equal(&want, &world.data("n1"), &oddities::SKIPPED);
    for sparse in ["sparse all hole", "sparse large", "zeros"] {
        let (was, is) = (want.join(sparse), world.data("n1").join(sparse));
        let (was, is) = (compare::allocated(&was), compare::allocated(&is));
        assert!(is <= was + (1 << 20), "{sparse} takes up {is} bytes, took up {was}");
    }
    world.nothing_left_behind("n1").await;

    // Restored onto itself once more, with damage to mend.
    fs::write(world.data("n1").join("one byte"), "other content").unwrap();
    fs::write(world.data("n1").join("intruder"), "").unwrap();
    fs::remove_file(world.data("n1").join("extent")).unwrap();
    let mended = world.restore("n1", true).await;
    compare::assert_equal(&want, &world.data("n1"), &oddities::SKIPPED);
    let written =
        mended.tasks.iter().filter_map(|task| task.result.as_ref()?.result.clone()).find_map(|r| match r {
            palinurus_proto::v1::task_result::Result::Restore(restore) => Some(restore.bytes_written),
            _ => None,
        });
    assert!(written.is_some_and(|bytes| bytes < 4 << 20), "a delta wrote {written:?} bytes");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_five_gib_of_holes_costs_nothing() {
    let mut world = World::new(&["n1"]);
    let giant = world.data("n1").join("giant");
    oddities::sparse(&giant, 5 << 30, &[0, 123_456_789, (1 << 32) - 5, (5 << 30) - 21]);
    world.start().await;
    let backup = world.backup().await;
    let progress = backup.progress.unwrap();
    assert!(progress.bytes_read < 64 << 20, "read {} bytes", progress.bytes_read);
    let want = world.move_data("n1");
    world.restore("n1", false).await;
    let restored = world.data("n1").join("giant");
    assert_eq!(fs::metadata(&restored).unwrap().len(), 5 << 30);
    assert!(
        compare::allocated(&restored) < 64 << 20,
        "the restored file takes up {}",
        compare::allocated(&restored)
    );
    compare::assert_equal(&want, &world.data("n1"), &[]);
}

/// More than any batch or block holds. Where many write at once, a hundred thousand take minutes to remove alone.
const ENTRIES: u64 = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_many_entries_is_read_once() {
    let mut world = World::new(&["n1"]);
    let many = world.data("n1").join("many");
    fs::create_dir(&many).unwrap();
    for i in 0..ENTRIES {
        fs::write(many.join(format!("{i:06}")), format!("{}\n", i % 1000)).unwrap();
    }
    world.start().await;
    // Only a file older than a moment may be believed unchanged.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let first = world.backup().await;
    assert_eq!(first.progress.unwrap().files_total, ENTRIES);
    let second = world.backup().await;
    let (read, stored) = (second.progress.unwrap().bytes_read, second.progress.unwrap().bytes_stored);
    assert_eq!((read, stored), (0, 0), "nothing had changed");
    let backups = world.backups().await;
    assert!(backups[1].nodes[0].unchanged, "the first backup's manifest stands for the second's");
    let want = world.move_data("n1");
    world.restore("n1", false).await;
    compare::assert_equal(&want, &world.data("n1"), &[]);
}
