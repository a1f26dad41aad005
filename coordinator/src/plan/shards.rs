//! What a plan says of shards, where the backup knows them: nodes of one shard hold the same, so that one of them brings
//! it, and a shard that nobody brings is missing. Pure.
use std::collections::BTreeSet;

use palinurus_proto::v1;
use palinurus_repository::ledger::{BackupRecord, NodeCommit};

use super::join;

pub(super) fn of(commit: &NodeCommit) -> &str {
    commit.cut.as_ref().map_or("", |cut| &cut.shard)
}

/// Of a restore of the whole: who is left out, and why that is no loss, or that it is one.
pub(super) fn left_out(backup: &BackupRecord, chosen: &BTreeSet<&str>, plan: &mut v1::RestorePlan) {
    let members = |shard: &str| -> Vec<&str> {
        backup.nodes.iter().filter(|other| of(other) == shard).map(|other| other.node.as_str()).collect()
    };
    let mut lost = BTreeSet::new();
    for commit in backup.nodes.iter().filter(|commit| !chosen.contains(commit.node.as_str())) {
        let (node, shard) = (&commit.node, of(commit));
        let peer = members(shard).into_iter().find(|member| chosen.contains(member));
        match peer {
            _ if shard.is_empty() => plan.warnings.push(format!(
                "node {node} of the backup is a node no more: restore it with node={node}"
            )),
            Some(peer) => plan.warnings.push(format!(
                "node {node} of the backup is left out: {peer} brings the same shard {shard}, all but what {node} has in \
                 tables that are not replicated"
            )),
            None if lost.insert(shard) => plan.refusals.push(format!(
                "nobody brings shard {shard}, which the backup has of {}: without it the cluster lacks those rows; \
                 name all nodes and where each comes from, one of them as node={node}",
                join(members(shard).iter())
            )),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use palinurus_repository::Timestamp;
    use palinurus_repository::ledger::Cut;

    use super::super::tests::{node, request};
    use super::*;
    use crate::fixture::backup;

    fn plan(nodes: &[&str], wanted: &[&str]) -> v1::RestorePlan {
        let mut backup = backup(&["a1", "a2", "b1", "b2", "x"]);
        for commit in &mut backup.nodes {
            let shard = commit.node[..commit.node.len() - 1].to_owned();
            commit.cut = Some(Cut { from: Timestamp(1), to: Timestamp(2), shard });
        }
        let nodes: Vec<v1::Node> = nodes.iter().map(|name| node(name, true, true)).collect();
        super::super::plan(&nodes, &backup, &[], &request(wanted, false)).unwrap().plan
    }

    #[test]
    fn fewer_replicas_are_enough_and_fewer_shards_are_not() {
        let all = plan(&["a1", "a2", "b1", "b2", "x"], &[]);
        assert_eq!((all.warnings, all.refusals), (Vec::new(), Vec::new()));
        assert_eq!(
            all.nodes.iter().map(|it| it.shard.as_str()).collect::<Vec<_>>(),
            ["a", "a", "b", "b", ""]
        );

        let fewer = plan(&["a2", "b1", "x"], &[]);
        assert_eq!(fewer.refusals, Vec::<String>::new());
        assert!(fewer.warnings[0].contains("a1 of the backup is left out: a2 brings the same shard a"));
        assert!(fewer.warnings[1].contains("b2 of the backup is left out: b1"), "{:?}", fewer.warnings);

        let [refusal] = &plan(&["a1", "a2", "x"], &[]).refusals[..] else { panic!("once for a shard") };
        assert!(refusal.contains("nobody brings shard b, which the backup has of b1, b2"), "{refusal}");
        // What is nobody else's is told as before, and a chosen node needs no other.
        assert!(
            plan(&["a1", "b1"], &[])
                .warnings
                .iter()
                .any(|it| it.contains("x of the backup is a node no more"))
        );
        assert_eq!(plan(&["a1", "b1"], &["a1"]).refusals, Vec::<String>::new());
    }

    #[test]
    fn one_more_replica_is_a_node_with_the_source_of_another() {
        let more = plan(&["a1", "a2", "a3", "b1", "b2", "x"], &[]);
        assert!(
            more.warnings[0].contains("a3 is not in the backup and stays as it is"),
            "{:?}",
            more.warnings
        );
        let named = plan(&["a1", "a3"], &["a1", "a3=a1"]);
        assert_eq!(named.nodes.iter().map(|it| it.source.as_str()).collect::<Vec<_>>(), ["a1", "a1"]);
    }
}
