//! What a data directory holds, remembered: paths, kinds, modes, times and contents.
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::seeded::Random;
use crate::world::files_below;

/// By path below the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    modified: (i64, i64),
    content: Option<blake3::Hash>,
}

impl Tree {
    pub fn of(dir: &Path) -> Self {
        let entry = |path: PathBuf| {
            let found = fs::symlink_metadata(&path).unwrap();
            let content = found.is_file().then(|| blake3::hash(&fs::read(&path).unwrap()));
            let entry = Entry { mode: found.mode(), modified: (found.mtime(), found.mtime_nsec()), content };
            (path.strip_prefix(dir).unwrap().to_owned(), entry)
        };
        Self(files_below(dir).into_iter().map(entry).collect())
    }

    /// The paths that are not the same in both; empty when the trees are equal.
    pub fn differences(&self, other: &Tree) -> Vec<String> {
        let paths: std::collections::BTreeSet<&PathBuf> = self.0.keys().chain(other.0.keys()).collect();
        paths
            .into_iter()
            .filter(|path| self.0.get(*path) != other.0.get(*path))
            .map(|path| format!("{}: {:?}, not {:?}", path.display(), other.0.get(path), self.0.get(path)))
            .collect()
    }
}

/// Changes some of what lies in the nodes' directories, the same way for the same chance: what all of them have,
/// what only one has, files that come, shrink and go.
pub fn change(dirs: &[PathBuf], random: &mut Random) {
    let shared = random.bytes(5 << 20);
    let name = format!("shared-{}", random.below(3));
    for dir in dirs {
        fs::create_dir_all(dir.join("small")).unwrap();
        fs::write(dir.join(&name), &shared).unwrap();
        let own = 2 + random.below(5) as usize;
        fs::write(dir.join(format!("own-{}", random.below(3))), random.bytes(own << 20)).unwrap();
        for _ in 0..5 + random.below(20) {
            let len = random.below(20_000) as usize;
            fs::write(dir.join(format!("small/{}", random.below(200))), random.bytes(len)).unwrap();
        }
        for _ in 0..random.below(5) {
            let _ = fs::remove_file(dir.join(format!("small/{}", random.below(200))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_chance_makes_the_same_contents_and_one_changed_byte_is_a_difference() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("a"), dir.path().join("b")];
        for dir in &dirs {
            change(std::slice::from_ref(dir), &mut Random::new(1));
        }
        let contents = |dir: &Path| {
            let tree = Tree::of(dir).0;
            tree.into_iter().map(|(path, entry)| (path, entry.content)).collect::<Vec<_>>()
        };
        assert_eq!(contents(&dirs[0]), contents(&dirs[1]));
        let before = Tree::of(&dirs[0]);
        assert_eq!(before.differences(&Tree::of(&dirs[0])), Vec::<String>::new());
        let file = files_below(&dirs[0]).into_iter().find(|path| path.is_file()).unwrap();
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        bytes[0] ^= 1;
        fs::write(&file, bytes).unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        assert_eq!(before.differences(&Tree::of(&dirs[0])).len(), 1);
    }
}
