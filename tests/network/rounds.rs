//! Faults drawn from a seed, round after round, while a backup runs and now and then a deletion or a restore.
//! `TEST_ROUNDS=100 TEST_SEED=7` runs more and others.
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use palinurus_proto::v1::{Operation, OperationState};
use palinurus_repository::ledger::Body;
use palinurus_tests::faults;
use palinurus_tests::fleet::{COORDINATORS, Fleet, MACHINES, on_a_network};
use palinurus_tests::operator::Operator;
use palinurus_tests::seeded::Random;
use palinurus_tests::tree::{self, Tree};
use palinurus_tests::world::wait_async;

use crate::loss;
use crate::sound::{self, Truth};

/// As many are kept; each round restores all of them.
const KEPT: usize = 3;
/// In each so many-th round a node is lost.
const LOSSES: u64 = 3;

#[test]
fn whatever_befalls_it_every_listed_backup_restores() {
    on_a_network(async |fleet| {
        let rounds = std::env::var("TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
        let mut random = Random::fresh();
        let mut truth = Truth::default();
        for round in 1..=rounds {
            let began = tokio::time::Instant::now();
            match round % LOSSES {
                0 => Box::pin(loss::one(fleet, &mut random, &mut truth, round)).await,
                _ => one(fleet, &mut random, &mut truth, round).await,
            }
            eprintln!("round {round} of {rounds} survived in {:.1} s", began.elapsed().as_secs_f64());
        }
        // After all that everything dies at once, and a backup goes as ever.
        MACHINES.iter().for_each(|name| fleet.kill(name));
        COORDINATORS.iter().for_each(|name| fleet.kill(name));
        fleet.heal();
        sound::settled(fleet).await;
        let ended = backup(&fleet.operator).await;
        assert!(good(&ended), "a backup without faults: {ended:?}");
        sound::settled(fleet).await;
        assert_eq!(sound::temporaries(fleet), Vec::<PathBuf>::new());
        let records = sound::ledger(fleet).await;
        let count = |is: fn(&Body) -> bool| records.iter().filter(|record| is(&record.body)).count();
        eprintln!(
            "{rounds} rounds: {} leaders, {} backups begun, {} committed, {} deleted",
            count(|body| matches!(body, Body::Leader { .. })),
            count(|body| matches!(body, Body::Begin { .. })),
            count(|body| matches!(body, Body::Commit { .. })),
            count(|body| matches!(body, Body::Forget { .. })),
        );
    });
}

async fn one(fleet: &mut Fleet, random: &mut Random, truth: &mut Truth, round: u64) {
    tree::change(&fleet.nodes().map(|node| fleet.data(node)), random);
    let now = sound::trees(fleet);
    let planned = faults::plan(random);
    let steps = steps(truth, fleet.nodes(), random);
    let wait = Duration::from_millis(random.below(400));
    eprintln!("round {round}: after {wait:?} {steps:?}");
    planned.iter().for_each(|planned| eprintln!("  {planned}"));
    let work = work(fleet.operator.clone(), wait, &steps, fleet.dir().to_owned());
    let (ended, ()) = tokio::join!(work, faults::happen(fleet, &planned));
    sound::settled(fleet).await;

    let listed = sound::listed(fleet).await;
    for (step, ended) in steps.iter().zip(&ended) {
        eprintln!("  {step:?} ended as {}", said(ended));
        match step {
            Step::Backup => {
                let id = &ended.backup.as_ref().expect("a backup says which").backup_id;
                assert_eq!(good(ended), listed.contains(id), "what has ended well is listed: {ended:?}");
            }
            Step::Delete(id) => {
                assert!(!good(ended) || !listed.contains(id), "what was deleted is not listed: {ended:?}");
                // Failed is failed, and says how far it came: the list decides.
                if !listed.contains(id) {
                    truth.0.remove(id);
                }
            }
            Step::Restore(id, node) => restored(fleet, truth, id, node, ended.clone()).await,
        }
    }
    // Whatever was committed in this round was taken of this round's data.
    for id in &listed {
        truth.0.entry(id.clone()).or_insert_with(|| now.clone());
    }
    sound::backups(fleet, truth).await;
    sound::ledger(fleet).await;

    thin(fleet, truth).await;
}

/// The oldest backups go.
pub(crate) async fn thin(fleet: &Fleet, truth: &mut Truth) {
    while truth.0.len() > KEPT {
        let oldest = sound::oldest(fleet).await;
        let ended = delete(&fleet.operator, &oldest).await;
        assert!(good(&ended), "a deletion without faults: {ended:?}");
        truth.0.remove(&oldest);
    }
}

/// What is asked for in a round, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Backup,
    Delete(String),
    /// Onto an emptied directory. Always the last: what it brings is not this round's data.
    Restore(String, &'static str),
}

fn steps(truth: &Truth, nodes: [&'static str; 3], random: &mut Random) -> Vec<Step> {
    let ids: Vec<&String> = truth.0.keys().collect();
    let (delete, restore) = match ids.len() as u64 {
        0 => return vec![Step::Backup],
        some => {
            let mut any = || ids[random.below(some) as usize].clone();
            (Step::Delete(any()), Step::Restore(any(), nodes[random.below(3) as usize]))
        }
    };
    // Of a node that took another's place only backups since then are restored here.
    let restore = match &restore {
        Step::Restore(id, node) if truth.0[id].contains_key(node) => restore,
        _ => Step::Backup,
    };
    match random.below(8) {
        0 => vec![Step::Backup, delete],
        1 => vec![Step::Backup, restore],
        2 => vec![delete, Step::Backup],
        3 => vec![delete],
        4 => vec![restore],
        _ => vec![Step::Backup],
    }
}

async fn work(operator: Operator, wait: Duration, steps: &[Step], dir: std::path::PathBuf) -> Vec<Operation> {
    // The first fault may come before the first step.
    tokio::time::sleep(wait).await;
    let mut all = Vec::new();
    for step in steps {
        all.push(match step {
            Step::Backup => backup(&operator).await,
            Step::Delete(id) => delete(&operator, id).await,
            Step::Restore(id, node) => {
                let data = dir.join(node).join("data");
                fs::remove_dir_all(&data).unwrap();
                fs::create_dir(&data).unwrap();
                restore(&operator, id, node, false).await
            }
        });
    }
    all
}

pub(crate) async fn backup(operator: &Operator) -> Operation {
    let started = operator.start_backup().await;
    operator.ended(&started.id).await
}

async fn delete(operator: &Operator, id: &str) -> Operation {
    let started = wait_async("a deletion starts", async || operator.start_delete(id).await.ok()).await;
    operator.ended(&started.id).await
}

/// Starts as soon as the node is connected and seen to be empty.
async fn restore(operator: &Operator, id: &str, node: &str, delta: bool) -> Operation {
    let started =
        wait_async("a restore starts", async || operator.start_restore(id, node, delta).await.ok()).await;
    operator.ended(&started.id).await
}

/// A restore that failed under faults is done again over what there is, and has to end well.
async fn restored(fleet: &Fleet, truth: &Truth, id: &str, node: &'static str, mut ended: Operation) {
    if !good(&ended) {
        ended = restore(&fleet.operator, id, node, true).await;
    }
    assert!(good(&ended), "a restore without faults: {ended:?}");
    let differences = truth.0[id][node].differences(&Tree::of(&fleet.data(node)));
    assert_eq!(differences, Vec::<String>::new(), "{node} restored in place from {id}");
}

pub(crate) fn good(operation: &Operation) -> bool {
    matches!(operation.state(), OperationState::Succeeded | OperationState::Warnings)
}

pub(crate) fn said(operation: &Operation) -> String {
    let took = Duration::from_millis(operation.finished_ms.saturating_sub(operation.created_ms));
    let why = operation.failure.as_ref().map(|failure| format!(": {} ({})", failure.message, failure.kind));
    format!("{:?} in {took:?}{}", operation.state(), why.unwrap_or_default())
}
