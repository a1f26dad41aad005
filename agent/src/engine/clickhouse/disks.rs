//! Where a server keeps parts: its disks, and the policies by which tables choose among them.
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

use super::client::Answer;
use super::facts::{Disk, Facts, Place, Policy, Table, Volume};
use super::server::{SEPARATOR, Server, path, several, string};
use super::text::Text;

impl Server<'_> {
    pub(super) async fn disks(&self) -> Answer<Vec<Disk>> {
        if !self.has("disks.path") {
            let path = self.config.root.clone();
            return Ok(vec![Disk { name: "default".into(), path, local: true, ..Disk::default() }]);
        }
        // The files of an encrypted one are nobody's to read, and of use only to a server with its key.
        let encrypted = if self.has("disks.is_encrypted") { "is_encrypted" } else { "0" };
        let objects = match self.has("disks.object_storage_type") {
            true => "lower(metadata_type) = 'local', concat('objects ', lower(object_storage_type))",
            false => "0, ''",
        };
        let sql = format!(
            "SELECT name, path, if({encrypted}, '', multiIf(lower(type) = 'local', 'local', {objects}, '')) \
             FROM system.disks ORDER BY name"
        );
        let rows = self.client.rows(sql, 3).await?;
        let disk = |row: &Vec<Text>| {
            // A cache before a disk is a disk too, and has its directory.
            let same = rows.iter().filter(|other| other[1] == row[1]).map(|other| string(&other[0]));
            let store = same.clone().find(|name| self.config.objects.contains_key(name));
            let is_stored = row[2] == "objects s3".into();
            Disk {
                name: row[0].clone(),
                path: path(&row[1]),
                local: row[2] == "local".into(),
                objects: row[2] == "objects local".into() || is_stored && store.is_some(),
                unnamed: is_stored && store.is_none(),
                store: store.filter(|_| is_stored).unwrap_or_default(),
            }
        };
        let disks: Vec<Disk> = rows.iter().map(disk).collect();
        if !disks.iter().any(|disk| disk.path == self.config.root.join("")) {
            let root = self.config.root.display();
            return Err(Error::conflict(format!("{root} is not the directory of the server that answers"))
                .with_hint(
                    "engine.root must be the `path` of its configuration: select path from system.disks",
                )
                .into());
        }
        Ok(disks)
    }

    pub(super) async fn policies(&self) -> Answer<Vec<Policy>> {
        if !self.has("storage_policies.disks") {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT policy_name, volume_name, arrayStringConcat(disks, char({SEPARATOR})) \
             FROM system.storage_policies ORDER BY policy_name, volume_priority"
        );
        let mut policies: Vec<Policy> = Vec::new();
        for row in self.client.rows(sql, 3).await? {
            let volume = Volume { name: row[1].clone(), disks: several(&row[2]).collect() };
            match policies.last_mut().filter(|policy| policy.name == row[0]) {
                Some(policy) => policy.volumes.push(volume),
                None => policies.push(Policy { name: row[0].clone(), volumes: vec![volume] }),
            }
        }
        Ok(policies)
    }
}

/// Whether it lay on disks of objects alone: a part is given to a server on a local disk.
pub(super) fn is_all_objects(table: &Table, facts: &Facts) -> bool {
    !table.places.is_empty() && table.places.iter().all(|place| facts.disks[place.disk].objects)
}

/// On the disk whose path is the longest that it lies below: of several that have it, the first.
pub(super) fn place(path: &Path, disks: &[Disk], table: &str) -> Result<Place> {
    let below = |disk: &Disk| path.starts_with(&disk.path);
    let found = disks.iter().enumerate().rev().filter(|(_, disk)| below(disk));
    let found = found.max_by_key(|(_, disk)| disk.path.components().count());
    let (number, disk) = found.ok_or_else(|| {
        Error::conflict(format!(
            "table {table} lies in {}, which is on no disk of the server",
            path.display()
        ))
    })?;
    if !disk.local && !disk.objects {
        return Err(Error::invalid(format!(
            "table {table} may lie on disk {}, which cannot be read",
            disk.name
        ))
        .with_hint(match disk.unnamed {
            true => format!(
                "say where its objects lie, in the agent's settings: engine.objects.{}.url = \"s3://bucket/prefix\", as the disk's endpoint in the server's configuration has it",
                disk.name
            ),
            false => "only objects in S3, or in files of this machine, are backed up, and no encrypted ones: move it to another disk, or give it another storage policy".into(),
        }));
    }
    let relative = path.strip_prefix(&disk.path).unwrap_or(path);
    let relative = relative.to_str().ok_or_else(|| Error::internal("a path of ClickHouse is no UTF-8"))?;
    Ok(Place { disk: number, path: relative.trim_end_matches('/').to_owned() })
}

/// Where a freeze is nothing but links.
pub(super) fn local(disks: &[Disk]) -> impl Iterator<Item = &PathBuf> {
    disks.iter().filter(|disk| disk.local).map(|disk| &disk.path)
}
