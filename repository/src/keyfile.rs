//! An operator's key: what opens a repository. Kept in a file by the operator, never in the store.
use std::fs::File;
use std::io::{ErrorKind as Io, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::crypto::Key;
use crate::entropy::Entropy;
use crate::error::{Error, Result};
use crate::id::KeyId;
use crate::keys::key_from_hex;

const MAGIC: &str = "palinurus-key-1";
/// A key file has one line of 100 bytes and perhaps a comment: more is something else.
pub(crate) const TEXT_MAX: usize = 4096;

/// The file's text is `palinurus-key-1 <id, 16 hex digits> <key, 64 hex digits>`; lines beginning with `#` are
/// comments.
#[derive(Clone, Debug)]
pub struct KeyFile {
    pub id: KeyId,
    pub(crate) key: Key,
}

impl KeyFile {
    pub fn generate(entropy: &dyn Entropy) -> Result<Self> {
        Ok(Self { id: KeyId(entropy.array()?), key: Key(entropy.array()?) })
    }

    /// Never replaces a file: a key that is overwritten is a repository that is lost.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |e| Error::io(format!("write the key file {}", path.display()), e);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(|e| {
            if e.kind() == Io::AlreadyExists {
                return Error::conflict(format!("the key file {} exists already", path.display()))
                    .with_hint("a key is never overwritten: choose another name, or move the file away");
            }
            failed(e)
        })?;
        let mut text = format!("{MAGIC} {} ", self.id).into_bytes();
        for byte in self.key.0 {
            text.extend_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        text.push(b'\n');
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        text.fill(0);
        if let Err(e) = written {
            // Half a key opens nothing, and would stand in the way of the next attempt.
            let _ = std::fs::remove_file(path);
            return Err(failed(e));
        }
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }

    /// The key, and a warning when others than its owner may read the file.
    pub fn read(path: &Path) -> Result<(KeyFile, Option<String>)> {
        let failed = |e: std::io::Error| unreadable(path, e);
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_dir() {
            return Err(Error::invalid(format!("{} is a directory, not a key file", path.display()))
                .with_hint("name the key file in it"));
        }
        // Never grown: a buffer that moves leaves its content behind.
        let mut text = Vec::with_capacity(TEXT_MAX + 64);
        file.take(TEXT_MAX as u64 + 1).read_to_end(&mut text).map_err(failed)?;
        let key = Self::from_text(&path.display().to_string(), &mut text)?;
        let mode = found.mode();
        let warning = (mode & 0o077 != 0).then(|| {
            format!(
                "the key file {} may be read or changed by others (mode {:04o}): chmod 600 {}",
                path.display(),
                mode & 0o7777,
                path.display()
            )
        });
        Ok((key, warning))
    }

    /// A key file's text, wherever it came from; wiped here. Errors name `from` and nothing that the text holds.
    pub(crate) fn from_text(from: &str, text: &mut [u8]) -> Result<KeyFile> {
        let key = Self::parse(text).map_err(|e| {
            let hint = e.hint().map(str::to_owned);
            Error::invalid(format!("{from} is not a key file: {}", e.what())).with_hint(hint.unwrap_or_else(
                || {
                    format!(
                        "a key file has one line: {MAGIC}, the key's id, the key; bring it back from its copy"
                    )
                },
            ))
        });
        text.fill(0);
        key
    }

    /// No error of this names what the text holds.
    fn parse(text: &[u8]) -> Result<Self> {
        if text.len() > TEXT_MAX {
            return Err(Error::invalid(format!("it is longer than {TEXT_MAX} bytes")));
        }
        let text = std::str::from_utf8(text).map_err(|_| Error::invalid("it is not text"))?;
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or_else(|| Error::invalid("it is empty"))?;
        if let Some(error) = foreign(line) {
            return Err(error);
        }
        if lines.next().is_some() {
            return Err(Error::invalid("it has more than one line")
                .with_hint("one file holds one key: split it, and name each file"));
        }
        let mut fields = line.split_ascii_whitespace();
        match (fields.next(), fields.next(), fields.next(), fields.next()) {
            (Some(MAGIC), Some(id), Some(key), None) => Ok(Self {
                id: id.parse().map_err(|_| Error::invalid("the key's id is not 16 hex digits"))?,
                key: key_from_hex(key)?,
            }),
            (Some(MAGIC), ..) => Err(Error::invalid("it has not three fields")),
            _ => Err(Error::invalid(format!("it does not begin with {MAGIC}"))),
        }
    }
}

/// What people take for a key file.
fn foreign(line: &str) -> Option<Error> {
    let own = "palinurus has keys of its own: `palinurus keys generate` makes one";
    let (what, hint) = if line.starts_with("-----BEGIN") {
        ("it is PEM, as certificates, TLS and SSH keys are", own)
    } else if line.starts_with("AGE-SECRET-KEY-") || line.starts_with("age-encryption.org/") {
        ("it is age's", own)
    } else if line.starts_with('{') {
        ("it is JSON", "have the key file's line taken out of it, such as by `jq -r`")
    } else if line.starts_with(MAGIC.trim_end_matches('1'))
        && line.split_ascii_whitespace().next() != Some(MAGIC)
    {
        ("a newer palinurus made it", "update palinurus")
    } else {
        return None;
    };
    Some(Error::invalid(what).with_hint(hint))
}

fn unreadable(path: &Path, e: std::io::Error) -> Error {
    let hint = match e.kind() {
        Io::NotFound => "make one with `palinurus keys generate`, or name the right file",
        Io::PermissionDenied => "run as the file's owner, or make this user its owner",
        _ => "name the right file, or bring it back from its copy",
    };
    Error::io(format!("read the key file {}", path.display()), e).with_hint(hint)
}

fn hex_digit(value: u8) -> u8 {
    b"0123456789abcdef"[usize::from(value)]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::entropy::SeededEntropy;
    use crate::error::ErrorKind;

    fn key(seed: u64) -> KeyFile {
        KeyFile::generate(&SeededEntropy::new(seed)).unwrap()
    }

    #[test]
    fn written_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("operator.key");
        let key = key(1);
        key.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (read, warning) = KeyFile::read(&path).unwrap();
        assert_eq!((read.id, read.key == key.key, warning), (key.id, true, None));
        assert_eq!(key.write(&path).unwrap_err().kind(), ErrorKind::Conflict, "never overwritten");

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("# the production key\n\n  {text}\n# end\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let (read, warning) = KeyFile::read(&path).unwrap();
        assert_eq!(read.id, key.id);
        assert!(warning.unwrap().contains("chmod 600"));
        assert!(
            !format!("{key:?}").contains(text.split(' ').nth(2).unwrap().trim()),
            "debug tells no secret"
        );
    }

    #[test]
    fn what_is_no_key_file_is_told_each_in_its_own_way_and_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k");
        let (id, secret) = ("0011223344556677", "5e".repeat(32));
        let short = format!("{MAGIC} {id} {}", &secret[2..]);
        let told = [
            (String::new(), "it is empty", "from its copy"),
            ("# only a comment\n".into(), "it is empty", "from its copy"),
            ("hunter2".into(), "does not begin with palinurus-key-1", "one line"),
            (format!("{MAGIC} 00112233445566 {secret}"), "id is not 16 hex digits", "one line"),
            (short, "the key has 62 characters, not 64", "from its copy"),
            (format!("{MAGIC} {id} {}z0", &secret[2..]), "the key is not 64 hex digits", "from its copy"),
            (format!("{MAGIC} {id}"), "it has not three fields", "one line"),
            (format!("{MAGIC} {id} {secret}\n{MAGIC} {id} {secret}"), "more than one line", "split it"),
            (format!("palinurus-key-2 {id} {secret}"), "a newer palinurus", "update"),
            (format!("-----BEGIN PRIVATE KEY-----\n{secret}"), "it is PEM", "keys generate"),
            (format!("# created: 2026\nAGE-SECRET-KEY-1{secret}"), "it is age's", "keys generate"),
            (format!("{{\"key\": \"{secret}\"}}"), "it is JSON", "jq"),
            (secret.repeat(100), "longer than 4096 bytes", "one line"),
        ];
        for (text, what, hint) in told {
            fs::write(&path, &text).unwrap();
            let error = KeyFile::read(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(
                error.what().contains(what) && error.what().contains(path.to_str().unwrap()),
                "{error:?}"
            );
            assert!(error.hint().unwrap().contains(hint), "{error:?}");
            assert!(!format!("{error:?}").contains("5e5e") && !format!("{error:?}").contains("hunter2"));
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(KeyFile::read(&path).unwrap_err().what().contains("it is not text"));
        let error = KeyFile::read(directory.path()).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.what().contains("is a directory"), "{error:?}");
        let missing = KeyFile::read(&directory.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.hint().unwrap().contains("keys generate"));
        // Root, whom tests may run as, reads everything.
        let denied = unreadable(&path, Io::PermissionDenied.into());
        assert!(denied.kind() == ErrorKind::Denied && denied.hint().unwrap().contains("owner"), "{denied:?}");
    }
}
