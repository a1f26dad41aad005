//! Restores and checks.
use palinurus_proto::from_status;
use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::ErrorKind;

use crate::world::{Operator, SERVICE, World};

fn request(nodes: &[&str]) -> v1::RestoreRequest {
    v1::RestoreRequest {
        service: SERVICE.to_owned(),
        backup: "latest".to_owned(),
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        delta: false,
        target: None,
        ..Default::default()
    }
}

async fn check(operator: &mut Operator, read_data: bool) -> v1::Operation {
    let request = v1::CheckRepositoryRequest { service: SERVICE.to_owned(), read_data, percent: 0 };
    let started = operator.0.check_repository(request).await.unwrap().into_inner();
    operator.finished(&started.id).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_gets_its_nodes_data() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1", "n2"]).await;
    let two = world.peer("n2", &[("b", vec![5])]);
    {
        let _one = world.peer("n1", &[("a", vec![1, 2, 3])]);
        assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    }
    let plan = operator.0.plan_restore(request(&["n2=n1"])).await.unwrap().into_inner();
    assert!(plan.refusals[0].contains("n2 is not empty"), "{plan:#?}");
    let error = from_status(operator.0.apply_restore(request(&["n2=n1"])).await.unwrap_err());
    assert!(error.kind() == ErrorKind::Conflict && error.what().contains("not empty"), "{error:?}");

    let new = world.peer_with("n1", &[], |config| {
        config.instance = "instance-of-n1".to_owned();
        config.data_empty = true;
    });
    new.connected().await;
    let plan = operator.0.plan_restore(request(&["n1"])).await.unwrap().into_inner();
    assert_eq!((plan.refusals.len(), plan.nodes.len(), plan.nodes[0].bytes), (0, 1, 3 * 65536), "{plan:#?}");
    let started = operator.0.apply_restore(request(&["n1"])).await.unwrap().into_inner();
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_eq!(new.restored(), Some((1, 3 * 65536)));
    assert_eq!(two.restored(), None);
    new.released(&started.id).await;

    let missing = v1::RestoreRequest { backup: "0123".to_owned(), ..request(&[]) };
    let error = from_status(operator.0.plan_restore(missing).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_what_is_gone_and_says_which_backup_suffers() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    let _peer = world.peer("n1", &[("a", vec![1, 2, 3])]);
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    let good = check(&mut operator, true).await;
    assert_eq!(good.state(), OperationState::Succeeded, "{good:#?}");
    let detail = good.verify.unwrap();
    assert_eq!((detail.backups_checked, detail.node.as_str(), detail.packs_checked), (1, "n1", 3));

    let repository = world.repository().await;
    let objects = palinurus_repository::storage::list_all(&**repository.storage(), "t/").await.unwrap();
    let pack = objects.iter().find(|object| object.key.contains("/p/")).unwrap().key.clone();
    repository.storage().delete(std::slice::from_ref(&pack)).await.unwrap();
    let bad = check(&mut operator, false).await;
    assert_eq!(bad.state(), OperationState::Failed, "{bad:#?}");
    assert_eq!(bad.failure.unwrap().kind, "corrupt");
    let detail = bad.verify.unwrap();
    let damage = detail.damages.iter().find(|damage| damage.object == pack).unwrap();
    assert_eq!(damage.backups, [operator.backups().await[0].id.clone()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_to_read_the_data_is_said_at_once() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    operator.start_backup().await.unwrap();
    let request = v1::CheckRepositoryRequest { service: SERVICE.to_owned(), read_data: true, percent: 0 };
    let error = from_status(operator.0.check_repository(request).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Conflict, "one operation at a time: {error:?}");
}
