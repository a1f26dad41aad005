//! Actors that fail, over a state store that does: an operation is resumed or ends with a reason, never in silence.
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use palinurus_proto::v1::{self, OperationState, coordinator_server::Coordinator};
use palinurus_repository::{Epoch, Error, KeyFile, Result, SystemEntropy};
use ractor::{Actor, ActorRef};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::coordinator::{CoordinatorActor, CoordinatorMsg};
use crate::api::Api;
use crate::config::Config;
use crate::door::{Door, Lead};
use crate::operation::finished;
use crate::shared::{Base, Shared, World};
use crate::state::{Change, EmbeddedState, Expect, Reader, Record, Records, State};

/// A real state whose next updates of operations fail.
#[derive(Debug)]
struct Flaky {
    state: EmbeddedState,
    unavailable: AtomicU32,
    conflict: AtomicU32,
    /// Services and new operations that are written, and whoever wrote is not answered.
    unanswered: AtomicU32,
}

fn take(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

#[async_trait]
impl Reader for Flaky {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
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
        if key.starts_with("operation/") && matches!(expect, Expect::At(_)) {
            if take(&self.unavailable) {
                return Err(Error::unavailable("no quorum"));
            }
            if take(&self.conflict) {
                return Err(Error::conflict("somebody else wrote"));
            }
        }
        let written = self.state.put(key, value, expect).await;
        let made = key.starts_with("service/") || matches!(expect, Expect::Absent);
        if made && take(&self.unanswered) {
            return Err(Error::unavailable("no answer"));
        }
        written
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
        let state =
            Arc::new(Flaky { state, unavailable: 0.into(), conflict: 0.into(), unanswered: 0.into() });
        let config =
            Config { state: directory.path().to_owned(), keys: vec![key], history, ..Config::default() };
        let records = Records::new(state.clone());
        let base = Arc::new(Base::new(config, World::default()).unwrap());
        let cancel = CancellationToken::new();
        let shared = Arc::new(Shared::new(base.clone(), records, cancel.clone()));
        let (root, _) = CoordinatorActor::spawn(None, CoordinatorActor, shared.clone()).await.unwrap();
        let lead = watch::Sender::new(Some(Lead { root: root.clone(), shared: shared.clone() }));
        let door = Door::new(lead.subscribe(), watch::Sender::new(None).subscribe());
        let api = Api { door, base, cancel };
        let service = v1::Service {
            name: "s".to_owned(),
            r#type: "files".to_owned(),
            repository: format!("file://{}/repository", directory.path().display()),
            nodes: vec![v1::NodeSpec { name: "n".to_owned(), ..Default::default() }],
            ..Default::default()
        };
        let request = v1::ApplyServiceRequest { service: Some(service) };
        api.apply_service(Request::new(request)).await.unwrap();
        Self { _directory: directory, state, api, shared, root }
    }

    async fn apply(&self, name: &str) -> std::result::Result<(), tonic::Status> {
        let service = v1::Service {
            name: name.to_owned(),
            r#type: "files".to_owned(),
            repository: format!("file://{}/{name}", self._directory.path().display()),
            nodes: vec![v1::NodeSpec { name: "n".to_owned(), ..Default::default() }],
            ..Default::default()
        };
        let request = v1::ApplyServiceRequest { service: Some(service) };
        self.api.apply_service(Request::new(request)).await.map(drop)
    }

    /// An operation that needs no agent.
    async fn check(&self) -> v1::Operation {
        let request = v1::CheckRepositoryRequest { service: "s".to_owned(), read_data: false };
        let started = loop {
            match self.api.check_repository(Request::new(request.clone())).await {
                Ok(started) => break started.into_inner(),
                // The repository is being opened, or the operation before has only just ended.
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let mut watched = self.shared.board.find(&started.id).unwrap();
        let ended = watched.wait_for(|operation| finished(operation.state())).await.unwrap();
        v1::Operation::clone(&ended)
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

/// Found by the simulation's seed 36: it was neither there nor could it be made again.
#[tokio::test]
async fn a_service_whose_making_was_not_answered_can_be_applied_again() {
    let fixture = Fixture::new(10).await;
    fixture.state.unanswered.store(1, Ordering::SeqCst);
    assert_eq!(fixture.apply("t").await.unwrap_err().code(), tonic::Code::Unavailable);
    fixture.apply("t").await.unwrap();
    let request = v1::GetServiceRequest { service: "t".to_owned() };
    assert_eq!(fixture.api.get_service(Request::new(request)).await.unwrap().into_inner().name, "t");
    fixture.stop().await;
}

/// Found by the simulation's seed 1001: it stood where it was until the next leader came.
#[tokio::test]
async fn an_operation_whose_making_was_not_answered_runs() {
    let fixture = Fixture::new(10).await;
    fixture.check().await;
    fixture.state.unanswered.store(1, Ordering::SeqCst);
    let request = v1::CheckRepositoryRequest { service: "s".to_owned(), read_data: false };
    while fixture.state.unanswered.load(Ordering::SeqCst) > 0 {
        let refused = fixture.api.check_repository(Request::new(request.clone())).await.unwrap_err();
        assert_eq!(
            refused.code() == tonic::Code::Unavailable,
            fixture.state.unanswered.load(Ordering::SeqCst) == 0
        );
    }
    let ended = async {
        while fixture.shared.board.list().iter().filter(|each| finished(each.state())).count() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), ended).await.unwrap();
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
    // The newest may have ended so recently that it is not in the history yet.
    let listed: Vec<String> = fixture.shared.board.list().iter().map(|each| each.id.clone()).collect();
    assert!(listed.len() <= 4 && listed.ends_with(&ids[3..]), "{listed:?} of {ids:?}");
    let stored = fixture.state.list("operation/s/").await.unwrap();
    assert!(stored.len() <= 4);
    fixture.stop().await;
}
