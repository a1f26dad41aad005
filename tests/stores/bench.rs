//! That `palinurus bench store` measures and leaves nothing: its numbers are for quiet machines and optimised builds.
use std::path::Path;

use palinurus_repository::storage;
use palinurus_tests::process::binary;
use palinurus_tests::store::{Server, tool};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_measured_beside_others() {
    let server = Server::weed().await;
    let work = tempfile::tempdir().unwrap();
    let tools = tool("venv/bin");
    let path = std::env::join_paths([tools.as_path(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
    let measured = Command::new(binary())
        .args(["--json", "bench", "store", &server.url("measured")])
        .args(["--objects", "3", "--object-size", "1", "--rounds", "2", "--backup", "8", "--work"])
        .arg(work.path())
        .env("PATH", path)
        .env("HOME", server.path("."))
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(measured.status.success(), "{}", String::from_utf8_lossy(&measured.stderr));
    let said: serde_json::Value = serde_json::from_slice(&measured.stdout).unwrap();
    let who: Vec<_> =
        said["who"].as_array().unwrap().iter().map(|who| who["name"].as_str().unwrap()).collect();
    assert!(
        matches!(&who[..], ["palinurus", rclone, s5cmd] if rclone.starts_with("rclone v") && s5cmd.starts_with("s5cmd v")),
        "{who:?}"
    );
    for part in ["put", "get"] {
        assert!(said["who"][0][part]["seconds"].as_f64().unwrap() > 0.0);
        assert!(said[format!("{part}_share")].as_f64().unwrap() > 0.0);
    }
    assert!(said["backup"]["uploaded"].as_u64().unwrap() > 1 << 20);
    assert_eq!(storage::open(&server.url("measured")).unwrap().list("", None, 1).await.unwrap(), []);
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 0);
}
