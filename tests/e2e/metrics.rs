//! What Prometheus is told.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use palinurus_tests::{World, world};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// By name and labels, from the process with that state directory.
pub(crate) async fn scrape(state: &Path) -> BTreeMap<String, f64> {
    let file = state.join("metrics-address");
    let address = world::wait("metrics are served", || {
        fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    let mut stream = TcpStream::connect(address.trim()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    for secret in ["/", "key", "credential"] {
        assert!(!body.contains(secret), "{secret:?} in:\n{body}");
    }
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// A coordinator leaves a service that is busy out of a page.
pub(crate) async fn sample(state: &Path, name: &str) -> f64 {
    world::wait_async(name, async || scrape(state).await.get(name).copied()).await
}

/// A page on which that is.
async fn page_with(state: &Path, name: &str) -> BTreeMap<String, f64> {
    world::wait_async(name, async || Some(scrape(state).await).filter(|page| page.contains_key(name))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_seen_in_the_metrics_of_both() {
    let mut world = World::new(&["n1"]);
    world.environment.insert("PALINURUS_METRICS".into(), "127.0.0.1:0".into());
    fs::write(world.data("n1").join("file"), vec![1; 100_000]).unwrap();
    world.start().await;
    const BACKUPS: &str = "palinurus_backups{service=\"s\"}";
    let before = page_with(&world.path("coordinator"), BACKUPS).await;
    assert_eq!(before["palinurus_leader"], 1.0);
    assert_eq!(before[BACKUPS], 0.0);
    assert_eq!(before["palinurus_backups_spoiled{service=\"s\"}"], 0.0);
    assert!(!before.contains_key("palinurus_newest_backup_age_seconds{service=\"s\"}"));
    let operation = world.backup().await;

    let coordinator = page_with(&world.path("coordinator"), BACKUPS).await;
    assert_eq!(coordinator[BACKUPS], 1.0);
    assert_eq!(coordinator["palinurus_nodes{service=\"s\",state=\"connected\"}"], 1.0);
    assert_eq!(coordinator["palinurus_operations{service=\"s\",kind=\"backup\",state=\"succeeded\"}"], 1.0);
    assert!(coordinator["palinurus_newest_backup_age_seconds{service=\"s\"}"] < 300.0);
    let agent = scrape(&world.agent_state("n1")).await;
    assert_eq!(agent["palinurus_agent_connected{service=\"s\",node=\"n1\"}"], 1.0);
    // What both counted over the backup is what its record says.
    let puts = "palinurus_store_requests_total{service=\"s\",request=\"put\"}";
    let recorded = operation.progress.unwrap().requests.unwrap();
    assert_eq!(coordinator[puts] - before[puts] + agent[puts], recorded.puts as f64);
    assert!(recorded.puts >= 4 && recorded.bytes_sent > 100, "{recorded:?}");
    let again = page_with(&world.path("coordinator"), BACKUPS).await;
    let asked = |page: &BTreeMap<String, f64>| {
        let requests = page.iter().filter(|(name, _)| name.starts_with("palinurus_store_requests_total"));
        requests.map(|(_, count)| *count).sum::<f64>()
    };
    assert_eq!(asked(&again), asked(&coordinator), "to look costs nothing");
    world.stop().await;
}
