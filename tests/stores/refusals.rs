//! What operators get wrong, and what they are told.
use bytes::Bytes;
use palinurus_repository::{Error, ErrorKind, Storage, storage};
use palinurus_tests::store::{BUCKET, Faults, Proxy, Server, free_ports};

fn told(error: &Error, kind: ErrorKind, what: &str, hint: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(error.chain().contains(what), "{error:?} does not say {what:?}");
    assert!(error.hint().unwrap_or_default().contains(hint), "{error:?} does not hint at {hint:?}");
    for secret in ["labsecret", "hunter2", "Signature=", "Credential="] {
        assert!(!format!("{error:?}").contains(secret), "{error:?}");
    }
}

fn credentials(server: &Server, id: &str, secret: &str) -> String {
    let path = server.path(&format!("{id}-{secret}"));
    std::fs::write(&path, format!("[default]\naws_access_key_id={id}\naws_secret_access_key={secret}\n"))
        .unwrap();
    format!("endpoint=http://{}&credentials={}", server.address, path.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_place_or_key() {
    let server = Server::weed().await;
    let right = credentials(&server, "labkey", "labsecret");
    let put = async |url: String| {
        let storage = storage::open(&url).unwrap();
        storage.put_new("repo", Bytes::from_static(b"x")).await.unwrap_err()
    };
    // SeaweedFS makes buckets as they are written to, if the user may.
    let moto = Server::moto().await;
    let bucket = put(moto.url("x").replace("s3://lab/", "s3://nobodys/")).await;
    told(&bucket, ErrorKind::Invalid, "NoSuchBucket", "make the bucket nobodys");
    let absent = storage::open(&format!("s3://nobodys/x?{right}")).unwrap();
    told(&absent.get("repo", None).await.unwrap_err(), ErrorKind::Invalid, "NoSuchBucket", "make the bucket");
    let secret = put(format!("s3://{BUCKET}/x?{}", credentials(&server, "labkey", "hunter2"))).await;
    told(&secret, ErrorKind::Denied, "SignatureDoesNotMatch", "check key id, secret");
    let unknown = put(format!("s3://{BUCKET}/x?{}", credentials(&server, "nobody", "hunter2"))).await;
    told(&unknown, ErrorKind::Denied, "InvalidAccessKeyId", "check key id, secret");
    let file = put(format!("s3://{BUCKET}/x?endpoint=http://{}&credentials=/none", server.address)).await;
    told(&file, ErrorKind::NotFound, "/none", "");
    let empty = server.path("empty");
    std::fs::write(&empty, "").unwrap();
    let none =
        put(format!("s3://{BUCKET}/x?endpoint=http://{}&credentials={}", server.address, empty.display()));
    told(&none.await, ErrorKind::Denied, "no credentials", "AWS_ACCESS_KEY_ID");
    let tls =
        put(format!("s3://{BUCKET}/x?endpoint=https://{}", right.trim_start_matches("endpoint=http://")))
            .await;
    told(&tls, ErrorKind::Invalid, "does not speak TLS", "plain http");
}

/// A port of ours: it refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_listens() {
    let [port] = free_ports();
    let address = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[default]\naws_access_key_id=a\naws_secret_access_key=b\n").unwrap();
    let began = tokio::time::Instant::now();
    let url = format!("s3://{BUCKET}/x?endpoint=http://{address}&credentials={}", file.path().display());
    let error = storage::open(&url).unwrap().size("repo").await.unwrap_err();
    told(&error, ErrorKind::Unavailable, "refuses connections", "check the endpoint");
    assert!(error.what().contains("tried"), "{error:?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "an operator waits for this");
    std::fs::write(file.path(), "azure_storage_account_key=aGVsbG8=\n").unwrap();
    let url = format!(
        "az://{BUCKET}/x?account=a&endpoint=http://{address}/a&credentials={}",
        file.path().display()
    );
    let error = storage::open(&url).unwrap().size("repo").await.unwrap_err();
    told(&error, ErrorKind::Unavailable, "refuses connections", "check the endpoint");
    let url = format!("gs://{BUCKET}/x?endpoint=http://{address}&credentials=none");
    let error = storage::open(&url).unwrap().size("repo").await.unwrap_err();
    told(&error, ErrorKind::Unavailable, "refuses connections", "check the endpoint");
    let error = storage::open(&url.replace("none", "/none")).unwrap_err();
    told(&error, ErrorKind::NotFound, "/none", "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_names_what_is_wrong() {
    let server = Server::azurite().await;
    let url = server.url("x");
    let storage = storage::open(&url.replace("az://lab/", "az://nobodys/")).unwrap();
    let error = storage.put_new("repo", Bytes::from_static(b"x")).await.unwrap_err();
    told(&error, ErrorKind::Invalid, "the container does not exist", "make it");
    let wrong = server.path("wrong");
    std::fs::write(&wrong, "azure_storage_account_key = aHVudGVyMg==\n").unwrap();
    let (before, _) = url.split_once("credentials=").unwrap();
    let storage = storage::open(&format!("{before}credentials={}", wrong.display())).unwrap();
    let error = storage.put_new("repo", Bytes::from_static(b"x")).await.unwrap_err();
    told(&error, ErrorKind::Denied, "", "");
    std::fs::write(&wrong, "hunter2\n").unwrap();
    let error = storage::open(&format!("{before}credentials={}", wrong.display())).unwrap_err();
    told(&error, ErrorKind::Invalid, "line 1", "azure_storage_account_key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_names_what_is_wrong() {
    let server = Server::gcs().await;
    let proxy = Proxy::before(server.address, Faults::none()).await;
    let url = server.url_through(proxy.address, "x");
    storage::open(&url).unwrap().put_new("repo", Bytes::from_static(b"x")).await.unwrap();
    for (status, code, kind, what, hint) in [
        (
            "403 Forbidden",
            "AccessDenied",
            ErrorKind::Denied,
            "permission denied",
            "allow these credentials to write",
        ),
        (
            "401 Unauthorized",
            "AuthenticationRequired",
            ErrorKind::Denied,
            "does not know",
            "this machine's clock",
        ),
        ("404 Not Found", "NoSuchBucket", ErrorKind::Invalid, "the container does not exist", "make it"),
    ] {
        proxy.set(Faults::refusing(" /", status, code));
        let error = storage::open(&url).unwrap().put_new("new", Bytes::from_static(b"x")).await.unwrap_err();
        told(&error, kind, what, hint);
    }
    let key = server.path("key");
    std::fs::write(&key, "hunter2").unwrap();
    let (before, _) = url.split_once("credentials=").unwrap();
    let error = storage::open(&format!("{before}credentials={}", key.display())).unwrap_err();
    told(&error, ErrorKind::Invalid, "gs: URL", "stores.md");
    let error =
        storage::open(&format!("gs://{BUCKET}/x?credentials={}&token=hunter2", key.display())).unwrap_err();
    told(&error, ErrorKind::Invalid, "carries a secret", "credentials=");
}

/// Each permission missing alone, and all the others still working.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named() {
    let server = Server::weed_with_identities(&[
        ("all", &["Read", "Write", "List", "Tagging"]),
        ("noread", &["Write", "List"]),
        ("nowrite", &["Read", "List"]),
        ("nolist", &["Read", "Write"]),
    ])
    .await;
    let storage = |id: &str| {
        storage::open(&format!("s3://{BUCKET}/x?{}", credentials(&server, id, "hunter2"))).unwrap()
    };
    storage("all").put_new("there", Bytes::from_static(b"x")).await.unwrap();
    let denied = async |storage: std::sync::Arc<dyn Storage>, action: &str| {
        let outcomes = [
            storage.get("there", None).await.map(drop),
            storage.put_new(&format!("new-{}", action.len()), Bytes::from_static(b"x")).await,
            storage.list("", None, 10).await.map(drop),
        ];
        for (outcome, needs) in outcomes.into_iter().zip(["s3:GetObject", "s3:PutObject", "s3:ListBucket"]) {
            match outcome {
                Ok(()) => assert_ne!(needs, action),
                Err(error) => {
                    assert_eq!(needs, action, "{error:?}");
                    told(&error, ErrorKind::Denied, "AccessDenied", &format!("allow {action}"));
                }
            }
        }
    };
    denied(storage("all"), "none").await;
    denied(storage("noread"), "s3:GetObject").await;
    denied(storage("nowrite"), "s3:PutObject").await;
    denied(storage("nolist"), "s3:ListBucket").await;
    let error = storage("nowrite").delete(&["there".to_owned()]).await.unwrap_err();
    told(&error, ErrorKind::Denied, "AccessDenied", "allow s3:DeleteObject");
    assert_eq!(storage("all").get("there", None).await.unwrap(), "x", "nothing was lost by it");
}

/// Keys are renewed by replacing the file: a client that read the old ones goes on with the new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_credentials_are_read_again() {
    let server = Server::weed().await;
    let url = format!("s3://{BUCKET}/x?{}", credentials(&server, "expired", "hunter2"));
    let storage = storage::open(&url).unwrap();
    let error = storage.size("there").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    let right = server.path("labkey-labsecret");
    credentials(&server, "labkey", "labsecret");
    std::fs::rename(right, server.path("expired-hunter2")).unwrap();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(120);
    while let Err(error) = storage.put_new("there", Bytes::from_static(b"x")).await {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        assert!(tokio::time::Instant::now() < deadline, "{error:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// Two repositories, one below the other: neither touches what is not its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_objects_are_left_alone() {
    let server = Server::weed().await;
    let right = credentials(&server, "labkey", "labsecret");
    let outer = storage::open(&format!("s3://{BUCKET}/a?{right}")).unwrap();
    let inner = storage::open(&format!("s3://{BUCKET}/a/b?{right}")).unwrap();
    inner.put_new("repo", Bytes::from_static(b"inner")).await.unwrap();
    outer.put_new("repo", Bytes::from_static(b"outer")).await.unwrap();
    assert_eq!(inner.list("", None, 10).await.unwrap().len(), 1);
    outer.delete(&["repo".to_owned()]).await.unwrap();
    assert_eq!(inner.get("repo", None).await.unwrap(), "inner");
}
