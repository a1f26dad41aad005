//! A fork: another service's nodes are given what a backup has, and go on by themselves. Pure.
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::Result;
use palinurus_repository::ledger::BackupRecord;

use super::{Planned, assigned, join, pair, sources};

/// Engines that keep a fork from acting on its parent's world. The tables of a clickhouse would join those of the same path in Keeper.
const TYPES: [&str; 2] = ["files", "postgresql"];

/// The service that is to be one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fork<'a> {
    pub(crate) service: &'a v1::Service,
    pub(crate) nodes: &'a [v1::Node],
    /// It has backups or a log of its own.
    pub(crate) has_past: bool,
}

/// Of the service `parent`; the other arguments are those of [`super::plan`].
pub(crate) fn plan_fork(
    parent: &v1::Service,
    fork: Fork<'_>,
    backup: &BackupRecord,
    all: &[Arc<BackupRecord>],
    wanted: &[String],
) -> Result<Planned> {
    let name = fork.service.name.as_str();
    let mut plan = v1::RestorePlan {
        service: parent.name.clone(),
        into: name.to_owned(),
        backup_id: backup.id.to_string(),
        ..v1::RestorePlan::default()
    };
    if parent.r#type != fork.service.r#type {
        plan.refusals.push(format!(
            "service {name} is of type {}, and the backup is of type {}: apply a service of that type",
            fork.service.r#type, parent.r#type
        ));
    }
    if !TYPES.contains(&parent.r#type.as_str()) {
        plan.refusals.push(format!(
            "a service of type {} is not forked: that is done for {}",
            parent.r#type,
            TYPES.join(", ")
        ));
    }
    if fork.has_past {
        plan.refusals.push(format!(
            "service {name} has backups of its own: a fork begins a service, so apply one that is new"
        ));
    }
    let pairs = match wanted {
        [] => matched(fork, backup, &mut plan),
        wanted => wanted.iter().map(|text| pair(text)).collect::<Result<_>>()?,
    };
    let left = |node: &&v1::Node| !node.spare && !pairs.iter().any(|(chosen, _)| *chosen == node.name);
    for node in fork.nodes.iter().filter(left) {
        if node.data_empty || !node.connected {
            plan.warnings.push(format!("node {} stays empty", node.name));
        } else {
            plan.refusals.push(format!(
                "node {} of service {name} holds data, and the fork is to be of one moment: empty it",
                node.name
            ));
        }
    }
    for source in sources(backup).keys().filter(|source| !pairs.iter().any(|(_, chosen)| chosen == *source)) {
        plan.warnings.push(format!("node {source} of the backup is restored onto nobody"));
    }
    Ok(assigned(plan, name, fork.nodes, backup, all, pairs))
}

/// By name where all names are the same, else in the order of the names.
fn matched<'a>(
    fork: Fork<'a>,
    backup: &'a BackupRecord,
    plan: &mut v1::RestorePlan,
) -> Vec<(&'a str, &'a str)> {
    let sources: Vec<&str> = sources(backup).into_keys().collect();
    let mut members: Vec<&str> =
        fork.nodes.iter().filter(|node| !node.spare).map(|node| node.name.as_str()).collect();
    members.sort_unstable();
    if members.len() == sources.len() {
        return members.into_iter().zip(sources).collect();
    }
    plan.refusals.push(format!(
        "the backup has {} nodes ({}), and service {} has {} ({}): say which is to be which, as node=source",
        sources.len(),
        join(sources.iter()),
        fork.service.name,
        members.len(),
        join(members.iter())
    ));
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::super::tests::node;
    use super::*;
    use crate::fixture::backup;

    fn service(name: &str, engine: &str) -> v1::Service {
        v1::Service { name: name.to_owned(), r#type: engine.to_owned(), ..v1::Service::default() }
    }

    fn planned(
        engines: (&str, &str),
        nodes: &[v1::Node],
        has_past: bool,
        wanted: &[&str],
    ) -> v1::RestorePlan {
        let fork = Fork { service: &service("b", engines.1), nodes, has_past };
        let wanted: Vec<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
        plan_fork(&service("a", engines.0), fork, &backup(&["n1", "n2"]), &[], &wanted).unwrap().plan
    }

    #[test]
    fn nodes_are_matched_in_order_or_as_they_are_named() {
        let files = ("files", "files");
        let pairs = |nodes: &[&str], wanted: &[&str]| {
            let nodes: Vec<v1::Node> = nodes.iter().map(|name| node(name, true, true)).collect();
            let plan = planned(files, &nodes, false, wanted);
            assert_eq!((plan.refusals.len(), plan.delta), (0, false), "{plan:#?}");
            assert_eq!((plan.service.as_str(), plan.into.as_str()), ("a", "b"));
            let pair = |it: &v1::RestoreAssignment| format!("{}={}", it.node, it.source);
            (plan.nodes.iter().map(pair).collect::<Vec<_>>().join(" "), plan.warnings.join("; "))
        };
        assert_eq!(pairs(&["n2", "n1"], &[]).0, "n1=n1 n2=n2");
        assert_eq!(pairs(&["z", "x"], &[]).0, "x=n1 z=n2");
        let (named, warned) = pairs(&["x", "y"], &["y=n1"]);
        assert_eq!(named, "y=n1");
        assert!(
            warned.contains("node x stays empty")
                && warned.contains("n2 of the backup is restored onto nobody")
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        let fits = [node("n1", true, true), node("n2", true, true)];
        let full = [node("n1", true, true), node("n2", true, false)];
        for (engines, nodes, has_past, wanted, why) in [
            (("files", "postgresql"), &fits[..], false, &[][..], "is of type postgresql, and the backup"),
            (("clickhouse", "clickhouse"), &fits, false, &[], "type clickhouse is not forked"),
            (("files", "files"), &fits, true, &[], "has backups of its own"),
            (
                ("files", "files"),
                &fits[..1],
                false,
                &[],
                "the backup has 2 nodes (n1, n2), and service b has 1 (n1)",
            ),
            (("files", "files"), &full, false, &[], "node n2 is not empty: empty it"),
            (("files", "files"), &full, false, &["n1"], "node n2 of service b holds data"),
            (("files", "files"), &fits, false, &["n1=n9"], "no node \"n9\""),
        ] {
            let plan = planned(engines, nodes, has_past, wanted);
            assert!(plan.refusals.iter().any(|refusal| refusal.contains(why)), "{why}: {:?}", plan.refusals);
            assert!(!plan.refusals.iter().any(|refusal| refusal.contains("delta")), "{:?}", plan.refusals);
        }
    }
}
