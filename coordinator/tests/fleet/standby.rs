//! A coordinator that stands by answers what it can know, and sends on what it cannot do.
use palinurus_proto::from_status;
use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::ErrorKind;
use tonic::Status;

use crate::cluster::Cluster;
use crate::world::{Operator, SERVICE, task};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_answers_reads_like_the_leader() {
    let cluster = Cluster::new(2).await;
    let (leader, mut operator) = cluster.leader().await;
    let mut service = cluster.world.service(&["n1", "n2"]);
    service.nodes[1].spare = true;
    let applied = operator.apply(service).await.unwrap();
    let peer = cluster.world.peer("n1", &[("a", vec![1, 2])]);
    peer.hold("upload");
    let started = operator.start_backup().await.unwrap();
    operator.until(&started.id, |operation| task(operation, "n1", "upload").is_some()).await;

    // It follows a moment behind.
    let mut standby = cluster.operator(1 - leader).await;
    let request = v1::GetOperationRequest { id: started.id.clone() };
    let watched = loop {
        match standby.0.watch_operation(request.clone()).await {
            Ok(watched) => break watched.into_inner(),
            Err(status) => assert_eq!(from_status(status).kind(), ErrorKind::NotFound),
        }
    };
    peer.let_go();
    let ended = last(watched).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    // Stored, and so told here, is what the leader has still to take note of.
    operator.finished(&started.id).await;

    let services = standby.0.list_services(v1::ListServicesRequest {}).await.unwrap().into_inner().services;
    let service = v1::GetServiceRequest { service: SERVICE.to_owned() };
    let known = operator.0.get_service(service.clone()).await.unwrap().into_inner();
    assert_eq!(v1::Service { standing: applied.standing.clone(), ..known.clone() }, applied);
    assert!(known.standing.as_ref().is_some_and(|standing| standing.newest_ms > 0), "{known:?}");
    assert_eq!(services, std::slice::from_ref(&known));
    assert_eq!(standby.0.get_service(service).await.unwrap().into_inner(), known);
    let unknown = standby.0.get_service(v1::GetServiceRequest { service: "x".to_owned() }).await;
    assert_eq!(from_status(unknown.unwrap_err()).kind(), ErrorKind::NotFound);
    // But for when it was last heard of, which is not stored at each beat.
    let nodes = async |operator: &mut Operator| -> Vec<v1::Node> {
        let nodes = operator.nodes().await.into_iter();
        nodes.map(|node| v1::Node { last_seen_ms: 0, ..node }).collect()
    };
    let seen = nodes(&mut standby).await;
    assert_eq!(seen, nodes(&mut operator).await);
    assert_eq!((seen[0].connected, seen[0].instance.as_str(), seen[1].spare), (true, "instance-of-n1", true));
    let backups = standby.backups().await;
    assert_eq!(backups, operator.backups().await);
    let latest = v1::GetBackupRequest { service: SERVICE.to_owned(), backup: "latest".to_owned() };
    assert_eq!(standby.0.get_backup(latest).await.unwrap().into_inner(), backups[0]);
    let list = v1::ListOperationsRequest { service: SERVICE.to_owned(), running: false };
    let listed = standby.0.list_operations(list).await.unwrap().into_inner().operations;
    assert_eq!(listed.iter().map(|each| each.id.as_str()).collect::<Vec<_>>(), [started.id.as_str()]);
    let found = standby.0.get_operation(v1::GetOperationRequest { id: started.id[..8].to_owned() }).await;
    assert_eq!(found.unwrap().into_inner().state(), OperationState::Succeeded);

    // A second one, of which it is told as well.
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    assert_eq!(standby.backups().await.len(), 2, "the ledger is read anew");
}

async fn last(mut watched: tonic::Streaming<v1::Operation>) -> v1::Operation {
    let mut last = None;
    let watching = async {
        while let Some(operation) = watched.message().await.unwrap() {
            last = Some(operation);
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), watching).await.unwrap();
    last.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_something_is_the_leaders() {
    let cluster = Cluster::new(2).await;
    let (leader, mut operator) = cluster.leader().await;
    operator.apply(cluster.world.service(&["n1"])).await.unwrap();
    let mut standby = cluster.operator(1 - leader).await.0;
    cluster.sees(1 - leader, |seen| !seen.leader.is_empty()).await;
    let elsewhere = |refused: Status| {
        assert_eq!(refused.metadata().get(palinurus_proto::LEADER).unwrap(), cluster.address(leader));
        let error = from_status(refused);
        assert!(error.kind() == ErrorKind::Fenced && error.hint().unwrap().contains(cluster.address(leader)));
    };
    let service = || SERVICE.to_owned();
    let restore =
        v1::RestoreRequest { service: service(), backup: "latest".to_owned(), ..Default::default() };
    let id = v1::GetOperationRequest { id: "1".to_owned() };
    let wanted = Some(cluster.world.service(&["n1", "n2"]));
    let apply = v1::ApplyServiceRequest { service: wanted, ..Default::default() };
    elsewhere(standby.apply_service(apply).await.unwrap_err());
    elsewhere(
        standby.start_backup(v1::StartBackupRequest { service: service(), full: false }).await.unwrap_err(),
    );
    elsewhere(
        standby
            .delete_backup(v1::DeleteBackupRequest { service: service(), backup: "1".to_owned() })
            .await
            .unwrap_err(),
    );
    elsewhere(standby.plan_restore(restore.clone()).await.unwrap_err());
    elsewhere(standby.apply_restore(restore).await.unwrap_err());
    elsewhere(standby.cancel_operation(id).await.unwrap_err());
    let check = v1::CheckRepositoryRequest { service: service(), read_data: false, percent: 0 };
    elsewhere(standby.check_repository(check).await.unwrap_err());
}

/// A stale answer must not pass for a fresh one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_cannot_see_it_does_not_say() {
    let cluster = Cluster::new(2).await;
    let (leader, mut operator) = cluster.leader().await;
    operator.apply(cluster.world.service(&["n1"])).await.unwrap();
    let peer = cluster.world.peer("n1", &[("a", vec![1])]);
    peer.hold("upload");
    let started = operator.start_backup().await.unwrap();
    let mut standby = cluster.operator(1 - leader).await;
    let request = v1::GetOperationRequest { id: started.id.clone() };
    let mut watched = loop {
        if let Ok(watched) = standby.0.watch_operation(request.clone()).await {
            break watched.into_inner();
        }
    };
    watched.message().await.unwrap().unwrap();
    cluster.link(1 - leader).cut();
    let broken = loop {
        match watched.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream that just ends looks like an operation that has ended"),
            Err(status) => break from_status(status),
        }
    };
    assert_eq!(broken.kind(), ErrorKind::Unavailable);
    let away = from_status(standby.0.list_services(v1::ListServicesRequest {}).await.unwrap_err());
    assert!(away.kind() == ErrorKind::Unavailable && away.hint().is_some(), "{away:?}");
    cluster.link(1 - leader).mend();
    while let Err(status) = standby.0.list_services(v1::ListServicesRequest {}).await {
        assert_eq!(from_status(status).kind(), ErrorKind::Unavailable);
    }
    peer.let_go();
    let ended = standby.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded);
}
