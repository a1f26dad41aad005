//! Pieces in the store: put, found again, read.
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::pages::Pages;
use super::{Coverage, Gathering, Grant, Lineage, Piece, Position, Trail, history, history_key, piece};
use crate::blocking::Blocking;
use crate::epochs::KeyEpoch;
use crate::error::{Error, ErrorKind, Result};
use crate::keys::Keys;
use crate::storage::Storage;

/// Trailers are nearly always shorter: then one request is enough.
const TAIL: u64 = 1024;
/// Read whole, where only the trailer is wanted.
const SMALL: u64 = 16 << 10;

/// One repository's logs, for who has its keys. Clones share what is learned of key epochs.
#[derive(Clone, Debug)]
pub struct LogStore {
    storage: Arc<dyn Storage>,
    keys: Keys,
    blocking: Blocking,
}

/// An object that is a piece, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub piece: Piece,
    pub size: u64,
}

impl LogStore {
    pub fn new(storage: Arc<dyn Storage>, keys: Keys) -> Self {
        Self { storage, keys, blocking: Blocking::default() }
    }

    pub fn with_blocking(mut self, blocking: Blocking) -> Self {
        self.blocking = blocking;
        self
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

    /// What of the lineage is covered: from that position on, when it is not 0.
    pub async fn coverage(&self, lineage: &Lineage, position: Position) -> Result<Coverage> {
        let mut gathering = Gathering::new(lineage);
        self.visit(lineage, position..Position::MAX, &mut |stored| {
            gathering.add(stored.piece);
        })
        .await?;
        Ok(gathering.done())
    }

    /// What of each grant the wholes have taken the place of; whatever else counts.
    pub(crate) async fn wholes(&self, lineage: &Lineage) -> Result<Vec<(u32, Coverage)>> {
        let alone = |epoch| {
            let grant = Grant { epoch, node: String::new(), from: 0, key_epoch: None };
            Lineage { grants: vec![grant], floor: 0, ..lineage.clone() }
        };
        let (mut found, mut pages) = (Vec::new(), Pages::all(lineage.id, true));
        while let Some(page) = pages.next(&*self.storage).await? {
            for some in page.chunk_by(|a, b| a.piece.epoch == b.piece.epoch) {
                let epoch = some[0].piece.epoch;
                let of = alone(epoch);
                found.push((epoch, Coverage::of(&of, some.iter().map(|stored| stored.piece))));
            }
        }
        Ok(found)
    }

    /// Pieces that may hold something at or behind that position: for what is short.
    pub async fn list_from(&self, lineage: &Lineage, position: Position) -> Result<Vec<Stored>> {
        let mut found = Vec::new();
        self.visit(lineage, position..Position::MAX, &mut |stored| found.push(stored)).await?;
        Ok(found)
    }

    /// Shows each piece that may hold something of that range and count, a page of names at a time: of each grant in the
    /// order of positions. Asks little more than that of the store.
    pub async fn visit(
        &self,
        lineage: &Lineage,
        range: Range<Position>,
        see: &mut (dyn FnMut(Stored) + Send),
    ) -> Result<()> {
        let grants = lineage
            .grants
            .iter()
            .enumerate()
            .filter(|(at, _)| lineage.grants.get(at + 1).is_none_or(|next| next.from > range.start));
        let lists = grants.flat_map(|(_, grant)| [(grant.epoch, false), (grant.epoch, true)]);
        let lists: Vec<Pages> = match range.start {
            // Many grants, and few names.
            0 => vec![Pages::all(lineage.id, false)],
            _ => lists.map(|(epoch, whole)| Pages::of(lineage.id, epoch, whole, range.clone())).collect(),
        };
        for mut pages in lists {
            while let Some(page) = pages.next(&*self.storage).await? {
                page.into_iter().for_each(&mut *see);
            }
        }
        Ok(())
    }

    /// The whole piece, opened: what it says of itself, and its bytes.
    pub async fn read(&self, piece: &Piece, key_epoch: Option<KeyEpoch>) -> Result<(Trail, Vec<u8>)> {
        self.learn(key_epoch).await?;
        let object = self.get(piece).await?;
        let (keys, piece) = (self.keys.clone(), *piece);
        self.blocking.run(move || piece::open(&keys, key_epoch, &piece, &object)).await
    }

    /// How long the object is.
    pub async fn find(&self, piece: Piece) -> Result<Stored> {
        Ok(Stored { piece, size: self.storage.size(&piece.key()).await? })
    }

    /// What the piece says of itself, and that it is as long as that: one small request or two.
    pub async fn trail(&self, stored: &Stored, key_epoch: Option<KeyEpoch>) -> Result<Trail> {
        self.learn(key_epoch).await?;
        let Stored { piece, size } = stored;
        let key = piece.key();
        if *size > piece::object_max(piece) || *size < piece::HEADER {
            return Err(Error::corrupt(format!("{key} has {size} bytes")));
        }
        // A short object is one request.
        let from = if *size <= SMALL { 0 } else { size.saturating_sub(TAIL) };
        let mut end = self.storage.get(&key, Some(from..*size)).await?;
        let len = piece::end_len(&end)? as u64;
        if len > end.len() as u64 {
            end = self.storage.get(&key, Some(size.saturating_sub(len)..*size)).await?;
        }
        let header = match from {
            0 => end.slice(..(piece::HEADER as usize).min(end.len())),
            _ => self.storage.get(&key, Some(0..piece::HEADER)).await?,
        };
        let (trail, written) = piece::open_trail(&self.keys, key_epoch, piece, &header, &end)?;
        match written == *size {
            true => Ok(trail),
            false => Err(Error::corrupt(format!("{key} has {size} bytes, and {written} were written"))),
        }
    }

    async fn get(&self, piece: &Piece) -> Result<Bytes> {
        let key = piece.key();
        match self.storage.size(&key).await? {
            size if size <= piece::object_max(piece) => self.storage.get(&key, None).await,
            size => Err(Error::corrupt(format!("{key} has {size} bytes"))),
        }
    }
}
