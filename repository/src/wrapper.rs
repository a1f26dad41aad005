//! The root key, sealed for one operator key: the object `keys/<key id>`.
use bytes::Bytes;

use crate::crypto::{Key, RingSuite, Suite, TAG_LEN};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RepositoryId;
use crate::keyfile::KeyFile;
use crate::keys::RootKey;

const MAGIC: &[u8; 5] = b"PALNK";
const VERSION: u8 = 1;
/// With the repository's id.
const HEADER_LEN: usize = 8 + RepositoryId::LEN;
const CHECKSUM_LEN: usize = 8;
const DAMAGED: &str = "open with another key, or bring the object back from the store's older versions";

impl KeyFile {
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
            let error = Error::new(e.kind(), format!("keys/{} cannot be used: {}", self.id, e.what()));
            error.with_hint(hint.unwrap_or_else(|| DAMAGED.to_owned()))
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
    header[..5].copy_from_slice(MAGIC);
    header[5] = VERSION;
    header[6] = suite;
    header[8..].copy_from_slice(repository.as_bytes());
    header
}

/// Splits a wrapped key into header and sealed part, if it is one and whole. In every version the checksum is its end:
/// a newer one is told from damage.
fn intact(wrapped: &[u8]) -> Result<(&[u8], &[u8])> {
    let (body, checksum) =
        wrapped.split_last_chunk::<CHECKSUM_LEN>().ok_or_else(|| Error::corrupt("its length is wrong"))?;
    if blake3::hash(body).as_bytes()[..CHECKSUM_LEN] != *checksum {
        return Err(Error::corrupt("its checksum is wrong"));
    }
    match body.strip_prefix(MAGIC) {
        Some([version, ..]) if *version > VERSION => {
            return Err(Error::invalid(format!(
                "it is of version {version}, this palinurus knows {VERSION}"
            ))
            .with_hint("update palinurus"));
        }
        Some([VERSION, suite, ..]) if *suite == RingSuite.id() => {}
        _ => return Err(Error::corrupt("its format is not known")),
    }
    if body.len() != HEADER_LEN + 32 + TAG_LEN {
        return Err(Error::corrupt("its length is wrong"));
    }
    Ok(body.split_at(HEADER_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    const REPOSITORY: RepositoryId = RepositoryId([9; 16]);

    fn key(seed: u64) -> KeyFile {
        KeyFile::generate(&SeededEntropy::new(seed)).unwrap()
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

    #[test]
    fn a_newer_wrapper_is_refused_and_not_called_damaged() {
        let key = key(1);
        let root = RootKey::generate(&SeededEntropy::new(7)).unwrap();
        let wrapped = key.wrap(&root, REPOSITORY).unwrap();
        for longer in [0, 40] {
            let mut newer = wrapped[..wrapped.len() - CHECKSUM_LEN].to_vec();
            newer[5] = 2;
            newer.resize(newer.len() + longer, 7);
            newer.extend_from_slice(&blake3::hash(&newer).as_bytes()[..CHECKSUM_LEN]);
            let error = key.unwrap(&newer, REPOSITORY).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
            assert!(error.hint().unwrap().contains("update"), "{error:?}");
        }
    }
}
