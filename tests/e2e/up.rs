//! The README's quick start, and what grpcurl sees.
use std::fs;
use std::path::Path;
use std::process::Command;

use palinurus_tests::compare;
use palinurus_tests::process::{Process, palinurus};
use palinurus_tests::world::{Ran, run, wait};

fn grpcurl() -> Command {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/tools/grpcurl");
    assert!(tool.exists(), "tests/run puts grpcurl at {}", tool.display());
    Command::new(tool)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_and_grpcurl() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (data, state) = (at("data"), at("state"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "content").unwrap();
    let up = || {
        let mut command = palinurus();
        command
            .arg("up")
            .arg("--data")
            .arg(&data)
            .arg("--state")
            .arg(&state)
            .args(["--listen", "127.0.0.1:0"]);
        command
    };
    let mut process = Process::start("up", up(), &at("up.log"));
    let address = wait("up listens", || {
        process.check();
        fs::read_to_string(state.join("coordinator/address")).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    let address = address.trim();
    wait("up says what to do next", || process.log_text().contains("backup start").then_some(())).await;
    let said = process.log_text();
    assert!(said.contains("operator.key"), "where the key is:\n{said}");
    let server = format!("http://{address}");
    let ask = async |arguments: &[&str]| -> Ran {
        let mut command = palinurus();
        command.args(["--json", "--server", &server]).args(arguments);
        run(command).await
    };
    wait_joined(&ask).await;

    // A second one of the same state is told so.
    let second = run(up()).await;
    assert_eq!(second.code, 4, "{}", second.stderr);
    assert!(second.stderr.contains("hint"), "{}", second.stderr);

    let backup = ask(&["backup", "start"]).await.expect(0).json();
    assert_eq!(backup["state"], "succeeded");
    let listed = ask(&["backup", "list"]).await.expect(0).json();
    assert_eq!(listed["backups"][0]["id"], backup["backup"]);

    let mut list = grpcurl();
    list.args(["-plaintext", address, "list"]);
    let services = run(list).await.expect(0).stdout;
    for service in ["palinurus.v1.Coordinator", "palinurus.v1.Fleet", "grpc.health.v1.Health"] {
        assert!(services.lines().any(|line| line == service), "{service} is not in\n{services}");
    }
    let mut backups = grpcurl();
    backups.args(["-plaintext", address, "palinurus.v1.Coordinator/ListBackups"]);
    let backups = run(backups).await.expect(0).json();
    assert_eq!(backups["backups"][0]["id"], backup["backup"]);

    fs::rename(&data, at("want")).unwrap();
    fs::create_dir(&data).unwrap();
    wait_empty(&ask).await;
    ask(&["restore", "apply", "--yes"]).await.expect(0);
    compare::assert_equal(&at("want"), &data, &[]);

    let status = process.terminate().await;
    assert!(status.success(), "{status}");
    assert_eq!(ask(&["node", "list"]).await.code, 5);

    // And again on the same state: the backup is still there.
    let mut process = Process::start("up again", up(), &at("up-again.log"));
    wait("up listens again", || {
        process.check();
        process.log_text().contains("backup start").then_some(())
    })
    .await;
    let address = fs::read_to_string(state.join("coordinator/address")).unwrap();
    let server = format!("http://{}", address.trim());
    let mut command = palinurus();
    command.args(["--json", "--server", &server, "backup", "list"]);
    assert_eq!(run(command).await.expect(0).json()["backups"][0]["id"], backup["backup"]);
}

async fn wait_joined(ask: &impl AsyncFn(&[&str]) -> Ran) {
    palinurus_tests::world::wait_async("the node joins", async || {
        let nodes = ask(&["node", "list"]).await.expect(0).json();
        (nodes["nodes"][0]["connected"] == true).then_some(())
    })
    .await;
}

async fn wait_empty(ask: &impl AsyncFn(&[&str]) -> Ran) {
    palinurus_tests::world::wait_async("the node is seen to be empty", async || {
        let nodes = ask(&["node", "list"]).await.expect(0).json();
        (nodes["nodes"][0]["data_empty"] == true).then_some(())
    })
    .await;
}
