//! Backups that begin by themselves: when they are due, once, again after a failure, and under whoever leads.
use std::time::Duration;

use palinurus_coordinator::schedule::Schedule;
use palinurus_proto::v1::{self, Health, OperationState};
use palinurus_repository::{Clock, ErrorKind, Timestamp};

use crate::cluster::Cluster;
use crate::peer::Peer;
use crate::world::{Operator, SERVICE, World, task};

const DAILY: [(&str, &str); 2] = [("schedule", "daily"), ("backup_hour", "3")];
const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// The first of the daily schedule's times after that.
fn after(moment: Timestamp) -> Timestamp {
    let settings = DAILY.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Schedule::read(SERVICE, &settings).unwrap().unwrap().after(moment).unwrap()
}

/// In the middle of a day: what is asked for now and a moment later is of one day, also at a quarter to three.
async fn at_noon() -> World {
    let mut world = noon();
    world.start().await;
    world
}

/// The same without a coordinator.
fn noon() -> World {
    let world = World::folders(|_| {});
    go_to(&world, after(world.ahead.now()), Duration::ZERO);
    world.ahead.by(HOUR * 9);
    world
}

/// The clocks go to that long before the time.
fn go_to(world: &World, time: Timestamp, before: Duration) {
    world.ahead.by(Duration::from_millis(time.0 - before.as_millis() as u64 - world.ahead.now().0));
}

async fn standing(operator: &mut Operator) -> v1::Standing {
    let request = v1::GetServiceRequest { service: SERVICE.to_owned() };
    operator.0.get_service(request).await.unwrap().into_inner().standing.unwrap()
}

/// Until there are so many backups' operations.
async fn begun(operator: &mut Operator, count: usize) -> Vec<v1::Operation> {
    let looking = async {
        loop {
            let found = operator.operations(v1::OperationKind::Backup).await;
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), looking).await.unwrap()
}

fn run_of(operation: &v1::Operation) -> v1::ScheduledRun {
    operation.backup.as_ref().and_then(|backup| backup.scheduled).unwrap()
}

/// A service with that schedule, and the time of its first backup a day or so later.
async fn scheduled() -> (World, Peer, Timestamp) {
    let world = at_noon().await;
    let mut operator = world.apply_with(&["n1"], &DAILY).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    let first = after(world.ahead.now());
    let stands = standing(&mut operator).await;
    assert_eq!((stands.next_ms, stands.health()), (first.0, Health::Unprotected), "{stands:?}");
    (world, peer, first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_begins_at_its_time_and_those_that_were_missed_are_made_once() {
    let (mut world, _peer, first) = scheduled().await;
    world.stop().await;
    go_to(&world, first, Duration::from_secs(6));
    world.start().await;
    let mut operator = world.operator().await;
    let [made] = &begun(&mut operator, 1).await[..] else { panic!("one") };
    let made = operator.finished(&made.id).await;
    assert_eq!(made.state(), OperationState::Succeeded, "{made:#?}");
    assert!(made.created_ms >= first.0, "not before its time");
    assert_eq!(run_of(&made), v1::ScheduledRun { due_ms: first.0, missed: 0, attempt: 1 });
    assert!(made.log[0].text.starts_with("scheduled for "), "{:?}", made.log);
    let stands = standing(&mut operator).await;
    assert_eq!((stands.next_ms, stands.health()), (after(first).0, Health::Protected), "{stands:?}");

    // Away for three of its times: one backup, for the last of them.
    world.stop().await;
    world.ahead.by(DAY * 3 + HOUR);
    world.start().await;
    let mut operator = world.operator().await;
    let both = begun(&mut operator, 2).await;
    let late = both.iter().find(|operation| operation.id != made.id).unwrap();
    assert_eq!((run_of(late).missed, run_of(late).attempt), (2, 1), "{late:#?}");
    assert!(late.log[0].text.contains("2 times before it"), "{:?}", late.log);
    operator.finished(&late.id).await;
    world.restart().await;
    let mut operator = world.operator().await;
    let stands = standing(&mut operator).await;
    assert!(stands.next_ms > world.ahead.now().0, "{stands:?}");
    assert_eq!(begun(&mut operator, 2).await.len(), 2, "and no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_fails_is_tried_again_and_said_until_one_succeeds() {
    let (mut world, peer, first) = scheduled().await;
    world.stop().await;
    world.ahead.by(DAY * 2);
    peer.fail("snapshot");
    world.start().await;
    let mut operator = world.operator().await;
    let [failed] = &begun(&mut operator, 1).await[..] else { panic!("one") };
    let failed = operator.finished(&failed.id).await;
    assert_eq!((failed.state(), run_of(&failed).attempt), (OperationState::Failed, 1), "{failed:#?}");
    let stands = standing(&mut operator).await;
    assert_eq!((stands.health(), stands.failures), (Health::Unprotected, 1), "{stands:?}");
    assert!(stands.next_ms >= failed.finished_ms + 60_000, "a minute after it ended: {stands:?}");

    // The next leader knows of the failure, and that it is time.
    peer.mend();
    world.stop().await;
    world.ahead.by(Duration::from_secs(120));
    world.start().await;
    let mut operator = world.operator().await;
    let both = begun(&mut operator, 2).await;
    let again = both.iter().find(|operation| operation.id != failed.id).unwrap();
    assert!(run_of(again).attempt == 2 && run_of(again).due_ms >= first.0, "{again:#?}");
    assert_eq!(operator.finished(&again.id).await.state(), OperationState::Succeeded);
    let stands = standing(&mut operator).await;
    assert_eq!((stands.health(), stands.failures), (Health::Protected, 0), "{stands:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_asked_for_does_for_the_time_that_comes_while_it_runs() {
    let (mut world, peer, first) = scheduled().await;
    world.stop().await;
    go_to(&world, first, HOUR);
    world.start().await;
    let mut operator = world.operator().await;
    peer.hold("upload");
    let asked = operator.start_backup().await.unwrap();
    operator.until(&asked.id, |operation| task(operation, "n1", "upload").is_some()).await;
    let stands = standing(&mut operator).await;
    assert_eq!((stands.next_ms, stands.passed_over_ms), (after(first).0, first.0), "{stands:?}");
    // The time has come, and the one that runs began before it.
    world.stop().await;
    world.ahead.by(HOUR * 2);
    world.start().await;
    let mut operator = world.operator().await;
    peer.let_go();
    operator.finished(&asked.id).await;
    let stands = standing(&mut operator).await;
    assert_eq!((stands.next_ms, stands.health()), (after(first).0, Health::Protected), "{stands:?}");
    assert_eq!(begun(&mut operator, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_over_makes_what_is_due_and_nothing_twice() {
    let cluster = Cluster::within(noon(), 2).await;
    let (old, mut operator) = cluster.leader().await;
    let settings = [("schedule", "daily"), ("backup_hour", "3")];
    operator.apply(cluster.world.service_with(&["n1"], &[], &settings)).await.unwrap();
    let peer = cluster.world.peer("n1", &[("a", vec![1])]);
    peer.hold("upload");
    let first = after(cluster.world.ahead.now());
    // Who leads follows a clock that is set but slowly: only the next leader sees that it is late.
    go_to(&cluster.world, first, Duration::ZERO);
    cluster.world.ahead.by(HOUR);
    cluster.cut_off(old).await;
    let (new, mut operator) = cluster.leader_but(old).await;
    let [run] = &begun(&mut operator, 1).await[..] else { panic!("one") };
    operator.until(&run.id, |operation| task(operation, "n1", "upload").is_some()).await;
    cluster.link(old).mend();
    cluster.sees(old, |seen| seen.leader == cluster.name(new)).await;
    cluster.cut_off(new).await;
    let (_, mut operator) = cluster.leader_but(new).await;
    peer.let_go();
    let ended = cluster.finished(&run.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    let stands = standing(&mut operator).await;
    assert_eq!((stands.next_ms, stands.health()), (after(first).0, Health::Protected), "{stands:?}");
    assert_eq!((begun(&mut operator, 1).await.len(), peer.began("upload")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_stands_for_its_settings_and_asks_before_backups_go() {
    let world = at_noon().await;
    let mut operator = world.operator().await;
    let with = |plan: &str, settings: &[(&str, &str)]| v1::Service {
        plan: plan.to_owned(),
        ..world.service_with(&["n1"], &[], settings)
    };
    let refused = operator.apply(with("platinum", &[])).await.unwrap_err();
    assert!(refused.hint().unwrap().contains("hobbyist, startup, business, premium"), "{refused:?}");
    let refused = operator.apply(with("business", &[("backup_hour", "25")])).await.unwrap_err();
    assert!(refused.what().contains("backup_hour") && refused.hint().is_some(), "{refused:?}");
    let applied = operator.apply(with("business-8", &[("backup_hour", "5")])).await.unwrap();
    assert_eq!(applied.plan_settings["keep_within"], "336h", "{applied:?}");
    let stands = applied.standing.unwrap();
    assert!(stands.next_ms > 0 && stands.health() == Health::Unprotected, "{stands:?}");
    let _peer = world.peer("n1", &[("a", vec![1])]);
    for _ in 0..3 {
        operator.backup().await;
    }
    let plans = operator.0.list_plans(v1::ListPlansRequest { r#type: "files".to_owned() }).await.unwrap();
    assert_eq!(plans.into_inner().plans.len(), 4);

    // Fewer would stay: which ones is told, and it happens when it is wanted.
    let fewer = with("business", &[("keep_within", "1ms"), ("keep_last", "1")]);
    let refused = operator.apply(fewer.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let all = operator.backups().await;
    assert!(refused.what().contains("2 of 3") && refused.what().contains(&all[0].id), "{refused:?}");
    assert!(refused.hint().unwrap().contains("--accept-forget"), "{refused:?}");
    assert!(operator.backups().await.iter().all(|backup| !backup.kept_for.is_empty()));
    let request = v1::ApplyServiceRequest { service: Some(fewer), accept_forget: true };
    operator.0.apply_service(request).await.unwrap();
    let stay = operator.backups().await.iter().filter(|backup| !backup.kept_for.is_empty()).count();
    assert_eq!(stay, 1);
}

/// A coordinator that has lost its state is told of the service anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_asks_also_where_the_repository_was_another_coordinator_s() {
    let mut world = at_noon().await;
    let mut operator = world.apply(&["n1"]).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    operator.backup().await;
    operator.backup().await;
    drop(peer);
    world.stop().await;
    std::fs::remove_dir_all(&world.config.state).unwrap();
    world.start().await;
    let mut operator = world.operator().await;
    let service = v1::Service {
        plan: "startup".to_owned(),
        ..world.service_with(&["n1"], &[], &[("keep_within", "1ms")])
    };
    let refused = operator.apply(service.clone()).await.unwrap_err();
    assert!(refused.what().contains("1 of 2 backups would go at once"), "{refused:?}");
    operator
        .apply(v1::Service { plan: String::new(), settings: Default::default(), ..service })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_backups_says_why_and_what_to_do_instead() {
    let world = World::new().await;
    let mut operator = world.operator().await;
    let of = |kind: &str, plan: &str, settings: &[(&str, &str)]| v1::Service {
        r#type: kind.to_owned(),
        plan: plan.to_owned(),
        ..world.service_with(&["n1"], &[], settings)
    };
    let refused = operator.apply(of("kafka", "business", &[("schedule", "daily")])).await.unwrap_err();
    assert!(refused.hint().unwrap().contains("MirrorMaker"), "{refused:?}");
    let refused = operator.apply(of("files", "", &[("redis_persistence", "off")])).await.unwrap_err();
    assert!(refused.hint().unwrap().contains("redis"), "{refused:?}");
    let applied = operator.apply(of("kafka", "business", &[])).await.unwrap();
    let stands = applied.standing.unwrap();
    assert!(stands.no_backups.contains("S3") && stands.next_ms == 0, "{stands:?}");
    let refused = operator.start_backup().await.unwrap_err();
    let hint = refused.hint().unwrap();
    assert!(hint.contains("MirrorMaker") && hint.contains("S3 sink"), "{refused:?}");
    let fork = v1::RestoreRequest {
        service: SERVICE.to_owned(),
        backup: "latest".to_owned(),
        into: "other".to_owned(),
        ..Default::default()
    };
    let refused = operator.0.plan_restore(fork.clone()).await.unwrap_err();
    assert!(refused.message().contains("has no backups"), "{refused:?}");

    // A redis that dumps has a schedule and backups; one that does not has neither.
    let stands = operator.apply(of("redis", "startup", &[])).await.unwrap().standing.unwrap();
    assert!(stands.next_ms > 0 && stands.export == "redis-cli", "{stands:?}");
    let off = of("redis", "startup", &[("redis_persistence", "off")]);
    let stands = operator.apply(off).await.unwrap().standing.unwrap();
    assert!(stands.next_ms == 0 && stands.no_backups.contains("lost"), "{stands:?}");
    assert!(operator.start_backup().await.unwrap_err().what().contains("redis_persistence is off"));
    assert!(operator.0.plan_restore(fork).await.unwrap_err().message().contains("redis_persistence"));
}

/// A single backup, for the service's own recovery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_for_recovery_only_is_restored_and_not_forked() {
    let world = World::new().await;
    let mut operator = world.apply_with(&["n1"], &[("keep_last", "1"), ("restore_for", "recovery")]).await;
    let peer = world.peer("n1", &[("a", vec![1])]);
    operator.backup().await;
    operator.backup().await;
    let kept = operator.backups().await.iter().filter(|backup| !backup.kept_for.is_empty()).count();
    assert_eq!(kept, 1, "exactly one");
    let fork = world.service(&["n1"]);
    let url = format!("{}-fork", world.url());
    operator.apply(v1::Service { name: "other".to_owned(), repository: url, ..fork }).await.unwrap();
    let request = |into: &str| v1::RestoreRequest {
        service: SERVICE.to_owned(),
        backup: "latest".to_owned(),
        into: into.to_owned(),
        ..Default::default()
    };
    let plan = operator.0.plan_restore(request("other")).await.unwrap().into_inner();
    assert!(plan.refusals.iter().any(|refusal| refusal.contains("recovery of its own nodes")), "{plan:?}");
    let plan = operator.0.plan_restore(request("")).await.unwrap().into_inner();
    assert!(!plan.refusals.iter().any(|refusal| refusal.contains("recovery")), "{plan:?}");
    drop(peer);
}
