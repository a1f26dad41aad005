//! Copies a repository into another store, object by object as they are: nothing is sealed anew.
//!
//! What the copy shows is one state of the source, the records up to one number, and everything that these need lies there
//! before the records do. Whatever dies on the way is gone on with by doing it again; a later copy brings only what is new.
//! Backups and sweeps on the source go on meanwhile. Each object is proved before it is put: damage is not copied.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::commit::{Repository, header_id};
use crate::error::{Error, ErrorKind, Result};
use crate::id::TransactionId;
use crate::index::IndexSegment;
use crate::ledger::{CHECKPOINTS, PackSet, State, newest_checkpoint, record_key};
use crate::log::{self, Piece, history_key};
use crate::pack::{PackId, open_whole};
use crate::storage::{Object, Storage, list_all};

mod operators;

use operators::operators;

const PAGE: usize = 1000;
/// Objects under way: each is held as a whole.
const AT_ONCE: usize = 4;
/// Nothing of ours is larger.
const OBJECT_MAX: u64 = 1 << 30;
/// How often it begins anew because what it was about to copy was swept.
const PASSES: usize = 5;
const DAMAGED_KEPT: usize = 1000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub objects: u64,
    pub bytes: u64,
    /// Were there already.
    pub objects_there: u64,
    pub records: u64,
    /// In the copy now.
    pub backups: u64,
    /// What could not be copied because it is damaged or missing in the source, or lies in the copy and is another.
    pub damaged: Vec<(String, String)>,
    pub damaged_count: u64,
}

impl Copied {
    fn damaged(&mut self, object: &str, what: impl Into<String>) {
        self.damaged_count += 1;
        if self.damaged.len() < DAMAGED_KEPT {
            self.damaged.push((object.to_owned(), what.into()));
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub objects: u64,
    pub bytes: u64,
}

/// Brings `to` to the state that `from` has now.
pub async fn copy(
    from: &Repository,
    to: &Arc<dyn Storage>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Copied> {
    from.refresh().await?;
    let mut copied = Copied::default();
    let began = begin(from, &**to).await?;
    // Told below, when they are looked at again.
    operators(from, &**to, &mut Copied::default()).await?;
    for pass in 1.. {
        let needed = from.read(Needed::of).await;
        let head = from.head().await;
        copied.damaged = Vec::new();
        copied.damaged_count = 0;
        let mut walk = Walk { from, to, needed, copied: &mut copied, progress, seen: Seen::default() };
        walk.run().await?;
        let lost = walk.lost();
        from.refresh().await?;
        // What the source does not need any more either was swept under way.
        let now = from.read(Needed::of).await;
        if pass < PASSES && lost.iter().any(|object| !now.needs(object)) {
            continue;
        }
        for object in lost {
            copied.damaged(&object, "a backup names it, and it is not in the source");
        }
        // Masters of key epochs that began meanwhile.
        operators(from, &**to, &mut copied).await?;
        if let Some((last, _)) = head {
            copied.records = ledger(from, &**to, began, last).await?;
            checkpoint(from, &**to, last + 1).await?;
        }
        copied.backups = from.backups().await.len() as u64;
        break;
    }
    Ok(copied)
}

/// The header, and a look at what is there: how many records.
async fn begin(from: &Repository, to: &dyn Storage) -> Result<u64> {
    let header = from.storage().get("repo", None).await?;
    match to.get("repo", None).await {
        Ok(there) => {
            let id = header_id(&there)?;
            if id != from.id() {
                return Err(Error::conflict(format!(
                    "{to:?} holds repository {id}, and {} is to be copied there",
                    from.id()
                ))
                .with_hint("a copy needs a place of its own: name an empty one"));
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if !to.list("", None, 1).await?.is_empty() {
                return Err(Error::conflict(format!("{to:?} is not empty, and holds no repository"))
                    .with_hint("a copy needs a place of its own: name an empty one"));
            }
            match to.put_new("repo", header).await {
                Err(e) if e.kind() != ErrorKind::Conflict => return Err(e),
                _ => return Box::pin(begin(from, to)).await,
            }
        }
        Err(e) => return Err(e),
    }
    let there = list_all(to, "ledger/").await?.len() as u64;
    let ours = from.head().await.map_or(0, |(last, _)| last + 1);
    if there > ours {
        return Err(fork(to, format!("it has {there} records of the ledger, and the source {ours}")));
    }
    if let Some(last) = there.checked_sub(1) {
        let key = record_key(last);
        if to.get(&key, None).await? != from.storage().get(&key, None).await? {
            return Err(fork(to, format!("its record {last} is not the source's")));
        }
    }
    Ok(there)
}

fn fork(to: &dyn Storage, what: String) -> Error {
    Error::conflict(format!("{to:?} is no copy of this repository any more: {what}")).with_hint(
        "somebody wrote to the copy, or the source was rolled back: see which of the two is right before anything is deleted",
    )
}

/// The records that the copy lacks, in order, up to `last`. How many there were.
async fn ledger(from: &Repository, to: &dyn Storage, there: u64, last: u64) -> Result<u64> {
    let mut records = 0;
    for number in there..=last {
        let key = record_key(number);
        let body = from.storage().get(&key, None).await?;
        match to.put_new(&key, body.clone()).await {
            Err(e) if e.kind() == ErrorKind::Conflict => {
                if to.get(&key, None).await? != body {
                    return Err(fork(to, format!("its record {number} is not the source's")));
                }
            }
            other => other?,
        }
        records += 1;
    }
    Ok(records)
}

/// The newest checkpoint of those records, so that opening the copy costs no more than opening the source.
async fn checkpoint(from: &Repository, to: &dyn Storage, records: u64) -> Result<()> {
    let Some((key, body)) = newest_checkpoint(&**from.storage(), from.keys(), records).await else {
        return Ok(());
    };
    let there = list_all(to, CHECKPOINTS).await?.into_iter().map(|object| object.key);
    let (kept, old): (Vec<String>, Vec<String>) = there.partition(|there| *there == key);
    if kept.is_empty() {
        to.put(&key, body).await?;
    }
    if !old.is_empty()
        && let Err(e) = to.delete(&old).await
    {
        tracing::debug!(error = e.chain(), "older checkpoints stay in the copy");
    }
    Ok(())
}

/// What one state needs of the objects.
struct Needed {
    /// All that a transaction could reuse.
    packs: PackSet,
    /// All that a restore needs.
    referenced: PackSet,
    /// Parts, by the manifest's name.
    manifests: BTreeMap<String, u32>,
    /// For what of logs it keeps.
    state: State,
}

impl Needed {
    fn of(state: &State) -> Self {
        let mut referenced = PackSet::new();
        let mut manifests = BTreeMap::new();
        for backup in state.backups() {
            referenced.extend(&backup.packs);
            for node in &backup.nodes {
                manifests.insert(crate::ledger::manifest_stem(&node.manifest), node.manifest.parts);
            }
        }
        Self { packs: state.committed().clone(), referenced, manifests, state: state.clone() }
    }

    fn transactions(&self) -> BTreeSet<TransactionId> {
        let of_manifests = self.manifests.keys().filter_map(|stem| stem.split('/').nth(1)?.parse().ok());
        self.packs.writers().map(|(transaction, _)| transaction).chain(of_manifests).collect()
    }

    fn takes(&self, key: &str) -> bool {
        match key.split('/').nth(2) {
            Some("p") => PackId::from_key(key).is_ok_and(|pack| self.packs.contains(&pack)),
            Some("m") => stem(key).is_some_and(|stem| self.manifests.contains_key(stem)),
            Some("x") => IndexSegment::from_key(key).is_ok(),
            _ => match Piece::from_key(key) {
                Ok(piece) => !self.state.is_spare(&piece),
                Err(_) => self.state.lineages().keys().any(|id| history_key(*id) == key),
            },
        }
    }

    fn needs(&self, key: &str) -> bool {
        match PackId::from_key(key) {
            Ok(pack) => self.referenced.contains(&pack),
            Err(_) => stem(key).is_some_and(|stem| self.manifests.contains_key(stem)),
        }
    }
}

fn stem(key: &str) -> Option<&str> {
    key.rsplit_once('-').map(|(stem, _)| stem)
}

#[derive(Default)]
struct Seen {
    packs: PackSet,
    parts: HashMap<String, u32>,
}

struct Walk<'a> {
    from: &'a Repository,
    to: &'a Arc<dyn Storage>,
    needed: Needed,
    copied: &'a mut Copied,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
    seen: Seen,
}

impl Walk<'_> {
    async fn run(&mut self) -> Result<()> {
        for transaction in self.needed.transactions() {
            for kind in ["p", "x", "m"] {
                self.folder(&format!("t/{transaction}/{kind}/")).await?;
            }
        }
        // A log goes on: what there is of it now.
        for lineage in self.needed.state.lineages().keys().copied().collect::<Vec<_>>() {
            self.folder(&log::prefix(lineage)).await?;
        }
        Ok(())
    }

    /// Both stores are listed side by side, so that what is there costs a thousandth of a request.
    async fn folder(&mut self, prefix: &str) -> Result<()> {
        let mut after: Option<String> = None;
        loop {
            let page = self.from.storage().list(prefix, after.as_deref(), PAGE).await?;
            let Some(last) = page.last().map(|object| object.key.clone()) else { return Ok(()) };
            let there = self.there(prefix, after.as_deref(), &last).await?;
            let mut wanted = Vec::new();
            for object in page {
                if !self.needed.takes(&object.key) {
                    continue;
                }
                match there.get(&object.key) {
                    Some(size) if *size == object.size => self.copied.objects_there += 1,
                    Some(size) => {
                        let what = format!("{size} bytes in the copy, and {} in the source", object.size);
                        self.copied.damaged(&object.key, what);
                    }
                    None => {
                        wanted.push(object);
                        continue;
                    }
                }
                self.saw(&object.key);
            }
            self.bring(wanted).await?;
            after = Some(last);
        }
    }

    async fn there(&self, prefix: &str, after: Option<&str>, last: &str) -> Result<HashMap<String, u64>> {
        let mut there = HashMap::new();
        let mut after = after.map(str::to_owned);
        loop {
            let page = self.to.list(prefix, after.as_deref(), PAGE).await?;
            let end = page.len() < PAGE || page.last().is_some_and(|object| object.key.as_str() >= last);
            after = page.last().map(|object| object.key.clone());
            there.extend(page.into_iter().map(|object| (object.key, object.size)));
            if end {
                return Ok(there);
            }
        }
    }

    async fn bring(&mut self, wanted: Vec<Object>) -> Result<()> {
        let (from, to) = (self.from, self.to);
        let brought = stream::iter(wanted).map(|object| async move {
            let end = bring(from, &**to, &object).await;
            (object, end)
        });
        let mut brought = std::pin::pin!(brought.buffer_unordered(AT_ONCE));
        while let Some((object, end)) = brought.next().await {
            match end {
                Ok(()) => {
                    self.copied.objects += 1;
                    self.copied.bytes += object.size;
                    self.saw(&object.key);
                    (self.progress)(Progress { objects: self.copied.objects, bytes: self.copied.bytes });
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {} // swept since it was listed, or lost
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    self.saw(&object.key);
                    // A damaged pack that no backup uses is garbage that nobody has swept yet.
                    let garbage = PackId::from_key(&object.key)
                        .is_ok_and(|pack| !self.needed.referenced.contains(&pack));
                    if !garbage {
                        self.copied.damaged(&object.key, e.chain());
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn saw(&mut self, key: &str) {
        if let Ok(pack) = PackId::from_key(key) {
            self.seen.packs.insert(pack);
        } else if let Some(stem) = stem(key).filter(|stem| self.needed.manifests.contains_key(*stem)) {
            *self.seen.parts.entry(stem.to_owned()).or_default() += 1;
        }
    }

    /// What a restore needs and was not to be had, some of it.
    fn lost(&self) -> Vec<String> {
        let packs = self.needed.referenced.difference(&self.seen.packs);
        let seen = |stem: &String| self.seen.parts.get(stem).copied().unwrap_or_default();
        let manifests = self.needed.manifests.iter().filter(|(stem, parts)| seen(stem) < **parts);
        let packs = packs.iter().take(DAMAGED_KEPT).map(|pack| pack.key()).collect::<Vec<_>>();
        packs.into_iter().chain(manifests.map(|(stem, _)| format!("{stem}-0000"))).collect()
    }
}

async fn bring(from: &Repository, to: &dyn Storage, object: &Object) -> Result<()> {
    if object.size > OBJECT_MAX {
        return Err(Error::corrupt(format!("{} bytes are no object of ours", object.size)));
    }
    let body = from.storage().get(&object.key, None).await?;
    prove(from, &object.key, &body, object.size).await?;
    match to.put_new(&object.key, body).await {
        // Two copies at once bring the same.
        Err(e) if e.kind() == ErrorKind::Conflict => Ok(()),
        other => other,
    }
}

/// Of a part of a manifest only the length is known here; the manifest as a whole is proved where it is read.
async fn prove(from: &Repository, key: &str, body: &Bytes, size: u64) -> Result<()> {
    if body.len() as u64 != size {
        return Err(Error::unavailable(format!("{key}: {} bytes of {size} were read", body.len())));
    }
    let (keys, key, body) = (from.keys().clone(), key.to_owned(), body.clone());
    if let Ok(piece) = Piece::from_key(&key) {
        let grant = |state: &State| state.lineage(piece.lineage)?.grant(piece.epoch).cloned();
        // Of a grant that is not known yet there is no key to open it with: it is not taken.
        let grant = from.read(grant).await;
        let key_epoch =
            grant.ok_or_else(|| Error::not_found(format!("{piece} is of no known grant")))?.key_epoch;
        return from.blocking().run(move || log::open(&keys, key_epoch, &piece, &body).map(drop)).await;
    }
    let open = move || match PackId::from_key(&key) {
        Ok(pack) => open_whole(&keys, pack, &body).map(drop),
        Err(_) if key.contains("/x/") => IndexSegment::open(&keys, &key, &body).map(drop),
        Err(_) => Ok(()),
    };
    from.blocking().run(open).await
}
