//! Two trees compared by tools that are not ours.
use std::path::Path;
use std::process::Command;

/// Panics unless rsync finds nothing to do between the two and getfattr prints the same for both.
/// `except` are patterns of what a backup leaves out on purpose.
pub fn assert_equal(want: &Path, have: &Path, except: &[&str]) {
    let found = rsync(want, have, except);
    assert!(
        found.is_empty(),
        "rsync finds differences between {} and {}:\n{found}",
        want.display(),
        have.display()
    );
    let (want_attributes, have_attributes) = (attributes(want, except), attributes(have, except));
    if want_attributes != have_attributes {
        let lost: Vec<_> = want_attributes.iter().filter(|block| !have_attributes.contains(block)).collect();
        let gained: Vec<_> =
            have_attributes.iter().filter(|block| !want_attributes.contains(block)).collect();
        panic!("getfattr differs\nonly in the original: {lost:#?}\nonly in the other: {gained:#?}");
    }
}

/// What `rsync` would do to make `have` equal to `want`: one line a path, empty when they are equal.
pub fn rsync(want: &Path, have: &Path, except: &[&str]) -> String {
    let mut command = Command::new("rsync");
    command.args(["-aHAXn", "--checksum", "--itemize-changes", "--delete"]);
    command.args(except.iter().map(|pattern| format!("--exclude={pattern}")));
    let slash = |path: &Path| format!("{}/", path.display());
    let output = command.arg(slash(want)).arg(slash(have)).output().expect("rsync is installed by tests/run");
    assert!(output.status.success(), "rsync: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One block a file, sorted: a directory is listed in whatever order the file system has.
fn attributes(dir: &Path, except: &[&str]) -> Vec<String> {
    let output = Command::new("getfattr")
        .args(["-R", "-P", "-h", "-d", "-m-", "-e", "hex", "."])
        .current_dir(dir)
        .output()
        .expect("getfattr is installed by tests/run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut blocks: Vec<String> = text
        .split("\n\n")
        .filter(|block| !block.trim().is_empty())
        .filter(|block| !except.iter().any(|name| block.starts_with(&format!("# file: {name}\n"))))
        .map(|block| {
            // Attributes of one file, too, come in no certain order.
            let mut lines: Vec<&str> =
                block.lines().filter(|line| !line.starts_with("security.selinux")).collect();
            lines.sort_unstable();
            lines.join("\n")
        })
        .collect();
    blocks.sort();
    blocks
}

/// Bytes that a file takes up on the disk.
pub fn allocated(file: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(file).unwrap().blocks() * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_and_a_changed_attribute_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::write(a.join("file"), "content").unwrap();
        assert!(Command::new("cp").arg("-a").args([&a, &b]).status().unwrap().success());
        assert_equal(&a, &b, &[]);
        let time = std::fs::metadata(b.join("file")).unwrap().modified().unwrap();
        std::fs::write(b.join("file"), "cOntent").unwrap();
        std::fs::File::options().write(true).open(b.join("file")).unwrap().set_modified(time).unwrap();
        assert!(rsync(&a, &b, &[]).contains("file"));
        std::fs::write(b.join("file"), "content").unwrap();
        std::fs::File::options().write(true).open(b.join("file")).unwrap().set_modified(time).unwrap();
        xattr::set(b.join("file"), "user.a", b"b").unwrap();
        assert!(rsync(&a, &b, &[]).contains("file"));
        assert_ne!(attributes(&a, &[]), attributes(&b, &[]));
    }
}
