//! kill -9 of anything at any moment: the operation ends and says how, and nothing is left behind.
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use palinurus_proto::v1::OperationState;
use palinurus_repository::index::IndexSegment;
use palinurus_repository::pack::PackSummary;
use palinurus_repository::storage::{self, list_all};
use palinurus_repository::{KeyFile, Repository};
use palinurus_tests::seeded::Random;
use palinurus_tests::world::{files_below, wait_async};
use palinurus_tests::{World, compare};

async fn filled_world(random: &mut Random) -> World {
    let mut world = World::new(&["n1", "n2", "n3"]);
    world.engine = "immutable = [\"small-*\"]\nappend_only = [\"1?\"]\n".into();
    let n1 = world.data("n1");
    for i in 0..40 {
        fs::write(n1.join(format!("{i}")), random.bytes(1_500_000)).unwrap();
    }
    for i in 0..500 {
        fs::write(n1.join(format!("small-{i}")), format!("{i}")).unwrap();
    }
    fs::remove_dir(world.data("n2")).unwrap();
    assert!(Command::new("cp").arg("-a").args([&n1, &world.data("n2")]).status().unwrap().success());
    for i in 0..10 {
        fs::write(world.data("n3").join(format!("{i}")), random.bytes(1_500_000)).unwrap();
    }
    world.start().await;
    world
}

/// Nothing of an operation is left on a node or in the repository.
async fn assert_clean(world: &World, untouched: &[(String, Vec<PathBuf>)]) {
    for (node, before) in untouched {
        assert_eq!(&files_below(&world.data(node)), before, "files of {node}'s data directory");
        world.nothing_left_behind(node).await;
    }
    let partial: Vec<PathBuf> =
        files_below(world.repository()).into_iter().filter(|path| is_partial(path)).collect();
    assert_eq!(partial, Vec::<PathBuf>::new(), "half-written objects");
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
}

fn is_partial(path: &std::path::Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    name.starts_with('.') || name.ends_with(".tmp") || name.contains("partial")
}

fn snapshot(world: &World) -> Vec<(String, Vec<PathBuf>)> {
    ["n1", "n2", "n3"].iter().map(|node| ((*node).to_owned(), files_below(&world.data(node)))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_during_backups() {
    let mut random = Random::new(20_260_501);
    let mut world = filled_world(&mut random).await;
    let untouched = snapshot(&world);
    let mut committed = 0;
    for round in 0..8 {
        // Something new each round, so that there is something to upload.
        for node in ["n1", "n2"] {
            fs::write(world.data(node).join("0"), vec![round as u8; 3_000_000]).unwrap();
        }
        fs::write(world.data("n3").join("0"), random.bytes(20_000_000)).unwrap();
        let operation = world.start_backup().await;
        tokio::time::sleep(Duration::from_millis(random.below(1200))).await;
        let (agent, coordinator) = match random.below(3) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        let node = ["n1", "n2", "n3"][random.below(3) as usize];
        if agent {
            world.kill_agent(node);
        }
        if coordinator {
            world.kill_coordinator();
            tokio::time::sleep(Duration::from_millis(random.below(500))).await;
            world.start_coordinator().await;
        }
        if agent {
            tokio::time::sleep(Duration::from_millis(random.below(500))).await;
            world.start_agent(node);
        }
        world.joined().await;
        let ended = world.ended(&operation.id).await;
        eprintln!("round {round}: agent {agent} {node}, coordinator {coordinator}: {:?}", ended.state());
        match ended.state() {
            OperationState::Succeeded | OperationState::Warnings => committed += 1,
            OperationState::Failed => {
                assert!(ended.failure.is_some_and(|failure| !failure.message.is_empty()))
            }
            other => panic!("ended as {other:?}"),
        }
        assert_clean(&world, &untouched).await;
        assert_eq!(world.backups().await.len(), committed);
    }
    // After all that, a backup and a restore go as ever.
    world.backup().await;
    for node in ["n1", "n3"] {
        let want = world.move_data(node);
        world.restore(node, false).await;
        compare::assert_equal(&want, &world.data(node), &[]);
    }
    world.stop().await;
}

/// The packs that an agent's journal names: what it knows to be durable.
fn journaled(world: &World, node: &str) -> Vec<PackSummary> {
    let spool = world.agent_state(node).join("spool");
    let journals = files_below(&spool).into_iter().filter(|path| path.ends_with("packs"));
    let mut packs = Vec::new();
    for journal in journals {
        let bytes = fs::read(journal).unwrap();
        let mut rest = &bytes[..];
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let Some(entry) = behind.get(32..32 + length) else { break };
            packs.extend(PackSummary::decode(entry).ok());
            rest = &behind[32 + length..];
        }
    }
    packs
}

/// Agent and coordinator are killed in the middle of an upload, and the coordinator's index, where it had noted what
/// is stored, is lost too. The second agent uploads what its journal does not name, and answers for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_resumes_its_upload_from_its_journal() {
    let mut random = Random::new(8);
    let mut world = World::new(&["n1"]);
    for i in 0..150 {
        fs::write(world.data("n1").join(format!("{i:03}")), random.bytes(2_000_000)).unwrap();
    }
    world.start().await;
    let operation = loop {
        let operation = world.start_backup().await;
        let begun = wait_async("three packs are durable", async || {
            let durable = journaled(&world, "n1").len() >= 3;
            (durable || world.operation(&operation.id).await.phase == "done").then_some(durable)
        });
        if begun.await {
            world.agent("n1").pause();
            let has_uploaded =
                || files_below(&world.agent_state("n1")).iter().any(|path| path.ends_with("uploaded"));
            let over = has_uploaded() || world.operation(&operation.id).await.phase != "upload";
            if !over {
                break operation;
            }
            world.agent("n1").resume();
        }
        // It was too fast: once more, and nothing of it is there.
        world.ended(&operation.id).await;
        world.run(&["backup", "delete", "latest", "--yes"]).await.expect(0);
    };
    world.kill_agent("n1");
    world.kill_coordinator();
    let before = journaled(&world, "n1");
    let indexes: Vec<PathBuf> = files_below(&world.path("coordinator"))
        .into_iter()
        .filter(|path| {
            path.extension().is_some_and(|kind| kind == "redb") && path.to_string_lossy().contains("index-")
        })
        .collect();
    assert_eq!(indexes.len(), 1);
    fs::remove_file(&indexes[0]).unwrap();

    world.start_coordinator().await;
    world.start_agent("n1");
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    let upload: Vec<_> = ended.tasks.iter().filter(|task| task.name == "upload").collect();
    assert_eq!((upload.len(), upload[0].attempt), (1, 1), "the same shard");

    let key = KeyFile::read(&world.key()).unwrap().0;
    let repository = Repository::open(storage::open(&world.repository_url()).unwrap(), &[key]).await.unwrap();
    let backup = repository.backups().await[0].clone();
    assert_eq!(backup.id.to_string(), operation.backup.unwrap().backup_id, "the same backup");
    let durable: u64 = before.iter().map(|pack| pack.size).sum();
    for pack in &before {
        assert!(backup.packs.contains(&pack.pack), "{} was uploaded again", pack.pack);
    }
    // What the second agent put: all but what was durable.
    let all: u64 = backup.nodes[0].bytes_stored;
    let second = upload[0].progress.unwrap();
    eprintln!("{} packs were durable, {durable} of {all} bytes; then {second:?}", before.len());
    assert!(second.bytes_stored + durable <= all + (1 << 20), "{second:?}, and {durable} bytes were there");
    let plain: u64 = before.iter().flat_map(|pack| &pack.frames).map(|frame| u64::from(frame.plain)).sum();
    assert_eq!(backup.nodes[0].bytes_new, plain + second.bytes_new, "the packs of both, each once");
    let mut listed = Vec::new();
    for segment in list_all(&**repository.storage(), &format!("t/{}/x/", backup.id)).await.unwrap() {
        let object = repository.storage().get(&segment.key, None).await.unwrap();
        listed.extend(IndexSegment::open(repository.keys(), &segment.key, &object).unwrap());
    }
    for pack in &before {
        assert!(listed.iter().any(|known| known.pack == pack.pack), "{} is in no index segment", pack.pack);
    }
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
    world.nothing_left_behind("n1").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_a_restore_leaves_no_partial_file_and_the_next_one_works() {
    let mut random = Random::new(77);
    let mut world = filled_world(&mut random).await;
    world.backup().await;
    let want = world.move_data("n1");
    world.seen_empty("n1").await;
    let started = world.run(&["restore", "apply", "--yes", "--detach", "--node", "n1"]).await.expect(0);
    tokio::time::sleep(Duration::from_millis(random.below(600))).await;
    world.kill_agent("n1");
    world.start_agent("n1");
    world.joined().await;
    let ended = world.ended(started.json()["id"].as_str().unwrap()).await;
    eprintln!("the restore ended as {:?}", ended.state());
    if ended.state() == OperationState::Failed {
        // A half-restored directory is never passed off as the data: it says so, and --delta completes it.
        world.restore("n1", true).await;
    }
    compare::assert_equal(&want, &world.data("n1"), &[]);
    world.nothing_left_behind("n1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_backup_leaves_nothing_and_the_next_one_works() {
    let mut random = Random::new(5);
    let mut world = filled_world(&mut random).await;
    let untouched = snapshot(&world);
    let operation = world.start_backup().await;
    world.run(&["operation", "cancel", &operation.id]).await.expect(0);
    let ended = world.ended(&operation.id).await;
    let fits = matches!(ended.state(), OperationState::Cancelled | OperationState::Succeeded);
    assert!(fits, "ended as {:?}: {:?}", ended.state(), ended.failure);
    assert_clean(&world, &untouched).await;
    world.backup().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stays_away_fails_the_backup_with_its_name() {
    let mut random = Random::new(6);
    let mut world = filled_world(&mut random).await;
    world.kill_agent("n3");
    let operation = world.start_backup().await;
    let ended = world.ended(&operation.id).await;
    assert_eq!(ended.state(), OperationState::Failed);
    let failure = ended.failure.unwrap();
    assert!(failure.node == "n3" || failure.message.contains("n3"), "{failure:?}");
    assert_eq!(failure.kind, "unavailable");
    assert!(world.backups().await.is_empty());
}
