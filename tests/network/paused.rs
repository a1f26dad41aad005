//! A leader that stands still for longer than its lease, in the middle of what it does, and wakes when another leads.
use palinurus_proto::v1;
use palinurus_repository::ledger::Body;
use palinurus_tests::fleet::{COORDINATORS, Fleet, NODES, on_a_network};
use palinurus_tests::seeded::Random;
use palinurus_tests::tree;
use palinurus_tests::world::{SERVICE, wait, wait_async};
use tonic::Code;

use crate::sound::{self, Truth};

#[test]
fn a_leader_that_wakes_after_its_lease_neither_commits_nor_deletes() {
    on_a_network(async |fleet| {
        let mut random = Random::new(8);
        let mut truth = Truth::default();

        // In the middle of a backup: the next leader finishes it as the same backup. One that was over before its
        // leader slept is followed by another.
        let dirs = NODES.map(|node| fleet.data(node));
        let id = loop {
            (0..4).for_each(|_| tree::change(&dirs, &mut random));
            let now = sound::trees(fleet);
            let backup = fleet.operator.start_backup().await;
            let id = backup.backup.as_ref().unwrap().backup_id.clone();
            comes_to(fleet, &backup.id, "upload").await;
            let ended = outlive(fleet, &backup).await;
            assert_eq!(ended.backup.as_ref().unwrap().backup_id, id, "the same backup");
            truth.0.insert(id.clone(), now);
            let records = sound::ledger(fleet).await;
            let commits = records.iter().filter(|record| matches!(record.body, Body::Commit { .. })).count();
            assert_eq!(commits, truth.0.len(), "each is committed once");
            sound::backups(fleet, &truth).await;
            if ended.epoch > backup.epoch {
                break id;
            }
        };

        // In the middle of a deletion: the next leader goes on with it, and keeps what it has to keep.
        // A deletion is over in milliseconds, however slow its leader's line: what the leader had sent before it
        // slept may be the end of it. Then the next one is deleted, until one is caught in its middle.
        let mut oldest = id;
        loop {
            tree::change(&dirs, &mut random);
            let now = sound::trees(fleet);
            let next = fleet.operator.start_backup().await;
            let next = fleet.operator.ended(&next.id).await.backup.unwrap().backup_id;
            truth.0.insert(next.clone(), now);
            let leader = fleet.operator.leader().await;
            fleet.net.slow(&leader);
            let deletion = fleet.operator.start_delete(&oldest).await.unwrap();
            let ended = outlive(fleet, &deletion).await;
            truth.0.remove(&oldest);
            sound::backups(fleet, &truth).await;
            if ended.epoch > deletion.epoch {
                break;
            }
            oldest = next;
        }

        // Who knows only one that stands by is led to the leader.
        let leader = fleet.operator.leader().await;
        let standby = COORDINATORS.into_iter().find(|name| *name != leader).unwrap();
        let now = sound::trees(fleet);
        let third = fleet.cli(standby, &["backup", "start"]).await.json();
        truth.0.insert(third["backup"].as_str().unwrap().to_owned(), now);
        sound::settled(fleet).await;
        sound::backups(fleet, &truth).await;
    });
}

/// Or is over before it was seen there.
async fn comes_to(fleet: &Fleet, id: &str, phase: &str) {
    wait_async(&format!("operation {id} comes to its phase {phase}"), async || {
        let running = fleet.operator.running().await.into_iter().find(|operation| operation.id == id);
        running.is_none_or(|running| running.phase == phase).then_some(())
    })
    .await;
}

/// Pauses the leader until another leads and the operation is at its end, wakes it, and sees it stand by.
async fn outlive(fleet: &mut Fleet, begun: &v1::Operation) -> v1::Operation {
    let old = fleet.operator.leader().await;
    let old = COORDINATORS.into_iter().find(|name| *name == old).unwrap();
    let stood_down = stood_down(fleet, old);
    fleet.pause(old);
    let another = async |fleet: &Fleet| fleet.operator.leaders().await.into_iter().find(|name| name != old);
    wait_async("another leads", async || another(fleet).await).await;
    fleet.net.heal();
    let ended = fleet.operator.ended(&begun.id).await;
    assert_eq!(ended.state(), v1::OperationState::Succeeded, "{ended:?}");
    let written = wait_async("another leads the repository", async || {
        let new = another(fleet).await?;
        let written = sound::ledger(fleet).await;
        let epoch = written.last().unwrap().epoch;
        let lead = written.iter().find(|record| record.epoch == epoch).unwrap();
        matches!(&lead.body, Body::Leader { name } if *name == new).then_some(written)
    })
    .await;

    fleet.resume(old);
    wait(&format!("{old} says that it stepped down"), || {
        (self::stood_down(fleet, old) > stood_down).then_some(())
    })
    .await;
    // It stands by, and names the leader.
    wait_async(&format!("{old} names who leads"), async || {
        let request = v1::StartBackupRequest { service: SERVICE.into(), full: false };
        let asked = fleet.operator.ask_one(old, async |mut client| client.start_backup(request).await).await;
        let refused = asked.expect_err("a coordinator that does not lead begins nothing");
        let named = refused.metadata().get("palinurus-leader").map(|leader| leader.to_str().unwrap());
        let new = another(fleet).await?;
        let address = format!("{}:{}", fleet.net.host(&new).address, palinurus_tests::operator::PORT);
        (refused.code() == Code::FailedPrecondition && named == Some(&*address)).then_some(())
    })
    .await;
    fleet.led().await;
    // `ledger` has checked that nothing of a lower epoch follows; and nothing at all was written since, but by one more
    // leader, should a machine have stood still for that long.
    let mut records = sound::ledger(fleet).await;
    let since = records.split_off(written.len());
    assert_eq!(records, written);
    assert!(since.iter().all(|record| matches!(record.body, Body::Leader { .. })), "{since:?}");
    assert_eq!(fleet.operator.ended(&begun.id).await, ended);
    sound::settled(fleet).await;
    ended
}

/// How often it did.
fn stood_down(fleet: &Fleet, name: &str) -> usize {
    let log = std::fs::read_to_string(fleet.log(name)).unwrap();
    log.lines().filter(|line| line.contains("stepping down")).count()
}
