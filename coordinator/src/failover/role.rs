//! What a lost node is to be where one node's data is all of the service's: a replica of the node that is written, or, when
//! nobody has the data any more, the one that is written. Pure.
use palinurus_proto::v1;

use super::{Place, Rebuild, Source, View};

/// And why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Role {
    /// Empty: it is to be written itself.
    pub(super) follows: String,
    pub(super) why: Option<String>,
}

/// Or why it cannot be said yet.
pub(super) fn role(view: View<'_>, lost: &v1::Node) -> Result<Role, String> {
    let name = &lost.name;
    if !view.policy.replicated {
        return Ok(Role { follows: String::new(), why: None });
    }
    let others = || view.places.iter().filter(|place| is_other(place, lost));
    let written: Vec<&str> = others()
        .filter(|place| place.gone_since.is_none() && place.node.primary)
        .map(|place| place.node.name.as_str())
        .collect();
    match written.as_slice() {
        [] => {}
        [one] => {
            let why = format!("{one} is the primary: {name} is made a replica of it");
            return Ok(Role { follows: (*one).to_owned(), why: Some(why) });
        }
        more => return Err(format!("{} are all primaries: only one can be right", more.join(" and "))),
    }
    // What it has may be newer than any backup, and who has it is to be written: that is not for a backup to decide.
    if let Some(place) = others().next() {
        if view.policy.from_backup && lost.holder_primary {
            let why = format!(
                "{name} was the primary, and failover_from is backup: it is rebuilt from the backup and the log behind it, \
                 though {} has data",
                place.node.name
            );
            return Ok(Role { follows: String::new(), why: Some(why) });
        }
        return Err(format!(
            "{} has the service's data, which may be newer than any backup, and is no primary now: promote it, or start it",
            place.node.name
        ));
    }
    let why = format!(
        "no other node has the service's data: {name} is rebuilt from the backup and the log behind it"
    );
    Ok(Role { follows: String::new(), why: Some(why) })
}

/// A member with data of its own.
fn is_other(place: &Place, lost: &v1::Node) -> bool {
    let node = &place.node;
    node.name != lost.name && !node.spare && !node.holder.is_empty() && !node.data_empty
}

/// The newest that has the node's data: where one node's is everybody's, whoever's it is.
pub(super) fn source<'a>(view: View<'a>, node: &v1::Node) -> Option<&'a Source> {
    if view.policy.replicated { view.sources.latest() } else { view.sources.newest(node) }
}

/// Where a node's data comes from that others of its shard have too: whether from them. And why.
pub(super) fn from_peers(view: View<'_>, lost: &v1::Node) -> (bool, Option<String>) {
    let shard = |node: &v1::Node| view.sources.newest(node).map_or("", |source| source.shard.as_str());
    let own = shard(lost);
    if own.is_empty() || view.policy.rebuild == Rebuild::Alone {
        return (false, None);
    }
    if view.policy.rebuild == Rebuild::Backup {
        let why =
            "failover_from is backup: what the backup lacks of replicated tables comes from other replicas";
        return (false, Some(why.to_owned()));
    }
    let mut peers = view
        .places
        .iter()
        .filter(|place| is_other(place, lost) && place.gone_since.is_none() && shard(&place.node) == own);
    match peers.next() {
        Some(peer) => {
            let name = &peer.node.name;
            let why = format!(
                "failover_from is replica, and {name} of shard {own} is there: replicated tables come from the other replicas"
            );
            (true, Some(why))
        }
        None => {
            let why = format!(
                "failover_from is replica, and no other node of shard {own} is there: all comes from the backup"
            );
            (false, Some(why))
        }
    }
}
