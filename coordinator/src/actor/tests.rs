//! Actors that fail, over a state store that does: an operation is resumed or ends with a reason, never in silence.
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use palinurus_proto::from_status;
use palinurus_proto::v1::{self, OperationState, coordinator_server::Coordinator};
use palinurus_repository::{Epoch, Error, ErrorKind, KeyFile, Result, SystemEntropy};
use ractor::{Actor, ActorRef};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::agent::{AgentMsg, IN_FLIGHT, OUTBOUND};
use super::coordinator::{CoordinatorActor, CoordinatorMsg};
use super::service::{Admission, Connect, ServiceMsg};
use crate::api::Api;
use crate::config::Config;
use crate::door::{Door, Lead};
use crate::operation::finished;
use crate::shared::{Base, Shared, World};
use crate::state::{Change, EmbeddedElection, EmbeddedState, Expect, Reader, Record, Records, State};

mod fence;

/// A real state whose next updates of operations fail.
#[derive(Debug)]
struct Flaky {
    state: EmbeddedState,
    unavailable: AtomicU32,
    conflict: AtomicU32,
    /// Carried out, but not answered.
    unanswered: AtomicU32,
    /// The same for new records.
    unanswered_new: AtomicU32,
    /// Carried out right before the next one.
    late: AtomicU32,
    /// Writes of services wait while this is held.
    gate: tokio::sync::Mutex<()>,
    /// Reads of single operations wait while this is held, and are counted before that.
    reading: tokio::sync::Mutex<()>,
    asked: watch::Sender<u32>,
    on_the_way: Mutex<Option<(String, Bytes, Expect)>>,
}

fn take(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

#[async_trait]
impl Reader for Flaky {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        if key.starts_with("operation/") {
            self.asked.send_modify(|asked| *asked += 1);
            drop(self.reading.lock().await);
        }
        self.state.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>> {
        self.state.list(prefix).await
    }

    fn follow(&self, prefix: &str) -> BoxStream<'static, Change> {
        self.state.follow(prefix)
    }
}

#[async_trait]
impl State for Flaky {
    fn epoch(&self) -> Epoch {
        self.state.epoch()
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        if key.starts_with("service/") {
            drop(self.gate.lock().await);
        }
        if key.starts_with("operation/") && matches!(expect, Expect::At(_)) {
            if take(&self.unavailable) {
                return Err(Error::unavailable("no quorum"));
            }
            if take(&self.conflict) {
                return Err(Error::conflict("somebody else wrote"));
            }
            let on_the_way = self.on_the_way.lock().unwrap().take();
            if let Some((key, value, expect)) = on_the_way {
                let _ = self.state.put(&key, value, expect).await;
            }
            if take(&self.late) {
                *self.on_the_way.lock().unwrap() = Some((key.to_owned(), value, expect));
                return Err(Error::unavailable("no answer"));
            }
        }
        let revision = self.state.put(key, value, expect).await?;
        let lost = match expect {
            Expect::At(_) => &self.unanswered,
            _ => &self.unanswered_new,
        };
        if key.starts_with("operation/") && take(lost) {
            return Err(Error::unavailable("no answer"));
        }
        Ok(revision)
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.state.delete(key, expect).await
    }
}

struct Fixture {
    _directory: tempfile::TempDir,
    state: Arc<Flaky>,
    api: Api,
    shared: Arc<Shared>,
    root: ActorRef<CoordinatorMsg>,
}

impl Fixture {
    async fn new(history: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        KeyFile::generate(&SystemEntropy::new()).unwrap().write(&key).unwrap();
        let state = EmbeddedState::open(&directory.path().join("state.redb")).unwrap();
        let embedded = state.clone();
        let state = Arc::new(Flaky {
            state,
            unavailable: 0.into(),
            conflict: 0.into(),
            unanswered: 0.into(),
            unanswered_new: 0.into(),
            late: 0.into(),
            gate: tokio::sync::Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            asked: watch::Sender::default(),
            on_the_way: Mutex::default(),
        });
        let config = Config {
            state: directory.path().to_owned(),
            keys: vec![key.into()],
            history,
            ..Config::default()
        };
        let records = Records::new(state.clone());
        let base = Arc::new(Base::new(config, World::default()).await.unwrap());
        let cancel = CancellationToken::new();
        let shared = Arc::new(Shared::new(base.clone(), records, cancel.clone()));
        let (root, _) = CoordinatorActor::spawn(None, CoordinatorActor, shared.clone()).await.unwrap();
        let lead = watch::Sender::new(Some(Lead { root: root.clone(), shared: shared.clone() }));
        let api = Api { door: Door::new(&base, &EmbeddedElection::new(embedded, "c1"), lead.subscribe()) };
        let service = v1::Service {
            name: "s".to_owned(),
            r#type: "files".to_owned(),
            repository: format!("file://{}/repository", directory.path().display()),
            nodes: vec![v1::NodeSpec { name: "n".to_owned(), ..Default::default() }],
            ..Default::default()
        };
        let request = v1::ApplyServiceRequest { service: Some(service), ..Default::default() };
        api.apply_service(Request::new(request)).await.unwrap();
        Self { _directory: directory, state, api, shared, root }
    }

    /// An operation that needs no agent. Not refused for the repository that is being opened, nor for an operation before
    /// that has only just ended.
    async fn check(&self) -> v1::Operation {
        let started = self.start_check().await;
        let mut watched = self.shared.board.find(&started.id).unwrap();
        let ended = watched.wait_for(|operation| finished(operation.state())).await.unwrap();
        v1::Operation::clone(&ended)
    }

    async fn start_check(&self) -> v1::Operation {
        let request = v1::CheckRepositoryRequest { service: "s".to_owned(), read_data: false, percent: 0 };
        self.api.check_repository(Request::new(request)).await.unwrap().into_inner()
    }

    async fn stop(self) {
        self.root.stop_and_wait(None, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_store_that_is_away_for_a_while_only_delays() {
    let fixture = Fixture::new(10).await;
    fixture.state.unavailable.store(2, Ordering::SeqCst);
    assert_eq!(fixture.check().await.state(), OperationState::Succeeded);
    assert_eq!(fixture.state.unavailable.load(Ordering::SeqCst), 0);
    fixture.stop().await;
}

fn uncounted(mut operation: v1::Operation) -> v1::Operation {
    let progress = operation.tasks.iter_mut().filter_map(|task| task.progress.as_mut());
    progress.chain(operation.progress.as_mut()).for_each(|progress| progress.requests = None);
    operation
}

/// Whatever became of the writes, also of the one that says how it ended, the actor finds out and goes on: it has not
/// failed, and no deed is lost.
#[tokio::test]
async fn writes_that_are_not_answered_are_looked_for() {
    let fixture = Fixture::new(10).await;
    // As often as it takes to give an operation up, if each were a failure.
    for (lost, times) in [(&fixture.state.unanswered, u32::MAX), (&fixture.state.late, 2)] {
        lost.store(times, Ordering::SeqCst);
        let ended = fixture.check().await;
        lost.store(0, Ordering::SeqCst);
        assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
        assert_eq!(ended.tasks.len(), 1);
        let stored = fixture.shared.records.operation("s", &ended.id).await.unwrap().value;
        // What it read may be counted after that.
        let (stored, ended) = (uncounted(stored), uncounted(ended));
        assert_eq!(stored, v1::Operation { updated_ms: stored.updated_ms, ..ended });
    }
    fixture.stop().await;
}

/// Who is told that an operation has ended may begin the next one: the one that ended is not in its way.
#[tokio::test]
async fn what_has_ended_is_out_of_the_way_when_it_is_told() {
    let fixture = Fixture::new(10).await;
    let (mut asked, held) = (fixture.state.asked.subscribe(), fixture.state.reading.lock().await);
    let started = fixture.start_check().await;
    // The operation is over, and its service is about to see how it ended.
    asked.wait_for(|asked| *asked > 0).await.unwrap();
    let key = format!("operation/s/{}", started.id);
    let stored = fixture.state.state.get(&key).await.unwrap().unwrap();
    let stored: v1::Operation = prost::Message::decode(&*stored.value).unwrap();
    assert!(finished(stored.state()), "{stored:#?}");
    let mut watched = fixture.shared.board.find(&started.id).unwrap();
    assert!(!finished(watched.borrow().state()), "it is told that it has ended, and has the service still");
    drop(held);
    watched.wait_for(|operation| finished(operation.state())).await.unwrap();
    assert_eq!(fixture.check().await.state(), OperationState::Succeeded);
    fixture.stop().await;
}

/// Nobody knows whether it began: then it is found, run and ended, and until then nothing else begins.
#[tokio::test]
async fn an_operation_whose_beginning_was_not_answered_is_run() {
    let fixture = Fixture::new(10).await;
    fixture.check().await;
    fixture.state.unanswered_new.store(1, Ordering::SeqCst);
    let request =
        || Request::new(v1::CheckRepositoryRequest { service: "s".to_owned(), read_data: false, percent: 0 });
    let refused = from_status(fixture.api.check_repository(request()).await.unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let id = refused.hint().unwrap().split('`').nth(1).unwrap().rsplit(' ').next().unwrap().to_owned();
    let meanwhile = from_status(fixture.api.check_repository(request()).await.unwrap_err());
    assert!(meanwhile.kind() == ErrorKind::Conflict && meanwhile.what().contains(&id), "{meanwhile:?}");
    let mut found = loop {
        match fixture.shared.board.find(&id) {
            Ok(found) => break found,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let ended = found.wait_for(|operation| finished(operation.state())).await.unwrap().clone();
    assert_eq!(ended.state(), OperationState::Succeeded);
    let all = fixture.shared.records.operations("s").await.unwrap();
    assert!(all.iter().all(|operation| finished(operation.value.state())), "{all:#?}");
    fixture.stop().await;
}

#[tokio::test]
async fn an_actor_that_fails_is_followed_by_another() {
    let fixture = Fixture::new(10).await;
    fixture.state.conflict.store(2, Ordering::SeqCst);
    assert_eq!(fixture.check().await.state(), OperationState::Succeeded);
    fixture.stop().await;
}

#[tokio::test]
async fn one_that_always_fails_ends_the_operation_and_the_next_one_runs() {
    let fixture = Fixture::new(10).await;
    fixture.state.conflict.store(4, Ordering::SeqCst);
    let ended = fixture.check().await;
    assert_eq!(ended.state(), OperationState::Failed);
    let failure = ended.failure.unwrap();
    assert_eq!(failure.kind, "internal");
    assert!(failure.message.contains("failed 4 times, last: "), "{failure:?}");
    assert_eq!(fixture.check().await.state(), OperationState::Succeeded);
    fixture.stop().await;
}

#[tokio::test]
async fn history_is_bounded_and_the_newest_stay() {
    let fixture = Fixture::new(3).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(fixture.check().await.id);
    }
    // The oldest may be about to be dropped.
    let listed: Vec<String> = fixture.shared.board.list().iter().map(|each| each.id.clone()).collect();
    assert!(listed.len() <= 4 && listed.ends_with(&ids[3..]), "{listed:?} of {ids:?}");
    let stored = fixture.state.list("operation/s/").await.unwrap();
    assert!(stored.len() <= 4);
    fixture.stop().await;
}

/// What an agent says while its service is busy waits on the agent's side, not in a mailbox.
#[tokio::test]
async fn a_flood_waits_outside() {
    let fixture = Fixture::new(10).await;
    let find = |to| CoordinatorMsg::Find("s".to_owned(), to);
    let service = super::ask(&fixture.root, find).await.unwrap();
    let (outbound, mut told) = tokio::sync::mpsc::channel(OUTBOUND);
    let reading = tokio::spawn(async move { while told.recv().await.is_some() {} });
    let hello = v1::Hello { node: "n".to_owned(), engine: "files".to_owned(), ..Default::default() };
    let connect = Box::new(Connect { hello, spare: false, outbound, over: CancellationToken::new() });
    let seated = super::ask(&service, |to| ServiceMsg::Connect(connect, to)).await.unwrap();
    let Admission::Seated(agent) = seated else { panic!("{seated:?}") };
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let say = |permit| {
        let report = v1::TaskReport { operation: "none".to_owned(), ..Default::default() };
        let message = Some(v1::agent_message::Message::Report(report));
        agent.cast(AgentMsg::Heard(Box::new(v1::AgentMessage { message }), permit)).unwrap();
    };

    let gate = fixture.state.gate.lock().await;
    let nodes = vec![v1::NodeSpec { name: "n".to_owned(), zone: "z".to_owned(), ..Default::default() }];
    let wanted = Box::new(v1::Service {
        name: "s".to_owned(),
        r#type: "files".to_owned(),
        nodes,
        ..Default::default()
    });
    let busy = super::ask(&service, |to| ServiceMsg::Apply(wanted, to));
    let flood = async {
        let mut said = 0;
        while let Ok(permit) = room.clone().try_acquire_owned() {
            say(permit);
            said += 1;
        }
        assert_eq!(said, IN_FLIGHT);
        for _ in 0..1000 {
            tokio::task::yield_now().await;
            assert_eq!(room.available_permits(), 0, "nothing is handled, and no more is taken in");
        }
        drop(gate);
        for _ in 0..100_000 {
            say(room.clone().acquire_owned().await.unwrap());
        }
        drop(room.acquire_many(IN_FLIGHT as u32).await.unwrap()); // all handled
    };
    let (applied, ()) = tokio::join!(busy, flood);
    applied.unwrap();
    fixture.stop().await;
    reading.await.unwrap();
}
