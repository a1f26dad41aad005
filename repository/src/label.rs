//! What an operator key is called and since when it opens the repository: the object `labels/<key id>`, for people.
//! Nothing hangs on it, and it may be missing. Sealed, so that the store does not learn whose keys there are.
use bytes::Bytes;
use prost::Message;

use crate::clock::Timestamp;
use crate::crypto::{Aead, TAG_LEN};
use crate::entropy::Entropy;
use crate::error::{Error, Result};
use crate::id::KeyId;
use crate::keys::Keys;

const MAGIC: &[u8; 6] = b"PALNT\x01";
const SALT_LEN: usize = 16;
const HEADER_LEN: usize = 8 + SALT_LEN;
/// Characters.
const TEXT_MAX: usize = 100;
/// Whatever is longer is no label: not read into memory.
pub(crate) const OBJECT_MAX: u64 = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    pub text: String,
    pub added: Timestamp,
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(uint64, tag = "2")]
    added: u64,
}

impl Label {
    pub fn new(text: &str, added: Timestamp) -> Result<Self> {
        let text = text.trim();
        if text.chars().count() > TEXT_MAX || text.chars().any(char::is_control) {
            return Err(Error::invalid("this label cannot be used")
                .with_hint(format!("a label has at most {TEXT_MAX} characters, on one line")));
        }
        Ok(Self { text: text.to_owned(), added })
    }

    pub(crate) fn seal(&self, keys: &Keys, id: KeyId, entropy: &dyn Entropy) -> Result<Bytes> {
        // A key is removed and added again, with another label under the same name: hence the salt.
        let salt: [u8; SALT_LEN] = entropy.array()?;
        let mut header = [0; HEADER_LEN];
        header[..6].copy_from_slice(MAGIC);
        header[6] = keys.suite();
        header[8..].copy_from_slice(&salt);
        let mut sealed = Wire { text: self.text.clone(), added: self.added.0 }.encode_to_vec();
        let tag = aead(keys, id, &salt)?.seal(0, &aad(keys, id, &header), &mut sealed)?;
        Ok(Bytes::from([&header[..], &sealed, &tag].concat()))
    }

    pub(crate) fn open(object: &[u8], keys: &Keys, id: KeyId) -> Result<Self> {
        let header = object.first_chunk::<HEADER_LEN>().filter(|_| object.len() >= HEADER_LEN + TAG_LEN);
        let header = header.filter(|header| header.starts_with(MAGIC) && header[6] == keys.suite());
        let header = header.ok_or_else(|| Error::corrupt(format!("labels/{id} is no label")))?;
        let mut sealed = object[HEADER_LEN..].to_vec();
        let aead = aead(keys, id, &header[8..])?;
        let wire = Wire::decode(&*aead.open(0, &aad(keys, id, header), &mut sealed)?)
            .map_err(|e| Error::corrupt(format!("labels/{id} cannot be read")).with_source(e))?;
        Label::new(&wire.text, Timestamp(wire.added))
    }
}

fn aead(keys: &Keys, id: KeyId, salt: &[u8]) -> Result<Box<dyn Aead>> {
    keys.root_aead(&[b"label", id.as_bytes(), salt])
}

fn aad(keys: &Keys, id: KeyId, header: &[u8]) -> Vec<u8> {
    [keys.repository().as_bytes(), id.as_bytes(), header].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use crate::id::RepositoryId;
    use crate::keys::RootKey;

    #[test]
    fn sealed_opened_and_bound_to_its_key() {
        let entropy = SeededEntropy::new(1);
        let keys = Keys::derive(&RootKey::generate(&entropy).unwrap(), RepositoryId([1; 16])).unwrap();
        let (id, other) = (KeyId([1; 8]), KeyId([2; 8]));
        let label = Label::new("  production, safe 2 ", Timestamp(7)).unwrap();
        assert_eq!(label.text, "production, safe 2");
        let object = label.seal(&keys, id, &entropy).unwrap();
        assert_eq!(Label::open(&object, &keys, id).unwrap(), label);
        assert_ne!(label.seal(&keys, id, &entropy).unwrap(), object, "never twice under one key");
        assert!(!object.windows(4).any(|four| four == b"safe"));
        Label::open(&object, &keys, other).unwrap_err();
        for i in 0..object.len() {
            let mut flipped = object.to_vec();
            flipped[i] ^= 1;
            Label::open(&flipped, &keys, id).unwrap_err();
            Label::open(&object[..i], &keys, id).unwrap_err();
        }
        for bad in ["two\nlines", "\u{1b}[2J", &"x".repeat(101)] {
            assert!(Label::new(bad, Timestamp(0)).is_err(), "{bad:?}");
        }
    }
}
