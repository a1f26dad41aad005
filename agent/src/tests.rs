//! A whole agent, from its configuration to its goodbye, with real files and a coordinator played by the test.
use std::path::PathBuf;

use palinurus_proto::v1::coordinator_message::Message as ToAgent;
use palinurus_proto::v1::task::Work;
use palinurus_proto::v1::{self, TaskState, task_result};
use palinurus_repository::{ErrorKind, KeyFile, SystemEntropy};

use super::*;
use crate::session::far::{Coordinator, Far};

struct World {
    dir: tempfile::TempDir,
    coordinator: Coordinator,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/1.sst"), b"table").unwrap();
        let key = KeyFile::generate(&SystemEntropy::new()).unwrap();
        key.write(&dir.path().join("key")).unwrap();
        Self { dir, coordinator: Coordinator::start().await }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> Config {
        let dir = self.dir.path().display();
        let url = self.coordinator.url();
        let text = format!(
            "service = 'db'\nnode = 'n1'\ncoordinator = ['{url}']\nstate = '{dir}/state'\nkeys = ['{dir}/key']\n\
             [engine]\ntype = 'files'\nroot = '{dir}/data'\nimmutable = ['*.sst']\n\
             freeze_command = ['touch', '{dir}/frozen']\nthaw_command = ['rm', '-f', '{dir}/frozen']\n\
             [session]\nretry_min = '1ms'\nretry_max = '20ms'\nprogress = '20ms'\nconnect_timeout = '120s'\n"
        );
        Config::parse(&text, []).unwrap().0
    }

    /// The acknowledgement of the release is acted on after it was sent.
    async fn all_is_forgotten(&self) {
        while !self.leftovers().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let spool = durable::names(&self.path("state/spool")).unwrap().into_iter().map(PathBuf::from);
        let journal = durable::names(&self.path("state/journal")).unwrap().into_iter().map(PathBuf::from);
        let other = ["frozen", "data/.palinurus", "state/freeze.json"].map(|name| self.path(name));
        other.into_iter().filter(|path| path.exists()).chain(spool).chain(journal).collect()
    }
}

fn task(name: &str, work: Work) -> v1::Task {
    v1::Task {
        operation: "op1".into(),
        task: name.into(),
        attempt: 1,
        service: "db".into(),
        node: "n1".into(),
        repository: "file:///nowhere".into(),
        work: Some(work),
        ..Default::default()
    }
}

fn freeze() -> v1::Task {
    task("freeze", Work::Freeze(v1::FreezeTask { dead_man_seconds: 3600 }))
}

fn release() -> v1::Task {
    task("release", Work::Release(v1::ReleaseTask {}))
}

/// Sends a task and sees it through, acknowledged.
async fn done(far: &mut Far, task: v1::Task) -> v1::TaskReport {
    let acknowledge =
        v1::Acknowledge { operation: task.operation.clone(), task: task.task.clone(), attempt: task.attempt };
    far.say(1, ToAgent::Task(task.clone())).await;
    let ends = [TaskState::TaskDone, TaskState::TaskFailed, TaskState::TaskCancelled];
    let report = loop {
        let report = far.report(&ends).await;
        if report.task == task.task {
            break report;
        }
    };
    assert_eq!(report.state(), TaskState::TaskDone, "{report:?}");
    far.say(1, ToAgent::Acknowledge(acknowledge)).await;
    report
}

#[tokio::test]
async fn a_snapshot_from_freeze_to_release_leaves_nothing() {
    let mut world = World::new().await;
    let cancel = CancellationToken::new();
    let agent = tokio::spawn(run(world.config(), cancel.clone()));
    let mut far = world.coordinator.welcomed(1).await;
    assert!(!far.hello.data_empty);
    done(&mut far, task("inspect", Work::Inspect(v1::InspectTask {}))).await;
    done(&mut far, freeze()).await;
    assert!(world.path("frozen").exists());
    let report = done(&mut far, task("snapshot", Work::Snapshot(v1::SnapshotTask {}))).await;
    let Some(task_result::Result::Snapshot(result)) = report.result.unwrap().result else {
        panic!("no result")
    };
    assert_eq!((result.files, result.bytes, result.warning_count), (1, 5, 0));
    done(&mut far, task("thaw", Work::Thaw(v1::ThawTask::default()))).await;
    assert!(!world.path("frozen").exists() && world.path("data/.palinurus/op1").exists());
    done(&mut far, release()).await;
    world.all_is_forgotten().await;
    cancel.cancel();
    while far.hear().await.is_some() {}
    drop(far);
    agent.await.unwrap().unwrap();
    assert_eq!(world.leftovers(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn an_agent_that_is_stopped_or_started_thaws_and_remembers_what_it_holds() {
    let mut world = World::new().await;
    let cancel = CancellationToken::new();
    let agent = tokio::spawn(run(world.config(), cancel.clone()));
    let mut far = world.coordinator.welcomed(1).await;
    done(&mut far, task("snapshot", Work::Snapshot(v1::SnapshotTask {}))).await;
    done(&mut far, freeze()).await;
    drop(far);
    cancel.cancel();
    agent.await.unwrap().unwrap();
    assert!(!world.path("frozen").exists(), "nobody is left to thaw");

    // Two that were not told to end: the links of an operation that nobody remembers go, the others stay.
    std::fs::create_dir_all(world.path("data/.palinurus/forgotten/00")).unwrap();
    std::fs::create_dir_all(world.path("state/spool/forgotten")).unwrap();
    std::fs::write(world.path("frozen"), b"").unwrap();
    std::fs::write(world.path("state/freeze.json"), br#"{"operation":"op1","state":"frozen"}"#).unwrap();
    let cancel = CancellationToken::new();
    let agent = tokio::spawn(run(world.config(), cancel.clone()));
    let mut far = world.coordinator.welcomed(1).await;
    assert!(!world.path("frozen").exists());
    assert!(
        !world.path("data/.palinurus/forgotten").exists() && !world.path("state/spool/forgotten").exists()
    );
    assert!(world.path("data/.palinurus/op1").exists() && world.path("state/spool/op1/walk").exists());
    assert_eq!(far.hello.tasks.len(), 1, "of each operation at least one task");
    assert_eq!(far.hello.tasks[0].operation, "op1");
    done(&mut far, release()).await;
    world.all_is_forgotten().await;
    cancel.cancel();
    while far.hear().await.is_some() {}
    drop(far);
    agent.await.unwrap().unwrap();
    assert_eq!(world.leftovers(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_keeps_an_agent_from_starting() {
    let world = World::new().await;
    let refused = async |config: Config| run(config, CancellationToken::new()).await.unwrap_err();
    let missing = Config { keys: vec![world.path("no-key").into()], ..world.config() };
    let error = refused(missing).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().is_some());
    std::fs::write(world.path("bad"), b"no key").unwrap();
    assert_eq!(
        refused(Config { keys: vec![world.path("bad").into()], ..world.config() }).await.kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        refused(Config { state: world.path("data/x"), ..world.config() }).await.kind(),
        ErrorKind::Invalid
    );
    let held = StateDirectory::open(&world.path("state")).unwrap();
    assert_eq!(refused(world.config()).await.kind(), ErrorKind::Conflict);
    drop(held);
}
