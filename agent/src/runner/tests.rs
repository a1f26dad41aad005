use super::*;
use crate::config::Config;
use crate::host::puppet::{self, Puppet};

struct World {
    dir: tempfile::TempDir,
}

struct Agent {
    runner: Runner,
    puppet: Arc<Puppet>,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// An agent as it starts. The one before it must be gone.
    fn agent(&self) -> Agent {
        let (host, puppet) = puppet::host(self.dir.path(), Config::default());
        let (journal, found) = Journal::open(&host.state.journal()).unwrap();
        Agent { runner: Runner::new(host, journal, found), puppet }
    }

    fn journaled(&self) -> Vec<(TaskKey, Record)> {
        Journal::open(&self.dir.path().join("journal")).unwrap().1
    }
}

fn task(operation: &str, work: Work, attempt: u32) -> v1::Task {
    let name = match work {
        Work::Inspect(_) => "inspect",
        Work::Freeze(_) => "freeze",
        Work::Snapshot(_) => "snapshot",
        Work::Thaw(_) => "thaw",
        _ => "release",
    };
    v1::Task {
        operation: operation.into(),
        task: name.into(),
        attempt,
        service: "db".into(),
        node: "n1".into(),
        repository: "file:///repository".into(),
        work: Some(work),
        ..Default::default()
    }
}

fn inspect() -> v1::Task {
    task("op1", Work::Inspect(v1::InspectTask {}), 1)
}

fn freeze(attempt: u32) -> v1::Task {
    task("op1", Work::Freeze(v1::FreezeTask { dead_man_seconds: 60 }), attempt)
}

fn release() -> v1::Task {
    task("op1", Work::Release(v1::ReleaseTask {}), 1)
}

impl Agent {
    async fn ended(&self, task: &v1::Task) -> v1::TaskReport {
        let mut changes = self.runner.changes();
        loop {
            let key = TaskKey::of(task);
            let found = self.runner.unacknowledged().into_iter().find(|report| {
                (&report.operation, &report.task, report.attempt) == (&key.operation, &key.task, key.attempt)
            });
            if let Some(report) = found {
                return report;
            }
            changes.changed().await.unwrap();
        }
    }

    async fn asked(&self, what: &str) {
        while !self.puppet.asked().iter().any(|asked| asked == what) {
            tokio::task::yield_now().await;
        }
    }

    async fn run(&self, task: v1::Task) -> v1::TaskReport {
        self.runner.start(task.clone(), 4);
        self.ended(&task).await
    }

    async fn acknowledge(&self, task: &v1::Task) {
        self.runner.acknowledge(&TaskKey::of(task));
    }
}

#[tokio::test]
async fn a_task_runs_once_and_is_told_until_acknowledged() {
    let world = World::new();
    let agent = world.agent();
    let report = agent.run(inspect()).await;
    assert_eq!((report.state(), report.epoch), (TaskState::TaskDone, 4));
    let Some(Outcome::Inspect(result)) = report.result.clone().unwrap().result else { panic!("{report:?}") };
    assert_eq!((result.data_empty, result.free_bytes), (true, 7));
    agent.acknowledge(&inspect()).await;
    assert!(agent.runner.unacknowledged().is_empty());
    // Asked again: told again, not done again.
    agent.runner.start(inspect(), 4);
    assert_eq!(agent.ended(&inspect()).await, report);
    assert_eq!(agent.puppet.asked(), ["inspect"]);
    agent.runner.end().await;
}

#[tokio::test]
async fn failures_and_panics_are_ends_like_others() {
    let world = World::new();
    let agent = world.agent();
    let failure = agent.run(task("op1", Work::Thaw(v1::ThawTask::default()), 1)).await.failure.unwrap();
    assert_eq!(
        (failure.kind.as_str(), failure.hint.as_str(), failure.node.as_str()),
        ("denied", "ask nicely", "n1")
    );
    let report = agent.run(task("op1", Work::Snapshot(v1::SnapshotTask {}), 1)).await;
    assert_eq!(report.state(), TaskState::TaskFailed);
    assert_eq!(report.failure.unwrap().kind, "internal");
    let foreign = v1::Task { node: "n2".into(), ..inspect() };
    assert_eq!(agent.run(foreign).await.failure.unwrap().kind, "denied");
    let unknown = v1::Task { work: None, task: "dance".into(), ..inspect() };
    assert_eq!(agent.run(unknown).await.failure.unwrap().kind, "invalid");
    agent.runner.start(v1::Task { operation: "../x".into(), ..inspect() }, 4);
    assert!(agent.runner.running().is_empty());
    assert_eq!(agent.puppet.asked(), ["thaw op1"]);
    agent.runner.end().await;
}

#[tokio::test]
async fn a_cancelled_task_says_so() {
    let world = World::new();
    let agent = world.agent();
    agent.runner.start(freeze(1), 4);
    agent.asked("freeze op1").await;
    assert_eq!(agent.runner.running().len(), 1);
    agent.runner.cancel(&TaskKey::of(&freeze(1)));
    let report = agent.ended(&freeze(1)).await;
    assert_eq!(report.state(), TaskState::TaskCancelled);
    agent.runner.cancel(&TaskKey::of(&inspect()));
    agent.runner.end().await;
}

#[tokio::test]
async fn a_later_attempt_takes_over_and_an_earlier_one_is_ignored() {
    let world = World::new();
    let agent = world.agent();
    agent.runner.start(freeze(2), 4);
    agent.asked("freeze op1").await;
    agent.runner.start(freeze(1), 4);
    assert_eq!(agent.runner.running().len(), 1);
    agent.puppet.asked.lock().unwrap().clear();
    agent.runner.start(freeze(3), 4);
    agent.asked("freeze op1").await;
    assert_eq!(agent.puppet.asked(), ["stopped", "freeze op1"], "never both at once");
    assert_eq!(agent.ended(&freeze(2)).await.state(), TaskState::TaskCancelled);
    agent.puppet.gate.cancel();
    assert_eq!(agent.ended(&freeze(3)).await.state(), TaskState::TaskDone);
    agent.runner.end().await;
}

#[tokio::test]
async fn release_stops_the_rest_first_and_then_the_operation_is_forgotten() {
    let world = World::new();
    let agent = world.agent();
    agent.run(inspect()).await;
    agent.acknowledge(&inspect()).await;
    let other = v1::Task { operation: "op2".into(), ..inspect() };
    agent.run(other.clone()).await;
    agent.runner.start(freeze(1), 4);
    agent.asked("freeze op1").await;
    agent.puppet.asked.lock().unwrap().clear();
    assert_eq!(agent.run(release()).await.state(), TaskState::TaskDone);
    assert_eq!(agent.puppet.asked(), ["stopped", "release op1"]);
    agent.acknowledge(&release()).await;
    agent.runner.end().await;
    assert_eq!(world.journaled().into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [TaskKey::of(&other)]);
    assert_eq!(agent.runner.hello().len(), 1);
}

#[tokio::test]
async fn what_ended_unacknowledged_is_told_by_the_next_agent() {
    let world = World::new();
    let agent = world.agent();
    let report = agent.run(inspect()).await;
    agent.runner.end().await;
    drop(agent);
    let agent = world.agent();
    assert_eq!(agent.runner.hello(), std::slice::from_ref(&report));
    assert_eq!(agent.runner.unacknowledged(), std::slice::from_ref(&report));
    // Acknowledged, it is still told in a hello: the operation is not released.
    agent.acknowledge(&inspect()).await;
    agent.runner.end().await;
    drop(agent);
    let agent = world.agent();
    assert!(agent.runner.unacknowledged().is_empty());
    assert_eq!(agent.runner.hello(), [report]);
    agent.runner.end().await;
}

#[tokio::test]
async fn what_was_interrupted_is_known_and_done_again_when_sent_again() {
    let world = World::new();
    let agent = world.agent();
    agent.runner.start(freeze(1), 4);
    agent.asked("freeze op1").await;
    agent.runner.end().await;
    assert_eq!(world.journaled()[0].1.report, None, "neither failed nor cancelled");
    drop(agent);
    let agent = world.agent();
    let hello = agent.runner.hello();
    assert_eq!((hello.len(), hello[0].state()), (1, TaskState::Unspecified));
    assert_eq!(agent.puppet.asked(), Vec::<String>::new(), "not unasked");
    agent.puppet.gate.cancel();
    assert_eq!(agent.run(freeze(1)).await.state(), TaskState::TaskDone);
    agent.runner.end().await;
}

#[tokio::test]
async fn an_interrupted_task_may_be_cancelled() {
    let world = World::new();
    let agent = world.agent();
    agent.runner.start(freeze(1), 4);
    agent.asked("freeze op1").await;
    agent.runner.end().await;
    drop(agent);
    let agent = world.agent();
    agent.runner.cancel(&TaskKey::of(&freeze(1)));
    assert_eq!(agent.ended(&freeze(1)).await.state(), TaskState::TaskCancelled);
    agent.runner.end().await;
}

#[tokio::test]
async fn a_task_that_cannot_be_journaled_is_not_begun() {
    let world = World::new();
    let agent = world.agent();
    // Where the operation's directory should be there is a file.
    std::fs::write(world.dir.path().join("journal/op1"), b"").unwrap();
    assert_eq!(agent.run(inspect()).await.state(), TaskState::TaskFailed);
    assert_eq!(agent.puppet.asked(), Vec::<String>::new());
    agent.runner.end().await;
}
