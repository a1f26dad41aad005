//! What has to hold after any round, and the truth that backups are held against.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use palinurus_proto::v1::ListBackupsRequest;
use palinurus_repository::ledger::{Body, Record};
use palinurus_repository::{KeyFile, Repository, ledger, storage};
use palinurus_tests::fleet::{COORDINATORS, Fleet, MACHINES};
use palinurus_tests::tree::Tree;
use palinurus_tests::world::{SERVICE, files_below, wait, wait_async};

/// What the nodes held, by node.
pub(crate) type Trees = BTreeMap<&'static str, Tree>;

/// What each backup has to restore.
#[derive(Debug, Default)]
pub(crate) struct Truth(pub(crate) BTreeMap<String, Trees>);

pub(crate) fn trees(fleet: &Fleet) -> Trees {
    fleet.nodes().into_iter().map(|node| (node, Tree::of(&fleet.data(node)))).collect()
}

/// The backups in the repository, as it says itself.
pub(crate) async fn listed(fleet: &Fleet) -> BTreeSet<String> {
    let list = fleet.offline(&["repository", "list"]).await.json();
    let id = |backup: &serde_json::Value| backup["id"].as_str().unwrap().to_owned();
    list["backups"].as_array().unwrap().iter().map(id).collect()
}

/// In the order in which they were taken.
pub(crate) async fn oldest(fleet: &Fleet) -> String {
    let list = fleet.offline(&["repository", "list"]).await.json();
    let backups = list["backups"].as_array().unwrap();
    let first = backups.iter().min_by_key(|backup| backup["committed"].as_str().unwrap().to_owned());
    first.unwrap()["id"].as_str().unwrap().to_owned()
}

/// One leads, all agents are there, nothing runs and nothing is left behind.
pub(crate) async fn settled(fleet: &mut Fleet) {
    let operator = fleet.operator.clone();
    fleet.led().await;
    for name in COORDINATORS {
        wait_async(&format!("{name} knows who leads"), async || {
            let leader = operator.leaders().await.pop()?;
            (operator.leader_by(name).await == leader).then_some(())
        })
        .await;
    }
    fleet.joined().await;
    wait_async("no operation runs", async || operator.running().await.is_empty().then_some(())).await;
    for node in MACHINES {
        let state = fleet.path(node).join("state");
        let kept = || ["journal", "spool"].iter().flat_map(|part| files_below(&state.join(part)));
        wait(&format!("{node} keeps nothing: {:?}", kept().collect::<Vec<_>>()), || {
            kept().next().is_none().then_some(())
        })
        .await;
        assert!(!fleet.frozen(node).exists(), "{node} is still frozen");
    }
    let own: Vec<String> = fleet.pids().iter().map(|pid| format!("{pid}-")).collect();
    wait("nobody who lives has temporary files", || {
        let names = temporaries(fleet).into_iter().map(|path| path.file_name().unwrap().to_owned());
        let mut names = names.map(|name| name.to_string_lossy().into_owned());
        (!names.any(|name| own.iter().any(|own| name.starts_with(own)))).then_some(())
    })
    .await;
}

/// Half-written objects. Those of the dead go when the next process writes for the first time.
pub(crate) fn temporaries(fleet: &Fleet) -> Vec<PathBuf> {
    files_below(&fleet.repository().join("tmp"))
}

/// Every coordinator lists the same backups as the repository itself; the repository is whole, and each backup restores
/// what it is said to be.
pub(crate) async fn backups(fleet: &Fleet, truth: &Truth) {
    let alone = listed(fleet).await;
    for name in COORDINATORS {
        let request = ListBackupsRequest { service: SERVICE.into() };
        wait_async(&format!("{name} lists the backups {alone:?}"), async || {
            let listed = fleet.operator.ask_one(name, async |mut client| {
                Ok(client.list_backups(request.clone()).await?.into_inner().backups)
            });
            let listed: BTreeSet<String> = listed.await.ok()?.into_iter().map(|backup| backup.id).collect();
            (listed == alone).then_some(())
        })
        .await;
    }
    let known: BTreeSet<String> = truth.0.keys().cloned().collect();
    assert_eq!(alone, known, "the backups in the repository, and those that were made and not deleted");
    let restores = truth.0.iter().flat_map(|(backup, trees)| trees.iter().map(move |tree| (backup, tree)));
    for (backup, (node, want)) in restores {
        restores_as(fleet, backup, node, want).await;
    }
    fleet.offline(&["repository", "check", "--read-data"]).await;
}

async fn restores_as(fleet: &Fleet, backup: &str, node: &str, want: &Tree) {
    let target = fleet.path("target");
    let to = target.to_str().unwrap();
    fleet.offline(&["restore", "--backup", backup, "--node", node, "--target", to]).await;
    let differences = want.differences(&Tree::of(&target));
    assert_eq!(differences, Vec::<String>::new(), "{node} restored from {backup}");
    fs::remove_dir_all(&target).unwrap();
}

/// No record is void, no transaction is left open, and no epoch writes after a higher one has.
pub(crate) async fn ledger(fleet: &Fleet) -> Vec<Record> {
    let (key, _) = KeyFile::read(&fleet.key()).unwrap();
    let storage = storage::open(&fleet.repository_url()).unwrap();
    let repository = Repository::open(storage, &[key]).await.unwrap();
    assert_eq!(repository.void_records().await, Vec::<u64>::new(), "void records");
    let open = repository.read(|state| state.open_transactions().len()).await;
    assert_eq!(open, 0, "transactions that nobody ended");
    let records = ledger::history(&**repository.storage(), repository.keys()).await.unwrap();
    for (number, pair) in (1..).zip(records.windows(2)) {
        assert!(pair[0].epoch <= pair[1].epoch, "record {number}: {:?} after {:?}", pair[1], pair[0]);
        let leads = matches!(pair[1].body, Body::Leader { .. });
        assert!(
            leads || pair[0].epoch == pair[1].epoch,
            "record {number} of one who never led: {:?}",
            pair[1]
        );
    }
    records
}
