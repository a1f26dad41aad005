//! The benchmark on tiny data: every scenario is measured or it is said why not, and what is reported holds together.
use std::fs;

use palinurus_tests::process::palinurus;
use palinurus_tests::world::run;
use serde_json::Value;

const STEPS: [&str; 8] = [
    "cold",
    "unchanged",
    "changed",
    "append",
    "restore",
    "restore one file",
    "two replicas",
    "three replicas",
];
const MEMORY: u64 = 288 << 20;

fn of<'a>(set: &'a Value, step: &str) -> &'a Value {
    let steps = set["steps"].as_array().unwrap();
    let found = steps.iter().find(|found| found["name"] == step);
    &found.unwrap_or_else(|| panic!("{step} is missing: {set:#}"))["who"]
}

fn said(report: &Value, what: &str) -> bool {
    let skipped = report["skipped"].as_array().unwrap();
    skipped.iter().any(|skipped| {
        assert!(!skipped["why"].as_str().unwrap().is_empty());
        skipped["what"].as_str().unwrap().starts_with(what)
    })
}

#[tokio::test]
async fn every_scenario_is_measured_and_the_report_holds_together() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    let (json, svg) = (dir.path().join("report.json"), dir.path().join("report.svg"));
    let mut command = palinurus();
    command.args(["--json", "bench", "--generate", "mixed", "--size", "2"]);
    command.args(["--rounds", "1", "--peers", "restic,kopia"]);
    command.arg("--work").arg(&work).arg("--json-file").arg(&json).arg("--svg").arg(&svg);
    let report = run(command).await.expect(0).json();

    let written: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(written, report);
    assert!(fs::read_to_string(&svg).unwrap().starts_with("<svg "));
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "nothing is left of it");

    for peer in ["restic", "kopia"] {
        let installed = report["peers"].as_array().unwrap().iter().any(|found| found["name"] == peer);
        assert!(
            installed != said(&report, peer),
            "{peer} is installed and measured, or it is not: {report:#}"
        );
    }
    assert_eq!(report["agent_memory_bound"], MEMORY);
    assert!((1..=MEMORY).contains(&report["agent_memory"].as_u64().unwrap()));
    let names: Vec<&str> =
        report["sets"].as_array().unwrap().iter().map(|set| set["data"].as_str().unwrap()).collect();
    assert_eq!(names, ["mixed"]);
    for set in report["sets"].as_array().unwrap() {
        assert!(set["files"].as_u64().unwrap() > 5 && set["bytes"].as_u64().unwrap() > 300_000, "{set:#}");
        assert_eq!(set["limits"].as_array().unwrap().len(), 3);
        // On a machine with little memory.
        let wanted = |step: &&str| !said(&report, step);
        for step in STEPS.into_iter().filter(wanted) {
            whole(of(set, step), step);
        }
        let uploaded = |step: &str| of(set, step)[0]["median"]["uploaded"].as_u64().unwrap();
        assert!(uploaded("unchanged") * 10 < uploaded("cold"), "{set:#}");
        assert!(uploaded("changed") > uploaded("unchanged"), "{set:#}");
        for replicas in ["two replicas", "three replicas"].into_iter().filter(wanted) {
            assert!(uploaded(replicas) * 2 < uploaded("cold") * 3, "what all have is sent once: {set:#}");
        }
        let stored = |step: &str| of(set, step)[0]["median"]["stored"].as_u64().unwrap();
        assert!(stored("append") >= stored("cold") && stored("cold") >= uploaded("cold"), "{set:#}");
    }
}

fn whole(who: &Value, step: &str) {
    let who = who.as_array().unwrap();
    assert_eq!(who[0]["name"], "palinurus");
    let seconds = |who: &Value| who["rounds"][0]["seconds"].as_f64().unwrap();
    let backs_up = !step.starts_with("restore");
    for (number, one) in who.iter().enumerate() {
        // Others' restores end before their bytes are on the disk.
        assert_eq!(one["median"]["disk"].is_f64(), number > 0 && !backs_up, "{step}: {one:#}");
        assert_eq!(one["rounds"].as_array().unwrap().len(), 1, "{one:#}");
        assert!(seconds(one) > 0.0 && one["seconds"]["median"].as_f64().unwrap() == seconds(one));
        assert!(one["median"]["memory"].as_u64().is_some_and(|memory| memory > 1 << 20), "{one:#}");
        match number {
            0 => assert!(one["faster"].is_null()),
            _ => {
                let ratio = seconds(one) / seconds(&who[0]);
                assert!((one["faster"]["median"].as_f64().unwrap() - ratio).abs() < 1e-6, "{one:#}");
            }
        }
    }
    assert_eq!(who[0]["median"]["uploaded"].is_u64(), backs_up, "{step}");
    if step != "restore one file" {
        let memory = who[0]["median"]["agent_memory"].as_u64().unwrap();
        assert!((1..=MEMORY).contains(&memory), "{step}: {memory}");
    }
}
