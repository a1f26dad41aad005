//! Drills: asked for and by themselves, proved or found wrong, recorded once whatever happens on the way.
use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::ledger::{Body, history};
use palinurus_repository::storage;

use crate::cluster::Cluster;
use crate::world::{Operator, SERVICE, World, task};

fn request(nodes: &[&str]) -> v1::StartDrillRequest {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    v1::StartDrillRequest { service: SERVICE.to_owned(), nodes, ..Default::default() }
}

async fn start(operator: &mut Operator, nodes: &[&str]) -> v1::Operation {
    operator.0.start_drill(request(nodes)).await.unwrap().into_inner()
}

async fn drills(operator: &mut Operator) -> Vec<v1::Operation> {
    let request = v1::ListOperationsRequest { service: SERVICE.to_owned(), running: false };
    let all = operator.0.list_operations(request).await.unwrap().into_inner().operations;
    all.into_iter().filter(|operation| operation.drill.is_some()).collect()
}

/// DRILLs in the ledger.
async fn recorded(world: &World) -> usize {
    let repository = world.repository().await;
    let storage = storage::open(&world.url()).unwrap();
    let records = history(&*storage, repository.keys()).await.unwrap();
    records.iter().filter(|record| matches!(record.body, Body::Drill { .. })).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_shows_when_each_of_its_nodes_was_proved() {
    let world = World::new().await;
    let mut operator = world.apply_with(&["n1", "n2"], &[]).await;
    let one = world.peer("n1", &[("a", vec![1])]);
    let _two = world.peer("n2", &[("b", vec![2])]);
    operator.backup().await;
    let begun = start(&mut operator, &[]).await;
    let ended = operator.finished(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    let detail = ended.drill.unwrap();
    assert_eq!((detail.results.len(), detail.recorded, detail.results[0].rto_ms), (2, true, 1500));
    let [backup] = &operator.backups().await[..] else { panic!("one backup") };
    let proved: Vec<_> =
        backup.drills.iter().map(|proof| (&proof.node[..], &proof.at[..], proof.passed)).collect();
    assert_eq!(proved, [("n1", "n1", true), ("n2", "n2", true)]);
    assert_eq!(backup.drills[0].operation, begun.id);
    assert_eq!(backup.drills[0].checks, ["compare"]);

    // Found wrong at another node: said of the operation and of the backup, and recorded all the same.
    one.find("a page is torn");
    let begun = start(&mut operator, &["n1=n2"]).await;
    let ended = operator.finished(&begun.id).await;
    let failure = ended.failure.unwrap();
    assert_eq!((ended.state, &failure.kind[..]), (OperationState::Failed.into(), "corrupt"), "{failure:?}");
    assert!(failure.message.contains("n2 restored at n1: a page is torn"), "{failure:?}");
    let [backup] = &operator.backups().await[..] else { panic!("one backup") };
    assert!(backup.drills[0].passed && !backup.drills[1].passed, "{backup:?}");
    assert_eq!((&backup.drills[1].at[..], recorded(&world).await), ("n1", 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_says_nothing_of_the_backup_is_not_recorded() {
    let world = World::new().await;
    let mut operator = world.apply_with(&["n1"], &[]).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    let refused = operator.0.start_drill(request(&[])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound, "no backup yet: {refused:?}");
    operator.backup().await;
    peer.fail("drill");
    let begun = start(&mut operator, &[]).await;
    let ended = operator.finished(&begun.id).await;
    assert_eq!(ended.failure.unwrap().kind, "unavailable");
    peer.mend();
    peer.hold("drill");
    let begun = start(&mut operator, &[]).await;
    operator.until(&begun.id, |operation| task(operation, "n1", "drill").is_some()).await;
    operator.0.cancel_operation(v1::GetOperationRequest { id: begun.id.clone() }).await.unwrap();
    let ended = operator.finished(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Cancelled, "{ended:#?}");
    assert!(task(&ended, "n1", "release").is_some(), "what it held is given back");
    assert_eq!(recorded(&world).await, 0);
    assert!(operator.backups().await[0].drills.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_runs_by_itself_and_gives_way_to_a_backup() {
    let world = World::new().await;
    let mut operator = world.apply_with(&["n1"], &[]).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    operator.backup().await;
    peer.hold("drill");
    let mut operator = world.apply_with(&["n1"], &[("drill", "weekly")]).await;
    let first = loop {
        if let [first] = &drills(&mut operator).await[..] {
            break first.clone();
        }
        tokio::task::yield_now().await;
    };
    assert!(first.drill.as_ref().unwrap().automatic);
    operator.until(&first.id, |operation| task(operation, "n1", "drill").is_some()).await;
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    let ended = operator.finished(&first.id).await;
    assert_eq!(ended.state(), OperationState::Cancelled, "{ended:#?}");
    assert_eq!(recorded(&world).await, 0);
    let wrong = world.service_with(&["n1"], &[], &[("drill", "often")]);
    assert!(operator.apply(wrong).await.unwrap_err().hint().unwrap().contains("weekly"));
}

/// The next leader goes on with the drill that the last one began, and records it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_goes_on_with_a_drill() {
    let cluster = Cluster::new(2).await;
    let (old, mut operator) = cluster.leader().await;
    operator.apply(cluster.world.service(&["n1"])).await.unwrap();
    let peer = cluster.world.peer("n1", &[("a", vec![1])]);
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    peer.hold("drill");
    let begun = start(&mut operator, &[]).await;
    operator.until(&begun.id, |operation| task(operation, "n1", "drill").is_some()).await;
    cluster.cut_off(old).await;
    let (_, mut operator) = cluster.leader_but(old).await;
    peer.let_go();
    let ended = cluster.finished(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert!(ended.epoch > begun.epoch);
    assert_eq!((peer.began("drill"), recorded(&cluster.world).await), (1, 1));
    assert!(operator.backups().await[0].drills[0].passed);
}
