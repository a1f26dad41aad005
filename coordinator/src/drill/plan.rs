//! Which part of a backup is restored for proof, and by whose agent.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::ledger::{BackupRecord, NodeCommit};
use palinurus_repository::{Error, Result};

use crate::failover::names;
use crate::logs::locate;
use crate::vault::Vault;

/// What an operation is begun with.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) detail: v1::DrillDetail,
    pub(crate) nodes: Vec<String>,
}

/// Asks the store. `nodes` are the service's, as they are now.
pub(crate) async fn prepare(
    vault: &Vault,
    nodes: &[v1::Node],
    request: &v1::StartDrillRequest,
) -> Result<Prepared> {
    let repository = &vault.repository;
    repository.refresh().await?;
    let named = match request.backup.as_str() {
        "" | "latest" => None,
        named => Some(repository.find_backup(named).await?),
    };
    let (backup, logs) = match (&request.target, named) {
        (None, Some(named)) => (named, None),
        (None, None) => (repository.find_backup("latest").await?, None),
        (Some(target), named) => {
            let (backup, located) = locate(vault, target, named.map(|backup| backup.id)).await?;
            let logs = located.restore;
            (repository.find_backup(&backup.to_string()).await?, Some(logs))
        }
    };
    let parts = parts(nodes, &backup, &request.nodes)?;
    let sealed = repository.read(|state| state.sealed(backup.transactions())).await;
    Ok(Prepared {
        nodes: parts.iter().map(|part| part.node.clone()).collect(),
        detail: v1::DrillDetail {
            backup_id: backup.id.to_string(),
            parts,
            logs,
            key_epochs: palinurus_proto::to_wire(sealed),
            ..Default::default()
        },
    })
}

/// Pure. An agent has one part.
fn parts(nodes: &[v1::Node], backup: &Arc<BackupRecord>, wanted: &[String]) -> Result<Vec<v1::DrillPart>> {
    let agents: BTreeMap<&str, &v1::Node> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let sources: BTreeMap<&str, &NodeCommit> =
        backup.nodes.iter().map(|commit| (commit.node.as_str(), commit)).collect();
    let own = |source: &str| {
        let node = nodes.iter().find(|node| names(node).any(|name| name == source));
        node.map(|node| node.name.as_str())
    };
    let pairs: Vec<(&str, &str)> = match wanted {
        [] => sources
            .keys()
            .map(|source| {
                let node = own(source).ok_or_else(|| {
                    Error::conflict(format!("{source} of the backup is no node of the service any more"))
                        .with_hint(format!("say whose agent is to restore it: --node AGENT={source}"))
                })?;
                Ok((node, *source))
            })
            .collect::<Result<_>>()?,
        wanted => wanted.iter().map(|text| pair(text, &sources)).collect::<Result<_>>()?,
    };
    let mut seen = BTreeSet::new();
    let part = |(node, source): (&str, &str)| {
        let known = |all: Vec<&str>| all.join(", ");
        let agent = agents.get(node).ok_or_else(|| {
            Error::not_found(format!(
                "the service has no node {node:?}: it has {}",
                known(agents.keys().copied().collect())
            ))
        })?;
        let commit = sources.get(source).ok_or_else(|| {
            Error::not_found(format!(
                "the backup has no node {source:?}: it has {}",
                known(sources.keys().copied().collect())
            ))
        })?;
        if !seen.insert(node.to_owned()) {
            return Err(Error::invalid(format!("node {node} would have two parts at once"))
                .with_hint("name each agent once"));
        }
        if !agent.connected {
            return Err(Error::conflict(format!("node {node} is not connected")).with_hint(format!(
                "start its agent, or say whose agent is to restore it: --node AGENT={source}"
            )));
        }
        Ok(v1::DrillPart {
            node: node.to_owned(),
            source: source.to_owned(),
            manifest: commit.manifest.encode().into(),
            files: commit.files,
            bytes: commit.bytes,
        })
    };
    pairs.into_iter().map(part).collect()
}

/// `agent=source`; or `agent` alone, for what it has itself in the backup, or for the only part that there is.
fn pair<'a>(text: &'a str, sources: &BTreeMap<&'a str, &NodeCommit>) -> Result<(&'a str, &'a str)> {
    match (text.split_once('='), sources.keys().next()) {
        (Some((node, source)), _) if !node.is_empty() && !source.is_empty() => Ok((node, source)),
        (Some(_), _) => {
            Err(Error::invalid(format!("{text:?} names no node")).with_hint("write node or node=source"))
        }
        (None, _) if sources.contains_key(text) => Ok((text, text)),
        (None, Some(only)) if sources.len() == 1 => Ok((text, only)),
        (None, _) => Err(Error::invalid(format!("node {text} is not in the backup"))
            .with_hint(format!("say which part it is to restore: --node {text}=SOURCE"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn backup(nodes: &[&str]) -> Arc<BackupRecord> {
        Arc::new(fixture::backup(nodes))
    }

    fn node(name: &str, connected: bool) -> v1::Node {
        v1::Node { name: name.to_owned(), connected, ..Default::default() }
    }

    fn planned(
        nodes: &[v1::Node],
        backup: &Arc<BackupRecord>,
        wanted: &[&str],
    ) -> Result<Vec<(String, String)>> {
        let wanted: Vec<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
        let parts = parts(nodes, backup, &wanted)?;
        Ok(parts.into_iter().map(|part| (part.node, part.source)).collect())
    }

    #[test]
    fn each_part_goes_to_its_own_agent_or_where_it_is_told() {
        let pairs = |all: &[(&str, &str)]| -> Vec<(String, String)> {
            all.iter().map(|(node, source)| ((*node).to_owned(), (*source).to_owned())).collect()
        };
        let mut taken = node("n9", true);
        taken.succeeds = vec!["n2".to_owned()];
        let nodes = [node("n1", true), taken, node("spare", true)];
        assert_eq!(
            planned(&nodes, &backup(&["n1", "n2"]), &[]).unwrap(),
            pairs(&[("n1", "n1"), ("n9", "n2")])
        );
        assert_eq!(planned(&nodes, &backup(&["n1", "n2"]), &["n1"]).unwrap(), pairs(&[("n1", "n1")]));
        assert_eq!(planned(&nodes, &backup(&["n1"]), &["spare"]).unwrap(), pairs(&[("spare", "n1")]));
        assert_eq!(
            planned(&nodes, &backup(&["n1", "n2"]), &["spare=n2"]).unwrap(),
            pairs(&[("spare", "n2")])
        );
    }

    #[test]
    fn what_cannot_be_done_is_said_with_what_can() {
        let nodes = [node("n1", true), node("n2", false)];
        let both = backup(&["n1", "n2"]);
        for (wanted, word) in [
            (&[][..], "n2 is not connected"),
            (&["n1", "n1=n2"], "two parts"),
            (&["n1=n3"], "no node \"n3\""),
            (&["n7=n1"], "no node \"n7\""),
            (&["=n1"], "names no node"),
        ] {
            let error = planned(&nodes, &both, wanted).unwrap_err();
            assert!(error.what().contains(word), "{error:?}");
        }
        let error = planned(&nodes, &backup(&["old"]), &[]).unwrap_err();
        assert!(error.hint().unwrap().contains("AGENT=old"), "{error:?}");
        assert!(planned(&[node("x", true)], &both, &["x"]).is_err());
    }
}
