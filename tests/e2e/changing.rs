//! Files that vanish, grow, shrink, are replaced or become unreadable while they are read: the backup goes on, says
//! what it met, and what held still is exact.
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use palinurus_tests::seeded::Random;
use palinurus_tests::{World, compare};

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_in_motion() {
    let mut world = World::new(&["n1"]);
    let data = world.data("n1");
    let mut random = Random::new(9);
    fs::create_dir(data.join("still")).unwrap();
    fs::create_dir(data.join("moving")).unwrap();
    for i in 0..30 {
        fs::write(data.join(format!("still/{i}")), random.bytes(1_000_000)).unwrap();
    }
    let moving = data.join("moving");
    world.start().await;

    let stop = Arc::new(AtomicBool::new(false));
    let mover = {
        let (stop, moving) = (stop.clone(), moving.clone());
        std::thread::spawn(move || {
            let mut round = 0u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let at = |name: &str| moving.join(name);
                fs::write(at("grows"), vec![1; (round as usize % 100) * 20_000]).unwrap();
                fs::write(at("shrinks"), vec![2; 2_000_000 - (round as usize % 100) * 20_000]).unwrap();
                fs::write(at("new"), round.to_le_bytes()).unwrap();
                fs::rename(at("new"), at("replaced")).unwrap();
                fs::write(at("vanishes"), vec![3; 500_000]).unwrap();
                fs::create_dir_all(at("directory/below")).unwrap();
                fs::write(at("directory/below/file"), "x").unwrap();
                std::thread::sleep(Duration::from_millis(3));
                fs::remove_file(at("vanishes")).unwrap();
                fs::remove_dir_all(at("directory")).unwrap();
            }
        })
    };
    for _ in 0..3 {
        world.backup().await;
    }
    stop.store(true, Ordering::Relaxed);
    mover.join().unwrap();

    world.run(&["repository", "check", "--read-data"]).await.expect(0);
    let want = world.move_data("n1");
    world.restore("n1", false).await;
    compare::assert_equal(&want.join("still"), &data.join("still"), &[]);
    world.nothing_left_behind("n1").await;
    world.stop().await;
}
