//! Where a restore puts a backup before the server is given it: a directory of ours on the server's own disk.
//!
//! ```text
//! palinurus-restore/backup/      what the restore wrote; whole when it has ended
//! palinurus-restore/loading      the server is being given it: of which facts
//! palinurus-restore/parts/3      links of table 3's parts that it does not have yet
//! palinurus-restore/parts/3.done it has all of them
//! palinurus-restore/parts/3.peers the table's other replicas have them
//! palinurus-restore/parts/3.placed and this one's own parts are being put where the server will look for them
//! palinurus-restore/parts/3.rows  this one writes the rows, which all replicas share
//! palinurus-restore/peers.json    what the replicas that are restored at once have
//! palinurus-restore-<choice>/     the same of a restore of chosen tables, of which several can have begun:
//!     chosen.json, parts/3.made   which they are, and that this restore makes table 3
//! ```
//! These names are the only record of how far it came: each changes by one rename, so that a restore which is stopped
//! anywhere goes on from there, and no part is given twice.
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

use super::facts::{Facts, NAME};
use crate::durable;

const DIRECTORY: &str = "palinurus-restore";
const LOADING: &str = "loading";

#[derive(Clone, Debug)]
pub(super) struct Aside(PathBuf);

impl Aside {
    pub(super) fn new(root: &Path) -> Self {
        Self(root.join(DIRECTORY))
    }

    /// For chosen tables of a backup: `of` says which.
    pub(super) fn chosen(root: &Path, of: &[u8]) -> Self {
        Self(root.join(format!("{DIRECTORY}-{}", &blake3::hash(of).to_hex().as_str()[..16])))
    }

    /// Of a place that this said.
    pub(super) fn above(backup: &Path) -> Option<Self> {
        Some(Self(backup.parent()?.to_owned()))
    }

    pub(super) fn backup(&self) -> PathBuf {
        self.0.join("backup")
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether a restore has begun to give the server its tables, and has not ended.
    pub(super) fn is_loading(&self) -> bool {
        self.0.join(LOADING).exists()
    }

    /// Reads the facts of what was restored, and holds on to them: no other backup may go on from here. Blocks.
    pub(super) fn begin(&self) -> Result<(Facts, bool)> {
        let path = self.backup().join(NAME);
        let facts = Facts::read(&path)?;
        let goes_on = self.hold(&path)?;
        Ok((facts, goes_on))
    }

    /// To the facts in that file. Blocks.
    pub(super) fn hold(&self, path: &Path) -> Result<bool> {
        let text = fs::read(path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        let hash = blake3::hash(&text).to_hex().to_string();
        let loading = self.0.join(LOADING);
        let goes_on = match fs::read_to_string(&loading) {
            Ok(found) if found == hash => true,
            Ok(_) => {
                return Err(Error::conflict(format!(
                    "{} holds the beginning of another backup's restore",
                    self.0.display()
                ))
                .with_hint("restore that one to its end, or drop the databases that it made and remove the directory"));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(Error::io(format!("read {}", loading.display()), e)),
        };
        if !goes_on {
            durable::remove_dir(&self.0.join("parts"))?;
        }
        durable::create_dir(&self.0.join("parts"))?;
        durable::write(&loading, hash.as_bytes())?;
        Ok(goes_on)
    }

    /// The next that is called like this table is made by us. What was done with one that is gone is forgotten.
    pub(super) fn makes(&self, table: usize) -> Result<()> {
        for path in [self.pending(table), self.done(table)] {
            durable::remove_dir(&path)?;
        }
        durable::remove(&self.peers(table))?;
        durable::remove(&self.rows(table))?;
        let made = self.made(table);
        fs::write(&made, b"").map_err(|e| Error::io(format!("write {}", made.display()), e))
    }

    pub(super) fn has_made(&self, table: usize) -> bool {
        self.made(table).exists()
    }

    fn made(&self, table: usize) -> PathBuf {
        self.0.join("parts").join(format!("{table}.made"))
    }

    fn peers(&self, table: usize) -> PathBuf {
        self.0.join("parts").join(format!("{table}.peers"))
    }

    fn pending(&self, table: usize) -> PathBuf {
        self.0.join("parts").join(table.to_string())
    }

    /// Whether it is this one that attaches the table's parts.
    pub(super) fn has_begun(&self, table: usize) -> bool {
        self.pending(table).exists()
    }

    fn done(&self, table: usize) -> PathBuf {
        self.0.join("parts").join(format!("{table}.done"))
    }

    pub(super) fn is_done(&self, table: usize) -> bool {
        self.done(table).exists()
    }

    /// Its parts come from the other replicas, none from here.
    pub(super) fn leave_to_peers(&self, table: usize) -> Result<()> {
        durable::write(&self.peers(table), b"")
    }

    pub(super) fn is_left_to_peers(&self, table: usize) -> bool {
        self.peers(table).exists()
    }

    fn placed(&self, table: usize) -> PathBuf {
        self.0.join("parts").join(format!("{table}.placed"))
    }

    pub(super) fn begin_place(&self, table: usize) -> Result<()> {
        durable::write(&self.placed(table), b"")
    }

    pub(super) fn has_placed(&self, table: usize) -> bool {
        self.placed(table).exists()
    }

    pub(super) fn end_place(&self, table: usize) -> Result<()> {
        durable::remove(&self.placed(table))
    }

    /// Puts a part, whole or not at all, into the directory of a table that the server does not have. Blocks.
    pub(super) fn place(&self, table: usize, part: &Path, directory: &Path, owner: (u32, u32)) -> Result<()> {
        let name = part.file_name().ok_or_else(|| Error::internal("a part without a name"))?;
        let (new, to) = (self.0.join("parts").join(format!("{table}.new")), directory.join(name));
        let failed = |e| Error::io(format!("put a part at {}", to.display()), e);
        durable::remove_dir(&new)?;
        link_tree(part, &new, owner).map_err(failed)?;
        match fs::rename(&new, &to) {
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => move_tree(&new, &to).map_err(failed)?,
            moved => moved.map_err(failed)?,
        }
        durable::sync_parent(&to)
    }

    fn rows(&self, table: usize) -> PathBuf {
        self.0.join("parts").join(format!("{table}.rows"))
    }

    /// Its rows, which all replicas share, are written from here.
    pub(super) fn begin_rows(&self, table: usize) -> Result<()> {
        durable::write(&self.rows(table), b"")
    }

    pub(super) fn has_begun_rows(&self, table: usize) -> bool {
        self.rows(table).exists()
    }

    /// Another replica was first.
    pub(super) fn leave_rows(&self, table: usize) -> Result<()> {
        durable::remove(&self.rows(table))
    }

    /// Links a table's parts, found in `from`, for the owner of the server's files. Blocks.
    pub(super) fn link(&self, table: usize, from: &[PathBuf], owner: (u32, u32)) -> Result<()> {
        let (pending, new) = (self.pending(table), self.0.join("parts").join(format!("{table}.new")));
        if pending.exists() {
            return Ok(());
        }
        durable::remove_dir(&new)?;
        let failed = |e| Error::io(format!("link the parts in {}", self.0.display()), e);
        fs::create_dir(&new).map_err(failed)?;
        for part in from {
            let name = part.file_name().ok_or_else(|| Error::internal("a part without a name"))?;
            link_tree(part, &new.join(name), owner).map_err(failed)?;
        }
        fs::rename(&new, &pending).map_err(failed)?;
        durable::sync_parent(&pending)
    }

    /// Moves a part into the server's `detached`, and says whether it is there to be attached: if not, it was. Blocks.
    pub(super) fn hand_over(&self, table: usize, part: &str, detached: &Path) -> Result<bool> {
        let failed = |e| Error::io(format!("put part {part} into {}", detached.display()), e);
        let (pending, to) = (self.pending(table).join(part), detached.join(part));
        if pending.exists() {
            fs::create_dir_all(detached).map_err(failed)?;
            match fs::rename(&pending, &to) {
                Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                    move_tree(&pending, &to).map_err(failed)?;
                }
                moved => moved.map_err(failed)?,
            }
            return Ok(true);
        }
        // A server that died while it attached left it under this name.
        let attaching = detached.join(format!("attaching_{part}"));
        if attaching.exists() && !to.exists() {
            fs::rename(&attaching, &to).map_err(failed)?;
        }
        Ok(to.exists())
    }

    /// The server has all of a table's parts. Blocks.
    pub(super) fn end(&self, table: usize) -> Result<()> {
        let (pending, done) = (self.pending(table), self.done(table));
        if !pending.exists() {
            return durable::create_dir(&done);
        }
        fs::rename(pending, &done).map_err(|e| Error::io(format!("make {}", done.display()), e))
    }

    /// The server has everything. Blocks.
    pub(super) fn remove(&self) -> Result<()> {
        // First: what is not whole any more is no place to go on from.
        durable::remove(&self.0.join(LOADING))?;
        durable::remove_dir(&self.0)
    }
}

/// Who owns what the server writes into a directory.
pub(super) fn owner(directory: &Path) -> Result<(u32, u32)> {
    let found = directory.metadata().map_err(|e| Error::io(format!("look at {}", directory.display()), e))?;
    Ok((found.uid(), found.gid()))
}

fn link_tree(from: &Path, to: &Path, owner: (u32, u32)) -> io::Result<()> {
    fs::create_dir(to)?;
    give(to, owner)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()? {
            kind if kind.is_dir() => link_tree(&from, &to, owner)?,
            kind if kind.is_file() => {
                fs::hard_link(&from, &to)?;
                give(&to, owner)?;
            }
            _ => return Err(io::Error::other(format!("{} is no file", from.display()))),
        }
    }
    Ok(())
}

/// To another file system: whole under its name, or not there.
fn move_tree(from: &Path, to: &Path) -> io::Result<()> {
    let new = to.with_extension("palinurus");
    let _ = fs::remove_dir_all(&new);
    copy_tree(from, &new)?;
    fs::rename(&new, to)?;
    fs::remove_dir_all(from)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let found = from.metadata()?;
    if found.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else {
        fs::copy(from, to)?;
    }
    give(to, (found.uid(), found.gid()))?;
    fs::File::open(to)?.sync_all()
}

/// One who is not root is the owner, or the server cannot be given anything.
pub(super) fn give(path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let found = path.symlink_metadata()?;
    if (found.uid(), found.gid()) == (uid, gid) { Ok(()) } else { lchown(path, Some(uid), Some(gid)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palinurus_repository::ErrorKind;

    #[test]
    fn a_part_is_handed_over_once_wherever_it_stops() {
        let dir = tempfile::tempdir().unwrap();
        let (aside, detached) = (Aside::new(dir.path()), dir.path().join("t/detached"));
        let part = aside.backup().join("disks/default/t/all_1_1_0");
        fs::create_dir_all(part.join("p.proj")).unwrap();
        fs::write(part.join("p.proj/data.bin"), b"x").unwrap();
        fs::write(aside.backup().join(NAME), serde_json::to_vec(&Facts::default()).unwrap()).unwrap();
        assert!(!aside.begin().unwrap().1);
        assert!(aside.begin().unwrap().1, "the same goes on");
        let own = owner(dir.path()).unwrap();
        for _ in 0..2 {
            aside.link(3, std::slice::from_ref(&part), own).unwrap();
        }
        for _ in 0..2 {
            assert!(aside.hand_over(3, "all_1_1_0", &detached).unwrap());
        }
        fs::rename(detached.join("all_1_1_0"), detached.join("attaching_all_1_1_0")).unwrap();
        assert!(aside.hand_over(3, "all_1_1_0", &detached).unwrap(), "the server died");
        fs::remove_dir_all(detached.join("all_1_1_0")).unwrap();
        assert!(!aside.hand_over(3, "all_1_1_0", &detached).unwrap(), "it was attached");
        aside.link(3, std::slice::from_ref(&part), own).unwrap();
        assert!(!aside.hand_over(3, "all_1_1_0", &detached).unwrap(), "and stays so");
        aside.end(3).unwrap();
        assert!(aside.is_done(3) && part.join("p.proj/data.bin").exists());
        let other = Facts { server: "other".into(), ..Facts::default() };
        fs::write(aside.backup().join(NAME), serde_json::to_vec(&other).unwrap()).unwrap();
        assert_eq!(aside.begin().unwrap_err().kind(), ErrorKind::Conflict);
        aside.remove().unwrap();
        assert!(!aside.path().exists() && !aside.is_loading());
    }
}
