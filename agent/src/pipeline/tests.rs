//! The pipeline against a real claim stream on loopback and a store in memory.
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_proto::v1::BackupNode;
use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::manifest::ManifestReader;
use palinurus_repository::manifest::entry::{Entry, Kind, Meta, Piece};
use palinurus_repository::pack::FrameReader;
use palinurus_repository::storage::{MemoryStorage, Object, list_all};
use palinurus_repository::{ErrorKind, RepositoryId, Result, RootKey, Timestamp};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::source::{Class, SourceEntry, SourceKind, SourceListWriter};
use crate::warning::Warnings;

mod claim_server;
mod logged;
mod paced;
use claim_server::ClaimServer;

struct World {
    dir: tempfile::TempDir,
    storage: Arc<MemoryStorage>,
    keys: Keys,
    entropy: Arc<SeededEntropy>,
    server: ClaimServer,
}

impl World {
    async fn new(seed: u64) -> Self {
        let entropy = Arc::new(SeededEntropy::new(seed));
        let root = RootKey::generate(entropy.as_ref()).unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            storage: Arc::new(MemoryStorage::default()),
            keys: Keys::derive(&root, RepositoryId([7; 16])).unwrap(),
            entropy,
            server: ClaimServer::start().await,
        }
    }

    fn data(&self, node: &str) -> PathBuf {
        let data = self.dir.path().join(node).join("data");
        fs::create_dir_all(&data).unwrap();
        data
    }

    /// Lists the node's data now, as a snapshot would.
    fn context(
        &self,
        node: &str,
        transaction: u8,
        base: Option<ManifestRef>,
        class: impl Fn(&str) -> Class,
    ) -> Context {
        let spool = self.dir.path().join(node).join(format!("spool-{transaction}"));
        fs::create_dir_all(&spool).unwrap();
        let source = spool.join("walk");
        let mut list = SourceListWriter::create(&source, Timestamp(4_000_000_000_000)).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(self.data(node)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        list.push(&entry_of(&self.data(node), ".", Class::Mutable)).unwrap();
        for name in names {
            let name = name.to_str().unwrap();
            list.push(&entry_of(&self.data(node), name, class(name))).unwrap();
        }
        list.finish(&Warnings::default()).unwrap();
        let transaction = TransactionId([transaction; 16]);
        Context {
            damaged: Arc::default(),
            blocking: Blocking::Threads,
            storage: self.storage.clone(),
            keys: self.keys.clone(),
            entropy: self.entropy.clone(),
            transaction,
            node: node.into(),
            spool,
            source,
            tree: Arc::new(Tree::open(&self.data(node), None).unwrap()),
            base,
            position: 0,
            nodes: 1,
            leader: self.server.leader(),
            claim: v1::ClaimOpen {
                node: node.into(),
                transaction: transaction.as_bytes().to_vec().into(),
                ..Default::default()
            },
            limits: Limits {
                workers: 2,
                pack_buffers: 4,
                zstd_level: 1,
                zstd_level_most: 1,
                spare_page_cache: true,
            },
            pace: Arc::default(),
            progress: Arc::new(Counters::default()),
        }
    }

    async fn backup(&self, context: Context) -> (ManifestRef, BackupNode) {
        upload(context.clone(), CancellationToken::new()).await.unwrap();
        let result = manifest(context, CancellationToken::new()).await.unwrap();
        (ManifestRef::decode(&result.manifest).unwrap(), result.summary.unwrap())
    }

    async fn entries(&self, reference: &ManifestRef) -> Vec<Entry> {
        let mut reader = ManifestReader::open(self.storage.clone(), &self.keys, reference).await.unwrap();
        let mut entries = Vec::new();
        while let Some(block) = reader.next_block().await.unwrap() {
            assert!(!block.continues, "these tests have no file that large");
            entries.extend(block.entries);
        }
        entries
    }

    /// Puts a file together again from its pieces, checking ids and maps on the way.
    async fn bytes(&self, entry: &Entry) -> Vec<u8> {
        let content = entry.content().unwrap();
        let mut bytes = Vec::new();
        let mut ids = Vec::new();
        for piece in &content.pieces {
            match piece {
                Piece::Hole(len) => bytes.resize(bytes.len() + *len as usize, 0),
                Piece::Data(at) => {
                    let chunk = self.chunk(at).await;
                    ids.push(self.keys.chunk_id(&chunk));
                    bytes.extend(chunk);
                }
            }
        }
        if let Some(pages) = &content.pages {
            let mut map = Vec::new();
            ids.clear();
            for at in &pages.maps {
                let part = self.chunk(at).await;
                ids.push(self.keys.chunk_id(&part));
                map.extend(part);
            }
            let want: Vec<u8> = bytes
                .chunks(pages.page_size as usize)
                .flat_map(|page| palinurus_repository::page::entry(&self.keys, page))
                .collect();
            assert!(map == want, "the page map is of other pages");
        }
        assert_eq!(content.id, self.keys.file_id(content.size, ids), "{:?}", entry.path);
        bytes
    }

    async fn chunk(&self, at: &palinurus_repository::pack::ChunkAt) -> Vec<u8> {
        let key = at.frame.pack.key();
        let mut stored = self.storage.get(&key, Some(at.frame.range())).await.unwrap().to_vec();
        let mut plain = Vec::new();
        FrameReader::new(&self.keys).unwrap().open(&at.frame, &mut stored, &mut plain).unwrap();
        plain[at.start as usize..(at.start + at.len) as usize].to_vec()
    }

    async fn assert_holds(&self, node: &str, reference: &ManifestRef) {
        let entries = self.entries(reference).await;
        for entry in &entries {
            if let Kind::File(_) = entry.kind {
                let path = self.data(node).join(str::from_utf8(&entry.path).unwrap());
                let want = fs::read(&path).unwrap();
                assert!(self.bytes(entry).await == want, "{} differs", path.display());
            }
        }
        assert_eq!(entries.len(), fs::read_dir(self.data(node)).unwrap().count() + 1);
    }

    async fn packs(&self, transaction: u8) -> usize {
        let prefix = format!("t/{}/p/", TransactionId([transaction; 16]));
        list_all(self.storage.as_ref(), &prefix).await.unwrap().len()
    }
}

fn entry_of(root: &Path, name: &str, class: Class) -> SourceEntry {
    let meta = root.join(name).symlink_metadata().unwrap();
    let kind = match meta.is_dir() {
        true => SourceKind::Directory,
        false => SourceKind::File { size: meta.len(), class, snapshot: false, nlink: 1 },
    };
    SourceEntry {
        path: name.into(),
        meta: Meta {
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime_seconds: meta.mtime(),
            mtime_nanos: meta.mtime_nsec() as u32,
            device: meta.dev(),
            inode: meta.ino(),
            xattrs: Vec::new(),
        },
        kind,
    }
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SeededEntropy::new(seed).fill(&mut bytes).unwrap();
    bytes
}

/// Compressible and different in each part.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = random(seed, 512);
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 40) as usize % 500;
        bytes.extend_from_slice(&words[at..at + 8]);
    }
    bytes.truncate(len);
    bytes
}

fn mixed(data: &Path) {
    fs::write(data.join("empty"), b"").unwrap();
    for i in 0..300 {
        fs::write(data.join(format!("small-{i:03}")), text(i, 10 + 97 * i as usize)).unwrap();
    }
    fs::write(data.join("large"), text(1, 9_000_001)).unwrap();
    fs::write(data.join("middle"), text(2, 400_000)).unwrap();
    fs::write(data.join("noise"), random(3, 3_000_000)).unwrap();
    fs::write(data.join("pages.db"), text(4, 5 << 20)).unwrap();
    let sparse = fs::File::create(data.join("sparse")).unwrap();
    sparse.set_len(70 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 33 << 20).unwrap();
    sparse.write_all_at(&text(5, 2_000_000), 66 << 20).unwrap();
}

fn classes(name: &str) -> Class {
    match name {
        "pages.db" => Class::Paged(8192),
        "noise" => Class::Immutable,
        "middle" => Class::AppendOnly,
        _ => Class::Mutable,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_tree_comes_back_and_unchanged_is_free() {
    let world = World::new(1).await;
    mixed(&world.data("n1"));
    let (first, summary) = world.backup(world.context("n1", 1, None, classes)).await;
    world.assert_holds("n1", &first).await;
    assert!(!summary.unchanged && summary.files == 306 && summary.warnings == 0, "{summary:?}");
    let sparse = world.entries(&first).await.into_iter().find(|entry| entry.path == b"sparse").unwrap();
    let holes: u64 =
        sparse.content().unwrap().pieces.iter().filter(|p| p.frame().is_none()).map(Piece::len).sum();
    assert!(holes > 60 << 20, "{holes} bytes of holes");

    // The pages are read, and found the same; nothing is stored.
    let (second, summary) = world.backup(world.context("n1", 2, Some(first.clone()), classes)).await;
    assert!(summary.unchanged && second == first, "{summary:?}");
    assert_eq!((summary.bytes_read, summary.bytes_stored), (5 << 20, 0));

    // Without pages nothing is even opened.
    fs::remove_file(world.data("n1").join("pages.db")).unwrap();
    let (third, _) = world.backup(world.context("n1", 3, Some(first), classes)).await;
    let context = world.context("n1", 4, Some(third.clone()), classes);
    let (fourth, summary) = world.backup(context.clone()).await;
    assert!(summary.unchanged && fourth == third);
    assert_eq!(context.progress.bytes_read.load(Ordering::Relaxed), 0);
    assert_eq!(world.packs(4).await, 0);
}

/// The directory itself needs no reading: it is handed on with others like it, and all that follows waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn more_small_files_than_the_window_do_not_wait_for_each_other() {
    let world = World::new(12).await;
    let data = world.data("n1");
    let files = super::feed::WINDOW + 1000;
    for number in 0..files {
        fs::write(data.join(format!("{number:05}")), b"x").unwrap();
    }
    let (first, summary) = world.backup(world.context("n1", 1, None, classes)).await;
    assert_eq!((summary.files, summary.warnings), (files, 0));
    assert_eq!(world.entries(&first).await.len() as u64, files + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_pages_are_sent_together_and_rebased_in_time() {
    let world = World::new(2).await;
    let file = world.data("n1").join("pages.db");
    fs::write(&file, text(9, 8 << 20)).unwrap();
    let (mut base, summary) = world.backup(world.context("n1", 1, None, classes)).await;
    let full = summary.bytes_stored;
    let mut worst = 0.0f64;
    for round in 2..26u8 {
        let handle = fs::OpenOptions::new().write(true).open(&file).unwrap();
        for i in 0..40u64 {
            let page = (u64::from(round) * 7919 + i * 104_729) % 1024;
            handle.write_all_at(&text(u64::from(round) * 1000 + i, 8192), page * 8192).unwrap();
        }
        let (now, summary) = world.backup(world.context("n1", round, Some(base), classes)).await;
        world.assert_holds("n1", &now).await;
        if round == 2 {
            assert!(summary.bytes_new < 41 * 8192 + 9000, "{} bytes for 40 pages", summary.bytes_new);
            assert!(summary.bytes_stored * 8 < full, "{} of {full}", summary.bytes_stored);
        }
        let entries = world.entries(&now).await;
        let frames: std::collections::HashMap<_, _> = entries[1]
            .content()
            .unwrap()
            .pieces
            .iter()
            .filter_map(Piece::frame)
            .map(|f| (*f, f.plain))
            .collect();
        let referred: u64 = frames.values().map(|plain| u64::from(*plain)).sum();
        worst = worst.max(referred as f64 / (8 << 20) as f64);
        base = now;
    }
    assert!(worst > 1.2 && worst < 1.6, "a restore reads up to {worst} times the file");

    // Growing, then shrinking below a page's boundary.
    for size in [(8 << 20) + 12_345, (3 << 20) + 17] {
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(size).unwrap();
        let round = 100 + (size % 7) as u8;
        let (now, _) = world.backup(world.context("n1", round, Some(base), classes)).await;
        world.assert_holds("n1", &now).await;
        base = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_upload() {
    let world = World::new(3).await;
    for node in ["n1", "n2"] {
        mixed(&world.data(node));
    }
    let context =
        |node: &str, position| Context { position, nodes: 2, ..world.context(node, 1, None, classes) };
    let (one, two) = (context("n1", 0), context("n2", 1));
    let cancel = CancellationToken::new;
    let (a, b) = tokio::join!(upload(one.clone(), cancel()), upload(two.clone(), cancel()));
    assert!(a.unwrap().borrowed + b.unwrap().borrowed > 0);
    let mut stored = 0;
    for (node, context) in [("n1", one), ("n2", two)] {
        let result = manifest(context, cancel()).await.unwrap();
        let summary = result.summary.unwrap();
        stored += summary.bytes_new;
        world.assert_holds(node, &ManifestRef::decode(&result.manifest).unwrap()).await;
    }
    let logical: u64 = 9_000_001 + 400_000 + 3_000_000 + (5 << 20) + 2_000_013 + 300 * 10 + 97 * 299 * 150;
    assert!(stored < logical + logical / 20, "{stored} bytes new of {logical}");
}

/// A third node had claimed some chunks of every file and is lost. Two replicas take over: between them each chunk is
/// stored once, and only files with such a chunk are read again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_node_had_claimed_is_taken_over_and_shared() {
    let world = World::new(8).await;
    for node in ["n1", "n2"] {
        fs::write(world.data(node).join("all"), random(1, 6 << 20)).unwrap();
        fs::write(world.data(node).join("half"), random(2, 8 << 20)).unwrap();
        fs::write(world.data(node).join("none"), random(3, 6 << 20)).unwrap();
    }
    let chunks = |seed, len: usize| -> Vec<palinurus_repository::ChunkId> {
        random(seed, len << 20).chunks(1 << 20).map(|chunk| world.keys.chunk_id(chunk)).collect()
    };
    let lost = [chunks(1, 6), chunks(2, 8).split_off(4)].concat();
    lost.iter().for_each(|id| world.server.claim(1, *id));
    let context = |node: &str, position| Context {
        position,
        nodes: 3,
        ..world.context(node, 1, None, |_| Class::Immutable)
    };
    let again = |context: &Context| Context { progress: Arc::new(Counters::default()), ..context.clone() };
    let (one, two) = (context("n1", 0), context("n2", 1));
    let cancel = CancellationToken::new;
    let (a, b) = tokio::join!(upload(one.clone(), cancel()), upload(two.clone(), cancel()));
    let new = |context: &Context| context.progress.bytes_new.load(Ordering::Relaxed);
    assert_eq!(new(&one) + new(&two), 10 << 20, "each chunk of two is one's alone");
    // What the other has stored by then is not borrowed any more.
    let borrowed = a.unwrap().borrowed + b.unwrap().borrowed;
    assert!((2 * 10..=2 * 10 + 10).contains(&borrowed), "{borrowed}");

    // As long as it may come back nothing is taken.
    assert!(take_over(again(&one), cancel()).await.unwrap().borrowed >= 10);
    world.server.lose();
    let (one, two) = (again(&one), again(&two));
    let (a, b) = tokio::join!(take_over(one.clone(), cancel()), take_over(two.clone(), cancel()));
    let borrowed = a.unwrap().borrowed + b.unwrap().borrowed;
    assert_eq!(new(&one) + new(&two), 10 << 20, "ten chunks, once");
    assert!(borrowed <= 10, "at most what the other took at the same time: {borrowed}");
    for context in [&one, &two] {
        let read = context.progress.bytes_read.load(Ordering::Relaxed);
        assert!(read <= 14 << 20, "{read} bytes read: \"none\" is not of it");
    }
    // Once more, as after a crash: nothing is left to do but to look.
    let idle = again(&one);
    assert!(take_over(idle.clone(), cancel()).await.unwrap().borrowed == 0 && new(&idle) == 0);
    let mut stored = 0;
    for (node, context) in [("n1", one), ("n2", two)] {
        let result = manifest(context, cancel()).await.unwrap();
        stored += result.summary.unwrap().bytes_new;
        world.assert_holds(node, &ManifestRef::decode(&result.manifest).unwrap()).await;
    }
    assert_eq!(stored, 20 << 20, "all that there is, once");
}

/// A store that takes so many objects, and of those after them no end is heard.
#[derive(Debug)]
struct Few {
    storage: Arc<MemoryStorage>,
    left: AtomicUsize,
}

#[async_trait]
impl Storage for Few {
    async fn get(&self, key: &str, range: Option<std::ops::Range<u64>>) -> Result<Bytes> {
        self.storage.get(key, range).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.storage.size(key).await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            std::future::pending::<()>().await;
        }
        self.storage.put_new(key, body).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.storage.put(key, body).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.storage.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.storage.delete(keys).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_repeats_nothing_that_is_durable() {
    let world = World::new(4).await;
    fs::write(world.data("n1").join("noise"), random(8, 140 << 20)).unwrap();
    let context = world.context("n1", 1, None, classes);
    // It takes two packs: however late it is cancelled, it is in the middle.
    let few = Arc::new(Few { storage: world.storage.clone(), left: 2.into() });
    let cancel = CancellationToken::new();
    let running = tokio::spawn(upload(Context { storage: few, ..context.clone() }, cancel.clone()));
    while world.packs(1).await < 2 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    running.await.unwrap().unwrap_err();
    world.server.forget();
    let (reference, summary) = world.backup(context).await;
    world.assert_holds("n1", &reference).await;
    // A pack that was put and not yet journaled may be there twice; no more than were under way.
    assert!(summary.bytes_new < 141 << 20, "{summary:?}");
    assert!(world.packs(1).await <= 5 + 4, "{} packs", world.packs(1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_claim_stream_is_made_again() {
    let world = World::new(5).await;
    mixed(&world.data("n1"));
    world.server.break_after(2);
    let (reference, _) = world.backup(world.context("n1", 1, None, classes)).await;
    world.assert_holds("n1", &reference).await;
    assert!(world.server.streams() > 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_vanish_or_shrink_under_the_reader() {
    let world = World::new(6).await;
    mixed(&world.data("n1"));
    fs::write(world.data("n1").join("log"), text(1, 300_000)).unwrap();
    let classes = |name: &str| if name == "log" { Class::AppendOnly } else { classes(name) };
    let context = world.context("n1", 1, None, classes);
    // Between the listing and the reading.
    let data = world.data("n1");
    fs::write(data.join("small-007"), b"replaced by something else").unwrap();
    fs::write(data.join("large"), text(77, 2_345_678)).unwrap();
    fs::OpenOptions::new().append(true).open(data.join("log")).unwrap();
    fs::write(data.join("log"), [text(1, 300_000), text(2, 50_000)].concat()).unwrap();
    fs::remove_file(data.join("small-100")).unwrap();
    fs::remove_file(data.join("noise")).unwrap();
    fs::OpenOptions::new().write(true).open(data.join("sparse")).unwrap().set_len(40 << 20).unwrap();
    let (reference, summary) = world.backup(context).await;
    assert_eq!(summary.warnings, 2);
    let reader = ManifestReader::open(world.storage.clone(), &world.keys, &reference).await.unwrap();
    let warned: Vec<_> = reader.footer().warnings.kept().iter().map(|w| w.path.clone()).collect();
    assert!(warned.contains(&b"small-100".to_vec()) && warned.contains(&b"noise".to_vec()), "{warned:?}");
    // The log is what it was when it was listed; the others are as they are now.
    fs::write(data.join("log"), text(1, 300_000)).unwrap();
    world.assert_holds("n1", &reference).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_ends_the_upload_with_its_reason() {
    let world = World::new(7).await;
    mixed(&world.data("n1"));
    let full = Arc::new(palinurus_repository::storage::LocalStorage::open("///dev/null/repository").unwrap());
    let context = Context { storage: full, ..world.context("n1", 1, None, classes) };
    let error = upload(context, CancellationToken::new()).await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Internal, "{error:?}");
}

/// A store that takes a request and never answers.
#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread")]
async fn who_is_cancelled_does_not_wait_for_the_store() {
    let world = World::new(7).await;
    mixed(&world.data("n1"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let credentials = world.dir.path().join("credentials");
    fs::write(&credentials, "[default]\naws_access_key_id = any\naws_secret_access_key = any\n").unwrap();
    let endpoint = listener.local_addr().unwrap();
    let url = format!("s3://lab/r?endpoint=http://{endpoint}&credentials={}", credentials.display());
    let storage = palinurus_repository::storage::open(&url).unwrap();
    let context = Context { storage, ..world.context("n1", 1, None, classes) };
    let cancel = CancellationToken::new();
    let upload = tokio::spawn(upload(context, cancel.clone()));
    let _asked = listener.accept().await.unwrap();
    cancel.cancel();
    // Long before the store's own limits.
    let ended = tokio::time::timeout(Duration::from_secs(12), upload).await.expect("it ends at once");
    assert_eq!(ended.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
}
