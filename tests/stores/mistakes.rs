//! What goes wrong around a store: every mistake gets a message of its own with a hint, and loses nothing.
use std::fs;
use std::time::Duration;

use bytes::Bytes;
use palinurus_proto::v1;
use palinurus_repository::storage::{self, list_all};
use palinurus_repository::{ErrorKind, Storage};
use palinurus_tests::seeded::Random;
use palinurus_tests::store::{BUCKET, Faults, Proxy, Server};
use palinurus_tests::{World, compare, world};

/// Each line: what is refused and how; what is said, and what to do about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_is_told_apart() {
    let server = Server::weed().await;
    let proxy = Proxy::before(server.address, Faults::none()).await;
    let open = || storage::open(&server.url_through(proxy.address, "refused")).unwrap();
    open().put_new("there", Bytes::from_static(b"x")).await.unwrap();
    let denied = ErrorKind::Denied;
    let invalid = ErrorKind::Invalid;
    for (like, status, code, kind, hint) in [
        ("GET /", "403 Forbidden", "AccessDenied", denied, "allow s3:GetObject"),
        ("PUT /", "403 Forbidden", "AccessDenied", denied, "allow s3:PutObject"),
        ("list-type=2", "403 Forbidden", "AccessDenied", denied, "allow s3:ListBucket"),
        ("POST /", "403 Forbidden", "AccessDenied", denied, "allow s3:DeleteObject"),
        (" /", "403 Forbidden", "RequestTimeTooSkewed", invalid, "clock"),
        (" /", "403 Forbidden", "SignatureDoesNotMatch", denied, "check key id, secret"),
        (" /", "400 Bad Request", "ExpiredToken", denied, "the credentials have expired"),
        (" /", "301 Moved Permanently", "PermanentRedirect", invalid, "region"),
        (
            " /",
            "301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1",
            "PermanentRedirect",
            invalid,
            "the bucket is in eu-west-1: write region=eu-west-1",
        ),
        (" /", "400 Bad Request", "AuthorizationHeaderMalformed", invalid, "region"),
        (" /", "404 Not Found", "NoSuchBucket", invalid, "make the bucket lab"),
    ] {
        proxy.set(Faults::refusing(like, status, code));
        let storage = open();
        let outcomes = [
            storage.get("there", None).await.map(drop),
            storage.put_new("new", Bytes::from_static(b"y")).await,
            storage.list("", None, 10).await.map(drop),
            storage.delete(&["new".to_owned()]).await,
        ];
        let errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert!(!errors.is_empty(), "{like:?} {code}");
        for error in &errors {
            assert_eq!(error.kind(), kind, "{like:?} {code}: {error:?}");
            assert!(error.what().contains(code), "{error:?} does not say {code}");
        }
        let hinted = errors.iter().filter(|error| error.hint().unwrap_or_default().contains(hint)).count();
        assert!(hinted > 0, "none of {errors:?} hints at {hint:?}");
        match (code, like) {
            // Listings are asked for by GET as well.
            ("AccessDenied", "GET /") => assert_eq!(errors.len(), 2, "{errors:?}"),
            ("AccessDenied", _) => assert_eq!(errors.len(), 1, "{like}: the others go on: {errors:?}"),
            _ => assert_eq!(hinted, 4, "{errors:?}"),
        }
        proxy.set(Faults::none());
        assert_eq!(open().get("there", None).await.unwrap(), "x", "{code}: nothing is lost");
        open().delete(&["new".to_owned()]).await.unwrap();
    }
}

fn fill(world: &World, megabytes: usize, random: &mut Random) {
    fs::write(world.data("n1").join("data"), random.bytes(megabytes << 20)).unwrap();
}

async fn ended(world: &World) -> v1::Operation {
    let operation = world.start_backup().await;
    world.ended(&operation.id).await
}

fn failure(operation: &v1::Operation) -> &v1::Failure {
    operation.failure.as_ref().unwrap_or_else(|| panic!("it ended as {:?}", operation.state()))
}

/// Renewed in time, they end no backup; not renewed, they are named, and the next backup after that is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_expire_while_a_fleet_backs_up() {
    let all: &[&str] = &["Read", "Write", "List", "Tagging"];
    let server = Server::weed_with_identities(&[("first", all), ("second", all)]).await;
    let proxy = Proxy::before(server.address, Faults::none()).await;
    let file = server.path("rotating");
    let renew = |id: &str| {
        let new = server.path("new");
        fs::write(&new, format!("[default]\naws_access_key_id={id}\naws_secret_access_key=hunter2\n"))
            .unwrap();
        fs::rename(new, &file).unwrap();
    };
    renew("first");
    let mut world = World::new(&["n1"]);
    let mut random = Random::new(21);
    let url = format!("s3://{BUCKET}/x?endpoint=http://{}&credentials={}", proxy.address, file.display());
    world.keep_repository_at(url);
    fill(&world, 1, &mut random);
    world.start().await;
    world.backup().await;

    proxy.set(Faults::refusing("Credential=first", "400 Bad Request", "ExpiredToken"));
    fill(&world, 2, &mut random);
    let failed = ended(&world).await;
    assert_eq!(failed.state(), v1::OperationState::Failed);
    let told = failure(&failed);
    assert!(told.kind == "denied" && told.message.contains("ExpiredToken"), "{told:?}");
    assert!(told.hint.contains("renew them"), "{told:?}");
    assert!(!format!("{told:?}").contains("hunter2"));

    // What was read a moment ago is not read again at once.
    renew("second");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        let operation = ended(&world).await;
        if operation.state() == v1::OperationState::Succeeded {
            break;
        }
        assert!(failure(&operation).message.contains("ExpiredToken"), "{:?}", operation.failure);
        assert!(tokio::time::Instant::now() < deadline);
    }

    // In the middle of one: everybody has used the second for longer than that by now.
    fill(&world, 100, &mut random);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = proxy.requests();
    let running = world.start_backup().await;
    world::wait("the backup asks for something", || (proxy.requests() > before + 3).then_some(())).await;
    renew("first");
    proxy.set(Faults::refusing("Credential=second", "400 Bad Request", "ExpiredToken"));
    let survived = world.ended(&running.id).await;
    assert_eq!(survived.state(), v1::OperationState::Succeeded, "{:?}", survived.failure);
    let want = world.move_data("n1");
    world.restore("n1", false).await;
    compare::assert_equal(&want, &world.data("n1"), &[]);
    world.stop().await;
}

/// Somebody else deletes one object and replaces another. The check names both and what they spoil, a restore serves
/// nothing of them, and the backup that does not need them is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_change_behind_our_back() {
    let server = Server::weed().await;
    let mut world = World::new(&["n1"]);
    let mut random = Random::new(22);
    let url = server.url("behind");
    world.keep_repository_at(url.clone());
    let store = storage::open(&url).unwrap();
    let packs = async |store: &dyn Storage| -> Vec<storage::Object> {
        let all = list_all(store, "t/").await.unwrap();
        all.into_iter().filter(|object| object.key.contains("/p/")).collect()
    };
    fill(&world, 2, &mut random);
    world.start().await;
    let mut backups = Vec::new();
    let mut owned = Vec::new();
    for _ in 0..3 {
        fill(&world, 2, &mut random);
        backups.push(world.backup().await.backup.unwrap().backup_id);
        let new = packs(&*store).await.into_iter().find(|pack| !owned.contains(pack));
        owned.push(new.expect("each backup has a pack of its own"));
    }
    store.delete(&[owned[0].key.clone()]).await.unwrap();
    store.put(&owned[1].key, random.bytes(owned[1].size as usize).into()).await.unwrap();
    // And what is nobody's: it is left alone.
    store.put_new("t/notes.txt", Bytes::from_static(b"mine")).await.unwrap();

    let found = world.run(&["repository", "check", "--read-data"]).await.expect(6).json();
    let damages = found["damages"].as_array().unwrap().clone();
    for (pack, backup) in owned.iter().zip(&backups).take(2) {
        let named = |damage: &&serde_json::Value| {
            damage["object"].as_str().is_some_and(|object| object.contains(&pack.key))
                && damage["backups"].as_array().unwrap().iter().any(|spoilt| spoilt == backup.as_str())
        };
        assert!(damages.iter().any(|damage| named(&damage)), "{} is not in {damages:#?}", pack.key);
    }
    let want = world.move_data("n1");
    for backup in &backups[..2] {
        world.seen_empty("n1").await;
        let failed = world.run(&["restore", "apply", "--yes", backup]).await;
        assert_ne!(failed.code, 0);
        let file = world.data("n1").join("data");
        assert!(!file.exists() || fs::read(&file).unwrap().is_empty(), "nothing damaged is served");
        world.destroy_data("n1");
    }
    world.restore("n1", false).await;
    compare::assert_equal(&want, &world.data("n1"), &[]);
    world.run(&["backup", "delete", "--yes", &backups[0]]).await.expect(0);
    assert_eq!(store.get("t/notes.txt", None).await.unwrap(), "mine");
    world.stop().await;
}

/// A second cluster is pointed at the first one's prefix: with another key it is refused; with the same key it takes the
/// lead, and the first is told so and can neither write nor delete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_on_one_prefix() {
    let server = Server::weed().await;
    let mut random = Random::new(23);
    let mut first = World::new(&["n1"]);
    first.keep_repository_at(server.url("shared"));
    fill(&first, 1, &mut random);
    first.start().await;
    first.backup().await;

    let apply = |url: String| v1::ApplyServiceRequest {
        service: Some(v1::Service {
            name: "other".into(),
            r#type: "files".into(),
            repository: url,
            nodes: vec![v1::NodeSpec { name: "n1".into(), ..Default::default() }],
            ..Default::default()
        }),
        ..Default::default()
    };
    // The same cluster, another service.
    let refused = first.client().await.apply_service(apply(server.url("shared"))).await.unwrap_err();
    assert!(refused.message().contains('s') && refused.code() != tonic::Code::Internal, "{refused:?}");
    // A secret in the URL.
    let secret = format!("{}&secret_access_key=hunter2", server.url("secret"));
    let refused = first.client().await.apply_service(apply(secret)).await.unwrap_err();
    assert!(refused.message().contains("carries a secret"), "{refused:?}");
    assert!(!format!("{refused:?}").contains("hunter2"));

    let mut stranger = World::new(&["n1"]);
    stranger.start_coordinator().await;
    let refused = stranger.client().await.apply_service(apply(server.url("shared"))).await.unwrap_err();
    assert!(refused.message().contains("does not open this repository"), "{refused:?}");

    let mut second = World::new(&["n1"]);
    second.keys = first.keys.clone();
    second.start_coordinator().await;
    second.client().await.apply_service(apply(server.url("shared"))).await.unwrap();
    fill(&first, 1, &mut random);
    let fenced = ended(&first).await;
    assert_eq!(fenced.state(), v1::OperationState::Failed, "{fenced:?}");
    let told = failure(&fenced);
    assert!(told.kind == "fenced" && !told.hint.is_empty(), "{told:?}");
    assert_eq!(first.backups().await.len(), 1, "the first one's backup is still there");
    second.stop().await;
}
