//! Lists what a backup consists of: what was frozen on each disk, and beside it the facts and the files that the server
//! keeps of named collections and access.
//!
//! ```text
//! clickhouse.json  access/*.sql  named_collections/*.sql  rows/<n>.tsv
//! disks/<disk>/store/<uuid>/<part>/*      as they lie below the freeze: only the freeze's name is left out
//! ```
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result, Timestamp};

use super::dated::Uncounted;
use super::facts::{Disk, Facts, Kept, NAME};
use super::frozen::Record;
use super::objects;
use super::stored::Stores;
use crate::durable;
use crate::engine::SnapshotOrder;
use crate::source::{Class, SourceEntry, SourceKind, SourceListReader, SourceListWriter, Totals};
use crate::walk::{Rules, Walk};
use crate::warning::Warnings;

pub(super) const DISKS: &str = "disks";
/// Directories of the server's whose files are small, and written anew when what they say changes.
const KEPT: [&str; 2] = [ACCESS, COLLECTIONS];
pub(super) const ACCESS: &str = "access";
pub(super) const COLLECTIONS: &str = "named_collections";

/// What lies in a table's directory and is no part.
const NO_PARTS: [&str; 5] = ["detached", "format_version.txt", "frozen_metadata.txt", "tmp", "moving"];

/// Counts what was frozen, and puts into `tree` what lies on no disk of the server's. Gives the parts that say no count. Blocks.
pub(super) fn gather(
    root: &Path,
    tree: &Path,
    (record, stores): (&Record, &Stores),
    facts: &mut Facts,
    warnings: &mut Warnings,
) -> Result<Vec<Uncounted>> {
    let mut uncounted = Vec::new();
    for (name, disk) in &record.objects {
        objects::gather(&record.shadow(disk), &tree.join(DISKS).join(name))?;
    }
    let frozen = |disk: &Disk| match disk.objects && disk.store.is_empty() {
        true => tree.join(DISKS).join(disk.name.file_name()),
        false => record.shadow(&disk.path),
    };
    let disks: Vec<PathBuf> = facts.disks.iter().map(frozen).collect();
    for (number, table) in facts.tables.iter_mut().enumerate().filter(|(_, table)| table.kept == Kept::Parts)
    {
        for place in &table.places {
            let directory = disks[place.disk].join(&place.path);
            let measured = match facts.disks[place.disk].store.as_str() {
                "" => measured(&directory),
                store => stores.measured(store, &directory),
            };
            for (part, rows, bytes) in measured? {
                table.parts += 1;
                table.bytes += bytes;
                match rows {
                    Some(rows) => table.rows += rows,
                    None => {
                        let disk = facts.disks[place.disk].name.file_name();
                        let path = Path::new(DISKS).join(disk).join(&place.path).join(&part);
                        uncounted.push(Uncounted { table: number, part, path });
                    }
                }
            }
        }
    }
    let stored = record.stores.iter().map(|stored| &stored.name);
    for name in record.disks.iter().map(|(name, _)| name).chain(stored) {
        durable::create_dir(&tree.join(DISKS).join(name))?;
    }
    for kept in KEPT {
        copy(&root.join(kept), &tree.join(kept))?;
    }
    for collection in &facts.collections {
        let file = format!("{}.sql", collection.file_name());
        if !tree.join(COLLECTIONS).join(file).exists() {
            warnings.push(
                NAME.as_bytes(),
                format!("named collection {collection} is in no file: it is not in the backup"),
            );
        }
    }
    Ok(uncounted)
}

/// Last of what goes into `tree`. Blocks.
pub(super) fn write(tree: &Path, facts: &Facts) -> Result<()> {
    let text = serde_json::to_vec_pretty(facts).map_err(|e| Error::internal("facts").with_source(e))?;
    durable::write(&tree.join(NAME), &text)
}

/// The names of the parts in a table's directory, in no order. Blocks.
pub(super) fn parts(directory: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::io(format!("list {}", directory.display()), e);
    let entries = match directory.read_dir() {
        // A table without parts leaves no directory.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.file_type().map_err(failed)?.is_dir() && !NO_PARTS.contains(&name.as_str()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The parts in a table's directory, the rows that each says it has, and its bytes. Blocks.
pub(super) fn measured(directory: &Path) -> Result<Vec<(String, Option<u64>, u64)>> {
    let measure = |part: String| {
        let path = directory.join(&part);
        let rows = std::fs::read_to_string(path.join("count.txt")).ok();
        let bytes = size(&path).map_err(|e| Error::io(format!("look at part {}", path.display()), e))?;
        Ok((part, rows.and_then(|text| text.trim().parse().ok()), bytes))
    };
    parts(directory)?.into_iter().map(measure).collect()
}

/// Of all files: a projection is a directory within its part.
fn size(directory: &Path) -> std::io::Result<u64> {
    directory.read_dir()?.try_fold(0, |sum, entry| {
        let entry = entry?;
        let found = entry.metadata()?;
        Ok(sum + if found.is_dir() { size(&entry.path())? } else { found.len() })
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("copy {}", from.display()), e);
    let entries = match from.read_dir() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    durable::create_dir(to)?;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let is_statement =
            Path::new(&entry.file_name()).extension().is_some_and(|extension| extension == "sql");
        if is_statement && entry.file_type().map_err(failed)?.is_file() {
            match std::fs::read(entry.path()) {
                Ok(text) => durable::write(&to.join(entry.file_name()), &text)?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }
    Ok(())
}

/// Writes the source list. Blocks.
pub(super) fn list(
    tree: &Path,
    (record, stores): (&Record, &Stores),
    order: &SnapshotOrder,
    began: Timestamp,
    mut warnings: Warnings,
) -> Result<(Totals, Warnings)> {
    let own = walk(tree, "walk-tree", order, began, &mut warnings)?;
    let mut lists = vec![own.clone()];
    let mut writer = SourceListWriter::create(&order.list, began)?;
    for entry in SourceListReader::open(&own)? {
        let entry = entry?;
        let links = record.disks.iter().map(|(name, path)| (name, path, None));
        let texts = record.stores.iter().map(|stored| (&stored.name, &stored.path, Some(&stored.store)));
        let disk = links.chain(texts).enumerate().find(|(_, (name, ..))| entry.path == disk_path(name));
        writer.push(&entry)?;
        let Some((number, (name, path, store))) = disk else { continue };
        let shadow = record.shadow(path);
        if !shadow.exists() {
            continue;
        }
        let frozen = walk(&shadow, &format!("walk-disk-{number}"), order, began, &mut warnings)?;
        for entry in SourceListReader::open(&frozen)? {
            let mut entry = entry?;
            if let Some(store) = store {
                let text = shadow.join(OsStr::from_bytes(&entry.path));
                entry = stores.entry(store, &text, entry)?;
            }
            if entry.path != b"." {
                writer.push(&below(&disk_path(name), entry))?;
            }
        }
        lists.push(frozen);
    }
    let totals = writer.finish(&warnings)?;
    lists.iter().try_for_each(|list| durable::remove(list))?;
    Ok((totals, warnings))
}

/// `disks/default`
pub(super) fn disk_path(name: &str) -> Vec<u8> {
    format!("{DISKS}/{name}").into_bytes()
}

fn walk(
    root: &Path,
    name: &str,
    order: &SnapshotOrder,
    began: Timestamp,
    warnings: &mut Warnings,
) -> Result<PathBuf> {
    let path = order.list.with_file_name(name);
    let rules = Rules::new(&[], &["frozen_metadata.txt".into()])?.class(
        "immutable",
        &["*".into()],
        Class::Immutable,
    )?;
    let walk = Walk {
        root,
        rules: &rules,
        cross_file_systems: false,
        strict: true,
        // The freeze is one already.
        links: None,
        links_elsewhere: true,
        skip: Vec::new(),
        counters: order.counters.clone(),
        cancel: order.cancel.clone(),
    };
    let (_, found) = walk.run(SourceListWriter::create(&path, began)?)?;
    warnings.append(found);
    Ok(path)
}

fn below(prefix: &[u8], mut entry: SourceEntry) -> SourceEntry {
    let under = |path: &[u8]| [prefix, b"/", path].concat();
    if let SourceKind::Hardlink { target } = &mut entry.kind {
        *target = under(target);
    }
    entry.path = under(&entry.path);
    entry
}

/// What people should know of a backup that is whole.
pub(super) fn warn(facts: &Facts, warnings: &mut Warnings) {
    for mutation in &facts.mutations {
        warnings.push(
            NAME.as_bytes(),
            format!(
                "mutation {} of table {}.{} was not done on {} parts: it is written down and not run again",
                mutation.id, mutation.database, mutation.table, mutation.parts_to_do
            ),
        );
    }
}
