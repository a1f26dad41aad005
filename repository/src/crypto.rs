//! The cryptography we use, behind one small trait, so that another library can take ring's place.
use std::fmt;

use ring::{aead, hkdf};

use crate::error::{Error, Result};

pub const TAG_LEN: usize = 16;

/// 32 secret bytes. Has no `Display`, prints nothing in `Debug`, and is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub(crate) [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.fill(0);
        // The compiler may not drop the wipe of memory that somebody could still look at.
        std::hint::black_box(&self.0);
    }
}

/// One key's authenticated encryption. A nonce must never be used twice under one key.
pub trait Aead: Send + Sync + fmt::Debug {
    /// Encrypts in place and returns the tag.
    fn seal(&self, nonce: u64, aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG_LEN]>;
    /// Decrypts `ciphertext || tag` in place and returns the plain part; `Corrupt` when it is not authentic.
    fn open<'a>(&self, nonce: u64, aad: &[u8], in_out: &'a mut [u8]) -> Result<&'a mut [u8]>;
}

/// A choice of algorithms, named by one byte in every header.
pub trait Suite: Send + Sync + fmt::Debug {
    fn id(&self) -> u8;
    fn aead(&self, key: &Key) -> Result<Box<dyn Aead>>;
    /// Derives another key: HKDF over the parts, each with its length, so that no two lists collide.
    fn derive(&self, key: &Key, info: &[&[u8]]) -> Result<Key>;
}

/// Suite 1: AES-256-GCM and HKDF-SHA256, by ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingSuite;

impl Suite for RingSuite {
    fn id(&self) -> u8 {
        1
    }

    fn aead(&self, key: &Key) -> Result<Box<dyn Aead>> {
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &key.0)
            .map_err(|_| Error::internal("the AEAD refuses a key of 32 bytes"))?;
        Ok(Box::new(RingAead(aead::LessSafeKey::new(key))))
    }

    fn derive(&self, key: &Key, info: &[&[u8]]) -> Result<Key> {
        let mut labelled = Vec::new();
        for part in info {
            labelled.extend_from_slice(&(part.len() as u64).to_le_bytes());
            labelled.extend_from_slice(part);
        }
        let mut derived = Key([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"palinurus/1")
            .extract(&key.0)
            .expand(&[&labelled], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut derived.0))
            .map_err(|_| Error::internal("HKDF refuses to give 32 bytes"))?;
        Ok(derived)
    }
}

struct RingAead(aead::LessSafeKey);

impl fmt::Debug for RingAead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RingAead(..)")
    }
}

fn nonce(counter: u64) -> aead::Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    aead::Nonce::assume_unique_for_key(bytes)
}

impl Aead for RingAead {
    fn seal(&self, counter: u64, aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG_LEN]> {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), aead::Aad::from(aad), in_out)
            .map_err(|_| Error::internal("the AEAD refuses to seal"))?;
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        Ok(bytes)
    }

    fn open<'a>(&self, counter: u64, aad: &[u8], in_out: &'a mut [u8]) -> Result<&'a mut [u8]> {
        self.0
            .open_in_place(nonce(counter), aead::Aad::from(aad), in_out)
            .map_err(|_| Error::corrupt("the seal does not fit: damaged, moved, or another key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seal_binds_everything() {
        let suite = RingSuite;
        let aead = suite.aead(&Key([7; 32])).unwrap();
        let mut text = b"attack at dawn".to_vec();
        let tag = aead.seal(3, b"here", &mut text).unwrap();
        text.extend_from_slice(&tag);
        assert_eq!(aead.open(3, b"here", &mut text.clone()).unwrap(), b"attack at dawn");
        assert_eq!(aead.open(4, b"here", &mut text.clone()).unwrap_err().kind(), crate::ErrorKind::Corrupt);
        assert!(aead.open(3, b"there", &mut text.clone()).is_err());
        for i in 0..text.len() {
            let mut flipped = text.clone();
            flipped[i] ^= 1;
            assert!(aead.open(3, b"here", &mut flipped).is_err());
        }
        assert!(aead.open(3, b"here", &mut []).is_err());
    }

    #[test]
    fn derivation_separates_labels() {
        let suite = RingSuite;
        let key = Key([1; 32]);
        let a = suite.derive(&key, &[b"ab", b"c"]).unwrap();
        let b = suite.derive(&key, &[b"a", b"bc"]).unwrap();
        assert!(a != b);
        assert_eq!(format!("{a:?}"), "Key(..)");
    }
}
