//! Who may connect, and what operators are told.
use std::time::Duration;

use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use palinurus_proto::{from_status, v1};
use palinurus_repository::{ErrorKind, KeyFile, SystemEntropy};

use crate::world::{Operator, SERVICE, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_agent_for_one_place() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1", "n2"]).await;
    let first = world.peer("n1", &[]);
    first.connected().await;
    let second = world.peer_with("n1", &[], |config| config.instance = "another".to_owned());
    let error = second.refused().await;
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.what().contains("instance-of-n1"), "{error:?}");
    let nodes = operator.nodes().await;
    assert_eq!(
        nodes.iter().map(|node| (node.name.as_str(), node.connected)).collect::<Vec<_>>(),
        [("n1", true), ("n2", false)]
    );
    assert_eq!((nodes[0].instance.as_str(), nodes[0].engine.as_str()), ("instance-of-n1", "files"));

    // The same agent again is no other one: its newest session counts.
    let again = world.peer("n1", &[]);
    again.connected().await;
    // And once the place is free, another may have it.
    first.cut().await;
    again.cut().await;
    second.connected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_connections_that_the_setting_allows_one_waits_for_a_place() {
    const CONNECTIONS: usize = 64;
    let world = World::with(|config| config.connections = CONNECTIONS).await;
    let mut inside = vec![world.apply(&["n1"]).await];
    while inside.len() < CONNECTIONS {
        let mut operator = world.operator().await;
        // Who is answered has a place.
        operator.nodes().await;
        inside.push(operator);
    }
    let address = world.address();
    let late = tokio::spawn(async move {
        Operator(CoordinatorClient::connect(address).await.unwrap()).nodes().await.len()
    });
    for operator in &mut inside {
        assert_eq!(operator.nodes().await.len(), 1);
    }
    assert!(!late.is_finished(), "all places are taken");
    inside.pop();
    assert_eq!(late.await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_told_what_there_is() {
    let world = World::new().await;
    let _operator = world.apply(&["n1", "n2"]).await;
    let error = world.peer("n9", &[]).refused().await;
    assert_eq!((error.kind(), error.hint().unwrap().contains("n1, n2")), (ErrorKind::NotFound, true));
    let error = world.peer_with("n1", &[], |config| config.service = "none".to_owned()).refused().await;
    assert_eq!((error.kind(), error.hint().unwrap().contains(SERVICE)), (ErrorKind::NotFound, true));
    let error = world.peer_with("n1", &[], |config| config.engine = "cassandra".to_owned()).refused().await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = world.peer_with("n1", &[], |config| config.epoch = 99).refused().await;
    assert_eq!(error.kind(), ErrorKind::Fenced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_applied_again_and_again() {
    let world = World::new().await;
    let mut operator = world.operator().await;
    let made = operator.apply(world.service(&["n1"])).await.unwrap();
    assert_eq!(made.repository_id, world.repository().await.id().to_string());
    assert_eq!(operator.apply(world.service(&["n1"])).await.unwrap(), made, "idempotent");
    let grown = operator.apply(world.service(&["n1", "n2"])).await.unwrap();
    assert_eq!((grown.nodes.len(), &grown.repository_id), (2, &made.repository_id));
    world.peer("n2", &[]).connected().await;

    let mut moved = world.service(&["n1"]);
    moved.repository = "file:///elsewhere".to_owned();
    assert_eq!(operator.apply(moved).await.unwrap_err().kind(), ErrorKind::Conflict);
    let other = v1::Service { name: "other".to_owned(), ..world.service(&["n1"]) };
    let error = operator.apply(other).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Conflict && error.what().contains("used by service shop"),
        "{error:?}"
    );
    let unknown =
        v1::Service { settings: [("colour".to_owned(), "red".to_owned())].into(), ..world.service(&["n1"]) };
    assert_eq!(operator.apply(unknown).await.unwrap_err().kind(), ErrorKind::Invalid);

    let shrunk = operator.apply(world.service(&["n1"])).await.unwrap();
    assert_eq!(shrunk.nodes.len(), 1);
    assert_eq!(world.peer("n2", &[]).refused().await.kind(), ErrorKind::NotFound);
    let listed = operator.0.list_services(v1::ListServicesRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.services, [shrunk]);
    let error =
        operator.0.get_service(v1::GetServiceRequest { service: "none".to_owned() }).await.unwrap_err();
    assert_eq!(from_status(error).kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_stay_while_an_operation_runs() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1", "n2"]).await;
    let started = operator.start_backup().await.unwrap();
    let error = operator.apply(world.service(&["n1"])).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.what().contains(&started.id), "{error:?}");
    operator.apply(world.service(&["n1", "n2", "n3"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_coordinator_on_the_same_state_is_refused() {
    let world = World::new().await;
    let cancel = tokio_util::sync::CancellationToken::new();
    let error = palinurus_coordinator::Server::start(world.config.clone(), cancel).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.what().contains("another coordinator"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_of_another_key_is_refused() {
    let world = World::new().await;
    let storage = palinurus_repository::storage::open(&world.url()).unwrap();
    let (entropy, clock) = (SystemEntropy::new(), palinurus_repository::SystemClock);
    let other = KeyFile::generate(&entropy).unwrap();
    palinurus_repository::Repository::create(storage, &other, &entropy, std::sync::Arc::new(clock))
        .await
        .unwrap();
    let error = world.operator().await.apply(world.service(&["n1"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
}

/// An agent that says nothing any more is gone, though its socket is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_ends_a_session() {
    use palinurus_proto::v1::{agent_message, fleet_client::FleetClient};
    let world = World::with(|config| config.heartbeat = Duration::from_millis(50)).await;
    world.apply(&["n1"]).await;
    let (out, outgoing) = tokio::sync::mpsc::channel(4);
    let hello = v1::Hello {
        service: SERVICE.to_owned(),
        node: "n1".to_owned(),
        instance: "mute".to_owned(),
        engine: "files".to_owned(),
        protocol: palinurus_proto::PROTOCOL,
        ..Default::default()
    };
    out.send(v1::AgentMessage { message: Some(agent_message::Message::Hello(hello)) }).await.unwrap();
    let mut client = FleetClient::connect(world.address()).await.unwrap();
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut told = client.session(outgoing).await.unwrap().into_inner();
    let welcome = told.message().await.unwrap().unwrap();
    assert!(matches!(welcome.message, Some(v1::coordinator_message::Message::Welcome(_))));
    assert_eq!(welcome.epoch, 1);
    let end = tokio::time::timeout(Duration::from_secs(120), told.message()).await.unwrap();
    assert_eq!(end.unwrap(), None);
}

/// What `grpcurl list` and a load balancer ask first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_describes_itself_and_says_that_it_serves() {
    use tonic_reflection::pb::{v1 as now, v1alpha as before};
    let world = World::new().await;
    let channel = tonic::transport::Endpoint::new(world.address()).unwrap().connect().await.unwrap();
    let ask = now::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(now::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = now::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(now::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer else {
        panic!()
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["palinurus.v1.Coordinator", "palinurus.v1.Fleet", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let ask = before::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(before::server_reflection_request::MessageRequest::FileContainingSymbol(
            "palinurus.v1.Coordinator".to_owned(),
        )),
    };
    let mut client = before::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().message_response.is_some());

    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    for service in ["", "leader", "palinurus.v1.Coordinator", "palinurus.v1.Fleet"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving,
            "{service:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_is_told_that_the_coordinator_stops() {
    let mut world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    let started = operator.start_backup().await.unwrap();
    let request = v1::GetOperationRequest { id: started.id };
    let mut watched = operator.0.watch_operation(request).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    world.stop().await;
    let error = loop {
        match watched.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream that just ends looks like an operation that has ended"),
            Err(status) => break from_status(status),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
