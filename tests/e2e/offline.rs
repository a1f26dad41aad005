//! When everything but the repository and the key is lost.
use std::fs;

use palinurus_tests::{World, compare, oddities};

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_needs_no_coordinator() {
    let mut world = World::new(&["n1", "n2"]);
    let odd = world.path("odd");
    fs::create_dir(&odd).unwrap();
    oddities::make(&odd);
    fs::remove_dir(world.data("n1")).unwrap();
    fs::rename(&odd, world.data("n1")).unwrap();
    fs::write(world.data("n2").join("other"), "of the other node").unwrap();
    world.start().await;
    world.backup().await;
    world.stop().await;
    fs::remove_dir_all(world.path("coordinator")).unwrap();

    let (url, key) = (world.repository_url(), world.key());
    let base = ["restore", "--repository", &url, "--keys", key.to_str().unwrap()];
    let run = async |more: &[&str]| world.run(&[&base, more].concat()).await;
    let target = world.path("target");
    let to = target.to_str().unwrap();

    // Which node has to be said, and the answer names them.
    let unsaid = run(&["--target", to]).await.expect(2);
    assert!(unsaid.stderr.contains("n1") && unsaid.stderr.contains("n2"), "{}", unsaid.stderr);

    run(&["--node", "n1", "--target", to]).await.expect(0);
    compare::assert_equal(&world.data("n1"), &target, &oddities::SKIPPED);

    // Not over what is there, unless asked to.
    fs::write(target.join("one byte"), "changed").unwrap();
    let refused = run(&["--node", "n1", "--target", to]).await;
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.error()["hint"].as_str().unwrap().contains("--delta"), "{}", refused.stderr);
    assert_eq!(fs::read(target.join("one byte")).unwrap(), b"changed");
    let unconfirmed = run(&["--node", "n1", "--target", to, "--delta"]).await;
    assert_eq!(unconfirmed.code, 2, "no terminal and no --yes: {}", unconfirmed.stderr);
    run(&["--node", "n1", "--target", to, "--delta", "--yes"]).await.expect(0);
    compare::assert_equal(&world.data("n1"), &target, &oddities::SKIPPED);

    // A part of it.
    let part = world.path("part");
    run(&["--node", "n1", "--target", part.to_str().unwrap(), "--include", "times/**"]).await.expect(0);
    compare::assert_equal(&world.data("n1").join("times"), &part.join("times"), &[]);
    assert!(!part.join("one byte").exists());
}
