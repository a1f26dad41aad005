use std::sync::Arc;

use palinurus_coordinator::state::{Link, MemoryElection, MemoryStore};
use palinurus_coordinator::{Config, Server, World};
use palinurus_repository::{KeyFile, SystemEntropy};
use tokio_util::sync::CancellationToken;

use super::*;

/// No machine stands still for so long. Who is cut off has it pass.
const TTL: Duration = Duration::from_secs(600);

/// Two coordinators over one state; the first leads.
struct Two {
    store: Arc<MemoryStore>,
    addresses: [String; 2],
    links: [Link; 2],
    cancel: CancellationToken,
    _directory: tempfile::TempDir,
    _running: Vec<Server>,
}

impl Two {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        KeyFile::generate(&SystemEntropy::new()).unwrap().write(&key).unwrap();
        let (store, cancel) = (Arc::new(MemoryStore::default()), CancellationToken::new());
        let (mut addresses, mut links, mut running) = (Vec::new(), Vec::new(), Vec::new());
        for name in ["c1", "c2"] {
            let config = Config {
                name: name.to_owned(),
                listen: "127.0.0.1:0".to_owned(),
                state: directory.path().join(name),
                keys: vec![key.clone().into()],
                ..Config::default()
            };
            let election = Arc::new(MemoryElection::new(&store, name, TTL));
            links.push(election.link());
            let world = World { election: Some(election), ..World::default() };
            let server = Server::start_in(world, config, cancel.clone()).await.unwrap();
            addresses.push(format!("http://{}", server.local_addr()));
            running.push(server);
            // Until the first leads, and the second knows.
            let mut client = dial(&addresses[0]).await.unwrap();
            let refused = from_status(client.start_backup(unknown()).await.unwrap_err());
            assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused:?}");
            let last = addresses.last().unwrap();
            while leader(&mut dial(last).await.unwrap()).await != "c1" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Self {
            store,
            addresses: addresses.try_into().unwrap(),
            links: links.try_into().unwrap_or_else(|_| panic!("two")),
            cancel,
            _directory: directory,
            _running: running,
        }
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// What only the leader answers, and refuses.
fn unknown() -> v1::StartBackupRequest {
    v1::StartBackupRequest { service: "none".to_owned(), full: false }
}

async fn leader(client: &mut Client) -> String {
    client.get_cluster(v1::GetClusterRequest {}).await.unwrap().into_inner().leader
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_to_the_leader_whoever_is_asked() {
    let two = Two::start().await;
    let mut client = dial(&two.addresses[1]).await.unwrap();
    let refused = from_status(client.start_backup(unknown()).await.unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused:?}");
    assert_eq!(client.at.to_string(), two.addresses[0], "it stays with the leader");

    let mut client = dial(&two.addresses[1]).await.unwrap();
    assert_eq!(leader(&mut client).await, "c1");
    client.find_leader().await.unwrap();
    assert_eq!(client.at.to_string(), two.addresses[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_for_an_election_and_goes_on_with_whoever_wins() {
    let two = Two::start().await;
    let mut client = dial(&two.addresses.join(",")).await.unwrap();
    assert_eq!(leader(&mut client).await, "c1");
    two.links[0].cut();
    two.store.pass(TTL * 2);
    // While nobody leads, and after: it was not begun, so it is asked again. First the old leader may still answer.
    loop {
        let refused = from_status(client.start_backup(unknown()).await.unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused:?}");
        if client.at.to_string() == two.addresses[1] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(leader(&mut client).await, "c2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_that_answers_is_taken() {
    let two = Two::start().await;
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let servers = format!("http://{dead},{}", two.addresses[1]);
    let client = dial(&servers).await.unwrap();
    assert_eq!(client.at.to_string(), two.addresses[1]);
    let none = dial(&format!("http://{dead},http://{dead}")).await.unwrap_err();
    assert!(none.kind() == ErrorKind::Unavailable && none.hint().is_some(), "{none:?}");
}

/// Nobody knows what became of it: it is said, and not done again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_broke_midway_is_not_repeated() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let _breaking = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await;
        }
    }));
    let mut client = dial(&address).await.unwrap();
    let broken = from_status(client.start_backup(unknown()).await.unwrap_err());
    assert_eq!(broken.kind(), ErrorKind::Unavailable);
    assert!(broken.hint().unwrap().contains("operation list"), "{broken:?}");
}
