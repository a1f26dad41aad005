//! What a directory held, written down by code that shares nothing with the agent's walk or restore.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use palinurus_repository::{Error, Result};

use crate::human;

#[derive(Debug, Default)]
pub(super) struct Record {
    facts: BTreeMap<Vec<u8>, Fact>,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Fact {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    size: u64,
    /// Of a file's bytes, or a symlink's target.
    content: [u8; 32],
    /// The first name of the same file.
    linked_to: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Record {
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let mut record = Record::default();
        let mut inodes = BTreeMap::new();
        record.visit(dir, b".", &mut inodes)?;
        Ok(record)
    }

    fn visit(&mut self, path: &Path, name: &[u8], inodes: &mut BTreeMap<(u64, u64), Vec<u8>>) -> Result<()> {
        let failed = |error| Error::io(format!("look at {}", path.display()), error);
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        let kind = meta.file_type();
        let mut fact = Fact {
            kind: "other",
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            size: 0,
            content: [0; 32],
            linked_to: Vec::new(),
            xattrs: xattrs(path).map_err(failed)?,
        };
        if kind.is_dir() {
            fact.kind = "directory";
        } else if kind.is_symlink() {
            fact.kind = "symlink";
            let target = fs::read_link(path).map_err(failed)?.into_os_string().into_vec();
            fact.content = blake3::hash(&target).into();
        } else if kind.is_file() {
            fact.kind = "file";
            fact.size = meta.len();
            if meta.nlink() > 1 {
                fact.linked_to =
                    inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| name.to_vec()).clone();
            }
            fact.content = hash(path).map_err(failed)?;
            self.files += 1;
            self.bytes += meta.len();
        } else if kind.is_fifo() || kind.is_socket() {
            return Ok(());
        }
        self.facts.insert(name.to_vec(), fact);
        if kind.is_dir() {
            // By name, so that the first name of a linked file is the same whoever walks.
            let mut children = BTreeMap::new();
            for entry in fs::read_dir(path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                children.insert(entry.file_name(), entry.path());
            }
            for (child, child_path) in children {
                let child_name = if name == b"." {
                    child.as_bytes().to_vec()
                } else {
                    [name, b"/", child.as_bytes()].concat()
                };
                self.visit(&child_path, &child_name, inodes)?;
            }
        }
        Ok(())
    }

    /// Every path whose bytes or attributes are not those of `self`.
    pub(super) fn differences(&self, restored: &Record) -> Vec<String> {
        let mut found = Vec::new();
        for (name, want) in &self.facts {
            match restored.facts.get(name) {
                None => found.push(format!("{}: missing", human::name(name))),
                Some(have) if have != want => {
                    found.push(format!("{}: {}", human::name(name), want.difference(have)))
                }
                Some(_) => {}
            }
        }
        for name in restored.facts.keys().filter(|name| !self.facts.contains_key(*name)) {
            found.push(format!("{}: was not there before", human::name(name)));
        }
        found
    }
}

impl Fact {
    fn difference(&self, have: &Fact) -> String {
        let mut parts = Vec::new();
        let mut compare = |what: &str, equal: bool, want: String, have: String| {
            if !equal {
                parts.push(format!("{what} was {want}, is {have}"));
            }
        };
        compare("kind", self.kind == have.kind, self.kind.into(), have.kind.into());
        compare("mode", self.mode == have.mode, format!("{:o}", self.mode), format!("{:o}", have.mode));
        compare("owner", self.owner == have.owner, format!("{:?}", self.owner), format!("{:?}", have.owner));
        compare("mtime", self.mtime == have.mtime, format!("{:?}", self.mtime), format!("{:?}", have.mtime));
        compare("size", self.size == have.size, self.size.to_string(), have.size.to_string());
        compare("content", self.content == have.content, "one".into(), "another".into());
        let link = |name: &[u8]| format!("{:?}", human::name(name));
        compare("link", self.linked_to == have.linked_to, link(&self.linked_to), link(&have.linked_to));
        compare(
            "xattrs",
            self.xattrs == have.xattrs,
            format!("{:?}", self.xattrs),
            format!("{:?}", have.xattrs),
        );
        parts.join(", ")
    }
}

fn hash(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(&buffer[..read]),
        };
    }
}

fn xattrs(path: &Path) -> std::io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut found = BTreeMap::new();
    for name in names {
        // The label is the system's to give, by the file's place.
        if name != "security.selinux" {
            let value = xattr::get(path, &name)?.unwrap_or_default();
            found.insert(name.into_vec(), value);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn every_kind_of_difference_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for side in [&a, &b] {
            fs::create_dir(side).unwrap();
            for name in ["same", "content", "mode", "linked"] {
                fs::write(side.join(name), name).unwrap();
            }
        }
        fs::write(b.join("content"), "cOntent").unwrap();
        fs::set_permissions(b.join("mode"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::hard_link(a.join("linked"), a.join("other")).unwrap();
        fs::write(b.join("extra"), "").unwrap();
        // Times differ between the two by themselves.
        let mut records = [Record::take(&a).unwrap(), Record::take(&b).unwrap()];
        for record in &mut records {
            record.facts.values_mut().for_each(|fact| fact.mtime = (0, 0));
        }
        let found = records[0].differences(&records[1]);
        for (name, what) in [
            ("content", "content"),
            ("mode", "mode"),
            ("linked", "link"),
            ("other", "missing"),
            ("extra", "not there"),
        ] {
            assert!(
                found.iter().any(|line| line.starts_with(name) && line.contains(what)),
                "{name}: {found:?}"
            );
        }
        assert_eq!(found.len(), 5, "{found:?}");
        assert!(records[0].differences(&records[0]).is_empty());
    }
}
