//! What is wrong is said clearly, with the right exit code, and nothing is half done.
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use palinurus_repository::{KeyFile, SystemEntropy};
use palinurus_tests::World;
use palinurus_tests::process::palinurus;
use palinurus_tests::world::{run, wait};

async fn small_world() -> World {
    let mut world = World::new(&["n1"]);
    fs::write(world.data("n1").join("file"), "content").unwrap();
    world.start().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_a_directory_that_holds_data_is_refused() {
    let world = small_world().await;
    world.backup().await;
    let plan = world.run(&["restore", "plan"]).await.expect(1);
    assert_eq!(plan.json()["refusals"].as_array().unwrap().len(), 1);
    let refused = world.run(&["restore", "apply", "--yes"]).await;
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("n1"), "{}", refused.stderr);
    assert_eq!(fs::read(world.data("n1").join("file")).unwrap(), b"content");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_a_missing_and_an_open_key() {
    let mut world = small_world().await;
    world.backup().await;
    world.stop().await;
    let url = world.repository_url();
    let check =
        async |key: &str| world.run(&["repository", "check", "--repository", &url, "--keys", key]).await;

    let other = world.path("other key");
    KeyFile::generate(&SystemEntropy::new()).unwrap().write(&other).unwrap();
    let wrong = check(other.to_str().unwrap()).await;
    assert_eq!(wrong.code, 7, "{}", wrong.stderr);
    let missing = check(world.path("no key").to_str().unwrap()).await.expect(1);
    assert!(missing.stderr.contains("no key"), "{}", missing.stderr);
    fs::write(world.path("broken key"), "palinurus-key-1 zz").unwrap();
    let broken = check(world.path("broken key").to_str().unwrap()).await.expect(2);
    assert!(broken.stderr.contains("broken key"), "{}", broken.stderr);

    fs::set_permissions(world.key(), Permissions::from_mode(0o644)).unwrap();
    let open = check(world.key().to_str().unwrap()).await.expect(0);
    assert!(open.stderr.contains("warning"), "{}", open.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_never_overwritten_and_never_shown() {
    let world = World::new(&[]);
    let key = fs::read_to_string(world.key()).unwrap();
    let again = world.run(&["keys", "generate", world.key().to_str().unwrap()]).await.expect(4);
    assert_eq!(fs::read_to_string(world.key()).unwrap(), key);
    let secret = key.split_whitespace().last().unwrap();
    assert!(!again.stderr.contains(secret));
    let path = world.path("fresh");
    let fresh = world.run(&["keys", "generate", path.to_str().unwrap()]).await.expect(0);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!fresh.stdout.contains(text.split_whitespace().last().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_setting_is_named() {
    let world = World::new(&[]);
    let config = world.path("coordinator.toml");
    fs::write(&config, "name = \"c\"\nlissten = \"127.0.0.1:0\"\n").unwrap();
    let refused = world.run(&["coordinator", "--config", config.to_str().unwrap()]).await.expect(2);
    assert!(refused.stderr.contains("lissten"), "{}", refused.stderr);
    let checked = world.run(&["config", "check", "coordinator", config.to_str().unwrap()]).await.expect(2);
    assert!(checked.stderr.contains("lissten"), "{}", checked.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_an_unknown_name_is_turned_away() {
    let mut world = small_world().await;
    let config = world.path("stranger.toml");
    let text = world.agent_config("n1").replace("node = \"n1\"", "node = \"n9\"");
    let state = world.path("stranger");
    fs::write(&config, text.replace(world.agent_state("n1").to_str().unwrap(), state.to_str().unwrap()))
        .unwrap();
    let mut command = palinurus();
    command.args(["agent", "--config"]).arg(&config);
    let log = world.path("stranger.log");
    let process = palinurus_tests::process::Process::start("a stranger", command, &log);
    wait("the stranger is told why", || process.log_text().contains("n9").then_some(())).await;
    process.kill();
    world.agent("n1").check();
    world.backup().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_for_a_place_does_not_disturb_the_first() {
    let world = small_world().await;
    let first = world.node("n1").await.instance;
    let config = world.path("second.toml");
    let state = world.path("second state");
    let text =
        world.agent_config("n1").replace(world.agent_state("n1").to_str().unwrap(), state.to_str().unwrap());
    fs::write(&config, text).unwrap();
    let mut command = palinurus();
    command.args(["agent", "--config"]).arg(&config);
    let second = palinurus_tests::process::Process::start("a second n1", command, &world.path("second.log"));
    wait("the second is turned away", || second.log_text().contains("n1").then_some(())).await;
    world.backup().await;
    assert_eq!(world.node("n1").await.instance, first);
    second.kill();

    // Two agents with one state directory: the second does not even start.
    let mut command = palinurus();
    command.arg("--json").args(["agent", "--config"]).arg(world.path("n1.toml"));
    let twin = run(command).await;
    assert_eq!(twin.code, 4, "{}", twin.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_operation_at_a_time_and_unknown_things_are_named() {
    let world = small_world().await;
    for (arguments, code, word) in [
        (vec!["backup", "show", "latest"], 1, "backup"),
        (vec!["backup", "start", "--service", "nobody"], 1, "nobody"),
        (vec!["operation", "watch", "ffff"], 1, "ffff"),
        (vec!["restore", "plan", "--node", "n7"], 1, ""),
        (vec!["backup", "begin"], 2, "begin"),
        (vec!["restore"], 2, "--repository"),
    ] {
        let ran = world.run(&arguments).await;
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(word), "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
    let elsewhere = world.run(&["--server", "http://192.0.2.1:7410", "node", "list"]).await;
    assert_eq!(elsewhere.code, 7, "{}", elsewhere.stderr);
}
