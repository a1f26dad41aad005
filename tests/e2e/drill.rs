//! Drills of files: restored beside the data, compared with the backup, and gone again.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use palinurus_proto::v1::{self, OperationState};
use palinurus_tests::World;
use palinurus_tests::oddities;
use palinurus_tests::seeded::Random;
use palinurus_tests::world::{SERVICE, files_below, wait, wait_async};

use crate::quarantine::{flip, of_kind};

pub(crate) async fn drill(world: &World, nodes: &[&str]) -> v1::Operation {
    let begun = begin(world, nodes).await;
    world.ended(&begun.id).await
}

pub(crate) async fn begin(world: &World, nodes: &[&str]) -> v1::Operation {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    let request = v1::StartDrillRequest { service: SERVICE.into(), nodes, ..Default::default() };
    world.begun(async |mut client| client.start_drill(request.clone()).await).await
}

/// One that is met at work; any that is over too soon for that is followed by another.
pub(crate) async fn met(
    world: &World,
    what: &str,
    is_there: impl Fn(&v1::Operation) -> bool,
) -> v1::Operation {
    wait_async(what, async || {
        let begun = begin(world, &[]).await;
        let met = async || {
            let (there, now) = (is_there(&begun), world.operation(&begun.id).await);
            (there || now.phase == "done").then_some(there)
        };
        wait_async(what, met).await.then_some(begun)
    })
    .await
}

/// Nothing of any drill is in the agent's state.
pub(crate) async fn nothing_stays(world: &World, node: &str) {
    let scratch = world.agent_state(node).join("drill");
    wait("the scratch is empty", || files_below(&scratch).is_empty().then_some(())).await;
}

/// As it is shown, and whether drills fail or are missing by the metrics.
async fn standing(world: &World) -> (String, f64, f64) {
    let shown = world.run(&["service", "show"]).await.expect(0).json();
    let state = world.path("coordinator");
    let of = async |name: &str| {
        crate::metrics::sample(&state, &format!("palinurus_drill_{name}{{service=\"s\"}}")).await
    };
    let shown = shown["backups"]["drills"]["state"].as_str().unwrap().to_owned();
    (shown, of("failing").await, of("missing").await)
}

/// Asked for by the settings and never made; failed; forgotten with its backup, and told until a later one passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_shows_that_a_drill_failed_until_one_passes() {
    let mut world = World::new(&["n1"]);
    world.environment.insert("PALINURUS_METRICS".into(), "127.0.0.1:0".into());
    // A service has its first drill a while after it is led, and this test is over by then.
    world.service.insert("drill".into(), "weekly".into());
    fill(&world.data("n1"), &mut Random::new(9));
    world.start().await;
    assert_eq!(standing(&world).await, ("never".into(), 0.0, 1.0));
    let bad = world.backup().await.backup.unwrap().backup_id;
    of_kind(&world, "p").iter().for_each(|pack| flip(pack));
    assert_eq!(drill(&world, &[]).await.state(), OperationState::Failed);
    assert_eq!(standing(&world).await, ("failed".into(), 1.0, 0.0));
    let full = v1::StartBackupRequest { service: SERVICE.into(), full: true };
    world.run(&["repository", "check", "--read-data"]).await.expect(6);
    let full = world.client().await.start_backup(full).await.unwrap().into_inner();
    world.ended(&full.id).await;
    world.run(&["backup", "delete", &bad, "--yes"]).await.expect(0);
    let failed = "palinurus_drill_failed{service=\"s\"}";
    assert_eq!(crate::metrics::sample(&world.path("coordinator"), failed).await, 0.0);
    assert_eq!(standing(&world).await, ("failed".into(), 1.0, 0.0));
    world.kill_coordinator();
    world.start_coordinator().await;
    world.joined().await;
    assert_eq!(standing(&world).await, ("failed".into(), 1.0, 0.0), "whoever leads");
    assert_eq!(drill(&world, &[]).await.state(), OperationState::Succeeded);
    assert_eq!(standing(&world).await, ("passed".into(), 0.0, 0.0));
    world.stop().await;
}

/// Processes that work below that directory.
pub(crate) fn working_below(dir: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let links = processes.filter_map(|each| fs::read_link(each.path().join("cwd")).ok());
    links.filter(|cwd| cwd.starts_with(dir)).map(|cwd| cwd.display().to_string()).collect()
}

/// And none of its servers runs.
pub(crate) async fn no_server_stays(world: &World) {
    let state = world.agent_state("n1");
    wait("no scratch server runs", || working_below(&state).is_empty().then_some(())).await;
    nothing_stays(world, "n1").await;
}

fn fill(data: &Path, random: &mut Random) {
    fs::create_dir_all(data.join("deep/er")).unwrap();
    for (name, len) in [("empty", 0), ("small", 10), ("deep/large", 5 << 20), ("deep/er/other", 300_000)] {
        fs::write(data.join(name), random.bytes(len)).unwrap();
    }
    let sparse = fs::File::create(data.join("sparse")).unwrap();
    sparse.set_len(9 << 20).unwrap();
    fs::hard_link(data.join("small"), data.join("deep/again")).unwrap();
    symlink("../nowhere", data.join("deep/link")).unwrap();
    fs::write(data.join("paged"), random.bytes(3 << 20)).unwrap();
    for name in ["small", "deep/large", "deep/er/other", "paged"] {
        oddities::age(&data.join(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_restored_beside_the_data_and_held_against_the_backup() {
    let mut world = World::new(&["n1", "n2"]);
    world.engine = "paged = [{ glob = 'paged', page_size = 8192 }]\n".into();
    world.environment.insert("PALINURUS_METRICS".into(), "127.0.0.1:0".into());
    let mut random = Random::new(7);
    for node in ["n1", "n2"] {
        fill(&world.data(node), &mut random);
    }
    world.start().await;
    world.backup().await;
    let ended = drill(&world, &[]).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{:?}", ended.failure);
    let detail = ended.drill.unwrap();
    for result in &detail.results {
        assert_eq!((result.files, result.finding_count), (6, 0), "{result:?}");
        assert!(result.rto_ms > 0 && result.checks.iter().any(|check| check.name == "compare"), "{result:?}");
    }
    for node in ["n1", "n2"] {
        nothing_stays(&world, node).await;
    }
    assert_eq!(standing(&world).await, ("passed".into(), 0.0, 0.0));
    let listed = world.run(&["backup", "list", "--json"]).await.expect(0).json();
    assert_eq!(listed["backups"][0]["drills"].as_array().unwrap().len(), 2, "{listed}");
    let listed = world.run(&["drill", "list"]).await.expect(0).stdout;
    assert!(listed.contains("succeeded"), "{listed}");

    // What the store has lost shows in a drill, and in the backup's list.
    of_kind(&world, "p").iter().for_each(|pack| flip(pack));
    let ran = world.run(&["drill", "start", "--node", "n1=n2"]).await;
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    let found = &ran.json()["drill"]["results"][0];
    assert_eq!((&found["passed"], &found["source"]), (&false.into(), &"n2".into()), "{found}");
    assert!(found["findings"][0].as_str().unwrap().contains("deep/large"), "{found}");
    let proofs = world.backups().await.remove(0).drills;
    assert!(proofs[0].passed && !proofs[1].passed && proofs[1].at == "n1", "{proofs:?}");
    let failed = "palinurus_drill_failed{service=\"s\"}";
    assert_eq!(crate::metrics::sample(&world.path("coordinator"), failed).await, 1.0);
    assert_eq!(standing(&world).await, ("failed".into(), 1.0, 0.0));
    nothing_stays(&world, "n1").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_leaves_is_gone_when_it_comes_back() {
    let mut world = World::new(&["n1"]);
    fill(&world.data("n1"), &mut Random::new(8));
    for number in 0..3000 {
        fs::write(world.data("n1").join(format!("file-{number}")), [0; 100]).unwrap();
    }
    world.start().await;
    world.backup().await;
    let scratch = world.agent_state("n1").join("drill");
    let bytes = |begun: &v1::Operation| scratch.join(&begun.id).join("data").exists();
    let begun = met(&world, "bytes lie in the scratch", bytes).await;
    let place = scratch.join(&begun.id);
    world.kill_agent("n1");
    // And what one before it left, of an operation that nobody knows.
    fs::create_dir_all(place.with_file_name("00000000000000ff").join("data")).unwrap();
    world.start_agent("n1");
    let ended = world.ended(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "it is done again: {:?}", ended.failure);
    nothing_stays(&world, "n1").await;
    wait_async("the agent is there", async || world.node("n1").await.connected.then_some(())).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_without_room_fails_and_says_nothing_of_the_backup() {
    let mut world = World::new(&["n1"]);
    // Sparse: more than there is, and no bytes to move.
    let disk = rustix::fs::statvfs(world.data("n1")).unwrap();
    let file = fs::File::create(world.data("n1").join("huge")).unwrap();
    file.set_len(disk.f_bavail * disk.f_frsize).unwrap();
    world.start().await;
    world.backup().await;
    let ended = drill(&world, &[]).await;
    let failure = ended.failure.unwrap();
    assert_eq!(failure.kind, "unavailable", "{failure:?}");
    assert!(failure.message.contains("MiB") && failure.hint.contains("drill.scratch"), "{failure:?}");
    assert!(world.backups().await[0].drills.is_empty());
    world.stop().await;
}
