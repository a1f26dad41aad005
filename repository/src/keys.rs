//! The key tree of a repository. Root and masters are random; everything below is derived and nothing below leads up.
//!
//! ```text
//! operator key ─wraps─► root ─► chunk id, file id, header, label      (for the repository's life)
//!              └seals─► root or master of a key epoch ─┬► metadata ─► manifest, index segment
//!                                                      ├► ledger
//!                                                      ├► log ─► piece
//!                                                      └► data ─► transaction ─► pack
//! ```
use std::fmt;
use std::sync::Arc;

use crate::crypto::{Aead, Key, RingSuite, Suite};
use crate::entropy::Entropy;
use crate::epochs::{Epochs, Given, KeyEpoch, Operators, Sealed};
use crate::error::{Error, Result};
use crate::id::{ChunkId, FileId, LineageId, RepositoryId, TransactionId, WriterId};
use crate::masters::Master;
use crate::storage::Storage;

/// The random key that everything in a repository comes from. Stored only wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKey(pub(crate) Key);

impl RootKey {
    pub fn generate(entropy: &dyn Entropy) -> Result<Self> {
        Ok(Self(Key(entropy.array()?)))
    }
}

/// The keys of one repository, ready to use. Clones share what is learned of its key epochs.
#[derive(Clone)]
pub struct Keys {
    suite: Arc<dyn Suite>,
    repository: RepositoryId,
    chunk_id: [u8; 32],
    file_id: [u8; 32],
    root: Arc<Branch>,
    /// For the ledger record that is read or written next; a ledger's own clone moves on with its records.
    ledger: Arc<Branch>,
    epochs: Arc<Epochs>,
}

/// What hangs on the root, or on the master of one key epoch.
pub(crate) struct Branch {
    metadata: Key,
    ledger: Key,
    ledger_salt: [u8; 32],
    data: Key,
    log: Key,
    log_salt: [u8; 32],
}

impl Branch {
    pub(crate) fn derive(suite: &dyn Suite, master: &Key, repository: RepositoryId) -> Result<Self> {
        let branch = |name: &[u8]| suite.derive(master, &[repository.as_bytes(), name]);
        Ok(Self {
            metadata: branch(b"metadata")?,
            ledger: branch(b"ledger")?,
            ledger_salt: branch(b"ledger salt")?.0,
            // So it is called under every master.
            data: branch(b"data epoch 0")?,
            log: branch(b"log")?,
            log_salt: branch(b"log salt")?.0,
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({}, ..)", self.repository)
    }
}

impl Keys {
    /// Without operator keys: of epoch 0, and of those whose masters it is given.
    pub fn derive(root: &RootKey, repository: RepositoryId) -> Result<Self> {
        Self::with_operators(root, repository, Arc::new(Given::default()))
    }

    pub(crate) fn with_operators(
        root: &RootKey,
        repository: RepositoryId,
        operators: Arc<dyn Operators>,
    ) -> Result<Self> {
        let suite: Arc<dyn Suite> = Arc::new(RingSuite);
        let branch = Arc::new(Branch::derive(&*suite, &root.0, repository)?);
        let identity = |name: &[u8]| suite.derive(&root.0, &[repository.as_bytes(), name]);
        Ok(Self {
            repository,
            chunk_id: identity(b"chunk id")?.0,
            file_id: identity(b"file id")?.0,
            root: branch.clone(),
            ledger: branch,
            epochs: Arc::new(Epochs::new(operators)),
            suite,
        })
    }

    /// Takes in which epochs transactions are of, and gets the masters for that: `Denied` when the operator keys here do
    /// not reach one.
    pub async fn learn(&self, storage: &dyn Storage, sealed: &[Sealed]) -> Result<()> {
        // The newest first: it brings the others.
        for Sealed { epoch, transactions } in sealed.iter().rev() {
            self.load(storage, *epoch).await?;
            transactions.iter().try_for_each(|id| self.epochs.assign(*id, epoch.draw))?;
        }
        Ok(())
    }

    pub(crate) async fn load(&self, storage: &dyn Storage, epoch: KeyEpoch) -> Result<()> {
        self.epochs.load(storage, &*self.suite, self.repository, epoch).await
    }

    pub(crate) fn hold(&self, master: Master) -> Result<()> {
        self.epochs.hold(&*self.suite, self.repository, master)
    }

    pub(crate) fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// The ledger's next record is of that epoch, whose master is known.
    pub(crate) fn enter(&mut self, epoch: KeyEpoch) -> Result<()> {
        let branch = self.epochs.branch(epoch.draw);
        self.ledger = branch.ok_or_else(|| Error::internal("a key epoch without its master"))?;
        Ok(())
    }

    /// The same keys; what they learn of key epochs stays with them until they are [`join`](Self::join)ed.
    pub(crate) fn fork(&self) -> Self {
        Self { epochs: Arc::new(self.epochs.fork()), ..self.clone() }
    }

    /// Takes in what a fork has learned, and goes on in the ledger where it stands.
    pub(crate) fn join(&mut self, fork: &Self) -> Result<()> {
        self.ledger = fork.ledger.clone();
        self.epochs.join(&fork.epochs)
    }

    /// As these were before any key epoch began.
    pub(crate) fn at_root(&self) -> Self {
        Self { ledger: self.root.clone(), ..self.clone() }
    }

    /// For one piece of a log, under the master of its grant's key epoch: none is the root.
    pub(crate) fn log_aead(
        &self,
        epoch: Option<KeyEpoch>,
        lineage: LineageId,
        salt: &[u8; 16],
    ) -> Result<Box<dyn Aead>> {
        let branch = self.branch_at(epoch)?;
        self.suite.aead(&self.suite.derive(&branch.log, &[lineage.as_bytes(), salt])?)
    }

    /// Makes the salt that goes with a piece of a log and into its key: over all that is sealed under it, so that no
    /// two contents share a key, whoever puts what under one name.
    pub(crate) fn log_salt(&self, epoch: Option<KeyEpoch>) -> Result<blake3::Hasher> {
        Ok(blake3::Hasher::new_keyed(&self.branch_at(epoch)?.log_salt))
    }

    fn branch_at(&self, epoch: Option<KeyEpoch>) -> Result<Arc<Branch>> {
        let Some(epoch) = epoch else { return Ok(self.root.clone()) };
        let branch = self.epochs.branch(epoch.draw);
        branch
            .ok_or_else(|| Error::internal(format!("the master of key epoch {} is not known", epoch.number)))
    }

    fn branch_of(&self, transaction: TransactionId) -> Result<Arc<Branch>> {
        let Some(draw) = self.epochs.of(transaction) else { return Ok(self.root.clone()) };
        let branch = self.epochs.branch(draw);
        branch.ok_or_else(|| Error::internal(format!("transaction {transaction} of an unknown key epoch")))
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
        let mut chunks = chunks.into_iter().fuse();
        let (first, second) = (chunks.next(), chunks.next());
        if let (Some(only), None) = (&first, &second) {
            // At once: to set up a hasher costs a small file more than its forty bytes do.
            let mut bytes = [0; size_of::<u64>() + ChunkId::LEN];
            let (head, tail) = bytes.split_at_mut(size_of::<u64>());
            head.copy_from_slice(&size.to_le_bytes());
            tail.copy_from_slice(only.as_bytes());
            return file_id(&blake3::keyed_hash(&self.file_id, &bytes));
        }
        let mut hasher = FileHasher::new(self, size);
        first.into_iter().chain(second).chain(chunks).for_each(|id| hasher.push(&id));
        hasher.finish()
    }

    /// Goes with a ledger record and into its key. Racing writers seal different records for one place in the
    /// ledger, and the store sees the losers' too: a key that hung on the place alone would be used twice.
    pub fn ledger_salt(&self, number: u64, plain: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.ledger.ledger_salt);
        hasher.update(&number.to_le_bytes()).update(plain);
        let mut salt = [0; 16];
        salt.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        salt
    }

    /// For one ledger record.
    pub fn ledger_aead(&self, number: u64, salt: &[u8; 16]) -> Result<Box<dyn Aead>> {
        self.suite.aead(&self.suite.derive(&self.ledger.ledger, &[&number.to_le_bytes(), salt])?)
    }

    /// For one checkpoint of the ledger, of the key epoch that the next record is of.
    pub(crate) fn checkpoint_aead(&self, next: u64, salt: &[u8; 16]) -> Result<Box<dyn Aead>> {
        let label: [&[u8]; 3] = [b"checkpoint", &next.to_le_bytes(), salt];
        self.suite.aead(&self.suite.derive(&self.ledger.metadata, &label)?)
    }

    /// For what is of no transaction and of no epoch: `label` says which, and must never seal two different contents.
    pub fn root_aead(&self, label: &[&[u8]]) -> Result<Box<dyn Aead>> {
        self.suite.aead(&self.suite.derive(&self.root.metadata, label)?)
    }

    /// For one of the transaction's metadata objects, in the same way.
    pub fn metadata_aead(&self, transaction: TransactionId, label: &[&[u8]]) -> Result<Box<dyn Aead>> {
        self.suite.aead(&self.suite.derive(&self.branch_of(transaction)?.metadata, label)?)
    }

    pub fn transaction(&self, id: TransactionId) -> Result<TransactionKey> {
        let key = self.suite.derive(&self.branch_of(id)?.data, &[b"transaction", id.as_bytes()])?;
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
        file_id(&self.0.finalize())
    }
}

fn file_id(hash: &blake3::Hash) -> FileId {
    let mut id = [0; FileId::LEN];
    id.copy_from_slice(&hash.as_bytes()[..FileId::LEN]);
    FileId(id)
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
