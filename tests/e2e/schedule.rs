//! A service whose backups begin by themselves, by the real clock.
use std::fs;

use palinurus_proto::v1;
use palinurus_tests::process::{Process, palinurus};
use palinurus_tests::world::{SERVICE, run, wait_async};
use palinurus_tests::{World, compare};
use serde_json::Value;

/// When the agent has surely joined, and soon.
const SOON_MS: std::ops::Range<u64> = 5_000..10_000;

async fn apply(world: &World, name: &str, schedule: &str) -> Value {
    let repository = world.path("repositories").join(name);
    let text = format!(
        "name = {name:?}\ntype = 'files'\nplan = 'startup-4'\nrepository = 'file://{}'\n[[nodes]]\nname = 'n1'\n\
         [settings]\nschedule = {schedule:?}\n",
        repository.display()
    );
    let file = world.path("service.toml");
    fs::write(&file, text).unwrap();
    world.run(&["service", "apply", file.to_str().unwrap()]).await.expect(0).json()
}

fn ms(time: &Value) -> u64 {
    time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64
}

fn now_ms() -> u64 {
    jiff::Timestamp::now().as_millisecond() as u64
}

/// Each service has its own second of the minute: one whose comes soon, and its next backup.
async fn soon(world: &World) -> String {
    for n in 0.. {
        let name = format!("s{n}");
        let applied = apply(world, &name, "0 0 1 1 *").await;
        let own = ms(&applied["standing"]["next"]) % 60_000;
        let wait = (own + 60_000 - now_ms() % 60_000) % 60_000;
        if SOON_MS.contains(&wait) {
            return name;
        }
        assert!(n < 200, "seconds are not spread");
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_begins_by_itself_and_restores() {
    let mut world = World::new(&["n1"]);
    fs::write(world.data("n1").join("file"), vec![7; 100_000]).unwrap();
    world.start_coordinator().await;
    let name = soon(&world).await;
    let applied = apply(&world, &name, "* * * * *").await;
    assert_eq!(applied["plan"], "startup-4");
    assert_eq!(applied["standing"]["health"], "unprotected");
    let due = ms(&applied["standing"]["next"]);
    let config = world.path("n1.toml");
    let said = world.agent_config("n1");
    fs::write(&config, said.replace(&format!("service = {SERVICE:?}"), &format!("service = {name:?}")))
        .unwrap();
    let mut agent = palinurus();
    agent.args(["agent", "--config"]).arg(&config);
    let agent = Process::start("the agent of n1", agent, &world.path("n1.log"));
    let backup = wait_async("a backup has begun by itself and is there", async || {
        let request = v1::ListBackupsRequest { service: name.clone() };
        let found = world.client().await.list_backups(request).await.ok()?.into_inner().backups;
        found.into_iter().next()
    })
    .await;
    assert!(backup.started_ms >= due, "{} before {due}", backup.started_ms);
    // It is listed from its commit on, when its operation has not ended yet.
    wait_async("the service is protected", async || {
        let shown = world.run(&["service", "show", &name]).await.expect(0).json();
        (shown["standing"]["health"] == "protected").then_some(())
    })
    .await;
    let listed = world.run(&["operation", "list", "--service", &name]).await.expect(0).json();
    let id = listed["operations"][0]["id"].as_str().unwrap().to_owned();
    let operation = world.run(&["operation", "show", &id]).await.expect(0).json();
    assert!(operation.to_string().contains("scheduled for "), "{operation}");
    drop(agent);
    let target = world.path("restored");
    let mut restore = palinurus();
    let url = format!("file://{}", world.path("repositories").join(&name).display());
    restore.args([
        "--json",
        "restore",
        "--repository",
        &url,
        "--node",
        "n1",
        "--backup",
        &backup.id,
        "--keys",
    ]);
    restore.arg(world.key()).arg("--target").arg(&target);
    run(restore).await.expect(0);
    compare::assert_equal(&world.data("n1"), &target, &[]);
}
