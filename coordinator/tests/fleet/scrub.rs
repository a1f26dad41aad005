//! Data that is read again by itself, and never in the way of what somebody asks for.
use palinurus_proto::v1::{self, OperationKind, OperationState};

use crate::cluster::Cluster;
use crate::world::{Operator, SERVICE, World, task};

/// With an answer of the service after that, it has looked.
async fn set(world: &World, settings: &[(&str, &str)]) {
    let mut operator = world.apply_with(&["n1"], settings).await;
    operator.0.get_service(v1::GetServiceRequest { service: SERVICE.to_owned() }).await.unwrap();
}

async fn scrubs(operator: &mut Operator) -> Vec<v1::Operation> {
    let request = v1::ListOperationsRequest { service: SERVICE.to_owned(), running: false };
    let all = operator.0.list_operations(request).await.unwrap().into_inner().operations;
    let scrub = |operation: &v1::Operation| operation.verify.as_ref().is_some_and(|verify| verify.automatic);
    all.into_iter().filter(scrub).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_runs_by_itself_and_gives_way_to_a_backup() {
    let world = World::new().await;
    let mut operator = world.apply_with(&["n1"], &[]).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    assert_eq!(scrubs(&mut operator).await.len(), 0, "nobody wanted it");

    peer.hold("verify");
    set(&world, &[("scrub", "100%")]).await;
    let [scrub] = &scrubs(&mut operator).await[..] else { panic!("none, or more than one") };
    operator.until(&scrub.id, |operation| task(operation, "n1", "verify").is_some()).await;
    let backup = operator.backup().await;
    assert_eq!((backup.kind(), backup.state()), (OperationKind::Backup, OperationState::Succeeded));
    let ended = operator.finished(&scrub.id).await;
    assert_eq!(ended.state(), OperationState::Cancelled, "{ended:#?}");

    // Its part is read later, by whoever asks for nothing else.
    let [scrub] = &scrubs(&mut operator).await[..] else { panic!("none, or more than one") };
    let detail = scrub.verify.clone().unwrap();
    assert_eq!((detail.read_data, detail.percent, detail.day, &detail.node[..]), (true, 25, 0, "n1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_part_is_read_to_the_end_where_nobody_asks_for_anything() {
    let world = World::new().await;
    let mut operator = world.apply_with(&["n1"], &[]).await;
    let _peer = world.peer("n1", &[("a", vec![1])]);
    operator.backup().await;
    set(&world, &[("scrub", "10%")]).await;
    let [scrub] = &scrubs(&mut operator).await[..] else { panic!("none, or more than one") };
    let ended = operator.finished(&scrub.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_eq!(ended.verify.unwrap().packs_checked, 3, "as the agent said");
    // The next part is due in hours, and another look begins nothing.
    set(&world, &[("scrub", "10%"), ("patience", "5m")]).await;
    assert_eq!(scrubs(&mut operator).await.len(), 1);
}

/// The next leader goes on with the part that the last one began: the agent reads it once, and nobody begins another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_goes_on_with_the_part_that_is_read() {
    let cluster = Cluster::new(2).await;
    let (old, mut operator) = cluster.leader().await;
    operator.apply(cluster.world.service(&["n1"])).await.unwrap();
    let peer = cluster.world.peer("n1", &[("a", vec![1])]);
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    peer.hold("verify");
    let settings = cluster.world.service_with(&["n1"], &[], &[("scrub", "10%")]);
    operator.apply(settings).await.unwrap();
    operator.0.get_service(v1::GetServiceRequest { service: SERVICE.to_owned() }).await.unwrap();
    let [scrub] = &scrubs(&mut operator).await[..] else { panic!("none, or more than one") };
    let reads = |operation: &v1::Operation| task(operation, "n1", "verify").is_some();
    let before = operator.until(&scrub.id, reads).await;

    cluster.cut_off(old).await;
    let (_, mut operator) = cluster.leader_but(old).await;
    peer.let_go();
    let ended = cluster.finished(&before.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert!(ended.epoch > before.epoch);
    assert_eq!(ended.verify.unwrap().packs_checked, 3, "as the agent said");
    assert_eq!(peer.began("verify"), 1);
    let all: Vec<String> = scrubs(&mut operator).await.into_iter().map(|scrub| scrub.id).collect();
    assert_eq!(all, [before.id]);
}
