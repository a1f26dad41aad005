//! The leader loses its lease at any moment; another coordinator goes on with the same operations.
use palinurus_proto::from_status;
use palinurus_proto::v1::{self, OperationState, TaskState};
use palinurus_repository::storage::list_all;
use palinurus_repository::{Epoch, ErrorKind, TransactionId, verify};

use crate::cluster::Cluster;
use crate::peer::Peer;
use crate::world::{Operator, SERVICE, task};

const TASKS: [&str; 7] = ["inspect", "freeze", "snapshot", "thaw", "upload", "manifest", "release"];

struct Fleet {
    cluster: Cluster,
    old: usize,
    operator: Operator,
    one: Peer,
    two: Peer,
}

async fn fleet() -> Fleet {
    let cluster = Cluster::new(2).await;
    let (old, mut operator) = cluster.leader().await;
    operator.apply(cluster.world.service(&["n1", "n2"])).await.unwrap();
    let one = cluster.world.peer("n1", &[("a", vec![1, 2])]);
    let two = cluster.world.peer("n2", &[("a", vec![2, 3])]);
    Fleet { cluster, old, operator, one, two }
}

impl Fleet {
    /// Starts a backup; it stands where `n1` has done `phase` and `n2` is at it.
    async fn stands_in(&mut self, phase: &'static str) -> v1::Operation {
        self.two.hold(phase);
        let started = self.operator.start_backup().await.unwrap();
        let there = |operation: &v1::Operation| {
            let state = |node| task(operation, node, phase).map(v1::TaskRecord::state);
            state("n1") == Some(TaskState::TaskDone) && state("n2") == Some(TaskState::TaskRunning)
        };
        self.operator.until(&started.id, there).await
    }

    /// The whole repository is sound, and holds that many backups and nothing of any other.
    async fn sound(&self, backups: usize) {
        let repository = self.cluster.world.repository().await;
        assert_eq!(repository.backups().await.len(), backups);
        assert_eq!(verify::check(&repository, true, &|_| {}).await.unwrap().damages, []);
        assert!(repository.read(|state| state.open_transactions().is_empty()).await);
    }
}

async fn taken_over_in(phase: &'static str) {
    let mut fleet = fleet().await;
    let before = fleet.stands_in(phase).await;
    let Fleet { cluster, old, .. } = &fleet;
    let (old, left) = (*old, cluster.cluster_at(*old).await);
    cluster.cut_off(old).await;
    let (new, mut operator) = cluster.leader_but(old).await;
    fleet.two.let_go();
    let ended = fleet.cluster.finished(&before.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert!(ended.epoch > before.epoch);
    let id = |operation: &v1::Operation| operation.backup.as_ref().unwrap().backup_id.clone();
    assert_eq!(id(&ended), id(&before), "the same backup");
    for peer in [&fleet.one, &fleet.two] {
        peer.released(&before.id).await;
        for task in TASKS {
            assert_eq!(peer.began(task), 1, "{task} ran once");
        }
    }
    let told = [fleet.one.verdicts(), fleet.two.verdicts()].concat();
    assert_eq!(told.iter().filter(|verdict| **verdict == 1).count(), 3, "each chunk is uploaded once");
    let backups = operator.backups().await;
    assert_eq!(backups.iter().map(|backup| backup.id.clone()).collect::<Vec<_>>(), [id(&ended)]);
    fleet.sound(1).await;

    // The one that led stands by once it sees the state again, and knows who leads.
    cluster.link(old).mend();
    let seen = cluster.sees(old, |seen| !seen.leader.is_empty()).await;
    assert_eq!((seen.leader.as_str(), seen.address.as_str()), (cluster.name(new), cluster.address(new)));
    assert_eq!((left.leader.as_str(), seen.answered_by.as_str()), (cluster.name(old), cluster.name(old)));
    assert!(seen.epoch > left.epoch);
    let request = v1::StartBackupRequest { service: SERVICE.to_owned(), full: false };
    let refused = fleet.operator.0.clone().start_backup(request).await.unwrap_err();
    assert_eq!(refused.metadata().get(palinurus_proto::LEADER).unwrap(), cluster.address(new));
    assert_eq!(from_status(refused).kind(), ErrorKind::Fenced);
}

macro_rules! phases {
    ($($name:ident $phase:literal),*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            taken_over_in($phase).await;
        }
    )* };
}

phases!(
    taken_over_in_inspect "inspect",
    taken_over_in_freeze "freeze",
    taken_over_in_snapshot "snapshot",
    taken_over_in_thaw "thaw",
    taken_over_in_upload "upload",
    taken_over_in_manifest "manifest",
    taken_over_in_release "release"
);

/// What the old leader wrote last has landed, though it never heard so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taken_over_after_writes_that_were_not_answered() {
    let mut fleet = fleet().await;
    let started = fleet.stands_in("upload").await;
    fleet.cluster.link(fleet.old).cut_answers();
    fleet.two.let_go();
    // The other one sees what the old leader wrote of this.
    let done = |operation: &v1::Operation| {
        task(operation, "n2", "upload").is_some_and(|task| task.state() == TaskState::TaskDone)
    };
    fleet.cluster.operator(1 - fleet.old).await.until(&started.id, done).await;
    fleet.cluster.lease_passes(fleet.old).await;
    fleet.cluster.leader_but(fleet.old).await;
    let ended = fleet.cluster.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    for peer in [&fleet.one, &fleet.two] {
        peer.released(&started.id).await;
        assert!(TASKS.iter().all(|task| peer.began(task) == 1));
    }
    fleet.sound(1).await;
}

/// It gives its lease back: nobody waits for that to pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_hands_over_at_once() {
    let mut cluster = Cluster::new(2).await;
    let (old, mut operator) = cluster.leader().await;
    operator.apply(cluster.world.service(&["n1"])).await.unwrap();
    let peer = cluster.world.peer("n1", &[("a", vec![1])]);
    peer.hold("upload");
    let started = operator.start_backup().await.unwrap();
    operator.until(&started.id, |operation| task(operation, "n1", "upload").is_some()).await;
    cluster.stop(old).await;
    cluster.leader_but(old).await;
    peer.let_go();
    assert_eq!(cluster.finished(&started.id).await.state(), OperationState::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_operation_stays_cancelled() {
    let mut fleet = fleet().await;
    fleet.two.hold("release");
    let started = fleet.stands_in("upload").await;
    let id = v1::GetOperationRequest { id: started.id.clone() };
    fleet.operator.0.cancel_operation(id).await.unwrap();
    fleet.cluster.cut_off(fleet.old).await;
    fleet.cluster.leader_but(fleet.old).await;
    fleet.two.let_go();
    let ended = fleet.cluster.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Cancelled, "{ended:#?}");
    fleet.one.released(&started.id).await;
    fleet.two.released(&started.id).await;
    fleet.sound(0).await;
    let repository = fleet.cluster.world.repository().await;
    assert_eq!(list_all(&**repository.storage(), "t/").await.unwrap(), [], "what it had uploaded is gone");
}

/// It does not know that its lease has ended, and goes on for as long as nobody tells it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_can_neither_write_nor_commit() {
    let mut fleet = fleet().await;
    let started = fleet.stands_in("manifest").await;
    let (old, before) = (fleet.old, fleet.cluster.cluster_at(fleet.old).await);
    fleet.cluster.doze(old);
    let new = 1 - old;
    let led = fleet.cluster.sees(new, |seen| seen.leader == fleet.cluster.name(new)).await;
    assert!(led.epoch > before.epoch);
    // Its agents are still with it, and what they tell it now would let it commit.
    fleet.two.let_go();
    fleet.cluster.leader_but(old).await;
    let ended = fleet.cluster.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_eq!(ended.epoch, led.epoch, "the new leader's work");
    assert!(fleet.one.epoch() == led.epoch && fleet.two.epoch() == led.epoch);
    fleet.sound(1).await;

    // Nor can its epoch do anything in the ledger, whoever tries.
    let repository = fleet.cluster.world.repository().await;
    let transaction = TransactionId([7; 16]);
    let purpose = palinurus_repository::ledger::Purpose::Backup;
    let begun = repository.begin(Epoch(before.epoch), transaction, purpose).await;
    assert_eq!(begun.unwrap_err().kind(), ErrorKind::Fenced);
    fleet.cluster.link(old).wake();
    fleet.cluster.sees(old, |seen| seen.epoch == led.epoch).await;
}

/// For longer than the lease lasts: nobody leads, nothing is committed, and nothing that was done is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_is_away_for_everybody() {
    let mut fleet = fleet().await;
    let started = fleet.stands_in("upload").await;
    let links = [fleet.cluster.link(0), fleet.cluster.link(1)];
    links.iter().for_each(palinurus_coordinator::state::Link::cut);
    fleet.cluster.lease_passes(fleet.old).await;
    for member in [0, 1] {
        fleet.cluster.sees(member, |seen| seen.leader.is_empty()).await;
    }
    let refused = fleet.cluster.operator(fleet.old).await.start_backup().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:?}");
    // An agent keeps what it has and goes on as far as it can alone.
    fleet.two.let_go();
    let list = v1::ListOperationsRequest::default();
    for member in [0, 1] {
        let stale = fleet.cluster.operator(member).await.0.list_operations(list.clone()).await;
        let stale = from_status(stale.unwrap_err());
        assert!(stale.kind() == ErrorKind::Unavailable && stale.hint().is_some(), "{stale:?}");
    }
    assert_eq!(fleet.cluster.world.repository().await.backups().await.len(), 0);
    links.iter().for_each(palinurus_coordinator::state::Link::mend);
    fleet.cluster.leader().await;
    let ended = fleet.cluster.finished(&started.id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    for peer in [&fleet.one, &fleet.two] {
        peer.released(&started.id).await;
        assert!(TASKS.iter().all(|task| peer.began(task) == 1));
    }
    fleet.sound(1).await;
}
