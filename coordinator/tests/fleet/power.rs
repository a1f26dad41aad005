//! A service is powered off and on again, reviewed and deleted, whoever leads.
use std::time::Duration;

use palinurus_proto::from_status;
use palinurus_proto::v1::{self, Health, OperationKind, OperationState, PowerState};
use palinurus_repository::{Clock, ErrorKind, Result};

use crate::peer::Peer;
use crate::world::{Operator, SERVICE, World, task};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn service(operator: &mut Operator) -> Result<v1::Service> {
    let request = v1::GetServiceRequest { service: SERVICE.to_owned() };
    operator.0.get_service(request).await.map(tonic::Response::into_inner).map_err(from_status)
}

async fn power_off(operator: &mut Operator, no_backup: bool) -> Result<v1::Service> {
    let request = v1::PowerOffRequest { service: SERVICE.to_owned(), no_backup };
    operator.0.power_off(request).await.map(tonic::Response::into_inner).map_err(from_status)
}

async fn power_on(operator: &mut Operator) -> Result<v1::Service> {
    let request = v1::PowerOnRequest { service: SERVICE.to_owned(), delta: false };
    operator.0.power_on(request).await.map(tonic::Response::into_inner).map_err(from_status)
}

async fn delete(operator: &mut Operator) -> Result<v1::Service> {
    let request = v1::DeleteServiceRequest { service: SERVICE.to_owned() };
    operator.0.delete_service(request).await.map(tonic::Response::into_inner).map_err(from_status)
}

async fn looked<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), looking)
        .await
        .unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Once its power is as wanted.
async fn until(operator: &mut Operator, wanted: impl Fn(&v1::Power) -> bool) -> v1::Service {
    looked("the service's power", async || {
        let found = service(operator).await.ok()?;
        found.power.as_ref().is_some_and(&wanted).then_some(found)
    })
    .await
}

async fn is(operator: &mut Operator, state: PowerState) -> v1::Service {
    until(operator, |power| power.state() == state).await
}

fn new(world: &World, node: &str) -> Peer {
    world.peer_with(node, &[], |config| {
        config.instance = format!("new-{node}");
        config.data_empty = true;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_rests_while_it_is_off_and_comes_back_onto_new_nodes() {
    let mut world = World::new().await;
    let mut operator = world.operator().await;
    // Half a day away from now: none is due while this runs.
    let hour = ((world.ahead.now().0 / 3_600_000 + 12) % 24).to_string();
    let settings = [
        ("schedule", "daily"),
        ("backup_hour", hour.as_str()),
        ("keep_last", "1"),
        ("failover", "automatic"),
        ("failover_patience", "1s"),
    ];
    operator.apply(world.service_with(&["n1", "n2"], &["s1"], &settings)).await.unwrap();
    let one = world.peer("n1", &[("a", vec![1, 2])]);
    let two = world.peer("n2", &[("b", vec![5, 6, 7])]);
    one.connected().await;
    two.connected().await;
    operator.backup().await;
    let changed = power_off(&mut operator, false).await.unwrap();
    assert_ne!(changed.power.unwrap().state(), PowerState::PowerOn);
    let off = is(&mut operator, PowerState::PowerOff).await;
    let stands = off.standing.unwrap();
    assert_eq!((stands.health(), stands.next_ms), (Health::Off, 0), "{stands:?}");
    assert!(stands.why.starts_with("off since 2"), "{stands:?}");
    let backups = operator.backups().await;
    assert_eq!(backups.len(), 2, "a last one was made");
    for backup in &backups {
        assert!(backup.kept_for[0].contains("not on: everything is kept"), "{backup:?}");
    }
    let refused = operator.start_backup().await.unwrap_err();
    assert!(refused.what().contains("is off") && refused.hint().unwrap().contains("power-on"), "{refused:?}");
    let request = v1::RetentionRequest { service: SERVICE.to_owned(), ..Default::default() };
    assert!(operator.0.apply_retention(request).await.is_err());
    let done = operator.operations(OperationKind::Backup).await.len();

    // Nobody is missed, whoever leads: the spare stays one, no backup is due, and nothing goes.
    one.die().await;
    two.die().await;
    let spare = new(&world, "s1");
    spare.connected().await;
    world.stop().await;
    world.ahead.by(DAY * 20);
    world.start().await;
    let mut operator = world.operator().await;
    spare.connected().await;
    looked("the new leader has looked", async || {
        let stands = service(&mut operator).await.ok()?.standing?;
        (stands.newest_ms > 0 && stands.health() == Health::Off).then_some(())
    })
    .await;
    assert_eq!(operator.backups().await.len(), 2);

    // One of two is there.
    let one = new(&world, "n1");
    one.connected().await;
    power_on(&mut operator).await.unwrap();
    let waits = until(&mut operator, |power| power.why.contains("missing")).await.power.unwrap();
    assert_eq!(waits.why, "1 of 2 nodes missing: n2 is not connected");
    assert_eq!(waits.state(), PowerState::PowerStarting);
    let two = new(&world, "n2");
    let on = is(&mut operator, PowerState::PowerOn).await;
    assert_eq!((on.power.unwrap().why.as_str(), spare.restored()), ("", None));
    assert_eq!((one.restored(), two.restored()), (Some((1, 2 * 65536)), Some((1, 3 * 65536))));
    assert_eq!(operator.failovers().await.len(), 0);
    let restores = operator.operations(OperationKind::Restore).await;
    assert_eq!((restores.len(), restores[0].state()), (1, OperationState::Succeeded), "{restores:#?}");
    for node in operator.nodes().await.iter().filter(|node| !node.spare) {
        assert_eq!(node.fenced, [format!("instance-of-{}", node.name)], "old data does not come back");
    }
    // The schedule goes on with what was missed.
    looked("a scheduled backup", async || {
        (operator.operations(OperationKind::Backup).await.len() > done).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_backup_goes_on_under_the_next_leader_and_is_no_earlier_one() {
    let mut world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    peer.hold("upload");
    let earlier = operator.start_backup().await.unwrap();
    operator.until(&earlier.id, |operation| task(operation, "n1", "upload").is_some()).await;
    let refused = power_off(&mut operator, false).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Conflict && refused.what().contains(&earlier.id), "{refused:?}");
    assert!(refused.hint().unwrap().contains("no last backup"), "{refused:?}");
    peer.let_go();
    operator.finished(&earlier.id).await;

    peer.hold("upload");
    power_off(&mut operator, false).await.unwrap();
    let backups = async |operator: &mut Operator| operator.operations(OperationKind::Backup).await;
    let last = looked("the last backup", async || {
        backups(&mut operator).await.into_iter().find(|operation| operation.power_ms > 0)
    })
    .await;
    operator.until(&last.id, |operation| task(operation, "n1", "upload").is_some()).await;
    world.restart().await;
    let mut operator = world.operator().await;
    assert!(power_on(&mut operator).await.unwrap_err().what().contains("is being powered off"));
    peer.let_go();
    is(&mut operator, PowerState::PowerOff).await;
    assert_eq!(backups(&mut operator).await.len(), 2, "one last backup");
    // Asked again, it is what it is.
    assert_eq!(power_off(&mut operator, false).await.unwrap().power.unwrap().state(), PowerState::PowerOff);

    // With its data still there, nobody overwrites it.
    power_on(&mut operator).await.unwrap();
    let waits = until(&mut operator, |power| power.why.contains("missing")).await;
    assert!(waits.power.unwrap().why.contains("directory of n1 holds data"));
    power_off(&mut operator, false).await.unwrap();
    is(&mut operator, PowerState::PowerOff).await;
    assert_eq!(backups(&mut operator).await.len(), 2, "nothing was restored: nothing to back up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_last_backup_a_service_stays_on_unless_none_is_wanted() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1", "n2"]).await;
    let one = world.peer("n1", &[("a", vec![1])]);
    let two = world.peer("n2", &[("b", vec![2])]);
    operator.backup().await;
    two.fail("snapshot");
    power_off(&mut operator, false).await.unwrap();
    let on = until(&mut operator, |power| power.state() == PowerState::PowerOn).await.power.unwrap();
    assert!(on.why.contains("it stays on") && on.why.contains("--no-backup"), "{on:?}");
    power_off(&mut operator, true).await.unwrap();
    is(&mut operator, PowerState::PowerOff).await;
    assert_eq!(operator.backups().await.len(), 1);
    one.die().await;
    two.die().await;

    // Fewer nodes than the backup has, and others.
    let refused = {
        operator.apply(world.service(&["x"])).await.unwrap();
        power_on(&mut operator).await.unwrap_err()
    };
    assert!(refused.what().contains("the backup has 2 nodes (n1, n2)"), "{refused:?}");
    assert!(refused.hint().unwrap().contains("service apply"), "{refused:?}");
    operator.apply(world.service(&["x", "y"])).await.unwrap();
    power_on(&mut operator).await.unwrap();
    let (x, y) = (new(&world, "x"), new(&world, "y"));
    let on = is(&mut operator, PowerState::PowerOn).await;
    assert_eq!((x.restored(), y.restored()), (Some((1, 65536)), Some((1, 65536))));
    let pasts: Vec<_> = on.nodes.iter().map(|node| node.succeeds.join(",")).collect();
    assert_eq!(pasts, ["n1", "n2"], "whose backups are theirs");
}

/// Off for long, by clocks that are set while nobody leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stays_off_is_reviewed_and_deleted_in_the_end() {
    let mut world = World::new().await;
    let mut operator = world.operator().await;
    let settings = [("review_grace", "2d"), ("keep_last", "1")];
    operator.apply(world.service_with(&["n1"], &[], &settings)).await.unwrap();
    let peer = world.peer("n1", &[("a", vec![1, 2, 3])]);
    let made = operator.backup().await.backup.unwrap().backup_id;
    assert!(delete(&mut operator).await.unwrap_err().hint().unwrap().contains("power-off"));
    power_off(&mut operator, false).await.unwrap();
    is(&mut operator, PowerState::PowerOff).await;
    peer.die().await;
    world.stop().await;
    world.ahead.by(DAY * 181);
    world.start().await;
    let mut operator = world.operator().await;
    let told = until(&mut operator, |power| power.told_ms > 0).await;
    assert_eq!(told.power.as_ref().unwrap().deletes_ms, 0);
    let why = told.standing.unwrap().why;
    assert!(why.contains("palinurus service delete shop"), "{why}");

    // By itself: told anew, and one day of the grace at most, however far the clock is set.
    let automatic = [settings[0], settings[1], ("power_off_policy", "automatic")];
    operator.apply(world.service_with(&["n1"], &[], &automatic)).await.unwrap();
    let told = until(&mut operator, |power| power.deletes_ms > 0).await.power.unwrap();
    assert_eq!(told.days, 0);
    world.stop().await;
    world.ahead.by(DAY * 30);
    world.start().await;
    let mut operator = world.operator().await;
    until(&mut operator, |power| power.days == 1).await;
    let pin = v1::PinBackupRequest {
        service: SERVICE.to_owned(),
        backup: made.clone(),
        reason: "court".to_owned(),
    };
    operator.0.pin_backup(pin).await.unwrap();
    world.stop().await;
    world.ahead.by(DAY + DAY / 2);
    world.start().await;
    let mut operator = world.operator().await;
    let kept = until(&mut operator, |power| power.why.contains("court")).await.power.unwrap();
    assert_eq!((kept.state(), kept.days), (PowerState::PowerOff, 2), "{kept:?}");
    let refused = delete(&mut operator).await.unwrap_err();
    assert!(refused.what().contains("court") && refused.hint().unwrap().contains("unpin"), "{refused:?}");
    assert_eq!(operator.backups().await.len(), 2);

    let unpin = v1::UnpinBackupRequest { service: SERVICE.to_owned(), backup: made };
    operator.0.unpin_backup(unpin).await.unwrap();
    world.restart().await;
    let mut operator = world.operator().await;
    looked("it is gone", async || {
        service(&mut operator).await.err().filter(|e| e.kind() == ErrorKind::NotFound)
    })
    .await;
    assert_eq!(operator.nodes().await.len(), 0);
    let repository = world.repository().await;
    assert_eq!(repository.backups().await.len(), 0);
    let left = palinurus_repository::storage::list_all(&**repository.storage(), "t/").await.unwrap();
    assert!(left.is_empty(), "what it had stored: {left:?}");

    // Its place and its name are free; the ledger goes on.
    operator.apply(world.service(&["n1"])).await.unwrap();
    let _peer = world.peer("n1", &[("a", vec![1])]);
    assert_eq!(operator.backup().await.state(), OperationState::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_by_hand_is_gone_and_asked_for_twice_is_the_same() {
    let world = World::new().await;
    let mut operator = world.apply(&["n1"]).await;
    let _peer = world.peer("n1", &[("a", vec![1])]);
    operator.backup().await;
    power_off(&mut operator, true).await.unwrap();
    is(&mut operator, PowerState::PowerOff).await;
    delete(&mut operator).await.unwrap();
    for _ in 0..2 {
        if let Err(e) = delete(&mut operator).await {
            assert!(matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unavailable), "{e:?}");
        }
    }
    looked("it is gone", async || {
        service(&mut operator).await.err().filter(|e| e.kind() == ErrorKind::NotFound)
    })
    .await;
    assert_eq!(world.repository().await.backups().await.len(), 0);
}
