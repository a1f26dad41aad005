//! A lost node's place: looked at whenever the state is written to, and whenever an agent is about to do something.
use bytes::Bytes;
use palinurus_proto::v1::{self, OperationKind};
use prost::Message;

use crate::disk::Content;
use crate::fleet::state_of;
use crate::invariant::Invariant::OnePlace;
use crate::store::SCHEME;
use crate::world::{HostId, World, lock};

/// Which agent this machine's is.
pub(crate) fn instance(world: &World, host: HostId) -> Option<String> {
    std::fs::read_to_string(state_of(world, host).join("instance")).ok().map(|text| text.trim().to_owned())
}

pub(crate) fn stood_down(world: &World, host: HostId) -> bool {
    state_of(world, host).join("stood-down.json").exists()
}

fn record<T: Message + Default>(world: &World, key: &str) -> Option<T> {
    T::decode(lock(&world.registry).value(key)?).ok()
}

/// A record was stored.
pub(crate) fn wrote(world: &World, key: &str, value: &Bytes) {
    match *key.split('/').collect::<Vec<_>>() {
        ["node", service, _] => {
            let Ok(node) = v1::Node::decode(value.clone()) else { return };
            seated(world, service, &node);
        }
        ["operation", ..] => {
            let Ok(operation) = v1::Operation::decode(value.clone()) else { return };
            if let Some(detail) =
                operation.failover.as_ref().filter(|_| operation.kind() == OperationKind::Failover)
            {
                failover(world, &operation, detail);
            }
        }
        _ => {}
    }
}

fn fenced_by(world: &World, service: &str, instance: &String) -> Option<v1::Node> {
    let places = lock(&world.registry).values(&format!("node/{service}/"));
    let mut places = places.into_iter().filter_map(|value| v1::Node::decode(value).ok());
    places.find(|place| place.fenced.contains(instance))
}

/// Another agent has the place of this machine's.
pub(crate) fn shut_out(world: &World, service: &str, host: HostId) -> bool {
    instance(world, host).is_some_and(|instance| fenced_by(world, service, &instance).is_some())
}

/// Whoever was shut out has no seat again.
fn seated(world: &World, service: &str, node: &v1::Node) {
    if !node.connected {
        return;
    }
    if let Some(place) = fenced_by(world, service, &node.instance) {
        let what = format!(
            "agent {} of {} has a seat, and {} has shut it out",
            node.instance, node.name, place.name
        );
        world.violate(OnePlace, what);
    }
}

/// It begins with the newest backup, and in the end that lies where it was to go.
fn failover(world: &World, operation: &v1::Operation, detail: &v1::FailoverDetail) {
    let wanted = detail.manifest.as_ref().map(|manifest| manifest.manifest.to_vec()).unwrap_or_default();
    if operation.tasks.is_empty() && operation.finished_ms == 0 {
        let begun = lock(&world.registry).operations().into_iter().any(|other| {
            let same = |other: &v1::FailoverDetail| {
                (&other.node, &other.manifest) == (&detail.node, &detail.manifest)
            };
            other.id != operation.id && other.failover.as_ref().is_some_and(same)
        });
        let newest = newest(world, &operation.service, &detail.lost);
        if !begun && newest.as_ref() != Some(&wanted) {
            let what = format!("failover {} of {} is not from its newest backup", operation.id, detail.lost);
            world.violate(OnePlace, what);
        }
    }
    if operation.state() == v1::OperationState::Succeeded {
        let here = |host: &HostId| instance(world, *host).as_ref() == Some(&detail.instance);
        let Some(host) = (0..world.hosts.len()).find(here) else { return };
        // None: the disk was lost once more.
        if let Some(restored) = world.disk(host, |disk| disk.restored.clone())
            && restored != wanted
        {
            let what = format!(
                "failover {} has succeeded, and {} holds something else",
                operation.id, world.hosts[host]
            );
            world.violate(OnePlace, what);
        }
    }
}

/// The newest manifest of that node, or else of those whose places it took.
fn newest(world: &World, service: &str, node: &str) -> Option<Vec<u8>> {
    let known: Option<v1::Service> = record(world, &format!("service/{service}"));
    let spec = known.and_then(|known| known.nodes.into_iter().find(|spec| spec.name == node));
    let names: Vec<String> =
        std::iter::once(node.to_owned()).chain(spec.into_iter().flat_map(|spec| spec.succeeds)).collect();
    let mut vaults = lock(&world.vaults);
    vaults.get_mut(&format!("{SCHEME}{service}"))?.read(&world.key, |state| {
        names.iter().find_map(|name| {
            state.backups().rev().find_map(|backup| {
                let commit = backup.nodes.iter().find(|commit| commit.node == *name)?;
                Some(commit.manifest.encode())
            })
        })
    })?
}

/// An agent that has stood down touches nothing.
pub(crate) fn works(world: &World, host: HostId, what: &str) {
    if stood_down(world, host) {
        world.violate(OnePlace, format!("{} has stood down, and does: {what}", world.hosts[host]));
    }
}

/// Nothing is restored by a failover before its place is the new agent's, nor over data.
pub(crate) fn restores(
    world: &World,
    host: HostId,
    (service, node): (&str, &str),
    manifest: &[u8],
    delta: bool,
) {
    works(world, host, "restore");
    let running = lock(&world.registry).operations().into_iter().find(|operation| {
        operation.finished_ms == 0
            && operation.service == service
            && operation.failover.as_ref().is_some_and(|detail| detail.node == node)
    });
    let Some(detail) = running.and_then(|operation| operation.failover) else { return };
    if detail.manifest.as_ref().is_none_or(|wanted| wanted.manifest != manifest) {
        return; // of an operation before it, which has not heard yet that it is over
    }
    let lost: Option<v1::Node> = record(world, &format!("node/{service}/{}", detail.lost));
    if lost.is_some_and(|lost| lost.node_epoch < detail.node_epoch) {
        world.violate(OnePlace, format!("{service}.{node} is restored before {} is fenced", detail.lost));
    }
    if delta {
        world.violate(OnePlace, format!("a failover would restore over the data of {service}.{node}"));
    }
}

/// What a backup has of a node is its holder's: a replacement that is still empty is not the node.
pub(crate) fn reads(world: &World, host: HostId, (service, node): (&str, &str), content: &Content) {
    works(world, host, "read");
    let Some(known) = record::<v1::Node>(world, &format!("node/{service}/{node}")) else { return };
    let other = instance(world, host).is_some_and(|instance| instance != known.holder);
    if content.is_empty() && other && !known.holder.is_empty() && newest(world, service, node).is_some() {
        let what = format!("{} is empty and not who holds its place, and is backed up", world.hosts[host]);
        world.violate(OnePlace, what);
    }
}
