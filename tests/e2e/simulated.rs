//! `palinurus bench fleet`, small: what it counts is right, and what the control plane writes is bounded.
use std::fs;

use palinurus_tests::process::palinurus;
use palinurus_tests::world::run;
use serde_json::Value;

const AGENTS: u64 = 20;
const SERVICES: u64 = 4;
const FILES: u64 = 10_000;
/// One of a hundred chunks changes.
const CHANGED: u64 = FILES / 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_fleet_is_backed_up_and_leaves_little_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let mut bench = palinurus();
    bench.args(["--json", "bench", "fleet", "--idle", "0"]);
    for (name, value) in [("agents", AGENTS), ("services", SERVICES), ("files", FILES), ("chunks", FILES)] {
        bench.arg(format!("--{name}={value}"));
    }
    bench.env("TMPDIR", scratch.path());
    let report = run(bench).await.expect(0).json();
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "it cleans up behind itself");
    let run = &report["runs"][0];
    assert_eq!(run["state"], "etcd", "etcd is missing: install etcd-server (tests/run does)");
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} in {report:#}"));
    assert_eq!(number(&run["backups"]), 3 * SERVICES, "{report:#}");
    assert_eq!(number(&run["files_planned"]), FILES);

    let steps = run["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["apply services", "join", "cold", "1 % changed", "unchanged", "restore plan"],
        "{report:#}"
    );
    let step = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap();
    let claimed = |name: &str| {
        let claimed = &step(name)["claimed"];
        (number(&claimed["asked"]), number(&claimed["stored"]))
    };
    assert_eq!(claimed("cold"), (FILES, 0), "nobody has what is nowhere");
    assert_eq!(claimed("1 % changed"), (FILES, FILES - CHANGED));
    assert!(step("unchanged")["claimed"].is_null(), "nothing is asked for what has not changed");
    for step in steps {
        let memory = number(&step["memory"]);
        assert!(memory < 1 << 30, "{memory} bytes for so few files: {step:#}");
    }

    // A service, its node records, its operations: no record of files or chunks, however many there are.
    let records = &run["records"];
    let most = SERVICES + AGENTS + 3 * SERVICES + 2 * SERVICES + 8;
    assert!(number(&records["records"]) <= most, "more than {most}: {records:#}");
    assert!(number(&records["largest_bytes"]) < 64 << 10, "{records:#}");
    // Each task of a node is written when it is given and when it has ended at the most, and each phase once.
    let each = (AGENTS / SERVICES + 1) * 2 * 8 + 32;
    for name in ["cold", "1 % changed", "unchanged"] {
        let puts = number(&step(name)["etcd_puts"]);
        assert!(puts <= SERVICES * each, "{puts} writes in {name}");
    }
}
