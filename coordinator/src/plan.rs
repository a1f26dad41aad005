//! Which node is restored from what, and why not. Pure: shown as a plan, and asked again when it is applied.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::ledger::{BackupRecord, NodeCommit};
use palinurus_repository::{Error, Result};

use crate::failover::names;

mod choice;
mod fork;
mod shards;
pub(crate) use choice::may_choose;
pub(crate) use fork::{Fork, plan_fork};

const LEFT_ALONE: &str =
    "chosen tables alone: users, roles, functions and named collections stay as they are";

#[derive(Debug, PartialEq)]
pub(crate) struct Planned {
    pub(crate) plan: v1::RestorePlan,
    /// For each node that is written to, what it is written from.
    pub(crate) manifests: Vec<v1::NodeManifest>,
}

/// `nodes` are the service's, as they are now; `all` are the backups there are, the newest last. A plan with refusals is a plan, to be shown; a request that cannot be
/// understood is an error.
pub(crate) fn plan(
    nodes: &[v1::Node],
    backup: &BackupRecord,
    all: &[Arc<BackupRecord>],
    request: &v1::RestoreRequest,
) -> Result<Planned> {
    let v1::RestoreRequest { service, delta, choice, .. } = request;
    let targets: BTreeMap<&str, &v1::Node> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut plan = v1::RestorePlan {
        backup_id: backup.id.to_string(),
        delta: *delta,
        choice: choice.clone(),
        ..v1::RestorePlan::default()
    };
    let pairs = match request.nodes.as_slice() {
        [] => onto_themselves(&targets, backup, &mut plan),
        wanted => wanted.iter().map(|text| pair(text)).collect::<Result<_>>()?,
    };
    if pairs.is_empty() {
        plan.refusals
            .push("no node of the service is in the backup: say which to restore, as node=source".to_owned());
    }
    service.clone_into(&mut plan.service);
    if choice.is_some() {
        plan.warnings.push(LEFT_ALONE.to_owned());
    }
    Ok(assigned(plan, service, nodes, backup, all, pairs))
}

fn sources(backup: &BackupRecord) -> BTreeMap<&str, &NodeCommit> {
    backup.nodes.iter().map(|commit| (commit.node.as_str(), commit)).collect()
}

/// The plan with those pairs of a node and its source, or why not.
fn assigned(
    plan: v1::RestorePlan,
    service: &str,
    nodes: &[v1::Node],
    backup: &BackupRecord,
    all: &[Arc<BackupRecord>],
    pairs: Vec<(&str, &str)>,
) -> Planned {
    let sources = sources(backup);
    let targets: BTreeMap<&str, &v1::Node> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut planned = Planned { plan, manifests: Vec::new() };
    let Planned { plan, manifests } = &mut planned;
    let missing = backup.missing.iter().map(|missing| {
        format!(
            "the backup is partial, it goes without node {} ({}); {}",
            missing.node,
            missing.reason,
            instead(all, &missing.node)
        )
    });
    plan.warnings.splice(0..0, missing);
    for (node, source) in pairs {
        let (Some(target), Some(commit)) = (targets.get(node), sources.get(source)) else {
            let missing = backup.missing.iter().any(|missing| missing.node == source);
            plan.refusals.push(if missing && targets.contains_key(node) {
                format!("the backup goes without node {source}: {}", instead(all, source))
            } else if targets.contains_key(node) {
                format!("the backup has no node {source:?}: it has {}", join(sources.keys()))
            } else {
                format!("service {service} has no node {node:?}: it has {}", join(targets.keys()))
            });
            continue;
        };
        if plan.nodes.iter().any(|assignment| assignment.node == node) {
            plan.refusals.push(format!("node {node} is named twice"));
            continue;
        }
        if target.spare {
            plan.refusals
                .push(format!("node {node} is a spare: it holds nothing until it takes a node's place"));
        } else if !target.connected {
            plan.refusals.push(format!("node {node} is not connected: start its agent"));
        } else if plan.choice.is_some() {
            // Beside what is there: the agent sees that no table is overwritten.
        } else if !target.data_empty && !plan.delta {
            let or = if plan.into.is_empty() { ", or restore with delta" } else { "" };
            plan.refusals.push(format!("the data directory of node {node} is not empty: empty it{or}"));
        } else if !target.data_empty {
            plan.warnings.push(format!(
                "the data directory of node {node} is made what it was in the backup: what differs is lost"
            ));
        }
        plan.nodes.push(v1::RestoreAssignment {
            node: node.to_owned(),
            source: source.to_owned(),
            files: commit.files,
            bytes: commit.bytes,
            data_empty: target.data_empty,
            connected: target.connected,
            shard: shards::of(commit).to_owned(),
        });
        manifests.push(v1::NodeManifest {
            node: node.to_owned(),
            backup_id: backup.id.to_string(),
            manifest: commit.manifest.encode().into(),
        });
    }
    planned
}

fn onto_themselves<'a>(
    targets: &BTreeMap<&'a str, &v1::Node>,
    backup: &'a BackupRecord,
    plan: &mut v1::RestorePlan,
) -> Vec<(&'a str, &'a str)> {
    let sources = sources(backup);
    let members = || targets.values().filter(|target| !target.spare);
    // What a node's past is called in the backup: its own name, or that of one whose place it took.
    let past = |node: &v1::Node| {
        let name = names(node).find(|name| sources.contains_key(name))?;
        sources.get_key_value(name).map(|(name, _)| *name)
    };
    let taken: BTreeSet<&str> = members().filter_map(|node| past(node)).collect();
    shards::left_out(backup, &taken, plan);
    for target in members().filter(|target| past(target).is_none()) {
        plan.warnings.push(format!("node {} is not in the backup and stays as it is", target.name));
    }
    targets
        .iter()
        .filter(|(_, node)| !node.spare)
        .filter_map(|(name, node)| Some((*name, past(node)?)))
        .collect()
}

/// Of a node that the backup does not have.
fn instead(all: &[Arc<BackupRecord>], node: &str) -> String {
    let has = |backup: &&Arc<BackupRecord>| backup.nodes.iter().any(|commit| commit.node == node);
    match all.iter().rev().find(has) {
        Some(backup) => format!("the newest backup that has it is {}", backup.id),
        None => "no backup has it".to_owned(),
    }
}

fn pair(text: &str) -> Result<(&str, &str)> {
    let (node, source) = text.split_once('=').unwrap_or((text, text));
    if node.is_empty() || source.is_empty() {
        return Err(Error::invalid(format!("{text:?} names no node")).with_hint("write node or node=source"));
    }
    Ok((node, source))
}

fn join<'a>(names: impl Iterator<Item = &'a &'a str>) -> String {
    names.copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use palinurus_repository::TransactionId;
    use palinurus_repository::ledger::MissingNode;
    use palinurus_repository::manifest::ManifestRef;

    use super::*;
    use crate::fixture::backup;

    pub(super) fn node(name: &str, connected: bool, data_empty: bool) -> v1::Node {
        v1::Node { name: name.to_owned(), connected, data_empty, ..Default::default() }
    }

    pub(super) fn request(wanted: &[&str], delta: bool) -> v1::RestoreRequest {
        let nodes = wanted.iter().map(|text| (*text).to_owned()).collect();
        v1::RestoreRequest { service: "s".to_owned(), nodes, delta, ..Default::default() }
    }

    fn planned(nodes: &[v1::Node], wanted: &[&str], delta: bool) -> Planned {
        plan(nodes, &backup(&["n1", "n2", "old"]), &[], &request(wanted, delta)).unwrap()
    }

    #[test]
    fn chosen_tables_need_no_empty_node() {
        let choice = v1::Choice { tables: vec!["d.t".to_owned()], ..Default::default() };
        let asked = v1::RestoreRequest { choice: Some(choice.clone()), ..request(&[], false) };
        let nodes = [node("n1", true, false), node("n2", false, true)];
        let Planned { plan, .. } = plan(&nodes, &backup(&["n1", "n2"]), &[], &asked).unwrap();
        assert_eq!(plan.refusals, ["node n2 is not connected: start its agent"]);
        assert_eq!((plan.choice, plan.warnings), (Some(choice), vec![LEFT_ALONE.to_owned()]));
    }

    #[test]
    fn every_node_onto_itself() {
        let Planned { plan, manifests } =
            planned(&[node("n1", true, true), node("n2", true, true), node("n3", true, true)], &[], false);
        assert_eq!(plan.refusals, Vec::<String>::new());
        assert_eq!(
            plan.nodes
                .iter()
                .map(|each| (each.node.as_str(), each.source.as_str(), each.files))
                .collect::<Vec<_>>(),
            [("n1", "n1", 7), ("n2", "n2", 7)]
        );
        assert_eq!(manifests.len(), 2);
        assert_eq!(ManifestRef::decode(&manifests[1].manifest).unwrap().node, "n2");
        assert!(
            plan.warnings.iter().any(|warning| warning.contains("old"))
                && plan.warnings.iter().any(|warning| warning.contains("n3"))
        );
    }

    #[test]
    fn another_nodes_part_and_refusals() {
        let nodes = [node("n1", true, true), node("n2", false, true), node("n3", true, false)];
        let refusals = |wanted: &[&str], delta| planned(&nodes, wanted, delta).plan.refusals.join("; ");
        assert_eq!(refusals(&["n1=old"], false), "");
        assert!(refusals(&["n2"], false).contains("n2 is not connected"));
        assert!(refusals(&["n3=n1"], false).contains("not empty"));
        assert_eq!(refusals(&["n3=n1"], true), "");
        assert!(refusals(&["n1=n9"], false).contains("has no node \"n9\": it has n1, n2, old"));
        assert!(refusals(&["n9=n1"], false).contains("service s has no node \"n9\""));
        assert!(refusals(&["n1", "n1=n2"], false).contains("twice"));
        assert!(!planned(&[node("n7", true, true)], &[], false).plan.refusals.is_empty());
        assert!(plan(&nodes, &backup(&["n1"]), &[], &request(&["=n1"], false)).is_err());
        assert!(planned(&nodes, &["n3=n1"], true).plan.warnings[0].contains("n3"));
    }

    #[test]
    fn a_partial_backup_says_whom_it_lacks_and_where_that_one_is() {
        let nodes = [node("n1", true, true), node("n3", true, true)];
        let missing = |node: &str| MissingNode {
            node: node.to_owned(),
            reason: "lost".to_owned(),
            files: 1,
            bytes: 1,
            paths: Vec::new(),
        };
        let partial = BackupRecord { missing: vec![missing("n3")], ..backup(&["n1"]) };
        let older = BackupRecord { id: TransactionId([7; 16]), ..backup(&["n1", "n3"]) };
        let all = [Arc::new(older), Arc::new(partial.clone())];
        let planned = |all: &[Arc<BackupRecord>], wanted: &[&str]| {
            plan(&nodes, &partial, all, &request(wanted, false)).unwrap().plan
        };
        let whole = planned(&all, &[]);
        assert_eq!((whole.nodes.len(), whole.refusals.len()), (1, 0));
        assert!(whole.warnings[0].contains("partial, it goes without node n3 (lost)"), "{whole:?}");
        assert!(whole.warnings[0].contains(&"07".repeat(16)), "{whole:?}");
        let refused = planned(&all, &["n3"]);
        assert!(refused.refusals[0].contains(&"07".repeat(16)), "{refused:?}");
        assert!(planned(&all[1..], &["n3"]).refusals[0].contains("no backup has it"));
    }
}
