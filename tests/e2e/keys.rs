//! Operator keys: rotated while everything runs, kept in a vault, lost.
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use palinurus_proto::v1::OperationState;
use palinurus_tests::process::palinurus;
use palinurus_tests::seeded::Random;
use palinurus_tests::world::{Ran, files_below, run, wait};
use palinurus_tests::{World, compare};

fn small(nodes: &[&str]) -> World {
    let world = World::new(nodes);
    for node in nodes {
        fs::write(world.data(node).join("file"), format!("of {node}")).unwrap();
    }
    world
}

impl Keys<'_> {
    async fn run(&self, verb: &str, key: &Path, more: &[&str]) -> Ran {
        let url = self.0.repository_url();
        let base = ["keys", verb, "--repository", &url, "--keys", key.to_str().unwrap()];
        self.0.run(&[&base, more].concat()).await
    }

    async fn made(&self, name: &str) -> PathBuf {
        let path = self.0.path(name);
        self.0.run(&["keys", "generate", path.to_str().unwrap()]).await.expect(0);
        path
    }
}

struct Keys<'a>(&'a World);

/// Id and secret.
fn fields(key: &Path) -> (String, String) {
    let text = fs::read_to_string(key).unwrap();
    let fields: Vec<&str> = text.split_whitespace().collect();
    (fields[1].to_owned(), fields[2].to_owned())
}

async fn restore(world: &World, key: &[&str], target: &str) -> Ran {
    let (url, target) = (world.repository_url(), world.path(target));
    let base = ["restore", "--repository", &url, "--target", target.to_str().unwrap()];
    world.run(&[&base, key].concat()).await
}

async fn check(world: &World) -> Ran {
    // Every chunk is read by an agent, which opens the repository anew.
    world.run(&["repository", "check", "--read-data"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_and_the_old_one_opens_nothing() {
    let mut world = small(&["n1"]);
    world.start().await;
    world.backup().await;
    let old = world.path("old");
    fs::copy(world.key(), &old).unwrap();
    let new = Keys(&world).made("new").await;
    let ((old_id, old_secret), (new_id, new_secret)) = (fields(&old), fields(&new));
    let mut talk = String::new();

    // Not without a yes; then in one step, with everything running.
    let rotate = ["--new", new.to_str().unwrap(), "--label", "second of 2026"];
    Keys(&world).run("rotate", &old, &rotate).await.expect(2);
    let listed = Keys(&world).run("list", &old, &[]).await.expect(0).json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1, "nothing was changed");
    let rotated = Keys(&world).run("rotate", &old, &[&rotate[..], &["--yes"]].concat()).await.expect(0);
    let keys = rotated.json()["keys"].clone();
    assert_eq!(keys.as_array().unwrap().len(), 1);
    assert_eq!((&keys[0]["key"], &keys[0]["label"]), (&new_id.clone().into(), &"second of 2026".into()));
    assert!(keys[0]["added"].as_str().unwrap().starts_with("20"), "{keys}");
    talk.push_str(&format!("{}{}", rotated.stdout, rotated.stderr));
    // Doing it again finds it done.
    Keys(&world).run("rotate", &old, &[&rotate[..], &["--yes"]].concat()).await.expect(0);

    // Who has the repository open goes on. Who opens it anew needs the new key, and no restart.
    world.backup().await;
    let refused = check(&world).await;
    assert!(refused.code == 7 && refused.stderr.contains(&new_id), "{}", refused.stderr);
    fs::remove_file(world.key()).unwrap();
    fs::copy(&new, world.key()).unwrap();
    check(&world).await.expect(0);

    // A coordinator that has both, of which one is not there any more.
    world.stop().await;
    world.keys = format!("[{:?}, {new:?}]", world.path("gone"));
    fs::write(world.data("n1").join("more"), "after the rotation").unwrap();
    world.start_coordinator().await;
    world.start_agent("n1");
    world.joined().await;
    world.backup().await;
    world.stop().await;

    restore(&world, &["--keys", new.to_str().unwrap()], "restored").await.expect(0);
    compare::assert_equal(&world.data("n1"), &world.path("restored"), &[]);
    let lost = restore(&world, &["--keys", old.to_str().unwrap()], "nothing").await;
    assert_eq!(lost.code, 7, "{}", lost.stderr);
    let said = lost.error()["error"].as_str().unwrap().to_owned();
    let plainly =
        format!("the key given, {old_id}, does not open this repository: it is wrapped for key {new_id}");
    assert_eq!(said, plainly);
    assert!(!world.path("nothing").exists());

    // No secret went where it does not belong.
    talk.push_str(&lost.stderr);
    for log in ["coordinator.log", "n1.log"] {
        talk.push_str(&fs::read_to_string(world.path(log)).unwrap());
    }
    assert!(!talk.contains(&old_secret) && !talk.contains(&new_secret));
    for file in files_below(world.repository()).iter().filter(|path| path.is_file()) {
        let bytes = fs::read(file).unwrap();
        let holds = |word: &str| bytes.windows(word.len()).any(|window| window == word.as_bytes());
        assert!(!holds(&new_secret) && !holds("second of 2026"), "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_added_listed_and_removed() {
    let mut world = small(&["n1"]);
    world.start().await;
    world.backup().await;
    world.stop().await;
    let (keys, first) = (Keys(&world), world.key());
    let (second, third) = (keys.made("second").await, keys.made("third").await);
    let (first_id, second_id) = (fields(&first).0, fields(&second).0);
    let bad = keys.run("add", &first, &["--new", second.to_str().unwrap(), "--label", "a\nb"]).await;
    assert_eq!(bad.code, 2, "{}", bad.stderr);
    keys.run("add", &first, &["--new", second.to_str().unwrap(), "--label", "the safe"]).await.expect(0);

    let listed = keys.run("list", &first, &["--keys", third.to_str().unwrap()]).await.expect(0);
    let all = listed.json()["keys"].as_array().unwrap().clone();
    let of = |id: &str| all.iter().find(|key| key["key"] == id).unwrap().clone();
    assert_eq!(all.len(), 2);
    assert_eq!(of(&first_id)["opened_by"], serde_json::json!([first]));
    assert_eq!(
        (&of(&second_id)["opened_by"], &of(&second_id)["label"]),
        (&serde_json::json!([]), &"the safe".into())
    );
    assert!(listed.stderr.contains("warning") && listed.stderr.contains("third"), "{}", listed.stderr);
    let mut table = palinurus();
    table.args(["keys", "list", "--repository", &world.repository_url(), "--keys"]).arg(&second);
    let table = run(table).await.expect(0).stdout;
    assert!(table.starts_with("KEY") && table.contains("the safe"), "{table}");

    let own = keys.run("remove", &first, &[&first_id, "--yes"]).await;
    assert!(own.code == 7 && own.stderr.contains("used to open"), "{}", own.stderr);
    keys.run("remove", &first, &["ffff", "--yes"]).await.expect(1);
    keys.run("remove", &second, &[&first_id[..6]]).await.expect(2);
    keys.run("remove", &second, &[&first_id, "--yes"]).await.expect(0);
    let last = keys.run("remove", &second, &[&second_id, "--yes"]).await;
    assert!(last.code == 7 && last.stderr.contains("the last key"), "{}", last.stderr);
    let stranger = keys.run("list", &third, &["--keys", first.to_str().unwrap()]).await;
    assert!(
        stranger.code == 7 && stranger.stderr.contains("none of the 2 keys given"),
        "{}",
        stranger.stderr
    );
}

fn script(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_lies_in_a_vault() {
    let mut world = small(&["n1"]);
    let key = world.key();
    let vault =
        script(&world, "vault", "test \"$1\" = read || { echo no such verb >&2; exit 4; }\ncat \"$2\"");
    world.keys = format!("[{{ command = [{vault:?}, \"read\", {key:?}], timeout = \"20s\" }}]");
    world.start().await;
    world.backup().await;
    world.stop().await;

    let command = format!("{} read {}", vault.display(), key.display());
    restore(&world, &["--key-command", &command], "restored").await.expect(0);
    compare::assert_equal(&world.data("n1"), &world.path("restored"), &[]);
    let failing = format!("{} write", vault.display());
    let failed = restore(&world, &["--key-command", &failing], "nothing").await;
    assert!(failed.code == 5 && failed.stderr.contains("it said: no such verb"), "{}", failed.stderr);
    let missing = restore(&world, &["--key-command", "/no/such/vault read"], "nothing").await;
    assert!(missing.code == 1 && missing.error()["hint"].as_str().unwrap().contains("full path"));
    let none = restore(&world, &[], "nothing").await;
    assert!(none.code == 2 && none.stderr.contains("--keys"), "{}", none.stderr);

    // A coordinator whose only key is out of reach says so and ends.
    let config = world.path("coordinator.toml");
    let text = fs::read_to_string(&config).unwrap().replace("\"read\"", "\"write\"");
    fs::write(&config, text).unwrap();
    let mut coordinator = palinurus();
    coordinator.args(["--json", "--insecure-plaintext", "coordinator", "--config"]).arg(&config);
    let ended = run(coordinator).await;
    assert!(ended.code == 5 && ended.stderr.contains("no such verb"), "{}", ended.stderr);
}

/// A database that holds still for as long as a file is there.
fn held(world: &mut World) -> (PathBuf, PathBuf) {
    let (hold, holds) = (world.path("hold"), world.path("holds"));
    let (at, seen) = (hold.display(), holds.display());
    world.engine = format!(
        "freeze_command = [\"/bin/sh\", \"-c\", \"touch {seen}; while test -e {at}; do sleep 0.05; done\"]\n\
         thaw_command = [\"/bin/true\"]\n"
    );
    (hold, holds)
}

fn random_file(world: &World, node: &str, name: &str, seed: u64) {
    fs::write(world.data(node).join(name), Random::new(seed).bytes(3_000_000)).unwrap();
}

/// Bytes that nobody had stored before.
fn new_bytes(operation: &palinurus_proto::v1::Operation) -> u64 {
    let tasks = operation.tasks.iter().filter(|task| task.name == "upload");
    tasks.filter_map(|task| task.progress.as_ref()).map(|progress| progress.bytes_new).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_master_is_drawn_while_backups_run() {
    let mut world = World::new(&["n1", "n2"]);
    let (hold, holds) = held(&mut world);
    for (seed, node) in [(1, "n1"), (2, "n2")] {
        random_file(&world, node, "first", seed);
    }
    world.start().await;
    let first = world.backup().await;
    let before = world.path("before");
    copy_tree(&world.data("n1"), &before);
    let old = world.path("old");
    fs::copy(world.key(), &old).unwrap();
    let new = Keys(&world).made("new").await;
    let (old_id, new_id) = (fields(&old).0, fields(&new).0);
    let wrapper = world.repository().join("keys").join(&old_id);
    let kept_wrapper = fs::read(&wrapper).unwrap();

    // Nobody is cut off unsaid.
    let epoch = ["--new-epoch", "--yes", "--new", new.to_str().unwrap()];
    let third = Keys(&world).made("third").await;
    Keys(&world).run("add", &old, &["--new", third.to_str().unwrap()]).await.expect(0);
    let unsaid = Keys(&world).run("rotate", &old, &[&epoch[..], &["--drop", &old_id]].concat()).await;
    assert!(unsaid.code == 2 && unsaid.stderr.contains(&fields(&third).0), "{}", unsaid.stderr);

    // In the middle of a backup. What runs finds the new key in the old one's file.
    random_file(&world, "n1", "second", 3);
    fs::write(&hold, "").unwrap();
    let _ = fs::remove_file(&holds);
    let running = world.start_backup().await;
    wait("the backup has begun", || holds.exists().then_some(())).await;
    fs::remove_file(world.key()).unwrap();
    fs::copy(&new, world.key()).unwrap();
    let drop = ["--drop", &old_id, "--drop", &fields(&third).0];
    let drawn = Keys(&world).run("rotate", &old, &[&epoch[..], &drop].concat()).await.expect(0);
    assert!(drawn.stderr.contains("began before"), "{}", drawn.stderr);
    assert_eq!((&drawn.json()["key_epoch"], drawn.json()["keys"].as_array().unwrap().len()), (&1.into(), 1));
    let again =
        Keys(&world).run("rotate", &new, &["--new-epoch", "--yes", "--drop", &old_id]).await.expect(0);
    assert_eq!(again.json()["key_epoch"], 1, "it had begun already");
    fs::remove_file(&hold).unwrap();
    let ended = world.ended(&running.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);

    // Dedupe goes on: every file is read again, and one chunk is new.
    random_file(&world, "n2", "third", 4);
    let request = palinurus_proto::v1::StartBackupRequest { service: "s".into(), full: true };
    let full = world.client().await.start_backup(request).await.unwrap().into_inner();
    let full = world.ended(&full.id).await;
    assert_eq!(full.state(), OperationState::Succeeded, "{:?}", full.failure);
    assert_eq!(new_bytes(&full), 3_000_000);
    assert_eq!(new_bytes(&world.backup().await), 0);
    check(&world).await.expect(0);

    // An agent that has the old key only: its wrapper back in place does not help it.
    fs::write(&wrapper, &kept_wrapper).unwrap();
    let keys = std::mem::replace(&mut world.keys, format!("[{old:?}]"));
    world.stop_agent("n1").await;
    world.start_agent("n1");
    world.joined().await;
    random_file(&world, "n1", "fourth", 5);
    let refused = world.start_backup().await;
    let failure = world.ended(&refused.id).await.failure.unwrap();
    assert!(failure.kind == "denied" && failure.message.contains("key epoch 1"), "{failure:?}");
    assert!(failure.hint.contains("keys add"), "{failure:?}");
    world.keys = keys;
    world.stop_agent("n1").await;
    world.start_agent("n1");
    world.joined().await;
    world.backup().await;
    let data = world.move_data("n2");
    world.restore("n2", false).await;
    compare::assert_equal(&data, &world.data("n2"), &[]);
    world.stop().await;

    // Offline, old and new, by the new key; by the old one neither.
    let url = world.repository_url();
    let get = async |key: &Path, backup: &str, target: &str| {
        let target = world.path(target);
        let (key, target) = (key.to_str().unwrap(), target.to_str().unwrap());
        let whose = ["--node", "n1", "--backup", backup, "--keys", key, "--target", target];
        world.run(&[&["restore", "--repository", &url][..], &whose].concat()).await
    };
    get(&new, &first.backup.unwrap().backup_id, "then").await.expect(0);
    compare::assert_equal(&before, &world.path("then"), &[]);
    get(&new, "latest", "now").await.expect(0);
    compare::assert_equal(&world.data("n1"), &world.path("now"), &[]);
    let lost = get(&old, "latest", "nothing").await;
    assert!(lost.code == 7 && lost.stderr.contains("key epoch 1"), "{}", lost.stderr);
    fs::remove_file(&wrapper).unwrap();
    let lost = get(&old, "latest", "nothing").await;
    assert!(lost.code == 7 && lost.stderr.contains(&new_id), "{}", lost.stderr);
}

fn copy_tree(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}
