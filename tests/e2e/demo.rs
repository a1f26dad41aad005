//! The newcomer's first minute, on small data.
use std::fs;

use palinurus_tests::oddities;
use palinurus_tests::process::palinurus;
use palinurus_tests::seeded::Random;
use palinurus_tests::world::run;

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_restores_what_it_destroyed_and_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let (data, scratch) = (dir.path().join("data"), dir.path().join("tmp"));
    fs::create_dir(&data).unwrap();
    fs::create_dir(&scratch).unwrap();
    let mut random = Random::new(4);
    for i in 0..200 {
        fs::write(data.join(format!("{i}")), random.bytes(20_000 + i)).unwrap();
        oddities::age(&data.join(format!("{i}")));
    }
    let mut demo = palinurus();
    demo.args(["--json", "demo", "--data"]).arg(&data).env("TMPDIR", &scratch);
    let report = run(demo).await.expect(0).json();
    assert_eq!(report["differences"].as_array().unwrap().len(), 0);
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 3);
    assert_eq!(steps[2]["verified"], true);
    let number = |step: usize, name: &str| steps[step][name].as_u64().unwrap();
    assert!(number(0, "new") < number(0, "bytes"), "replicas share");
    assert!(number(1, "read") < number(0, "read") / 2, "the second backup reads what changed");
    assert!(number(1, "uploaded") < number(0, "uploaded") / 2);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "it cleans up behind itself");
}
