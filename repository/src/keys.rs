//! The key tree of a repository. The root is random; everything below is derived and nothing below leads up.
//!
//! ```text
//! operator key ─wraps─► root ─► chunk id, file id            (keyed hashes)
//!                            ├► metadata ─► manifest, index segment, condemned list
//!                            ├► ledger
//!                            └► data epoch n ─► transaction ─► pack
//! ```
use std::fmt;
use std::sync::Arc;

use crate::crypto::{Aead, Key, RingSuite, Suite};
use crate::entropy::Entropy;
use crate::error::{Error, Result};
use crate::id::{ChunkId, FileId, RepositoryId, TransactionId, WriterId};

/// The random key that everything in a repository comes from. Stored only wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKey(pub(crate) Key);

impl RootKey {
    pub fn generate(entropy: &dyn Entropy) -> Result<Self> {
        Ok(Self(Key(entropy.array()?)))
    }
}

/// The keys of one repository, ready to use.
#[derive(Clone)]
pub struct Keys {
    suite: Arc<dyn Suite>,
    repository: RepositoryId,
    chunk_id: [u8; 32],
    file_id: [u8; 32],
    metadata: Key,
    ledger: Key,
    ledger_salt: [u8; 32],
    data: Key,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({}, ..)", self.repository)
    }
}

impl Keys {
    pub fn derive(root: &RootKey, repository: RepositoryId) -> Result<Self> {
        let suite: Arc<dyn Suite> = Arc::new(RingSuite);
        let branch = |name: &[u8]| suite.derive(&root.0, &[repository.as_bytes(), name]);
        Ok(Self {
            repository,
            chunk_id: branch(b"chunk id")?.0,
            file_id: branch(b"file id")?.0,
            metadata: branch(b"metadata")?,
            ledger: branch(b"ledger")?,
            ledger_salt: branch(b"ledger salt")?.0,
            data: branch(b"data epoch 0")?,
            suite,
        })
    }

    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    pub fn suite(&self) -> u8 {
        self.suite.id()
    }

    pub fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(blake3::keyed_hash(&self.chunk_id, bytes).into())
    }

    /// The id of a file: over its size and the ids of its chunks in order, so that extents hash side by side.
    pub fn file_id(&self, size: u64, chunks: impl IntoIterator<Item = ChunkId>) -> FileId {
        let mut hasher = FileHasher::new(self, size);
        chunks.into_iter().for_each(|id| hasher.push(&id));
        hasher.finish()
    }

    /// Goes with a ledger record and into its key. Racing writers seal different records for one place in the
    /// ledger, and the store sees the losers' too: a key that hung on the place alone would be used twice.
    pub fn ledger_salt(&self, number: u64, plain: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.ledger_salt);
        hasher.update(&number.to_le_bytes()).update(plain);
        let mut salt = [0; 16];
        salt.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        salt
    }

    /// For one ledger record.
    pub fn ledger_aead(&self, number: u64, salt: &[u8; 16]) -> Result<Box<dyn Aead>> {
        self.suite.aead(&self.suite.derive(&self.ledger, &[&number.to_le_bytes(), salt])?)
    }

    /// For one sealed metadata object: `label` says which. A label must never seal two different contents.
    pub fn metadata_aead(&self, label: &[&[u8]]) -> Result<Box<dyn Aead>> {
        self.suite.aead(&self.suite.derive(&self.metadata, label)?)
    }

    pub fn transaction(&self, id: TransactionId) -> Result<TransactionKey> {
        let key = self.suite.derive(&self.data, &[b"transaction", id.as_bytes()])?;
        Ok(TransactionKey { suite: self.suite.clone(), id, key })
    }
}

/// Hashes a file's chunk ids as they come.
#[derive(Debug)]
pub struct FileHasher(blake3::Hasher);

impl FileHasher {
    pub fn new(keys: &Keys, size: u64) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&keys.file_id);
        hasher.update(&size.to_le_bytes());
        Self(hasher)
    }

    pub fn push(&mut self, id: &ChunkId) {
        self.0.update(id.as_bytes());
    }

    pub fn finish(&self) -> FileId {
        let mut id = [0; FileId::LEN];
        id.copy_from_slice(&self.0.finalize().as_bytes()[..FileId::LEN]);
        FileId(id)
    }
}

/// Opens and seals the packs of one transaction.
#[derive(Clone)]
pub struct TransactionKey {
    suite: Arc<dyn Suite>,
    id: TransactionId,
    key: Key,
}

impl fmt::Debug for TransactionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionKey({}, ..)", self.id)
    }
}

impl TransactionKey {
    pub fn id(&self) -> TransactionId {
        self.id
    }

    pub fn pack_aead(&self, writer: WriterId, counter: u32) -> Result<Box<dyn Aead>> {
        let key = self.suite.derive(&self.key, &[b"pack", writer.as_bytes(), &counter.to_le_bytes()])?;
        self.suite.aead(&key)
    }
}

/// Parses the two fields that an operator key file has on its one line (see `keyfile`).
pub(crate) fn key_from_hex(text: &str) -> Result<Key> {
    if text.len() != 64 {
        return Err(Error::invalid(format!("the key has {} characters, not 64", text.chars().count())));
    }
    let bytes: ChunkId = text.parse().map_err(|_| Error::invalid("the key is not 64 hex digits"))?;
    Ok(Key(bytes.0))
}
