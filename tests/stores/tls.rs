//! Stores behind TLS, with a CA of the operator's own.
use bytes::Bytes;
use palinurus_repository::{ErrorKind, storage};
use palinurus_tests::store::{Ca, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_trusted_by_its_ca_only() {
    let (ca, other) = (Ca::make(), Ca::make());
    let server = Server::weed_with_tls(&ca).await;
    let url = |more: &str| server.https_url("tls", more);
    let with = |ca: &Ca| url(&format!("&ca={}", ca.root.display()));
    let storage = storage::open(&with(&ca)).unwrap();
    // Large enough to go in parts; over TLS, payloads are not hashed for their signature.
    for (key, body) in [("small", Bytes::from_static(b"x")), ("large", Bytes::from(vec![5; 65 << 20]))] {
        storage.put_new(key, body.clone()).await.unwrap();
        assert_eq!(storage.put_new(key, body.clone()).await.unwrap_err().kind(), ErrorKind::Conflict);
        assert!(storage.get(key, None).await.unwrap() == body);
    }
    for wrong in [url(""), with(&other)] {
        let error = storage::open(&wrong).unwrap().size("small").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
        assert!(error.what().contains("not trusted") && error.hint().unwrap().contains("ca="), "{error:?}");
    }
    let error =
        storage::open(&url(&format!("&ca={}", ca.key.display()))).unwrap().size("x").await.unwrap_err();
    assert!(error.what().contains("holds no certificate"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_is_trusted_by_its_ca_only() {
    let ca = Ca::make();
    let server = Server::azurite_with_tls(&ca).await;
    let storage = storage::open(&server.https_url("tls", &format!("&ca={}", ca.root.display()))).unwrap();
    storage.put_new("small", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(storage.get("small", None).await.unwrap(), "x");
    let error = storage::open(&server.https_url("tls", "")).unwrap().size("small").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.what().contains("not trusted") && error.hint().unwrap().contains("ca="), "{error:?}");
}

/// What a bucket with Object Lock asks for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checksums_are_sent_when_asked_for() {
    for server in [Server::weed().await, Server::moto().await] {
        for sum in ["crc32", "crc32c", "sha256"] {
            let url = format!("{}&checksum={sum}", server.url(sum));
            let storage = storage::open(&url).unwrap();
            for (key, body) in
                [("small", Bytes::from_static(b"x")), ("large", Bytes::from(vec![5; 65 << 20]))]
            {
                storage.put_new(key, body.clone()).await.unwrap();
                assert!(storage.get(key, None).await.unwrap() == body);
            }
        }
    }
    let error = storage::open("s3://lab/x?region=x&checksum=md5").unwrap_err();
    assert!(error.hint().unwrap().contains("crc32c"), "{error:?}");
}
