//! Lists what a backup consists of: the data directory without what a server makes anew, and every tablespace below
//! `pg_tblspc`, where the server sees it.
use std::borrow::Cow;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result, Timestamp};

use super::names::{self, Relation};
use crate::engine::SnapshotOrder;
use crate::source::{Class, SourceEntry, SourceKind, SourceListReader, SourceListWriter, Totals};
use crate::walk::{Rules, Walk};
use crate::warning::Warnings;

const LINKS: &str = "pg_tblspc";
const LINKS_WITHIN: &[u8] = b"pg_tblspc/";

/// A directory outside the data directory that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tablespace {
    /// `pg_tblspc/16384`
    pub(super) path: Vec<u8>,
    pub(super) target: PathBuf,
}

impl Tablespace {
    pub(super) fn name(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.path.strip_prefix(LINKS_WITHIN).unwrap_or(&self.path))
    }
}

#[derive(Debug)]
pub(super) struct Listed {
    pub(super) totals: Totals,
    pub(super) warnings: Warnings,
    pub(super) tablespaces: Vec<Tablespace>,
}

struct Lister<'a> {
    order: &'a SnapshotOrder,
    began: Timestamp,
    page_size: u32,
    warnings: Warnings,
    unlogged: HashSet<Vec<u8>>,
}

/// The tablespaces that there are, as the server names them: `16384`. Blocks.
pub(super) fn tablespaces(root: &Path) -> Result<HashSet<String>> {
    let path = root.join(LINKS);
    let failed = |e| Error::io(format!("list {}", path.display()), e);
    let mut names = HashSet::new();
    for entry in std::fs::read_dir(&path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_symlink() {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// `known` are the tablespaces of when the backup began. One that is younger is left out: replay makes it and all that is in
/// it, and stops where it finds it already. Blocks.
pub(super) fn list(
    root: &Path,
    order: &SnapshotOrder,
    began: Timestamp,
    page_size: u32,
    known: &HashSet<String>,
) -> Result<Listed> {
    let mut lister =
        Lister { order, began, page_size, warnings: Warnings::default(), unlogged: HashSet::new() };
    let raw = lister.walk(root, &names::rules()?, "data")?;
    let mut tablespaces = Vec::new();
    lister.look(&raw, b"", Some(&mut tablespaces), root)?;
    let (tablespaces, young): (Vec<Tablespace>, Vec<Tablespace>) =
        tablespaces.into_iter().partition(|tablespace| known.contains(tablespace.name().as_ref()));
    let mut raws = Vec::new();
    for (number, tablespace) in tablespaces.iter().enumerate() {
        let raw =
            lister.walk(&tablespace.target, &names::tablespace_rules()?, &format!("tablespace-{number}"))?;
        lister.look(&raw, &tablespace.path, None, root)?;
        raws.push(raw);
    }
    let mut writer = SourceListWriter::create(&order.list, began)?;
    for entry in SourceListReader::open(&raw)? {
        let entry = entry?;
        if young.iter().any(|tablespace| tablespace.path == entry.path) {
            continue;
        }
        match tablespaces.iter().position(|tablespace| tablespace.path == entry.path) {
            Some(number) => lister.put_tablespace(&mut writer, entry, &raws[number])?,
            None => lister.put(&mut writer, entry)?,
        }
    }
    let totals = writer.finish(&lister.warnings)?;
    for raw in raws.iter().chain([&raw]) {
        crate::durable::remove(raw)?;
    }
    Ok(Listed { totals, warnings: lister.warnings, tablespaces })
}

impl Lister<'_> {
    fn walk(&mut self, root: &Path, rules: &Rules, name: &str) -> Result<PathBuf> {
        let path = self.order.list.with_file_name(format!("walk-{name}"));
        let SnapshotOrder { counters, cancel, .. } = self.order;
        let (counters, cancel) = (counters.clone(), cancel.clone());
        let walk = Walk {
            root,
            rules,
            cross_file_systems: true,
            strict: true,
            links: None,
            links_elsewhere: false,
            skip: Vec::new(),
            counters,
            cancel,
        };
        let (_, warnings) = walk.run(SourceListWriter::create(&path, self.began)?)?;
        self.warnings.append(warnings);
        Ok(path)
    }

    /// Notes which relations are unlogged, and where tablespaces lie.
    fn look(
        &mut self,
        raw: &Path,
        prefix: &[u8],
        mut tablespaces: Option<&mut Vec<Tablespace>>,
        root: &Path,
    ) -> Result<()> {
        for entry in SourceListReader::open(raw)? {
            let entry = entry?;
            let path = below(prefix, &entry.path);
            if let Some(Relation { base, fork: b"init", .. }) = names::relation(&path) {
                self.unlogged.insert(base.to_vec());
            }
            if let (SourceKind::Symlink { target }, Some(found)) = (&entry.kind, &mut tablespaces)
                && entry.path.starts_with(LINKS_WITHIN)
            {
                let target = root.join(LINKS).join(std::ffi::OsStr::from_bytes(target));
                found.push(Tablespace { path: entry.path, target });
            }
        }
        Ok(())
    }

    /// The directory itself in place of the symlink, and what is in it.
    fn put_tablespace(&self, writer: &mut SourceListWriter, link: SourceEntry, raw: &Path) -> Result<()> {
        for entry in SourceListReader::open(raw)? {
            let entry = entry?;
            let path = if entry.path == b"." { link.path.clone() } else { below(&link.path, &entry.path) };
            self.put(writer, SourceEntry { path, ..entry })?;
        }
        Ok(())
    }

    fn put(&self, writer: &mut SourceListWriter, mut entry: SourceEntry) -> Result<()> {
        match &mut entry.kind {
            SourceKind::File { class, .. } => {
                let unlogged = names::relation(&entry.path).is_some_and(|relation| {
                    relation.fork != b"init" && self.unlogged.contains(relation.base)
                });
                if unlogged || names::is_temporary(&entry.path) {
                    return Ok(());
                }
                *class = Class::Logged(self.page_size);
            }
            SourceKind::Symlink { .. } if names::is_emptied(&entry.path) => {
                entry.kind = SourceKind::Directory;
                entry.meta.mode = 0o700;
            }
            _ => {}
        }
        writer.push(&entry)
    }
}

fn below(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    if prefix.is_empty() { path.to_vec() } else { [prefix, b"/", path].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn unlogged_temporary_and_linked_things() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for path in [
            "data/base/5/1",
            "data/base/5/2",
            "data/base/5/2.1",
            "data/base/5/2_init",
            "data/base/5/t3_9",
            "data/global/pg_control",
            "data/PG_VERSION",
            "data/pg_subtrans/0000",
            "wal/000000010000000000000001",
            "fast/PG_15_1/5/7",
            "fast/PG_15_1/5/8",
            "fast/PG_15_1/5/8_init",
            "fast/PG_15_1/5/t1_1",
            "young/PG_15_1/5/9",
            "spool/x",
        ] {
            std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            std::fs::write(at(path), path).unwrap();
        }
        std::fs::create_dir(at("data/pg_tblspc")).unwrap();
        symlink(at("fast"), at("data/pg_tblspc/16390")).unwrap();
        symlink(at("wal"), at("data/pg_wal")).unwrap();
        let known = tablespaces(&at("data")).unwrap();
        assert_eq!(known, HashSet::from(["16390".to_owned()]));
        symlink(at("young"), at("data/pg_tblspc/16391")).unwrap();
        let order = SnapshotOrder {
            list: at("spool/walk"),
            added: at("spool/added"),
            counters: Default::default(),
            cancel: Default::default(),
        };
        let listed = list(&at("data"), &order, Timestamp(1), 8192, &known).unwrap();
        assert!(listed.warnings.is_empty(), "{:?}", listed.warnings);
        let entries: Vec<SourceEntry> =
            SourceListReader::open(&order.list).unwrap().map(Result::unwrap).collect();
        let paths: Vec<_> = entries.iter().map(|entry| String::from_utf8_lossy(&entry.path)).collect();
        assert_eq!(
            paths,
            [
                ".",
                "PG_VERSION",
                "base",
                "base/5",
                "base/5/1",
                "base/5/2_init",
                "global",
                "pg_subtrans",
                "pg_tblspc",
                "pg_tblspc/16390",
                "pg_tblspc/16390/PG_15_1",
                "pg_tblspc/16390/PG_15_1/5",
                "pg_tblspc/16390/PG_15_1/5/7",
                "pg_tblspc/16390/PG_15_1/5/8_init",
                "pg_wal",
            ]
        );
        for name in [&b"pg_wal"[..], b"pg_tblspc/16390"] {
            assert!(entries.iter().any(|e| e.path == name && e.kind == SourceKind::Directory));
        }
        assert_eq!(std::fs::read_dir(at("spool")).unwrap().count(), 2, "the raw lists are gone");
    }
}
