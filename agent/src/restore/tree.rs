//! The directories that lead to the entry at hand, and how they are entered and left. A manifest is a tree in
//! depth-first order, so a directory is finished when the first entry beside it comes.
use std::io;
use std::sync::Arc;

use palinurus_repository::manifest::entry::Meta;
use palinurus_repository::{Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, chmodat, mkdirat, statat};
use rustix::io::Errno;

use super::beneath::{Beneath, Places, split};
use super::extras::Extras;
use super::fault::{Fault, shown};
use super::metadata::Origin;
use super::remove::remove;
use super::selection::Selection;

/// A directory whose content is all on its way, to be given its own mode and times once that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) path: Vec<u8>,
    pub(super) meta: Meta,
    pub(super) origin: Origin,
}

#[derive(Debug)]
struct Folder {
    path: Vec<u8>,
    meta: Meta,
    /// Everything in it is wanted.
    wanted: bool,
    made: Option<Origin>,
    /// It could not be made: nothing below it is tried.
    lost: bool,
    extras: Option<Extras>,
}

/// What is known of an entry before it is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Not selected, or in a directory that could not be made.
    Skip,
    /// Its name may be taken.
    Look,
    /// Its directory is new: its name is free.
    Free,
}

#[derive(Debug)]
pub(super) struct Tree {
    selection: Arc<Selection>,
    existing: bool,
    delta: bool,
    privileged: bool,
    open: Vec<Folder>,
    places: Places,
}

impl Tree {
    pub(super) fn new(selection: Arc<Selection>, existing: bool, delta: bool, privileged: bool) -> Self {
        Self { selection, existing, delta, privileged, open: Vec::new(), places: Places::default() }
    }

    /// Goes to the next entry; `left` gets the directories that it is not in, innermost first.
    pub(super) fn step(
        &mut self,
        beneath: &Beneath,
        path: &[u8],
        left: &mut Vec<Left>,
    ) -> Result<Step, Fault> {
        if path == b"." {
            return if self.open.is_empty() { Ok(Step::Look) } else { Err(lost_its_way(path)) };
        }
        let (parent, name) = split(path);
        while self.open.last().is_some_and(|folder| folder.path != parent) {
            if self.open.len() == 1 {
                return Err(lost_its_way(path));
            }
            self.leave(beneath, left)?;
        }
        let Some(folder) = self.open.last_mut() else { return Err(lost_its_way(path)) };
        if let Some(extras) = &mut folder.extras {
            extras
                .remove_until(beneath, &mut self.places, parent, Some(name))
                .map_err(|e| Fault::io("remove what is not in the backup from", parent, e))?;
        }
        if folder.lost || !(folder.wanted || self.selection.names(path)) {
            return Ok(Step::Skip);
        }
        self.make_open(beneath)?;
        match self.open.last() {
            Some(folder) if folder.made == Some(Origin::Made) => Ok(Step::Free),
            Some(folder) if folder.made.is_some() && self.existing => Ok(Step::Look),
            Some(folder) if folder.made.is_some() => Ok(Step::Free),
            _ => Ok(Step::Skip),
        }
    }

    /// Enters a directory, after [`step`](Self::step). It is made now if it is wanted, else when something in it is.
    pub(super) fn enter(&mut self, beneath: &Beneath, path: Vec<u8>, meta: Meta) -> Result<(), Fault> {
        let parent = self.open.last();
        let wanted = parent.is_some_and(|parent| parent.wanted)
            || self.selection.is_all()
            || self.selection.names(&path);
        let lost = parent.is_some_and(|parent| parent.lost);
        self.open.push(Folder { path, meta, wanted, made: None, lost, extras: None });
        if wanted && !lost { self.make_open(beneath) } else { Ok(()) }
    }

    /// Leaves all that is open; the data directory itself comes last.
    pub(super) fn finish(&mut self, beneath: &Beneath, left: &mut Vec<Left>) -> Result<(), Fault> {
        while !self.open.is_empty() {
            self.leave(beneath, left)?;
        }
        Ok(())
    }

    fn leave(&mut self, beneath: &Beneath, left: &mut Vec<Left>) -> Result<(), Fault> {
        let Some(mut folder) = self.open.pop() else { return Ok(()) };
        if let Some(extras) = &mut folder.extras {
            extras
                .remove_until(beneath, &mut self.places, &folder.path, None)
                .map_err(|e| Fault::io("remove what is not in the backup from", &folder.path, e))?;
        }
        if let Some(origin) = folder.made {
            left.push(Left { path: folder.path, meta: folder.meta, origin });
        }
        Ok(())
    }

    /// Makes the open directories that are not made yet, outermost first.
    fn make_open(&mut self, beneath: &Beneath) -> Result<(), Fault> {
        let first = self.open.iter().rposition(|folder| folder.made.is_some()).map_or(0, |at| at + 1);
        for at in first..self.open.len() {
            let fresh = !self.existing || (at > 0 && self.open[at - 1].made == Some(Origin::Made));
            let folder = &mut self.open[at];
            let made = if folder.path == b"." {
                Ok(Origin::Found)
            } else {
                make(beneath, &mut self.places, &folder.path, fresh, self.privileged)
            };
            match made {
                Ok(origin) => folder.made = Some(origin),
                Err(e) => {
                    let fault = Fault::io("make directory", &folder.path, e);
                    self.open[at..].iter_mut().for_each(|folder| folder.lost = true);
                    return Err(fault);
                }
            }
            if self.delta && folder.wanted && folder.made == Some(Origin::Found) {
                let listed = Extras::list(beneath, &folder.path);
                folder.extras = Some(listed.map_err(|e| Fault::io("list", &folder.path, e))?);
            }
        }
        Ok(())
    }
}

/// Closed to others until it is left.
fn make(
    beneath: &Beneath,
    places: &mut Places,
    path: &[u8],
    fresh: bool,
    privileged: bool,
) -> io::Result<Origin> {
    let (dir, name) = places.find(beneath, path)?;
    match mkdirat(dir, name, Mode::RWXU) {
        Ok(()) => return Ok(Origin::Made),
        Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let found = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        if !privileged && found.st_mode & 0o700 != 0o700 {
            chmodat(dir, name, Mode::from_raw_mode((found.st_mode & 0o7777) | 0o700), AtFlags::empty())?;
        }
        return Ok(Origin::Found);
    }
    if fresh {
        return Err(Errno::EXIST.into());
    }
    remove(beneath, places, path)?;
    let (dir, name) = places.find(beneath, path)?;
    mkdirat(dir, name, Mode::RWXU)?;
    Ok(Origin::Made)
}

fn lost_its_way(path: &[u8]) -> Fault {
    Fault::Run(Error::corrupt(format!("entry {} lies in no directory of the manifest", shown(path))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn walk(tree: &mut Tree, beneath: &Beneath, entries: &[(&[u8], bool)]) -> Result<Vec<Left>, Fault> {
        let mut left = Vec::new();
        for (path, is_directory) in entries {
            tree.step(beneath, path, &mut left)?;
            if *is_directory {
                tree.enter(beneath, path.to_vec(), Meta::default())?;
            }
        }
        tree.finish(beneath, &mut left)?;
        Ok(left)
    }

    fn tree(include: &[&str], delta: bool) -> Tree {
        let include: Vec<String> = include.iter().map(|pattern| (*pattern).to_owned()).collect();
        Tree::new(Arc::new(Selection::new(&include).unwrap()), delta, delta, true)
    }

    const ENTRIES: &[(&[u8], bool)] = &[
        (b".", true),
        (b"a", true),
        (b"a/b", true),
        (b"a/b/f", false),
        (b"a/g", false),
        (b"c", true),
        (b"d", false),
    ];

    #[test]
    fn directories_are_left_inside_out() {
        let dir = tempfile::tempdir().unwrap();
        let beneath = Beneath::new(fs::File::open(dir.path()).unwrap().into());
        let left = walk(&mut tree(&[], false), &beneath, ENTRIES).unwrap();
        let paths: Vec<&[u8]> = left.iter().map(|left| &left.path[..]).collect();
        assert_eq!(paths, [&b"a/b"[..], b"a", b"c", b"."]);
        assert!(dir.path().join("a/b").is_dir() && dir.path().join("c").is_dir());
    }

    #[test]
    fn only_the_way_to_what_is_wanted_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let beneath = Beneath::new(fs::File::open(dir.path()).unwrap().into());
        let mut tree = tree(&["a/g"], false);
        let left = walk(&mut tree, &beneath, ENTRIES).unwrap();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(
            dir.path().join("a").is_dir()
                && !dir.path().join("a/b").exists()
                && !dir.path().join("c").exists()
        );
    }

    #[test]
    fn a_delta_removes_what_the_backup_has_not_where_all_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), b"").unwrap();
        };
        ["a/b/f", "a/b/extra", "a/aa", "a/z/z/z", "0", "zz", "lost+found/x", ".palinurus-x"]
            .into_iter()
            .for_each(make);
        let beneath = Beneath::new(fs::File::open(dir.path()).unwrap().into());
        walk(&mut tree(&["a/b"], true), &beneath, ENTRIES).unwrap();
        assert!(!dir.path().join("a/b/extra").exists() && dir.path().join("a/aa").exists());
        walk(&mut tree(&[], true), &beneath, ENTRIES).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".palinurus-x", "a", "c", "lost+found"]);
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_stands_where_a_directory_belongs_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"").unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("c")).unwrap();
        let beneath = Beneath::new(fs::File::open(dir.path()).unwrap().into());
        walk(&mut tree(&[], true), &beneath, ENTRIES).unwrap();
        assert!(fs::symlink_metadata(dir.path().join("c")).unwrap().is_dir());
        assert!(dir.path().join("a/b").is_dir());
    }

    #[test]
    fn an_entry_outside_the_tree_stops_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let beneath = Beneath::new(fs::File::open(dir.path()).unwrap().into());
        for bad in [
            &[(&b"a"[..], true)][..],
            &[(b".", true), (b"a", false), (b"a/b", false)],
            &[(b".", true), (b".", true)],
        ] {
            assert!(matches!(walk(&mut tree(&[], false), &beneath, bad), Err(Fault::Run(_))), "{bad:?}");
        }
    }
}
