//! How a file changes decides what is sent: pages, shifted bytes, growth at the end.
use std::fs;
use std::os::unix::fs::FileExt;

use palinurus_tests::seeded::Random;
use palinurus_tests::{World, compare, oddities};

#[tokio::test(flavor = "multi_thread")]
async fn changed_pages_shifted_bytes_and_grown_ends_are_all_that_is_stored() {
    let mut world = World::new(&["n1"]);
    world.engine = "paged = [{ glob = \"*.pages\", page_size = 8192 }]\nopaque = [\"*.dump\"]\n\
                    append_only = [\"*.log\"]\nimmutable = [\"*.sst\"]\n"
        .into();
    let mut random = Random::new(12);
    let data = world.data("n1");
    let at = |name: &str| data.join(name);
    const LEN: usize = 24 << 20;
    for name in ["heap.pages", "all.dump", "wal.log", "table.sst"] {
        fs::write(at(name), random.bytes(LEN)).unwrap();
        oddities::age(&at(name));
    }
    world.start().await;
    let first = world.backup().await.progress.unwrap();
    // And the hashes of the pages, which are chunks of their own.
    let maps = first.bytes_new - 4 * LEN as u64;
    assert!((1..100_000).contains(&maps), "{maps} bytes of page maps");

    // 40 pages here and there, 1000 bytes in front of the dump, 5000 behind the log.
    let heap = fs::OpenOptions::new().write(true).open(at("heap.pages")).unwrap();
    for i in 0..40 {
        heap.write_all_at(&random.bytes(8192), (i * 37 % (LEN as u64 / 8192)) * 8192).unwrap();
    }
    let dump = fs::read(at("all.dump")).unwrap();
    fs::write(at("all.dump"), [random.bytes(1000), dump].concat()).unwrap();
    let log = fs::read(at("wal.log")).unwrap();
    fs::write(at("wal.log"), [log, random.bytes(5000)].concat()).unwrap();

    let second = world.backup().await.progress.unwrap();
    assert_eq!(second.bytes_read, 3 * LEN as u64 + 6000, "the immutable file is not read");
    let changed = 40 * 8192 + 1000 + 5000;
    // Content-defined chunks and the log's last extent are resent whole.
    assert!(
        second.bytes_stored < changed + (5 << 20),
        "stored {} for {changed} changed bytes",
        second.bytes_stored
    );

    let want = world.move_data("n1");
    world.restore("n1", false).await;
    compare::assert_equal(&want, &data, &[]);
    world.run(&["repository", "check", "--read-data"]).await.expect(0);

    // The first backup is what it was, although the second one is laid over it.
    let backups = world.backups().await;
    assert!(!world.node("n1").await.data_empty, "nobody takes it for empty, not even for a heartbeat");
    world.destroy_data("n1");
    world.seen_empty("n1").await;
    world.run(&["restore", "apply", "--yes", &backups[0].id]).await.expect(0);
    let restored = fs::read(at("heap.pages")).unwrap();
    let newer = fs::read(want.join("heap.pages")).unwrap();
    let differ = restored.chunks(8192).zip(newer.chunks(8192)).filter(|(a, b)| a != b).count();
    assert_eq!(differ, 40);
    world.nothing_left_behind("n1").await;
    world.stop().await;
}
