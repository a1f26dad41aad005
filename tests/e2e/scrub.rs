//! Damage on the repository's disk that nobody asked about: the leader's own scrub finds it, everybody is told, nothing of it
//! is served, and nodes that hold the data still make every backup whole again.
use std::fs;
use std::path::{Path, PathBuf};

use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::verify::{ReadData, check};
use palinurus_repository::{KeyFile, Repository, storage};
use palinurus_tests::seeded::Random;
use palinurus_tests::world::wait_async;
use palinurus_tests::{World, oddities};

use crate::metrics::sample;
use crate::quarantine::{fill, flip, of_kind, restored_equals};

/// Of `scrub = "100%"`: a part is this much, and the first one comes at once.
const PART: u32 = 25;

/// Backups until one has a pack that the first part reads; that one is damaged.
async fn damage(world: &World, random: &mut Random) -> PathBuf {
    let (key, _) = KeyFile::read(&world.key()).unwrap();
    for round in 0..60 {
        let path = world.data("n1").join(format!("more-{round}"));
        fs::write(&path, random.bytes(100_000)).unwrap();
        oddities::age(&path);
        world.backup().await;
        let storage = storage::open(&world.repository_url()).unwrap();
        let repository = Repository::open(storage, std::slice::from_ref(&key)).await.unwrap();
        for pack in of_kind(world, "p") {
            let whole = fs::read(&pack).unwrap();
            flip(&pack);
            let report = check(&repository, ReadData::share(PART, 0), &|_| {}).await.unwrap();
            // A flip in what no file needs would say nothing.
            if report.damages.iter().any(|damage| damage.file_count > 0) {
                return pack;
            }
            fs::write(&pack, whole).unwrap();
        }
    }
    panic!("no pack is of the first part");
}

async fn scrub(world: &World) -> v1::Operation {
    let automatic =
        |operation: &v1::Operation| operation.verify.as_ref().is_some_and(|verify| verify.automatic);
    let begun = wait_async("a scrub begins", async || {
        let request = v1::ListOperationsRequest::default();
        let all = world.client().await.list_operations(request).await.unwrap().into_inner().operations;
        all.into_iter().find(automatic)
    });
    let id = begun.await.id;
    world.ended(&id).await
}

/// All of the node's files but those are in `target`, as they are.
fn others_are_there(world: &World, node: &str, target: &Path, spoiled: &[String]) {
    let mut there = 0;
    for file in fs::read_dir(world.data(node)).unwrap() {
        let (path, name) = (file.as_ref().unwrap().path(), file.unwrap().file_name());
        match spoiled.iter().any(|spoiled| *spoiled == format!("{node}:{}", name.to_str().unwrap())) {
            true => assert!(!target.join(&name).exists(), "{name:?} is damaged, and was restored"),
            false => {
                assert!(fs::read(&path).unwrap() == fs::read(target.join(&name)).unwrap(), "{name:?}");
                there += 1;
            }
        }
    }
    assert!(there > 0, "all files of {node} are spoiled: {spoiled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_told_kept_back_and_healed() {
    let mut world = World::new(&["n1", "n2"]);
    world.environment.insert("PALINURUS_METRICS".into(), "127.0.0.1:0".into());
    let mut random = Random::new(17);
    fill(&world, &mut random);
    world.start().await;
    let victim = damage(&world, &mut random).await;
    let object = victim.strip_prefix(world.repository()).unwrap().to_str().unwrap().to_owned();
    assert!(world.backups().await.iter().all(|backup| !backup.spoiled), "nobody knows");

    world.service.insert("scrub".into(), "100%".into());
    world.apply_service().await;
    let ended = scrub(&world).await;
    assert_eq!(ended.state(), OperationState::Failed, "{ended:#?}");
    assert_eq!(ended.failure.unwrap().kind, "corrupt");

    // By object, backup and file, in every place where somebody looks.
    let shown = world.run(&["operation", "show", &ended.id]).await.expect(0).json();
    let damage = &shown["verify"]["damages"][0];
    assert_eq!(damage["object"], object, "{shown}");
    let texts = |list: &serde_json::Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let (backups, files) = (texts(&damage["backups"]), texts(&damage["files"]));
    assert!(!backups.is_empty() && damage["file_count"] == files.len(), "{damage}");
    let marked: Vec<String> =
        world.backups().await.into_iter().filter(|backup| backup.spoiled).map(|backup| backup.id).collect();
    assert_eq!(marked, backups);
    let service = world.run(&["service", "show"]).await.expect(0).json();
    assert_eq!(service["backups"]["spoiled"], backups.len(), "{service}");
    let state = world.path("coordinator");
    let spoiled = async || sample(&state, "palinurus_backups_spoiled{service=\"s\"}").await;
    assert_eq!(spoiled().await, backups.len() as f64);
    let failed = "palinurus_operations{service=\"s\",kind=\"verify\",state=\"failed\"}";
    assert_eq!(sample(&state, failed).await, 1.0);

    // What is damaged is kept back, and nothing else is.
    let newest = backups.last().unwrap().clone();
    let node = files[0].split(':').next().unwrap().to_owned();
    let target = world.path("some");
    let (url, key) = (world.repository_url(), world.key());
    let (keys, name) = (key.to_str().unwrap(), target.to_str().unwrap());
    let from = ["restore", "--repository", &url, "--keys", keys, "--backup", &newest];
    world.run(&[&from[..], &["--node", &node, "--target", name]].concat()).await.expect(6);
    others_are_there(&world, &node, &target, &files);
    fs::remove_dir_all(&target).unwrap();
    for other in ["n1", "n2"] {
        if !files.iter().any(|file| file.starts_with(&format!("{other}:"))) {
            restored_equals(&world, &newest, other, 0).await;
        }
    }

    // The next backup stores anew what lay there; then the older ones are mended with that.
    let next = world.backup().await;
    assert!(next.progress.unwrap().bytes_new > 0);
    let next = next.backup.unwrap().backup_id;
    for node in ["n1", "n2"] {
        restored_equals(&world, &next, node, 0).await;
    }
    let repaired = world.run(&["repository", "repair", "--yes"]).await.expect(0).json();
    assert_eq!((&repaired["spoiled"], &repaired["chunks_lost"]), (&0.into(), &0.into()), "{repaired}");
    restored_equals(&world, &newest, &node, 0).await;
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
    assert_eq!(spoiled().await, 0.0);
    world.stop().await;
}
