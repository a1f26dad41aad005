//! Agents that say what no agent should say. Their session ends, or they wait; nobody else is disturbed.
use std::time::Duration;

use palinurus_proto::v1::agent_message::Message;
use palinurus_proto::v1::coordinator_message::Message as Told;
use palinurus_proto::v1::fleet_client::FleetClient;
use palinurus_proto::v1::{self, OperationState, TaskState};
use palinurus_proto::{from_failure, from_status};
use palinurus_repository::{Clock, ErrorKind, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::world::{Operator, SERVICE, World};

const OTHER: &str = "other";
const REPORTS: usize = 100_000;

/// A session of which a test says every word.
struct Raw {
    out: mpsc::Sender<v1::AgentMessage>,
    told: Streaming<v1::CoordinatorMessage>,
}

impl Raw {
    async fn open(world: &World, change: impl FnOnce(&mut v1::Hello)) -> Self {
        let (out, outgoing) = mpsc::channel(16);
        let mut hello = v1::Hello {
            service: OTHER.to_owned(),
            node: "n1".to_owned(),
            instance: "raw".to_owned(),
            engine: "files".to_owned(),
            protocol: palinurus_proto::PROTOCOL,
            ..Default::default()
        };
        change(&mut hello);
        // Said before there is a connection: it has little time for it after that.
        out.try_send(v1::AgentMessage { message: Some(Message::Hello(hello)) }).unwrap();
        let mut client = FleetClient::connect(world.address()).await.unwrap();
        let told = client.session(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { out, told }
    }

    async fn welcomed(world: &World) -> Self {
        let mut raw = Self::open(world, |_| {}).await;
        assert!(matches!(raw.hear().await, Some(Told::Welcome(_))));
        raw
    }

    async fn say(&mut self, message: Message) {
        let _ = self.out.send(v1::AgentMessage { message: Some(message) }).await;
    }

    async fn hear(&mut self) -> Option<Told> {
        let heard = tokio::time::timeout(Duration::from_secs(120), self.told.message()).await.unwrap();
        heard.ok().flatten().and_then(|message| message.message)
    }

    /// Until the coordinator ends it.
    async fn ended(mut self) {
        while self.hear().await.is_some() {}
    }
}

/// With a second service, whose node says what it should not.
async fn world() -> (World, Operator) {
    let world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    let other = v1::Service {
        name: OTHER.to_owned(),
        repository: format!("{}-other", world.url()),
        ..world.service(&["n1", "n2"])
    };
    operator.apply(other).await.unwrap();
    (world, operator)
}

fn report(operation: &str, state: TaskState) -> v1::TaskReport {
    let mut report = v1::TaskReport {
        operation: operation.to_owned(),
        task: "upload".to_owned(),
        attempt: 1,
        ..Default::default()
    };
    report.set_state(state);
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_an_older_protocol_is_refused_and_told_what_to_do() {
    let (world, _) = world().await;
    let mut raw = Raw::open(&world, |hello| hello.protocol = 0).await;
    let Some(Told::Refused(refused)) = raw.hear().await else { panic!() };
    let error = from_failure(refused.failure.as_ref().unwrap());
    assert!(error.kind() == ErrorKind::Invalid && error.what().contains("version 0"), "{error:?}");
    assert!(error.hint().unwrap().contains("install"), "{error:?}");
    raw.ended().await;
    // A newer one speaks ours too.
    let mut raw = Raw::open(&world, |hello| hello.protocol = palinurus_proto::PROTOCOL + 1).await;
    assert!(matches!(raw.hear().await, Some(Told::Welcome(_))));
}

/// Shown, and nothing hangs on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_off_is_shown_and_disturbs_nothing() {
    const HOUR: u64 = 3_600_000;
    const MINUTE: u64 = 60_000;
    let (world, mut operator) = world().await;
    let ahead = world.peer_with("n1", &[("a", vec![1])], |config| config.now_ms = SystemClock.now().0 + HOUR);
    ahead.connected().await;
    let done = operator.backup().await;
    assert_eq!(done.state(), OperationState::Succeeded, "{done:#?}");
    let shown =
        |nodes: Vec<v1::Node>| nodes.into_iter().find(|node| node.service == SERVICE).unwrap().clock_ahead_ms;
    let ms = shown(operator.nodes().await);
    assert!(ms.abs_diff(HOUR as i64) < MINUTE, "{ms}");
    ahead.cut().await;
    let behind =
        world.peer_with("n1", &[("a", vec![1])], |config| config.now_ms = SystemClock.now().0 - HOUR);
    behind.connected().await;
    let ms = shown(operator.nodes().await);
    assert!(ms.abs_diff(-(HOUR as i64)) < MINUTE, "{ms}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_session_and_no_other() {
    let (world, mut operator) = world().await;
    let peer = world.peer("n1", &[("a", vec![1, 2])]);
    peer.hold("upload");
    let started = operator.start_backup().await.unwrap();
    operator.until(&started.id, |operation| crate::world::task(operation, "n1", "upload").is_some()).await;

    let mut raw = Raw::welcomed(&world).await;
    raw.say(Message::Hello(v1::Hello::default())).await;
    raw.ended().await;
    let mut raw = Raw::welcomed(&world).await;
    raw.say(Message::Report(report(&"x".repeat(1000), TaskState::TaskRunning))).await;
    raw.ended().await;
    // More than one message may have.
    let mut raw = Raw::welcomed(&world).await;
    raw.say(Message::Goodbye(v1::Goodbye { reason: "x".repeat(9 << 20) })).await;
    raw.ended().await;
    let mut raw = Raw::open(&world, |hello| hello.tasks = vec![v1::TaskReport::default(); 2000]).await;
    let Some(Told::Refused(refused)) = raw.hear().await else { panic!() };
    assert_eq!(from_failure(refused.failure.as_ref().unwrap()).kind(), ErrorKind::Invalid);
    // Bytes that are no message of ours: a number where a hello should be.
    let channel = tonic::transport::Endpoint::new(world.address()).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/palinurus.v1.Fleet/Session");
    let wrong = tokio_stream::once(v1::CoordinatorMessage { epoch: 7, message: None });
    let codec = tonic_prost::ProstCodec::<v1::CoordinatorMessage, v1::CoordinatorMessage>::default();
    let mut told = client.streaming(tonic::Request::new(wrong), path, codec).await.unwrap().into_inner();
    assert_eq!(from_status(told.message().await.unwrap_err()).kind(), ErrorKind::Unavailable);

    // Kinds of message that are not known, and reports of what is another's: heard, and without effect.
    let mut raw = Raw::welcomed(&world).await;
    raw.out.send(v1::AgentMessage { message: None }).await.unwrap();
    raw.say(Message::Report(report(&started.id, TaskState::TaskFailed))).await;
    raw.say(Message::Heartbeat(v1::Heartbeat { data_empty: true, ..Default::default() })).await;
    let heard = async {
        while !operator.nodes().await.iter().any(|node| node.service == OTHER && node.data_empty) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), heard).await.unwrap();
    peer.let_go();
    let done = operator.finished(&started.id).await;
    assert_eq!(done.state(), OperationState::Succeeded, "{done:#?}");
    assert_eq!(peer.began("upload"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_disturbs_nobody_else() {
    let (world, mut operator) = world().await;
    let _peer = world.peer("n1", &[("a", vec![1, 2, 3])]);
    let mut raw = Raw::welcomed(&world).await;
    // It has begun before the first backup does, and goes on until that has ended.
    let (rises, mut risen) = watch::channel(false);
    let (enough, may_fall) = watch::channel(false);
    let flood = tokio::spawn(async move {
        let mut running = report("0123456789abcdef", TaskState::TaskRunning);
        running.failure = Some(v1::Failure { message: "x".repeat(3000), ..Default::default() });
        let mut said = 0;
        while said < REPORTS || !*may_fall.borrow() {
            raw.say(Message::Report(running.clone())).await;
            said += 1;
            rises.send_replace(said > REPORTS / 100);
        }
        // Heard last.
        raw.say(Message::Heartbeat(v1::Heartbeat { data_empty: true, ..Default::default() })).await;
        raw
    });
    risen.wait_for(|risen| *risen).await.unwrap();
    loop {
        assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
        enough.send_replace(true);
        if operator.nodes().await.iter().any(|node| node.connected && node.data_empty) {
            break;
        }
    }
    let _raw = flood.await.unwrap();
}
