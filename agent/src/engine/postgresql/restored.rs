//! A data directory before and after it is restored.
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use rustix::process::{Pid, test_kill_process};

use super::added::TABLESPACES;
use crate::durable;

/// Refuses a directory that a server runs in. Blocks.
pub(super) fn check_unused(root: &Path) -> Result<()> {
    let Some(pid) = running(root) else { return Ok(()) };
    let what = format!("a server runs in {}: process {}", root.display(), pid.as_raw_nonzero());
    Err(Error::conflict(what)
        .with_hint("stop it; if that process is another program's, remove postmaster.pid"))
}

/// The server that runs in it, unless its process's number is another program's by now. Blocks.
pub(super) fn running(root: &Path) -> Option<Pid> {
    let text = fs::read_to_string(root.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
    // Another's process answers too, with "not permitted".
    (!matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))).then_some(pid)
}

/// Puts the tablespaces, which were restored below `pg_tblspc`, where they belong, and says so in `tablespace_map`,
/// by which the server makes its links. May be repeated. Blocks.
pub(super) fn place_tablespaces(root: &Path, elsewhere: &BTreeMap<String, PathBuf>) -> Result<()> {
    let path = root.join(TABLESPACES);
    let map = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|e| Error::io(format!("read {}", path.display()), e))?,
    };
    let owner = path.metadata().map_err(|e| Error::io(format!("look at {}", path.display()), e))?;
    let spaces: Vec<(String, PathBuf)> = parse(&map)?
        .into_iter()
        .map(|(oid, target)| {
            let target = elsewhere.get(&oid).cloned().unwrap_or(target);
            (oid, target)
        })
        .collect();
    for (oid, target) in &spaces {
        place(&root.join("pg_tblspc").join(oid), oid, target)?;
    }
    let lines: String = spaces.iter().map(|(oid, target)| format!("{oid} {}\n", escape(target))).collect();
    if lines.as_bytes() != map {
        durable::write(&path, lines.as_bytes())?;
        let given = lchown(&path, Some(owner.uid()), Some(owner.gid()))
            .and_then(|()| fs::set_permissions(&path, owner.permissions()));
        given.map_err(|e| Error::io(format!("give {} its owner", path.display()), e))?;
    }
    Ok(())
}

fn place(link: &Path, oid: &str, target: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io(format!("put tablespace {oid} into {}", target.display()), e);
    let is_there = fs::read_dir(target).is_ok_and(|mut names| names.next().is_some());
    match link.symlink_metadata() {
        Ok(found) if found.is_symlink() => return Ok(()),
        Ok(_) if is_there => {
            return Err(Error::conflict(format!(
                "tablespace {oid} belongs into {}, which is not empty",
                target.display()
            ))
            .with_hint(format!("empty it, or name another place: [engine.tablespaces] {oid} = \"/path\"")));
        }
        Ok(_) => {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(failed)?;
            }
            match fs::rename(link, target) {
                Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                    copy(link, target).and_then(|()| fs::remove_dir_all(link)).map_err(failed)?;
                }
                renamed => renamed.map_err(failed)?,
            }
            durable::sync_parent(target)?;
        }
        // Moved by an attempt that did not come to the link.
        Err(e) if e.kind() == io::ErrorKind::NotFound && is_there => {}
        Err(e) => return Err(failed(e)),
    }
    symlink(target, link).map_err(failed)?;
    durable::sync_parent(link)
}

/// To another file system, with owners and modes.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let found = from.symlink_metadata()?;
    if found.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else {
        fs::copy(from, to)?;
    }
    lchown(to, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))?;
    fs::File::open(to)?.sync_all()
}

/// `16384 /path` a line; a backslash goes before a backslash or an end of line that is part of the path.
pub(super) fn parse(map: &[u8]) -> Result<Vec<(String, PathBuf)>> {
    let wrong = || Error::corrupt("tablespace_map does not parse");
    let text = std::str::from_utf8(map).map_err(|e| wrong().with_source(e))?;
    let (mut spaces, mut line, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            '\n' | '\r' if !escaped => {
                let taken = std::mem::take(&mut line);
                if taken.is_empty() {
                    continue;
                }
                let (oid, path) = taken.split_once(' ').ok_or_else(wrong)?;
                let usable = oid.parse::<u32>().is_ok() && Path::new(path).is_absolute();
                spaces.push(usable.then(|| (oid.to_owned(), PathBuf::from(path))).ok_or_else(wrong)?);
            }
            c => {
                escaped = false;
                line.push(c);
            }
        }
    }
    if line.is_empty() { Ok(spaces) } else { Err(wrong()) }
}

fn escape(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.chars()
        .flat_map(|c| matches!(c, '\\' | '\n' | '\r').then_some('\\').into_iter().chain([c]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use palinurus_repository::ErrorKind;

    #[test]
    fn tablespaces_go_where_they_belong_and_stay_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let (old, new) = (dir.path().join("old\nplace"), dir.path().join("deep/new"));
        fs::create_dir_all(root.join("pg_tblspc/1/PG_15_1")).unwrap();
        fs::create_dir_all(root.join("pg_tblspc/2/PG_15_1")).unwrap();
        let map = format!("1 {}\n2 {}\n", escape(&old), escape(&old));
        fs::write(root.join(TABLESPACES), &map).unwrap();
        let elsewhere = BTreeMap::from([("2".to_owned(), new.clone())]);
        for _ in 0..2 {
            place_tablespaces(&root, &elsewhere).unwrap();
            assert!(old.join("PG_15_1").is_dir() && new.join("PG_15_1").is_dir());
            assert_eq!(fs::read_link(root.join("pg_tblspc/2")).unwrap(), new);
        }
        let map = fs::read(root.join(TABLESPACES)).unwrap();
        assert_eq!(parse(&map).unwrap(), [("1".to_owned(), old.clone()), ("2".to_owned(), new.clone())]);
        // Killed between the move and the link.
        fs::remove_file(root.join("pg_tblspc/2")).unwrap();
        place_tablespaces(&root, &elsewhere).unwrap();
        // In use by another server.
        fs::remove_file(root.join("pg_tblspc/2")).unwrap();
        fs::create_dir(root.join("pg_tblspc/2")).unwrap();
        let error = place_tablespaces(&root, &elsewhere).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        for bad in ["x /a\n", "1 a\n", "1\n", "1 /a"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_directory_with_a_server_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        check_unused(dir.path()).unwrap();
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n/d\n", std::process::id())).unwrap();
        assert_eq!(check_unused(dir.path()).unwrap_err().kind(), ErrorKind::Conflict);
        fs::write(dir.path().join("postmaster.pid"), "999999999\n").unwrap();
        check_unused(dir.path()).unwrap();
    }
}
