//! A lost node's place is taken by another agent: by itself or because somebody asks, and never onto data.
use palinurus_proto::from_status;
use palinurus_proto::v1::{self, OperationState, TaskState};
use palinurus_repository::ErrorKind;

use crate::peer::Peer;
use crate::world::{Operator, SERVICE, World, task};

const AUTOMATIC: [(&str, &str); 2] = [("failover", "automatic"), ("failover_patience", "1s")];

fn replacement(world: &World, node: &str, instance: &str) -> Peer {
    world.peer_with(node, &[], |config| {
        config.instance = instance.to_owned();
        config.data_empty = true;
    })
}

fn request(node: &str, onto: &str) -> v1::FailoverRequest {
    v1::FailoverRequest {
        service: SERVICE.to_owned(),
        node: node.to_owned(),
        onto: onto.to_owned(),
        backup: String::new(),
    }
}

/// Two nodes with a backup of both; the second is gone by now.
async fn backed_up(world: &World, settings: &[(&str, &str)], spares: &[&str]) -> (Operator, Peer, Peer) {
    let mut operator = world.operator().await;
    operator.apply(world.service_with(&["n1", "n2"], spares, settings)).await.unwrap();
    let one = world.peer("n1", &[("a", vec![1, 2])]);
    let two = world.peer("n2", &[("b", vec![5, 6, 7])]);
    let backup = operator.backup().await;
    assert_eq!(backup.state(), OperationState::Succeeded, "{backup:#?}");
    assert_eq!(backup.nodes, ["n1", "n2"], "spares have nothing to back up");
    two.cut().await;
    operator.misses("n2").await;
    (operator, one, two)
}

fn log(operation: &v1::Operation) -> String {
    operation.log.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_is_restored_without_anybody_asking() {
    let world = World::new().await;
    let (mut operator, _one, old) = backed_up(&world, &AUTOMATIC, &[]).await;
    let new = replacement(&world, "n2", "new");
    let begun = operator.failover(0).await;
    let ended = operator.finished(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_eq!(new.restored(), Some((1, 3 * 65536)));
    new.released(&ended.id).await;
    let detail = ended.failover.as_ref().unwrap();
    assert_eq!((detail.fenced.as_str(), detail.instance.as_str()), ("instance-of-n2", "new"));
    assert!(detail.automatic && detail.rto_ms > 0 && detail.data_age_ms > 0, "{detail:?}");
    assert_eq!((detail.node_epoch, new.node_epoch()), (2, 2));
    let log = log(&ended);
    for told in ["has connected for n2", "has n2, as of", "instance-of-n2 is shut out", "all is well"] {
        assert!(log.contains(told), "{told}: {log}");
    }

    old.join();
    let why = old.stood_down().await;
    assert!(why.kind() == ErrorKind::Fenced && why.what().contains("replaced"), "{why:?}");
    let ended = operator.backup().await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_eq!(operator.failovers().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_takes_the_place_under_its_own_name() {
    let world = World::new().await;
    let (mut operator, _one, old) = backed_up(&world, &AUTOMATIC, &["s1"]).await;
    let spare = replacement(&world, "s1", "spare");
    let begun = operator.failover(0).await;
    let ended = operator.finished(&begun.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_eq!(spare.restored(), Some((1, 3 * 65536)));
    assert!(log(&ended).contains("longer than its patience"), "{}", log(&ended));
    let shown = v1::GetServiceRequest { service: SERVICE.to_owned() };
    let service = operator.0.get_service(shown).await.unwrap().into_inner();
    let nodes: Vec<(&str, bool)> =
        service.nodes.iter().map(|node| (node.name.as_str(), node.spare)).collect();
    assert_eq!(nodes, [("n1", false), ("s1", false)]);
    assert_eq!(service.nodes[1].succeeds, ["n2"]);

    // The file as it was would undo it: said, not done.
    let before = world.service_with(&["n1", "n2"], &["s1"], &AUTOMATIC);
    let error = operator.apply(before).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.what().contains("place of n2"), "{error:?}");
    old.join();
    assert!(old.stood_down().await.what().contains("s1"));
    // Made again it stays shut out, also after a restart.
    operator.apply(world.service_with(&["n1", "s1", "n2"], &[], &AUTOMATIC)).await.unwrap();
    world.peer("n2", &[]).stood_down().await;
    operator.apply(world.service_with(&["n1", "s1"], &[], &AUTOMATIC)).await.unwrap();

    // The lost node's part of the last backup is what the new node's next one stands on.
    let backup = operator.backup().await;
    assert_eq!(backup.nodes, ["n1", "s1"]);
    let base = backup.backup.unwrap().bases.into_iter().find(|base| base.node == "s1").unwrap();
    assert_eq!(base.manifest, ended.failover.unwrap().manifest.unwrap().manifest);
    assert_eq!(spare.uploads().len(), 1);

    // And a restore of the old backup finds it.
    let first = operator.backups().await[0].id.clone();
    let wanted =
        v1::RestoreRequest { service: SERVICE.to_owned(), backup: first, delta: true, ..Default::default() };
    let plan = operator.0.plan_restore(wanted).await.unwrap().into_inner();
    let pairs: Vec<(&str, &str)> =
        plan.nodes.iter().map(|each| (each.node.as_str(), each.source.as_str())).collect();
    assert_eq!(pairs, [("n1", "n1"), ("s1", "n2")], "{plan:#?}");
}

/// A coordinator that stops as soon as it has begun, and in every phase after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_survives_every_leader() {
    for spares in [&["s1"][..], &[]] {
        let mut world = World::new().await;
        let (mut operator, _one, old) = backed_up(&world, &AUTOMATIC, spares).await;
        let node = spares.first().copied().unwrap_or("n2");
        let new = replacement(&world, node, "new");
        let phases = ["restore", "probe", "release"];
        phases.into_iter().for_each(|phase| new.hold(phase));
        let begun = operator.failover(0).await;
        world.restart().await;
        for phase in phases {
            let running = |operation: &v1::Operation| {
                task(operation, node, phase).is_some_and(|task| task.state() == TaskState::TaskRunning)
            };
            world.operator().await.until(&begun.id, running).await;
            world.restart().await;
            let resumed = world.operator().await.until(&begun.id, |_| true).await;
            assert_eq!(resumed.phase, phase);
            new.let_go_of(phase);
        }
        let seen = world.operator().await.finished(&begun.id).await;
        assert_eq!(seen.state(), OperationState::Succeeded, "{seen:#?}");
        assert_eq!((new.restored(), new.began("restore")), (Some((1, 3 * 65536)), 1));
        new.released(&begun.id).await;
        old.join();
        old.stood_down().await;
        world.restart().await;
        let mut operator = world.operator().await;
        let backup = operator.backup().await;
        assert_eq!(backup.state(), OperationState::Succeeded, "{backup:#?}");
        assert_eq!(operator.failovers().await.len(), 1, "none is begun twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_hand_it_is_planned_and_applied() {
    let world = World::new().await;
    let (mut operator, _one, _old) = backed_up(&world, &[], &["s1"]).await;
    let spare = replacement(&world, "s1", "spare");
    spare.connected().await;
    let plan = operator.0.plan_failover(request("n2", "")).await.unwrap().into_inner();
    assert_eq!(plan.refusals, Vec::<String>::new());
    assert_eq!((plan.failover.unwrap().node.as_str(), plan.bytes), ("s1", 3 * 65536));
    assert!(plan.automatic.contains("manual"), "{}", plan.automatic);
    assert!(operator.failovers().await.is_empty());
    for (node, onto, told) in
        [("n1", "", "holds data"), ("n1", "s1", "stop its agent"), ("n2", "n1", "no spare")]
    {
        let error = from_status(operator.0.apply_failover(request(node, onto)).await.unwrap_err());
        assert!(error.kind() == ErrorKind::Conflict && error.what().contains(told), "{error:?}");
    }
    let unknown = from_status(operator.0.plan_failover(request("n9", "")).await.unwrap_err());
    assert_eq!(unknown.kind(), ErrorKind::NotFound);

    let off = world.service_with(&["n1", "n2"], &["s1"], &[("failover", "off")]);
    operator.apply(off).await.unwrap();
    let error = from_status(operator.0.apply_failover(request("n2", "")).await.unwrap_err());
    assert!(error.what().contains("is off"), "{error:?}");
    operator.apply(world.service_with(&["n1", "n2"], &["s1"], &[])).await.unwrap();

    let started = operator.0.apply_failover(request("n2", "s1")).await.unwrap().into_inner();
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert!(log(&ended).contains("asked for by an operator") && !ended.failover.unwrap().automatic);
    assert_eq!(spare.restored(), Some((1, 3 * 65536)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_data_takes_its_seat_and_nothing_is_restored() {
    let world = World::new().await;
    let (mut operator, _one, old) = backed_up(&world, &AUTOMATIC, &["s1"]).await;
    let spare = world.peer_with("s1", &[], |config| config.instance = "full".to_owned());
    spare.connected().await;
    let moved = world.peer_with("n2", &[("b", vec![5])], |config| config.instance = "moved".to_owned());
    moved.connected().await;
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
    assert!(operator.failovers().await.is_empty());
    moved.cut().await;
    // Nobody was shut out.
    old.join();
    operator.node_is("n2", |node| node.connected && node.instance == "instance-of-n2").await;
    assert_eq!((moved.restored(), spare.restored()), (None, None));
}

/// An operation has the service; the failover waits for it. What fails is tried again, but not at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_for_its_turn_and_after_a_failure() {
    let world = World::new().await;
    let (mut operator, one, _old) = backed_up(&world, &AUTOMATIC, &[]).await;
    one.hold("verify");
    let check = v1::CheckRepositoryRequest { service: SERVICE.to_owned(), read_data: true, percent: 0 };
    let check = operator.0.check_repository(check).await.unwrap().into_inner();
    operator.until(&check.id, |operation| task(operation, "n1", "verify").is_some()).await;
    let new = replacement(&world, "n2", "new");
    new.fail("restore");
    new.connected().await;
    let plan = operator.0.plan_failover(request("n2", "")).await.unwrap().into_inner();
    assert!(plan.automatic.contains(&check.id) && plan.refusals[0].contains(&check.id), "{plan:#?}");
    assert!(operator.failovers().await.is_empty());
    one.let_go();
    operator.finished(&check.id).await;
    let failed = operator.failover(0).await;
    let failed = operator.finished(&failed.id).await;
    assert_eq!(failed.state(), OperationState::Failed);
    assert!(log(&failed).contains("disk on fire"), "{}", log(&failed));
    let plan = operator.0.plan_failover(request("n2", "")).await.unwrap().into_inner();
    assert!(plan.automatic.contains("not again before"), "{}", plan.automatic);

    // An operator need not wait.
    new.mend();
    let started = operator.0.apply_failover(request("n2", "")).await.unwrap().into_inner();
    assert_eq!(operator.finished(&started.id).await.state(), OperationState::Succeeded);
    assert_eq!(operator.failovers().await.len(), 2);
}

/// The old agent comes back between the decision and the deed: it keeps its place, and nothing has happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_in_time_keeps_the_place() {
    let world = World::new().await;
    let (mut operator, _one, old) = backed_up(&world, &[], &["s1"]).await;
    let spare = replacement(&world, "s1", "spare");
    spare.connected().await;
    let plan = operator.0.plan_failover(request("n2", "")).await.unwrap().into_inner();
    assert!(plan.refusals.is_empty(), "{plan:#?}");
    old.join();
    operator.node_is("n2", |node| node.connected).await;
    let error = from_status(operator.0.apply_failover(request("n2", "s1")).await.unwrap_err());
    assert!(error.what().contains("n2 is connected"), "{error:?}");
    assert_eq!(spare.restored(), None);
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
}

/// The same agent with an empty directory: somebody may have meant it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_emptied_is_restored_only_by_hand() {
    let world = World::new().await;
    let (mut operator, _one, two) = backed_up(&world, &AUTOMATIC, &[]).await;
    two.set_empty(true);
    two.join();
    operator.node_is("n2", |node| node.connected).await;
    let plan = operator.0.plan_failover(request("n2", "")).await.unwrap().into_inner();
    assert_eq!(plan.refusals, Vec::<String>::new());
    assert!(plan.automatic.contains("only palinurus failover apply"), "{}", plan.automatic);
    assert!(operator.failovers().await.is_empty());
    let started = operator.0.apply_failover(request("n2", "")).await.unwrap().into_inner();
    let ended = operator.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert!(ended.failover.unwrap().fenced.is_empty(), "it does not shut itself out");
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
}
