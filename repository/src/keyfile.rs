//! An operator's key: what opens a repository. Kept in a file by the operator, never in the store.
use std::fs::File;
use std::io::{ErrorKind as Io, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;

use crate::crypto::{Key, RingSuite, Suite, TAG_LEN};
use crate::entropy::Entropy;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{KeyId, RepositoryId};
use crate::keys::{RootKey, key_from_hex};

const MAGIC: &str = "palinurus-key-1";
/// A key file has one line of 100 bytes and perhaps a comment: more is something else.
const FILE_MAX: u64 = 4096;
const WRAP_MAGIC: &[u8; 6] = b"PALNK\x01";
/// With the repository's id.
const HEADER_LEN: usize = 8 + RepositoryId::LEN;
const CHECKSUM_LEN: usize = 8;

/// The file's text is `palinurus-key-1 <id, 16 hex digits> <key, 64 hex digits>`; lines beginning with `#` are
/// comments.
#[derive(Clone, Debug)]
pub struct KeyFile {
    pub id: KeyId,
    key: Key,
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
        let failed = |e: std::io::Error| {
            let missing = e.kind() == Io::NotFound;
            let error = Error::io(format!("read the key file {}", path.display()), e);
            if missing {
                error.with_hint("make one with `palinurus keys generate`, or name the right file")
            } else {
                error
            }
        };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode();
        let mut text = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut text).map_err(failed)?;
        let key = Self::parse(&text).map_err(|e| {
            Error::invalid(format!("{} is not a key file: {}", path.display(), e.what()))
                .with_hint(format!("a key file has one line: {MAGIC}, the key's id, the key"))
        });
        text.fill(0);
        let warning = (mode & 0o077 != 0).then(|| {
            format!(
                "the key file {} may be read or changed by others (mode {:04o}): chmod 600 {}",
                path.display(),
                mode & 0o7777,
                path.display()
            )
        });
        Ok((key?, warning))
    }

    /// No error of this names what the text holds.
    fn parse(text: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(text).map_err(|_| Error::invalid("it is not text"))?;
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or_else(|| Error::invalid("it is empty"))?;
        if lines.next().is_some() {
            return Err(Error::invalid("it has more than one line"));
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

    /// The root key, sealed for this operator key: the content of `keys/<id>`.
    ///
    /// Key and nonce are the same at each wrapping, which is safe because what they seal is the same too: a
    /// repository has one root for life.
    pub fn wrap(&self, root: &RootKey, repository: RepositoryId) -> Result<Bytes> {
        let suite = RingSuite;
        let header = header(suite.id(), repository);
        let mut sealed = root.0.0;
        let tag = self.aead(&suite, repository)?.seal(0, &self.aad(&header), &mut sealed)?;
        let mut wrapped = [&header[..], &sealed, &tag].concat();
        // Needs no key: tells damage from a wrong key.
        wrapped.extend_from_slice(&blake3::hash(&wrapped).as_bytes()[..CHECKSUM_LEN]);
        Ok(Bytes::from(wrapped))
    }

    /// `Denied` when it was sealed for another key or repository, `Corrupt` when it is damaged.
    pub fn unwrap(&self, wrapped: &[u8], repository: RepositoryId) -> Result<RootKey> {
        let suite = RingSuite;
        let (given, sealed) = intact(wrapped).map_err(|e| {
            let hint = e.hint().map(str::to_owned);
            let error = Error::corrupt(format!("the wrapped key keys/{} is damaged: {}", self.id, e.what()));
            if let Some(hint) = hint { error.with_hint(hint) } else { error }
        })?;
        if given != header(suite.id(), repository) {
            return Err(Error::denied(format!("the object keys/{} is another repository's", self.id)));
        }
        let mut sealed = sealed.to_vec();
        let root = self.aead(&suite, repository)?.open(0, &self.aad(given), &mut sealed).map_err(|e| {
            Error::new(
                ErrorKind::Denied,
                format!("the key {} does not open this repository's keys/{}", self.id, self.id),
            )
            .with_hint("the key file belongs to another repository, or was changed")
            .with_source(e)
        })?;
        let mut key = Key([0; 32]);
        key.0.copy_from_slice(root);
        sealed.fill(0);
        Ok(RootKey(key))
    }

    fn aead(&self, suite: &RingSuite, repository: RepositoryId) -> Result<Box<dyn crate::crypto::Aead>> {
        suite.aead(&suite.derive(&self.key, &[b"wrap", repository.as_bytes()])?)
    }

    fn aad(&self, header: &[u8]) -> Vec<u8> {
        [header, self.id.as_bytes()].concat()
    }
}

/// Which repository's root key an object under `keys/` wraps.
pub(crate) fn wrapped_for(wrapped: &[u8]) -> Result<RepositoryId> {
    RepositoryId::from_slice(&intact(wrapped)?.0[8..])
}

fn header(suite: u8, repository: RepositoryId) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..6].copy_from_slice(WRAP_MAGIC);
    header[6] = suite;
    header[8..].copy_from_slice(repository.as_bytes());
    header
}

/// Splits a wrapped key into header and sealed part, if it is one and whole.
fn intact(wrapped: &[u8]) -> Result<(&[u8], &[u8])> {
    if wrapped.len() != HEADER_LEN + 32 + TAG_LEN + CHECKSUM_LEN {
        return Err(Error::corrupt("its length is wrong"));
    }
    let (wrapped, checksum) = wrapped.split_at(wrapped.len() - CHECKSUM_LEN);
    if blake3::hash(wrapped).as_bytes()[..CHECKSUM_LEN] != *checksum {
        return Err(Error::corrupt("its checksum is wrong"));
    }
    if !wrapped.starts_with(WRAP_MAGIC) || wrapped[6] != RingSuite.id() {
        return Err(Error::corrupt("its format is not known")
            .with_hint("a newer palinurus wrote it: update this one"));
    }
    Ok(wrapped.split_at(HEADER_LEN))
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

    const REPOSITORY: RepositoryId = RepositoryId([9; 16]);

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
    fn other_files_are_refused_without_showing_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k");
        let secret = "5e".repeat(31) + "z0";
        for text in [
            "",
            "# only a comment\n",
            "hunter2",
            &format!("{MAGIC} 00112233445566 {secret}"),
            &format!("{MAGIC} 0011223344556677 {secret}"),
            &format!("{MAGIC} 0011223344556677"),
            "\u{0}\u{1}",
        ] {
            fs::write(&path, text).unwrap();
            let error = KeyFile::read(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(!format!("{error:?}").contains("5e5e") && !format!("{error:?}").contains("hunter2"));
        }
        let missing = KeyFile::read(&directory.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.hint().unwrap().contains("keys generate"));
    }

    #[test]
    fn only_the_same_key_and_repository_unwrap() {
        let key_one = key(1);
        let root = RootKey::generate(&SeededEntropy::new(7)).unwrap();
        let wrapped = key_one.wrap(&root, REPOSITORY).unwrap();
        assert_eq!(key_one.unwrap(&wrapped, REPOSITORY).unwrap(), root);
        assert!(!wrapped.windows(8).any(|window| root.0.0.windows(8).any(|secret| secret == window)));
        let elsewhere = key_one.unwrap(&wrapped, RepositoryId([8; 16])).unwrap_err();
        assert_eq!(elsewhere.kind(), ErrorKind::Denied);
        assert_eq!(key(2).unwrap(&wrapped, REPOSITORY).unwrap_err().kind(), ErrorKind::Denied);
        for i in 0..wrapped.len() {
            let mut flipped = wrapped.to_vec();
            flipped[i] ^= 4;
            assert_eq!(
                key_one.unwrap(&flipped, REPOSITORY).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "byte {i}"
            );
            assert_eq!(key_one.unwrap(&wrapped[..i], REPOSITORY).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
