//! Seals the blocks and the footer of one manifest.
use std::fmt;

use super::ManifestRef;
use crate::crypto::{Aead, TAG_LEN};
use crate::error::{Error, Result};
use crate::id::{TransactionId, WriterId};
use crate::keys::Keys;

/// The ordinal of the footer; no block reaches it.
pub(super) const FOOTER: u64 = u64::MAX;

pub(super) struct Seal {
    aead: Box<dyn Aead>,
    aad: [u8; 36],
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(..)")
    }
}

impl Seal {
    pub(super) fn new(keys: &Keys, transaction: TransactionId, node: &str, writer: WriterId) -> Result<Self> {
        let label = [&b"manifest"[..], transaction.as_bytes(), node.as_bytes(), writer.as_bytes()];
        let mut aad = [0; 36];
        aad[..5].copy_from_slice(b"manif");
        aad[5] = 1;
        aad[6] = keys.suite();
        aad[8..24].copy_from_slice(keys.repository().as_bytes());
        Ok(Self { aead: keys.metadata_aead(transaction, &label)?, aad })
    }

    pub(super) fn of(keys: &Keys, reference: &ManifestRef) -> Result<Self> {
        Self::new(keys, reference.transaction, &reference.node, reference.writer)
    }

    fn aad(&self, ordinal: u64, plain_len: u32) -> [u8; 36] {
        let mut aad = self.aad;
        aad[24..32].copy_from_slice(&ordinal.to_le_bytes());
        aad[32..].copy_from_slice(&plain_len.to_le_bytes());
        aad
    }

    /// Compresses and seals; an ordinal is used once.
    pub(super) fn seal(&self, ordinal: u64, plain: &[u8]) -> Result<Vec<u8>> {
        let plain_len =
            u32::try_from(plain.len()).map_err(|_| Error::internal("a manifest block is too long"))?;
        let mut sealed =
            zstd::bulk::compress(plain, 1).map_err(|e| Error::internal("zstd").with_source(e))?;
        let tag = self.aead.seal(ordinal, &self.aad(ordinal, plain_len), &mut sealed)?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// Opens what is `plain_len` bytes long before compression; the caller has bounded that.
    pub(super) fn open(&self, ordinal: u64, plain_len: u32, sealed: &[u8]) -> Result<Vec<u8>> {
        if sealed.len() < TAG_LEN {
            return Err(Error::corrupt("sealed bytes are cut off"));
        }
        let mut sealed = sealed.to_vec();
        let compressed = self.aead.open(ordinal, &self.aad(ordinal, plain_len), &mut sealed)?;
        let plain = zstd::bulk::decompress(compressed, plain_len as usize)
            .map_err(|e| Error::corrupt("does not decompress").with_source(e))?;
        if plain.len() != plain_len as usize {
            return Err(Error::corrupt(format!("{} plain bytes, want {plain_len}", plain.len())));
        }
        Ok(plain)
    }
}
