use palinurus_repository::storage;
use palinurus_repository::storage::suite::{self, Order};
use palinurus_repository::{ErrorKind, KeyFile, Repository, SystemClock, SystemEntropy};
use palinurus_tests::store::Server;

/// The suite, and a repository that is made, opened and written to there.
async fn conforms(server: &Server, order: Order) {
    let storage = storage::open(&server.url("suite")).unwrap();
    suite::run_sorted(storage.clone(), "conform", order).await;
    eprintln!("the suite sent {:?}", storage.sent().unwrap());
    let key = KeyFile::generate(&SystemEntropy::new()).unwrap();
    let url = server.url("deep/repository");
    let open = || storage::open(&url).unwrap();
    let absent = Repository::open(open(), std::slice::from_ref(&key)).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent:?}");
    let made = create(&url, &key).await.unwrap();
    assert_eq!(create(&url, &key).await.unwrap_err().kind(), ErrorKind::Conflict);
    made.lead(palinurus_repository::Epoch(1), "test").await.unwrap();
    let again = Repository::open(open(), &[key]).await.unwrap();
    assert_eq!(again.id(), made.id());
    // The suite's place does not see it, nor a prefix that only begins alike.
    for other in ["suite", "deep/repo", "dee"] {
        let other = storage::open(&server.url(other)).unwrap();
        assert_eq!(other.list("", None, 10).await.unwrap(), []);
    }
    assert!(open().list("ledger/", None, 10).await.unwrap().len() == 1);
    assert_eq!(open().tidy().await.unwrap(), 0);
}

async fn create(url: &str, key: &KeyFile) -> palinurus_repository::Result<Repository> {
    let clock = std::sync::Arc::new(SystemClock);
    Repository::create(storage::open(url)?, key, &SystemEntropy::new(), clock).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seaweedfs_conforms() {
    conforms(&Server::weed().await, Order::Parts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto_conforms() {
    conforms(&Server::moto().await, Order::Names).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_conforms() {
    conforms(&Server::azurite().await, Order::Names).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fake_gcs_server_conforms() {
    conforms(&Server::gcs().await, Order::Names).await;
}

/// It answers both creators with yes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_overwrites_is_refused() {
    let server = Server::rclone().await;
    let key = KeyFile::generate(&SystemEntropy::new()).unwrap();
    let url = server.url("repository");
    let error = create(&url, &key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.what().contains("s3://lab/repository") && error.what().contains("overwrite"), "{error:?}");
    assert_eq!(storage::open(&url).unwrap().list("", None, 10).await.unwrap(), [], "nothing was left there");
}
