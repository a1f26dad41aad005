//! Pieces in the store: put, found again, read.
use std::sync::Arc;

use bytes::Bytes;

use super::{Grant, Lineage, Piece, Position, Trail, WHOLE_MAX, history, history_key, piece, prefix};
use crate::epochs::KeyEpoch;
use crate::error::{Error, ErrorKind, Result};
use crate::id::LineageId;
use crate::keys::Keys;
use crate::storage::{Storage, list_all};

const PAGE: usize = 1000;
/// Trailers are nearly always shorter: then one request is enough.
const TAIL: u64 = 1024;

/// One repository's logs, for who has its keys. Clones share what is learned of key epochs.
#[derive(Clone, Debug)]
pub struct LogStore {
    storage: Arc<dyn Storage>,
    keys: Keys,
}

/// An object that is a piece, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub piece: Piece,
    pub size: u64,
}

impl LogStore {
    pub fn new(storage: Arc<dyn Storage>, keys: Keys) -> Self {
        Self { storage, keys }
    }

    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Gets the masters of those key epochs: `Denied` when the operator keys here do not reach one.
    pub async fn learn(&self, epochs: impl IntoIterator<Item = KeyEpoch>) -> Result<()> {
        for epoch in epochs {
            self.keys.load(&*self.storage, epoch).await?;
        }
        Ok(())
    }

    /// Durable when it returns. A name that is taken by the same bytes is success: an answer was lost. Other bytes are
    /// `Corrupt`, and a writer must stop.
    pub async fn put(&self, piece: &Piece, key_epoch: Option<KeyEpoch>, object: Bytes) -> Result<()> {
        let key = piece.key();
        match self.storage.put_new(&key, object.clone()).await {
            Err(e) if e.kind() == ErrorKind::Conflict => {}
            other => return other,
        }
        let there = self.get(piece).await?;
        if there == object {
            return Ok(());
        }
        // What was said of the bytes may differ, such as the time.
        let bytes = |object: &[u8]| piece::open(&self.keys, key_epoch, piece, object).map(|(_, plain)| plain);
        if bytes(&there)? == bytes(&object)? {
            return Ok(());
        }
        Err(Error::corrupt(format!("{key} is there with other bytes")).with_hint(
            "two servers write one log: keep one of them down, and give the other a repository of its own",
        ))
    }

    /// The engine's account of the lineage's parents, by who has its first grant. Another one than is there is `Corrupt`.
    pub async fn put_history(&self, lineage: &Lineage, account: &[u8]) -> Result<()> {
        let key = history_key(lineage.id);
        match self.storage.put_new(&key, history::seal(&self.keys, lineage, account)?).await {
            Err(e) if e.kind() == ErrorKind::Conflict => match self.history(lineage).await? {
                Some(there) if there == account => Ok(()),
                _ => Err(Error::corrupt(format!("{key} is there with other bytes"))),
            },
            other => other,
        }
    }

    pub async fn history(&self, lineage: &Lineage) -> Result<Option<Vec<u8>>> {
        self.learn(lineage.grants.first().and_then(|grant| grant.key_epoch)).await?;
        let key = history_key(lineage.id);
        match self.storage.size(&key).await {
            Ok(size) if size <= history::OBJECT_MAX => {
                history::open(&self.keys, lineage, &self.storage.get(&key, None).await?).map(Some)
            }
            Ok(size) => Err(Error::corrupt(format!("{key} has {size} bytes"))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All pieces of the lineage that there are, in no order; whether they count, [`Lineage::coverage`] says.
    pub async fn list(&self, lineage: LineageId) -> Result<Vec<Stored>> {
        let objects = list_all(&*self.storage, &prefix(lineage)).await?;
        Ok(objects
            .iter()
            .filter_map(|object| {
                Some(Stored { piece: Piece::from_key(&object.key).ok()?, size: object.size })
            })
            .collect())
    }

    /// Those that may hold something at or behind that position. Asks no more than that of the store.
    pub async fn list_from(&self, lineage: &Lineage, position: Position) -> Result<Vec<Stored>> {
        let mut found = Vec::new();
        for (at, grant) in lineage.grants.iter().enumerate() {
            if lineage.grants.get(at + 1).is_some_and(|next| next.from <= position) {
                continue;
            }
            for whole in [false, true] {
                self.list_grant(lineage.id, grant, whole, position, &mut found).await?;
            }
        }
        Ok(found)
    }

    async fn list_grant(
        &self,
        lineage: LineageId,
        grant: &Grant,
        whole: bool,
        position: Position,
        found: &mut Vec<Stored>,
    ) -> Result<()> {
        let kind = if whole { "whole/" } else { "" };
        let prefix = format!("{}{kind}{:010}/", prefix(lineage), grant.epoch);
        // The longest that reaches the position begins so far before it.
        let mut after = format!("{prefix}{:016x}", position.saturating_sub(WHOLE_MAX as u64));
        loop {
            let page = self.storage.list(&prefix, Some(&after), PAGE).await?;
            let pieces = page.iter().filter_map(|object| {
                Some(Stored { piece: Piece::from_key(&object.key).ok()?, size: object.size })
            });
            found.extend(pieces.filter(|stored| stored.piece.to > position));
            match page.last() {
                Some(last) if page.len() == PAGE => after.clone_from(&last.key),
                _ => return Ok(()),
            }
        }
    }

    /// The whole piece, opened: what it says of itself, and its bytes.
    pub async fn read(&self, piece: &Piece, key_epoch: Option<KeyEpoch>) -> Result<(Trail, Vec<u8>)> {
        self.learn(key_epoch).await?;
        let object = self.get(piece).await?;
        piece::open(&self.keys, key_epoch, piece, &object)
    }

    /// What the piece says of itself: two small requests.
    pub async fn trail(&self, stored: &Stored, key_epoch: Option<KeyEpoch>) -> Result<Trail> {
        self.learn(key_epoch).await?;
        let Stored { piece, size } = stored;
        let key = piece.key();
        if *size > piece::object_max(piece) || *size < piece::HEADER {
            return Err(Error::corrupt(format!("{key} has {size} bytes")));
        }
        let header = self.storage.get(&key, Some(0..piece::HEADER)).await?;
        let mut end = self.storage.get(&key, Some(size.saturating_sub(TAIL)..*size)).await?;
        let len = piece::end_len(&end)? as u64;
        if len > end.len() as u64 {
            end = self.storage.get(&key, Some(size.saturating_sub(len)..*size)).await?;
        }
        piece::open_trail(&self.keys, key_epoch, piece, &header, &end)
    }

    async fn get(&self, piece: &Piece) -> Result<Bytes> {
        let key = piece.key();
        match self.storage.size(&key).await? {
            size if size <= piece::object_max(piece) => self.storage.get(&key, None).await,
            size => Err(Error::corrupt(format!("{key} has {size} bytes"))),
        }
    }
}
