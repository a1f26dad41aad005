//! What must hold when a run is over. `I2`, `I3` and `I8` are looked at as it goes, by store and state.
use std::path::Path;

use palinurus_repository::ledger::{BackupRecord, PackSet};
use palinurus_repository::pack::PackId;
use palinurus_repository::storage::list_all;
use palinurus_repository::{Error, Storage};

use crate::chance::Chance;
use crate::fleet::{Fleet, Role, state_of};
use crate::invariant::Invariant;
use crate::log;
use crate::mover::read_all;
use crate::store::{SCHEME, Vault, at_once};
use crate::world::{World, lock, trace};

/// What stays behind on disks, in state directories and ledgers (I5).
pub(crate) fn left(world: &World, fleet: &Fleet) -> Vec<String> {
    let mut left = Vec::new();
    for (host, role) in fleet.roles.iter().enumerate() {
        let Role::Agent { .. } = role else { continue };
        let name = &world.hosts[host];
        world.disk(host, |disk| {
            left.extend(disk.frozen.as_ref().map(|by| format!("{name} is frozen by {by}")));
            left.extend(disk.held.keys().map(|by| format!("{name} holds a snapshot of {by}")));
        });
        for kind in ["spool", "journal"] {
            let kept = names(&state_of(world, host).join(kind));
            left.extend(kept.into_iter().map(|entry| format!("{name} keeps {kind}/{entry}")));
        }
    }
    for (url, vault) in lock(&world.vaults).iter_mut() {
        let open: Option<Vec<_>> =
            vault.read(&world.key, |state| state.open_transactions().keys().copied().collect());
        left.extend(open.into_iter().flatten().map(|open| format!("transaction {open} of {url} is open")));
    }
    left
}

fn names(directory: &Path) -> Vec<String> {
    let entries = directory.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// As long as nothing is damaged.
pub(crate) fn all(world: &World, fleet: &Fleet) {
    i1_restores(world);
    i4_ended(world);
    i6_bounded(world, fleet);
    log::all(world);
}

fn each_backup(world: &World, mut look: impl FnMut(&str, &mut Vault, &BackupRecord)) {
    for (url, vault) in lock(&world.vaults).iter_mut() {
        let Some(backups) = vault.read(&world.key, |state| state.backups().cloned().collect::<Vec<_>>())
        else {
            world.violate(Invariant::I1Restores, format!("the ledger of {url} cannot be read"));
            continue;
        };
        for backup in backups {
            look(url, vault, &backup);
        }
    }
}

/// Every backup, every node, byte for byte what its disk was.
fn i1_restores(world: &World) {
    each_backup(world, |url, vault, backup| {
        for node in &backup.nodes {
            let Some(keys) = vault.oracle(&world.key).map(|oracle| oracle.keys().clone()) else { continue };
            let read = at_once(read_all(vault.objects.clone(), &keys, &node.manifest, |_, _| ()));
            let was = vault.frozen.get(&(backup.id, node.node.clone()));
            match read.unwrap_or_else(|| Err(Error::internal("memory waits"))) {
                Ok(content) if Some(&content) == was => {}
                Ok(content) => {
                    let what = format!(
                        "{} of {url} gives {content:?} for {}, which was {was:?}",
                        backup.id, node.node
                    );
                    world.violate(Invariant::I1Restores, what);
                }
                Err(e) => {
                    let what =
                        format!("{} of {url} does not restore {}: {}", backup.id, node.node, e.chain());
                    world.violate(Invariant::I1Restores, what);
                }
            }
        }
    });
}

/// Nothing that was ever begun, whoever was told of it, is still under way.
fn i4_ended(world: &World) {
    let running = lock(&world.registry).operations().into_iter().find(|operation| operation.finished_ms == 0);
    if let Some(operation) = running {
        let what =
            format!("operation {} stands in phase {} and nobody runs it", operation.id, operation.phase);
        world.violate(Invariant::I4Ends, what);
    }
}

/// History is as long as it may be, and after a sweep the store holds what a backup needs and no more.
fn i6_bounded(world: &World, fleet: &Fleet) {
    let kept = lock(&world.registry).operations().len();
    if kept > 41 * fleet.services.len() {
        world.violate(Invariant::I6Bounded, format!("{kept} records of operations are kept"));
    }
    for (url, vault) in lock(&world.vaults).iter_mut() {
        let Some(Ok(objects)) = at_once(list_all(&*vault.objects, "t/")) else { continue };
        let garbage = vault.read(&world.key, |state| {
            let needed = |key: &str| match PackId::from_key(key) {
                Ok(pack) => state.backups().any(|backup| backup.packs.contains(&pack)),
                Err(_) => key.contains("/x/") || state.backups().any(|backup| has_part(backup, key)),
            };
            objects.into_iter().map(|object| object.key).find(|key| !needed(key))
        });
        if let Some(garbage) = garbage.flatten() {
            world.violate(Invariant::I6Bounded, format!("{url} keeps {garbage}, which no backup needs"));
        }
    }
}

fn has_part(backup: &BackupRecord, key: &str) -> bool {
    backup.nodes.iter().any(|node| node.manifest.keys().iter().any(|part| part == key))
}

/// One bit of a pack that a backup needs: somewhere, or in its trailer, which a check that reads no data reads too.
pub(crate) fn damage(world: &World, service: &str, chance: &mut Chance, trailer: bool) -> Option<String> {
    let mut vaults = lock(&world.vaults);
    let vault = vaults.get_mut(&format!("{SCHEME}{service}"))?;
    let packs: Vec<PackId> = vault.read(&world.key, |state| {
        let all = state.backups().fold(PackSet::new(), |all, backup| all.union(&backup.packs));
        all.iter().collect()
    })?;
    let key = chance.pick(&packs)?.key();
    let mut body = at_once(vault.objects.get(&key, None))?.ok()?.to_vec();
    let at = match trailer {
        true => body.len() - 1 - chance.below(40) as usize,
        false => chance.below(body.len() as u64) as usize,
    };
    body[at] ^= 1 << chance.below(8);
    trace(&format!("damage: byte {at} of {key}"));
    at_once(vault.objects.put(&key, body.into()))?.ok()?;
    Some(key)
}

/// Of damaged data a restore gives out nothing, or what it was (I7).
pub(crate) fn i7_served(world: &World) {
    each_backup(world, |url, vault, backup| {
        for node in &backup.nodes {
            let Some(keys) = vault.oracle(&world.key).map(|oracle| oracle.keys().clone()) else { continue };
            let read = at_once(read_all(vault.objects.clone(), &keys, &node.manifest, |_, _| ()));
            let was = vault.frozen.get(&(backup.id, node.node.clone()));
            if let Some(Ok(content)) = read
                && Some(&content) != was
            {
                let what = format!("{} of {url} serves {content:?}, and was {was:?}", backup.id);
                world.violate(Invariant::I7Damage, what);
            }
        }
    });
}
