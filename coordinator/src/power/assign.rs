//! Which node of a service that is powered on is given what of its backup.
use std::collections::BTreeSet;

use palinurus_proto::v1;

use crate::failover::names;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Node and source.
    Ready(Vec<(String, String)>),
    /// For whom, or for what.
    Waits(String),
    /// As the service is applied now, it cannot be.
    Never(String),
}

/// Each source to the node of its name, or that took its place; what is left goes to the nodes that are new, those that are
/// there before others.
pub(crate) fn assign(nodes: &[v1::Node], sources: &BTreeSet<&str>, delta: bool) -> Fit {
    let members: Vec<&v1::Node> = nodes.iter().filter(|node| !node.spare).collect();
    let own = |node: &v1::Node| names(node).find_map(|name| sources.get(name).copied());
    let mut pairs: Vec<(&v1::Node, &str)> = Vec::new();
    for (node, source) in members.iter().filter_map(|node| Some((*node, own(node)?))) {
        if !pairs.iter().any(|(_, taken)| *taken == source) {
            pairs.push((node, source));
        }
    }
    let left: Vec<&str> =
        sources.iter().copied().filter(|source| !pairs.iter().any(|(_, taken)| taken == source)).collect();
    let mut new: Vec<&v1::Node> = members
        .iter()
        .copied()
        .filter(|node| !pairs.iter().any(|(taken, _)| taken.name == node.name))
        .collect();
    new.sort_by_key(|node| (against(node, delta).is_some(), node.name.as_str()));
    if new.len() < left.len() {
        return Fit::Never(format!(
            "the backup has {} nodes ({}), and the service has {} to restore them onto ({}): apply it with {} more",
            sources.len(),
            joined(sources.iter().copied()),
            members.len(),
            joined(members.iter().map(|node| node.name.as_str())),
            left.len() - new.len(),
        ));
    }
    pairs.extend(new.into_iter().zip(left));
    let wrong: Vec<String> = pairs.iter().filter_map(|(node, _)| against(node, delta)).collect();
    if !wrong.is_empty() {
        return Fit::Waits(format!("{} of {} nodes missing: {}", wrong.len(), pairs.len(), wrong.join("; ")));
    }
    Fit::Ready(pairs.into_iter().map(|(node, source)| (node.name.clone(), source.to_owned())).collect())
}

/// Why it cannot be written to now.
fn against(node: &v1::Node, delta: bool) -> Option<String> {
    let name = &node.name;
    if !node.connected {
        return Some(format!("{name} is not connected"));
    }
    let full = !node.data_empty && !delta;
    full.then(|| format!("the directory of {name} holds data: empty it, or make it what it was in the backup: `service power-on --delta`"))
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
