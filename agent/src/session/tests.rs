use std::sync::atomic::Ordering;

use palinurus_proto::v1::agent_message::Message as FromAgent;
use palinurus_proto::v1::coordinator_message::Message as ToAgent;
use palinurus_proto::v1::{self, TaskState};
use palinurus_repository::Epoch;
use tokio::task::JoinHandle;

use super::far::Coordinator;
use super::*;
use crate::config::Config;
use crate::host::puppet;
use crate::journal::Journal;

struct Agent {
    cancel: CancellationToken,
    running: JoinHandle<Result<()>>,
    host: Arc<Host>,
    runner: Runner,
    puppet: Arc<puppet::Puppet>,
    dir: tempfile::TempDir,
}

impl Agent {
    fn start(coordinators: Vec<String>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), coordinators, |_| {})
    }

    fn start_with(coordinators: Vec<String>, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), coordinators, change)
    }

    fn start_in(dir: tempfile::TempDir, coordinators: Vec<String>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { coordinator: coordinators, ..Config::default() };
        config.session.retry_min = Duration::from_millis(1);
        config.session.retry_max = Duration::from_millis(20);
        config.session.retry_refused = Duration::from_millis(30);
        config.session.progress = Duration::from_millis(20);
        // A test that stands still has not gone.
        config.session.connect_timeout = Duration::from_secs(120);
        change(&mut config);
        let (host, puppet) = puppet::host(dir.path(), config);
        let (journal, found) = Journal::open(&host.state.journal()).unwrap();
        let runner = Runner::new(Arc::clone(&host), journal, found);
        let epochs = Arc::new(Epochs::open(host.state.path()).unwrap());
        let (node_epoch, stand_down) = (
            NodeEpoch::open(host.state.path(), "db", "n1").unwrap(),
            StandDown::open(host.state.path()).unwrap(),
        );
        let session = Session {
            host: Arc::clone(&host),
            runner: runner.clone(),
            epochs,
            node_epoch: Arc::new(node_epoch),
            stand_down,
        };
        let cancel = CancellationToken::new();
        let running = tokio::spawn(session.run(cancel.clone()));
        Self { cancel, running, host, runner, puppet, dir }
    }

    async fn end(self) -> tempfile::TempDir {
        self.cancel.cancel();
        self.running.await.unwrap().unwrap();
        self.runner.end().await;
        self.dir
    }
}

fn inspect() -> v1::Task {
    v1::Task {
        operation: "op1".into(),
        task: "inspect".into(),
        attempt: 1,
        service: "db".into(),
        node: "n1".into(),
        repository: String::new(),
        work: Some(v1::task::Work::Inspect(v1::InspectTask {})),
        ..Default::default()
    }
}

#[tokio::test]
async fn hello_work_and_goodbye() {
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(vec![coordinator.url()]);
    let mut far = coordinator.session().await;
    assert_eq!((far.hello.service.as_str(), far.hello.node.as_str(), far.hello.epoch), ("db", "n1", 0));
    assert!(far.hello.data_empty && far.hello.tasks.is_empty() && !far.hello.instance.is_empty());
    far.say(3, ToAgent::Welcome(v1::Welcome { heartbeat_seconds: 1, ..Default::default() })).await;
    assert!(matches!(far.hear().await, Some(FromAgent::Heartbeat(v1::Heartbeat { data_empty: true, .. }))));
    agent.host.leader.subscribe().wait_for(Option::is_some).await.unwrap();
    far.say(3, ToAgent::Task(inspect())).await;
    let report = far.report(&[TaskState::TaskDone]).await;
    assert_eq!((report.operation.as_str(), report.attempt, report.epoch), ("op1", 1, 3));
    let acknowledge = v1::Acknowledge { operation: "op1".into(), task: "inspect".into(), attempt: 1 };
    far.say(3, ToAgent::Acknowledge(acknowledge)).await;
    agent.cancel.cancel();
    let last = loop {
        match far.hear().await {
            Some(FromAgent::Goodbye(_)) => break true,
            None => break false,
            _ => {}
        }
    };
    assert!(last, "no goodbye");
    assert!(far.hear().await.is_none());
    drop(far);
    agent.end().await;
}

#[tokio::test]
async fn a_break_is_mended_and_what_ended_is_told_again() {
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(vec![coordinator.url()]);
    let mut far = coordinator.welcomed(3).await;
    far.say(3, ToAgent::Task(inspect())).await;
    far.report(&[TaskState::TaskDone]).await;
    drop(far); // before it acknowledged
    let mut far = coordinator.welcomed(3).await;
    assert_eq!(far.hello.tasks.len(), 1);
    assert_eq!(far.hello.tasks[0].state(), TaskState::TaskDone);
    far.report(&[TaskState::TaskDone]).await;
    drop(far);
    agent.end().await;
}

#[tokio::test]
async fn what_is_seen_is_told_before_the_next_heartbeat_is_due() {
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(vec![coordinator.url()]);
    let mut far = coordinator.session().await;
    far.say(3, ToAgent::Welcome(v1::Welcome { heartbeat_seconds: 3600, ..Default::default() })).await;
    assert!(matches!(far.hear().await, Some(FromAgent::Heartbeat(v1::Heartbeat { data_empty: true, .. }))));
    agent.puppet.filled.store(true, Ordering::Relaxed);
    // As a restore does before it ends.
    agent.host.looks.again().await;
    assert!(!agent.host.looks.seen().borrow().data_empty);
    assert!(matches!(far.hear().await, Some(FromAgent::Heartbeat(v1::Heartbeat { data_empty: false, .. }))));
    drop(far);
    agent.end().await;
}

#[tokio::test]
async fn a_standby_leads_to_the_leader() {
    let (mut standby, mut leader) = (Coordinator::start().await, Coordinator::start().await);
    let agent = Agent::start(vec![standby.url()]);
    standby.session().await.refuse(&Error::fenced("not the leader"), &leader.url()).await;
    let far = leader.welcomed(8).await;
    assert_eq!(far.hello.node, "n1");
    drop(far);
    agent.end().await;
}

/// Named without a scheme, as a coordinator's own address is.
#[tokio::test]
async fn addresses_need_no_scheme() {
    let (mut standby, mut leader) = (Coordinator::start().await, Coordinator::start().await);
    let bare = |coordinator: &Coordinator| coordinator.url().trim_start_matches("http://").to_owned();
    let agent = Agent::start(vec![bare(&standby)]);
    standby.session().await.refuse(&Error::fenced("not the leader"), &bare(&leader)).await;
    leader.welcomed(8).await;
    agent.end().await;
}

/// However long it takes, the new leader need not wait long for its agents.
#[tokio::test]
async fn an_election_does_not_make_pauses_grow() {
    let (mut one, mut two) = (Coordinator::start().await, Coordinator::start().await);
    let agent = Agent::start_with(vec![one.url(), two.url()], |config| {
        config.session.retry_min = Duration::from_secs(60);
        config.session.retry_max = Duration::from_secs(600);
    });
    let asked = async {
        for _ in 0..2 {
            one.session().await.leaderless().await;
            two.session().await.leaderless().await;
        }
        // The last leader, which is no more, is still named.
        one.session().await.refuse(&Error::fenced("not the leader"), "127.0.0.1:1").await;
        two.welcomed(1).await
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.unwrap();
    agent.end().await;
}

#[tokio::test]
async fn dead_coordinators_are_passed_over() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = dead.local_addr().unwrap();
    drop(dead);
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(vec![format!("http://{address}"), coordinator.url()]);
    coordinator.welcomed(1).await;
    agent.end().await;
}

#[tokio::test]
async fn the_refused_agent_asks_again() {
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(vec![coordinator.url()]);
    for error in [
        Error::conflict("another agent is n1").with_hint("stop the other"),
        Error::denied("who are you"),
        Error::not_found("no service db"),
        Error::invalid("no such engine"),
    ] {
        coordinator.session().await.refuse(&error, "").await;
    }
    coordinator.welcomed(1).await;
    agent.end().await;
}

#[tokio::test]
async fn an_epoch_that_is_over_gives_no_orders() {
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(vec![coordinator.url()]);
    let mut far = coordinator.welcomed(5).await;
    far.say(4, ToAgent::Task(inspect())).await;
    while far.hear().await.is_some() {}
    let far = coordinator.session().await;
    assert_eq!(far.hello.epoch, 5);
    assert!(far.hello.tasks.is_empty(), "it was not begun");
    far.say(4, ToAgent::Welcome(v1::Welcome { heartbeat_seconds: 1, ..Default::default() })).await;
    let _far = coordinator.welcomed(6).await;
    agent.host.leader.subscribe().wait_for(Option::is_some).await.unwrap();
    let epochs = Epochs::open(agent.host.state.path()).unwrap();
    assert_eq!(epochs.highest("db"), Epoch(6));
    agent.end().await;
}

fn freeze() -> v1::Task {
    v1::Task {
        task: "freeze".into(),
        work: Some(v1::task::Work::Freeze(v1::FreezeTask { dead_man_seconds: 60 })),
        ..inspect()
    }
}

#[tokio::test]
async fn who_lost_its_place_stops_everything_and_stays_down() {
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(vec![coordinator.url()]);
    let mut far = coordinator.session().await;
    assert_eq!((far.hello.node_epoch, far.hello.stood_down), (0, false));
    let welcome = v1::Welcome { heartbeat_seconds: 1, node_epoch: 1 };
    far.say(3, ToAgent::Welcome(welcome)).await;
    far.say(3, ToAgent::Task(freeze())).await;
    far.report(&[TaskState::TaskRunning]).await;
    agent.host.state.create_spool("op1").unwrap();
    drop(far);
    let far = coordinator.session().await;
    assert_eq!((far.hello.node_epoch, far.hello.tasks.len()), (1, 1));
    far.send_away(3).await;
    // It is heard of again, with nothing to its name.
    let far = coordinator.session().await;
    assert!(far.hello.stood_down && far.hello.tasks.is_empty());
    assert_eq!(far.hello.instance, agent.host.instance);
    assert_eq!(agent.puppet.asked(), ["freeze op1", "stopped", "thaw op1"]);
    assert!(!agent.host.state.spool("op1").unwrap().exists());
    // Whoever welcomes it after all does not know.
    far.say(3, ToAgent::Welcome(welcome)).await;
    far.say(3, ToAgent::Task(inspect())).await;
    let mut far = far;
    while let Some(heard) = far.hear().await {
        assert!(matches!(heard, FromAgent::Goodbye(_)), "{heard:?}");
    }
    let coordinators = vec![coordinator.url()];
    let dir = agent.end().await;
    let journaled = Journal::open(&dir.path().join("journal")).unwrap().1;
    assert!(journaled.is_empty());
    // A restart is no way back; without the mark it is another agent, of no node epoch.
    let agent = Agent::start_in(dir, coordinators.clone(), |_| {});
    assert!(coordinator.session().await.hello.stood_down);
    let dir = agent.end().await;
    std::fs::remove_file(dir.path().join("stood-down.json")).unwrap();
    assert!(!dir.path().join("instance").exists());
    let agent = Agent::start_in(dir, coordinators, |_| {});
    let far = loop {
        let far = coordinator.session().await;
        if !far.hello.stood_down {
            break far;
        }
    };
    assert_eq!(far.hello.node_epoch, 0);
    drop(far);
    agent.end().await;
}

#[tokio::test]
async fn a_coordinator_whose_time_is_over_sends_nobody_away() {
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(vec![coordinator.url()]);
    drop(coordinator.welcomed(5).await);
    let far = loop {
        let far = coordinator.session().await;
        if far.hello.epoch == 5 {
            break far;
        }
    };
    far.send_away(4).await;
    assert!(!coordinator.session().await.hello.stood_down);
    assert!(agent.host.state.path().join("stood-down.json").symlink_metadata().is_err());
    agent.end().await;
}

#[tokio::test]
async fn a_place_that_is_older_than_its_own_is_not_taken() {
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(vec![coordinator.url()]);
    let far = coordinator.session().await;
    far.say(1, ToAgent::Welcome(v1::Welcome { heartbeat_seconds: 1, node_epoch: 2 })).await;
    agent.host.leader.subscribe().wait_for(Option::is_some).await.unwrap();
    // Minted while it is connected.
    far.say(1, ToAgent::Welcome(v1::Welcome { heartbeat_seconds: 1, node_epoch: 3 })).await;
    let read = || NodeEpoch::open(agent.host.state.path(), "db", "n1").unwrap().last();
    while read() < 3 {
        tokio::task::yield_now().await;
    }
    drop(far);
    let far = coordinator.session().await;
    assert_eq!(far.hello.node_epoch, 3);
    far.say(1, ToAgent::Welcome(v1::Welcome { heartbeat_seconds: 1, node_epoch: 2 })).await;
    assert_eq!(coordinator.session().await.hello.node_epoch, 3);
    agent.end().await;
}

#[tokio::test]
async fn ends_at_once_when_nobody_is_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // Accepts and says nothing.
    let agent = Agent::start(vec![format!("http://{}", listener.local_addr().unwrap())]);
    let (_held, _) = tokio::task::spawn_blocking(move || listener.accept().unwrap()).await.unwrap();
    agent.end().await;
}
