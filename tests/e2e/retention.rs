//! Backups go by the policy, pinned ones stay, the disk gets its room back, and what is kept restores.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use palinurus_proto::v1::{self, OperationKind, OperationState};
use palinurus_tests::seeded::Random;
use palinurus_tests::world::{files_below, wait_async};
use palinurus_tests::{World, compare};

fn copy(from: &Path, to: PathBuf) -> PathBuf {
    assert!(Command::new("cp").arg("-a").arg(from).arg(&to).status().unwrap().success());
    to
}

fn stored(world: &World) -> u64 {
    let files = files_below(world.repository());
    files.iter().filter(|file| file.is_file()).map(|file| file.metadata().unwrap().len()).sum()
}

/// A backup of new content, and a copy of what it is of.
async fn backup(world: &World, random: &mut Random, n: usize) -> (String, PathBuf) {
    fs::write(world.data("n1").join("large"), random.bytes(4 << 20)).unwrap();
    fs::write(world.data("n1").join("small"), random.bytes(20_000)).unwrap();
    let copy = copy(&world.data("n1"), world.path(&format!("copy-{n}")));
    (world.backup().await.backup.unwrap().backup_id, copy)
}

async fn runs(world: &World) -> Vec<v1::Operation> {
    let request = v1::ListOperationsRequest::default();
    let all = world.client().await.list_operations(request).await.unwrap().into_inner().operations;
    all.into_iter().filter(|operation| operation.kind() == OperationKind::Retention).collect()
}

async fn listed(world: &World) -> Vec<String> {
    world.backups().await.into_iter().map(|backup| backup.id).collect()
}

async fn restores(world: &World, id: &str, copy: &Path) {
    let target = world.path(&format!("restored-{id}"));
    let (url, key) = (world.repository_url(), world.key());
    let restore = [
        "restore",
        "--repository",
        &url,
        "--keys",
        key.to_str().unwrap(),
        "--backup",
        id,
        "--node",
        "n1",
        "--target",
        target.to_str().unwrap(),
    ];
    world.run(&restore).await.expect(0);
    compare::assert_equal(copy, &target, &[]);
    fs::remove_dir_all(target).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_does_not_keep_goes_and_the_rest_restores() {
    let mut world = World::new(&["n1"]);
    for (key, value) in [("keep_last", "2"), ("retention_interval", "off")] {
        world.service.insert(key.into(), value.into());
    }
    world.start().await;
    let mut random = Random::new(11);
    let mut taken = Vec::new();
    for n in 0..5 {
        taken.push(backup(&world, &mut random, n).await);
    }
    let id = |n: usize| taken[n].0.as_str();
    world.run(&["backup", "pin", id(0), "--reason", "release 7"]).await.expect(0);
    world.run(&["backup", "hold", id(1), "--until", "2090-01-01", "--reason", "case 12"]).await.expect(0);

    // Whatever anybody says, these two stay.
    for (n, told, hint) in [(0, "release 7", "unpin"), (1, "2090-01-01", "unhold")] {
        let refused = world.run(&["backup", "delete", id(n), "--yes"]).await.expect(4);
        let error = refused.error();
        assert!(error["error"].to_string().contains(told), "{error}");
        assert!(error["hint"].to_string().contains(hint), "{error}");
    }
    let shorter = world.run(&["backup", "hold", id(1), "--until", "2080-01-01"]).await.expect(4);
    assert!(shorter.error()["hint"].to_string().contains("not shorter"), "{}", shorter.stderr);
    let nonsense = world.run(&["backup", "hold", id(1), "--until", "soon"]).await;
    assert_ne!(nonsense.code, 0);

    let plan = world.run(&["retention", "plan"]).await.expect(0).json();
    let keeps: Vec<bool> =
        plan["backups"].as_array().unwrap().iter().map(|choice| choice["keep"].as_bool().unwrap()).collect();
    assert_eq!(keeps, [true, true, false, true, true]);
    assert_eq!(plan["backups"][0]["reasons"][0], "pin: release 7");
    assert_eq!(plan["backups"][4]["reasons"][0], "last 1");
    let freed = plan["bytes_freed"].as_u64().unwrap();
    assert!(freed > 4 << 20, "{plan}");
    assert_eq!(listed(&world).await.len(), 5, "a plan changes nothing");
    let why = world.run(&["backup", "list", "--why"]).await.expect(0).json();
    assert_eq!(why["backups"][1]["kept_for"][0], "held until 2090-01-01 00:00Z: case 12");
    assert_eq!(why["backups"][2]["kept_for"].as_array().unwrap().len(), 0);

    let before = stored(&world);
    let applied = world.run(&["retention", "apply", "--yes"]).await.expect(0).json();
    assert_eq!(applied["retention"]["backups_forgotten"], 1, "{applied}");
    assert!(applied["retention"]["bytes_deleted"].as_u64().unwrap() >= freed, "{applied}");
    assert!(before - stored(&world) > freed - (1 << 20), "{before} to {}", stored(&world));
    assert_eq!(listed(&world).await, [id(0), id(1), id(3), id(4)]);

    world.run(&["backup", "unpin", id(0)]).await.expect(0);
    world.run(&["backup", "unhold", id(1), "--yes"]).await.expect(0);
    world.run(&["retention", "apply", "--yes"]).await.expect(0);
    assert_eq!(listed(&world).await, [id(3), id(4)]);
    let shown = world.run(&["retention", "show"]).await.expect(0).json();
    assert_eq!(
        (shown["policy"][0].as_str(), shown["runs"].as_array().unwrap().len()),
        (Some("keep_last=2"), 2)
    );
    world.stop().await;
    let (url, key) = (world.repository_url(), world.key());
    let check = ["repository", "check", "--repository", &url, "--keys", key.to_str().unwrap(), "--read-data"];
    world.run(&check).await.expect(0);
    for (id, copy) in &taken[3..] {
        restores(&world, id, copy).await;
    }
}

/// A few files never change, and each backup's packs stay for their sake: what is used moves out of them.
#[tokio::test(flavor = "multi_thread")]
async fn packs_of_which_little_is_used_are_rewritten() {
    let mut world = World::new(&["n1"]);
    for (key, value) in [("keep_last", "1"), ("retention_interval", "off"), ("rewrite", "40%")] {
        world.service.insert(key.into(), value.into());
    }
    world.start().await;
    let mut random = Random::new(13);
    let mut last = None;
    for n in 0..3 {
        for file in 0..40 {
            if n == 0 || file % 8 != 0 {
                fs::write(world.data("n1").join(format!("file-{file:02}")), random.bytes(50_000)).unwrap();
            }
        }
        last = Some(backup(&world, &mut random, n).await);
    }
    let applied = world.run(&["retention", "apply", "--yes"]).await.expect(0).json();
    let (retention, before) = (&applied["retention"], stored(&world));
    assert_eq!(retention["backups_forgotten"], 2, "{applied}");
    let rewrite = |name: &str| retention["rewrite"][name].as_u64().unwrap();
    assert!(rewrite("packs") >= 1 && rewrite("backups") == 1, "{applied}");
    assert!(rewrite("bytes_freed") > 2 * rewrite("bytes_moved"), "{applied}");
    assert!(
        retention["packs_swept"].as_u64().unwrap() > rewrite("packs"),
        "old ones too, at once: {applied}"
    );
    assert!(before < 8 << 20, "{before}");
    let plan = world.run(&["retention", "plan"]).await.expect(0).json();
    assert!(plan["bytes_partial"].as_u64().unwrap() < rewrite("bytes_moved") + (1 << 20), "{plan}");

    // Nothing is stored again: the index knows the new places, and the base is the new manifest.
    let next = world.backup().await;
    assert_eq!(next.progress.unwrap().bytes_new, 0);
    let again = world.run(&["retention", "apply", "--yes"]).await.expect(0).json();
    assert_eq!(again["retention"]["rewrite"]["packs"], 0, "{again}");
    world.stop().await;
    let (url, key) = (world.repository_url(), world.key());
    let check = ["repository", "check", "--repository", &url, "--keys", key.to_str().unwrap(), "--read-data"];
    world.run(&check).await.expect(0);
    restores(&world, &next.backup.unwrap().backup_id, &last.unwrap().1).await;
}

/// Nobody asks: the leader runs it, a leader that is killed has a successor that does, what is started meanwhile is
/// not refused, and when there is nothing to do nothing is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_does_it_by_itself() {
    let mut world = World::new(&["n1"]);
    for (key, value) in [("keep_last", "1"), ("retention_interval", "2s")] {
        world.service.insert(key.into(), value.into());
    }
    world.start().await;
    let mut random = Random::new(12);
    let mut last = None;
    for n in 0..6 {
        // Started in the middle of whatever retention does.
        last = Some(backup(&world, &mut random, n).await);
        if n == 3 {
            world.kill_coordinator();
            world.start_coordinator().await;
            world.joined().await;
        }
    }
    let (id, copy) = last.unwrap();
    wait_async("only the newest is left", async || (listed(&world).await == [id.clone()]).then_some(()))
        .await;
    let ended = wait_async("all runs have ended", async || {
        let runs = runs(&world).await;
        let done = |run: &v1::Operation| {
            matches!(run.state(), OperationState::Succeeded | OperationState::Cancelled)
        };
        (!runs.is_empty() && runs.iter().all(done)).then_some(runs)
    })
    .await;
    assert!(ended.iter().all(|run| run.retention.as_ref().unwrap().automatic && !run.log.is_empty()));
    let forgotten: u64 = ended.iter().map(|run| run.retention.as_ref().unwrap().backups_forgotten).sum();
    assert!(forgotten >= 1, "{ended:#?}");
    let packs = || {
        files_below(world.repository()).iter().filter(|file| file.to_string_lossy().contains("/p/")).count()
    };
    // A garbage object of a transaction that ended is found; then there is nothing to do, and nothing is recorded.
    let count = wait_async("the disk has its room back, and nobody is about to look", async || {
        let runs = runs(&world).await;
        (packs() <= 2 && runs.iter().all(|run| run.finished_ms > 0)).then_some(runs.len())
    })
    .await;
    let gone = ended.iter().find(|run| !run.retention.as_ref().unwrap().forget.is_empty()).unwrap();
    let dead = &gone.retention.as_ref().unwrap().forget[0];
    let late = world.repository().join(format!("t/{dead}/p/0000000000000001-00000000"));
    fs::create_dir_all(late.parent().unwrap()).unwrap();
    fs::write(&late, "late").unwrap();
    wait_async("what came late is gone", async || (!late.exists()).then_some(())).await;
    wait_async("its run has ended", async || {
        let runs = runs(&world).await;
        (runs.len() > count && runs.iter().all(|run| run.finished_ms > 0)).then_some(())
    })
    .await;
    world.stop().await;
    restores(&world, &id, &copy).await;
}

/// The coordinator is gone for good. What a transaction that it left open may use stays until another has ended it.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_coordinator_the_ledger_decides() {
    let mut world = World::new(&["n1"]);
    world.start().await;
    let mut random = Random::new(12);
    let mut taken = Vec::new();
    for n in 0..4 {
        taken.push(backup(&world, &mut random, n).await);
    }
    world.run(&["backup", "pin", &taken[0].0, "--reason", "release 7"]).await.expect(0);
    let ruled = world.run(&["retention", "plan", "shop", "--set", "keep_last=2"]).await.expect(2);
    assert!(ruled.stderr.contains("service apply"), "{}", ruled.stderr);
    world.kill_coordinator();
    let (url, key) = (world.repository_url(), world.key());
    let at = ["--repository", &url, "--keys", key.to_str().unwrap()];
    let retention = |verb: &'static str, more: &[&'static str]| {
        let all = [&["retention", verb][..], &at, more].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let without = world.run(&retention("plan", &[])).await.expect(2);
    assert!(without.stderr.contains("--policy"), "{}", without.stderr);
    world.run(&retention("plan", &["--set", "patience=1h"])).await.expect(2);

    let file = world.path("service.toml");
    let text = format!(
        "name = \"shop\"\nrepository = {url:?}\n[[nodes]]\nname = \"n1\"\n[settings]\nkeep_last = 2\n"
    );
    fs::write(&file, text).unwrap();
    let mut by_file = retention("plan", &["--policy"]);
    by_file.push(file.to_str().unwrap().to_owned());
    let by_file = world.run(&by_file).await.expect(0).json();
    let plan = world.run(&retention("plan", &["--set", "keep_last=2"])).await.expect(0).json();
    assert_eq!((&by_file["service"], &by_file["backups"]), (&"shop".into(), &plan["backups"]));
    let keeps: Vec<bool> =
        plan["backups"].as_array().unwrap().iter().map(|choice| choice["keep"].as_bool().unwrap()).collect();
    assert_eq!(keeps, [true, false, true, true]);
    let before = stored(&world);
    let applied = world.run(&retention("apply", &["--set", "keep_last=2", "--yes"])).await.expect(0).json();
    assert_eq!(applied["forgotten"], serde_json::json!([taken[1].0]), "{applied}");
    assert!(before - stored(&world) > 3 << 20, "{applied}");
    for (id, copy) in [&taken[0], &taken[2], &taken[3]] {
        restores(&world, id, copy).await;
    }
    let check = [&["repository", "check"][..], &at, &["--read-data"]].concat();
    world.run(&check).await.expect(0);

    // A backup that runs, as far as anybody can know: what it may use is condemned and not swept.
    let (operator, _) = palinurus_repository::KeyFile::read(&world.key()).unwrap();
    let storage = palinurus_repository::storage::open(&url).unwrap();
    let repository = palinurus_repository::Repository::open(storage, &[operator]).await.unwrap();
    let (epoch, id) =
        (repository.read(|state| state.leader().0).await, palinurus_repository::TransactionId([7; 16]));
    repository.begin(epoch, id, palinurus_repository::ledger::Purpose::Backup).await.unwrap();
    let waits = world.run(&retention("apply", &["--set", "keep_last=1", "--yes"])).await.expect(0).json();
    assert_eq!(
        (&waits["packs_swept"], &waits["waits_for"]),
        (&0.into(), &serde_json::json!([id.to_string()]))
    );
    assert!(waits["packs_waiting"].as_u64().unwrap() > 0, "{waits}");
    repository.abort(epoch, id).await.unwrap();

    // The coordinator comes back: its epoch was not taken from it, and it goes on.
    world.start_coordinator().await;
    world.joined().await;
    assert_eq!(listed(&world).await, [taken[0].0.as_str(), &taken[3].0]);
    backup(&world, &mut random, 4).await;
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
    world.stop().await;
}
