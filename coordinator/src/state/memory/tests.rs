use std::time::Duration;

use tokio::time::Instant;

use super::election::MARGIN;
use super::*;
use crate::state::{Election, suite};

const TTL: Duration = Duration::from_secs(10);

fn two() -> (Arc<MemoryStore>, MemoryElection, MemoryElection) {
    let store = Arc::new(MemoryStore::default());
    let (one, two) = (MemoryElection::new(&store, "c1", TTL), MemoryElection::new(&store, "c2", TTL));
    (store, one, two)
}

async fn put(state: &Arc<dyn State>, key: &str) -> Result<u64> {
    state.put(key, Bytes::new(), Expect::Any).await
}

#[tokio::test(start_paused = true)]
async fn it_is_a_state() {
    let (_, one, _) = two();
    suite::run(one.campaign("a").await.unwrap().state).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_lasts_while_it_is_renewed_and_a_resigned_one_goes_on_at_once() {
    let (_, one, two) = two();
    let first = one.campaign("a1").await.unwrap();
    assert!(tokio::time::timeout(TTL * 5, two.campaign("a2")).await.is_err());
    assert!(!first.over.is_cancelled());
    let mut known = two.leader();
    let leader = known.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!(
        (leader.name.as_str(), leader.address.as_str(), leader.epoch),
        ("c1", "a1", first.state.epoch())
    );
    put(&first.state, "k").await.unwrap();
    let resigned = Instant::now();
    first.resign.resign().await;
    let second = two.campaign("a2").await.unwrap();
    assert_eq!(resigned.elapsed(), Duration::ZERO);
    assert!(second.state.epoch() > first.state.epoch());
    assert_eq!(put(&first.state, "k").await.unwrap_err().kind(), ErrorKind::Fenced);
    put(&second.state, "k").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_steps_down_before_another_can_lead() {
    let (_, one, two) = two();
    let first = one.campaign("a1").await.unwrap();
    let cut = Instant::now();
    one.link().cut();
    let (ended, second) = tokio::join!(
        async {
            first.over.cancelled().await;
            Instant::now()
        },
        two.campaign("a2"),
    );
    let second = second.unwrap();
    assert!(ended < Instant::now() && ended - cut <= TTL - TTL / MARGIN);
    assert!(cut.elapsed() <= TTL, "{:?}", cut.elapsed());
    assert_eq!(put(&first.state, "k").await.unwrap_err().kind(), ErrorKind::Unavailable);
    one.link().mend();
    assert_eq!(put(&first.state, "k").await.unwrap_err().kind(), ErrorKind::Fenced);
    let leader = one.leader().wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(leader.unwrap().epoch, second.state.epoch());
}

#[tokio::test(start_paused = true)]
async fn who_sleeps_through_the_end_of_its_lease_can_write_nothing() {
    let (_, one, two) = two();
    let first = one.campaign("a1").await.unwrap();
    one.link().doze();
    let second = two.campaign("a2").await.unwrap();
    assert!(!first.over.is_cancelled(), "it does not know yet");
    one.link().wake();
    assert_eq!(put(&first.state, "k").await.unwrap_err().kind(), ErrorKind::Fenced);
    assert!(first.over.is_cancelled());
    put(&second.state, "k").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_may_be_done_and_followers_hear_of_the_break() {
    let (_, one, _) = two();
    let lease = one.campaign("a1").await.unwrap();
    let mut followed = lease.state.follow("k");
    assert!(matches!(followed.next().await, Some(Change::All(all)) if all.is_empty()));
    one.link().cut_answers();
    assert_eq!(put(&lease.state, "k").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(matches!(followed.next().await, Some(Change::Away(_))));
    one.link().cut();
    assert_eq!(put(&lease.state, "l").await.unwrap_err().kind(), ErrorKind::Unavailable);
    one.link().mend();
    assert!(lease.state.get("k").await.unwrap().is_some() && lease.state.get("l").await.unwrap().is_none());
    assert!(matches!(followed.next().await, Some(Change::All(all)) if all.len() == 1));
    lease.state.delete("k", Expect::Any).await.unwrap();
    assert!(matches!(followed.next().await, Some(Change::Gone(_))));
}
