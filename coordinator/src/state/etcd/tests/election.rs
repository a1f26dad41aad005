//! Who leads, until when, and who knows.
use palinurus_repository::clock::ManualClock;
use palinurus_repository::{ErrorKind, Timestamp};
use tokio::time::Instant;

use super::*;
use crate::state::{Expect, State};

async fn fenced(state: &dyn State) {
    let error = state.put("x", bytes::Bytes::new(), Expect::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
    let error = state.delete("x", Expect::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_one_leads_at_once_when_one_resigns_and_everybody_knows() {
    let etcd = Etcd::start().await;
    let config = config(&etcd, LONG);
    let (one, two) = (election(&config, "c1").await, election(&config, "c2").await);
    let first = within(WAIT, "it leads", one.campaign("a:1")).await.unwrap();
    let mut known = two.leader();
    let seen = within(WAIT, "it is known", known.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    assert_eq!((&*seen.name, &*seen.address, seen.epoch), ("c1", "a:1", first.state.epoch()));

    let standing = async { (two.campaign("b:2").await.unwrap(), Instant::now()) };
    let resigning = async {
        let wait = tokio::time::timeout(LEASE, std::future::pending::<()>()).await;
        assert!(wait.is_err() && !first.over.is_cancelled(), "nobody leads beside it");
        let old = first.state.clone();
        first.resign.resign().await;
        (old, Instant::now())
    };
    let ((second, led), (old, resigned)) = tokio::join!(standing, resigning);
    assert!(led - resigned < SOON, "{:?}", led - resigned);
    assert!(second.state.epoch() > old.epoch());
    fenced(&*old).await;
    second.state.put("x", bytes::Bytes::new(), Expect::Absent).await.unwrap();
    let mut known = one.leader();
    let newer = |leader: &Option<crate::state::Leader>| leader.as_ref().is_some_and(|l| l.name == "c2");
    within(WAIT, "it is known", known.wait_for(newer)).await.unwrap();
}

/// A process that is gone resigns nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_gone_is_replaced_when_its_lease_ends() {
    let etcd = Etcd::start().await;
    let config = config(&etcd, LEASE);
    let (one, two) = (election(&config, "c1").await, election(&config, "c2").await);
    let first = lead(&one).await;
    let over = first.over.clone();
    let (standstill, gone) = (Standstill::watch(), Instant::now());
    drop(first);
    within(WAIT, "nobody renews it any more", over.cancelled()).await;
    drop(lead(&two).await);
    let took = gone.elapsed();
    assert!(took < LEASE + Duration::from_secs(4) + standstill.total().await, "{took:?}");
    println!("takeover after {took:?}, lease {LEASE:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_key_it_leads_no_longer() {
    let etcd = Etcd::start().await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let lease = lead(&election).await;
    let mut known = election.leader();
    within(WAIT, "it is known", known.wait_for(Option::is_some)).await.unwrap();
    etcd.client().await.delete("palinurus/leader", None).await.unwrap();
    within(WAIT, "it is over", lease.over.cancelled()).await;
    fenced(&*lease.state).await;
}

/// Before it is told so by its watch, a write finds out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_under_another_leader_is_refused_by_etcd_itself() {
    let etcd = Etcd::start().await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let lease = lead(&election).await;
    let mut admin = etcd.client().await;
    admin.delete("palinurus/leader", None).await.unwrap();
    admin.put("palinurus/leader", "another's", None).await.unwrap();
    fenced(&*lease.state).await;
    assert!(lease.over.is_cancelled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_lease_it_leads_no_longer() {
    let etcd = Etcd::start().await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let lease = lead(&election).await;
    let mut admin = etcd.client().await;
    let all = admin.leases().await.unwrap();
    assert_eq!(all.leases().len(), 1);
    admin.lease_client().revoke(all.leases()[0].id()).await.unwrap();
    within(WAIT, "it is over", lease.over.cancelled()).await;
    fenced(&*lease.state).await;
}

/// The one that leads renews its lease for as long as it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_leads_for_longer_than_a_lease() {
    let etcd = Etcd::start().await;
    let config = EtcdConfig { lease: LEASE * 3, ..config(&etcd, LEASE) };
    let election = election(&config, "c1").await;
    let lease = lead(&election).await;
    let standstill = Standstill::watch();
    let over = tokio::time::timeout(LEASE * 4, lease.over.cancelled()).await.is_ok();
    // Who could not renew it must not lead for longer.
    if standstill.total().await < LEASE / 2 {
        assert!(!over);
        lease.state.put("x", bytes::Bytes::new(), Expect::Absent).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_over_before_its_time_when_etcd_is_frozen() {
    let etcd = Etcd::start().await;
    let election = election(&config(&etcd, LEASE), "c1").await;
    let lease = lead(&election).await;
    etcd.pause(0).await;
    let (standstill, frozen) = (Standstill::watch(), Instant::now());
    within(WAIT, "it is over", lease.over.cancelled()).await;
    let took = frozen.elapsed();
    assert!(took < LEASE + standstill.total().await, "{took:?}");
    fenced(&*lease.state).await;
    lease.resign.resign().await;
    let mut known = election.leader();
    within(WAIT, "it is forgotten", known.wait_for(Option::is_none)).await.unwrap();
    etcd.resume(0);
    let second = lead(&election).await;
    second.state.put("x", bytes::Bytes::new(), Expect::Any).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_that_is_back_within_the_lease_changes_nothing() {
    let mut etcd = Etcd::start().await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let lease = lead(&election).await;
    let first = lease.state.put("x", bytes::Bytes::new(), Expect::Absent).await.unwrap();
    etcd.restart(0).await;
    let second = lease.state.put("x", bytes::Bytes::from_static(b"2"), Expect::At(first)).await.unwrap();
    assert!(second > first && !lease.over.is_cancelled());
    let leader = etcd.client().await.get("palinurus/leader", None).await.unwrap();
    assert_eq!(u64::try_from(leader.kvs()[0].create_revision()).unwrap(), lease.state.epoch().0);
}

/// A suspended machine: timers stood still, the wall clock did not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_clock_ends_it() {
    let etcd = Etcd::start().await;
    let clock = ManualClock::at(Timestamp(1_000_000));
    let config = config(&etcd, LONG);
    let election = election_by(&config, "c1", Arc::new(clock.clone())).await;
    let lease = lead(&election).await;
    clock.advance(LONG * 3 / 5);
    assert!(tokio::time::timeout(LEASE, lease.over.cancelled()).await.is_err(), "less than is left of it");
    // More than was left of it at any moment.
    clock.advance(LONG);
    fenced(&*lease.state).await;
    assert!(lease.over.is_cancelled());
    lease.resign.resign().await;
    let lease = lead(&election).await;
    clock.advance(LONG);
    within(WAIT, "it is over without anybody asking", lease.over.cancelled()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_one_leads() {
    let etcd = Etcd::with(3, Setup::default()).await;
    let mut config = config(&etcd, LONG);
    let mut all = Vec::new();
    for name in ["c1", "c2", "c3", "c4"] {
        config.endpoints.rotate_left(1);
        all.push(election(&config, name).await);
    }
    let mut last = palinurus_repository::Epoch(0);
    for _ in 0..6 {
        let standing = all.iter().map(|election| Box::pin(election.campaign("x")));
        let (won, _, mut others) = futures::future::select_all(standing).await;
        let won = won.unwrap();
        assert!(won.state.epoch() > last);
        last = won.state.epoch();
        let second = tokio::time::timeout(IMPATIENT, futures::future::select_all(&mut others)).await;
        assert!(second.is_err(), "two lead");
        won.resign.resign().await;
        drop(others);
    }
}
