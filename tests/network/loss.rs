//! A node that loses its data, or goes for good, in the middle of a backup and other faults.
use palinurus_proto::v1::{self, Operation, OperationKind};
use palinurus_tests::faults::{self, Fault};
use palinurus_tests::fleet::{Fleet, MACHINES};
use palinurus_tests::operator::Operator;
use palinurus_tests::seeded::Random;
use palinurus_tests::tree::{self, Tree};
use palinurus_tests::world::{SERVICE, wait, wait_async};

use crate::rounds::{backup, good, said, thin};
use crate::sound::{self, Truth};

/// The longest that a failover that failed under faults is left to itself.
const TRIES: u64 = 5;

pub(crate) async fn one(fleet: &mut Fleet, random: &mut Random, truth: &mut Truth, round: u64) {
    let before = backed_up(fleet, random, truth).await;
    tree::change(&fleet.nodes().map(|node| fleet.data(node)), random);
    let now = sound::trees(fleet);
    let (planned, loss) = faults::plan_loss(random);
    let lost = match loss {
        Fault::ReplaceAgent(i) | Fault::LoseAgent(i) => fleet.nodes()[i],
        other => panic!("{other:?} is no loss"),
    };
    eprintln!("round {round}: {lost} is lost");
    planned.iter().for_each(|planned| eprintln!("  {planned}"));
    let operator = fleet.operator.clone();
    let (begun, ()) = tokio::join!(operator.start_backup(), faults::happen(fleet, &planned));
    let taken = operator.ended(&begun.id).await;
    eprintln!("  {} ended as {}", taken.kind().as_str_name(), said(&taken));

    let failover = failed_over(fleet, lost, &before).await;
    eprintln!("  the failover of {lost} ended as {}", said(&failover));
    let detail = failover.failover.clone().expect("a failover says what it did");
    let newest = &detail.manifest.as_ref().expect("a failover says from what").backup_id;
    assert_eq!(newest, &newest_before(fleet, &failover).await, "the newest backup");
    let node = MACHINES.into_iter().find(|node| *node == detail.node).unwrap();
    // A backup that began before it has this round's data; one after it has what was restored.
    for id in
        sound::listed(fleet).await.into_iter().filter(|id| !truth.0.contains_key(id)).collect::<Vec<_>>()
    {
        assert_eq!(taken.backup.as_ref().map(|backup| &backup.backup_id), Some(&id), "a backup of nobody's");
        let mut held = now.clone();
        if taken.created_ms >= failover.created_ms {
            held.remove(lost);
            held.insert(node, truth.0[newest][lost].clone());
        }
        truth.0.insert(id, held);
    }
    let differences = truth.0[newest][lost].differences(&Tree::of(&fleet.data(node)));
    assert_eq!(differences, Vec::<String>::new(), "{node} after the failover of {lost}");
    if node != lost {
        returns(fleet, lost, node).await;
    }
    sound::settled(fleet).await;
    sound::backups(fleet, truth).await;
    sound::ledger(fleet).await;
    thin(fleet, truth).await;
}

/// What there is to lose a node with: a backup of all, and the ids of the failovers so far.
async fn backed_up(fleet: &mut Fleet, random: &mut Random, truth: &mut Truth) -> Vec<String> {
    tree::change(&fleet.nodes().map(|node| fleet.data(node)), random);
    let now = sound::trees(fleet);
    let ended = backup(&fleet.operator).await;
    assert!(good(&ended), "a backup without faults: {ended:?}");
    truth.0.insert(ended.backup.expect("a backup says which").backup_id, now);
    failovers(&fleet.operator).await.into_iter().map(|operation| operation.id).collect()
}

async fn failovers(operator: &Operator) -> Vec<Operation> {
    let request = v1::ListOperationsRequest { service: SERVICE.into(), running: false };
    let all = operator.ask("the operations", async |mut client| {
        Ok(client.list_operations(request.clone()).await?.into_inner().operations)
    });
    let all = all.await.unwrap();
    all.into_iter().filter(|operation| operation.kind() == OperationKind::Failover).collect()
}

/// By itself; one that failed under the faults is asked for again.
async fn failed_over(fleet: &Fleet, lost: &str, before: &[String]) -> Operation {
    for _ in 0..TRIES {
        let last = wait_async(&format!("the failover of {lost} begins"), async || {
            failovers(&fleet.operator).await.into_iter().rfind(|operation| !before.contains(&operation.id))
        })
        .await;
        let ended = fleet.operator.ended(&last.id).await;
        if good(&ended) {
            return ended;
        }
        eprintln!("  a failover ended as {}", said(&ended));
        // Once it is fenced, a place that a spare has taken is the spare's.
        let detail = ended.failover.expect("a failover says what it did");
        wait_async("another failover begins", async || {
            for node in [&detail.lost, &detail.node] {
                let node = node.clone();
                let request = v1::FailoverRequest { service: SERVICE.into(), node, ..Default::default() };
                let again = fleet.operator.ask("a failover", async |mut client| {
                    Ok(client.apply_failover(request.clone()).await?.into_inner())
                });
                if again.await.is_ok() {
                    return Some(());
                }
            }
            // Or by itself.
            let last = failovers(&fleet.operator).await.pop()?;
            (last.id != ended.id).then_some(())
        })
        .await;
    }
    panic!("no failover of {lost} succeeds");
}

/// The newest backup that was committed when the failover began.
async fn newest_before(fleet: &Fleet, failover: &Operation) -> String {
    let request = v1::ListBackupsRequest { service: SERVICE.into() };
    let listed = fleet.operator.ask("the backups", async |mut client| {
        Ok(client.list_backups(request.clone()).await?.into_inner().backups)
    });
    let mut listed = listed.await.unwrap().into_iter();
    let newest = listed.rfind(|backup| backup.committed_ms <= failover.created_ms);
    newest.expect("there is a backup").id
}

/// The old machine is back: its agent stands down and touches nothing. Then it is the spare, with nothing on it.
async fn returns(fleet: &mut Fleet, lost: &'static str, taken_by: &'static str) {
    let before = Tree::of(&fleet.data(lost));
    fleet.bring(lost);
    let mark = fleet.path(lost).join("state/stood-down.json");
    wait(&format!("{lost} stands down"), || mark.exists().then_some(())).await;
    let differences = before.differences(&Tree::of(&fleet.data(lost)));
    assert_eq!(differences, Vec::<String>::new(), "{lost}, whose place {taken_by} has");
    fleet.lose(lost);
    fleet.spare = lost;
    fleet.apply().await;
    fleet.renew(lost);
}
