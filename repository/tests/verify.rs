//! Every kind of damage to every kind of object is found, and the backups that need the object are named.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use palinurus_repository::clock::{ManualClock, Timestamp};
use palinurus_repository::entropy::{Entropy, SeededEntropy};
use palinurus_repository::index::IndexSegment;
use palinurus_repository::ledger::{Body, NodeCommit, PackSet, Purpose};
use palinurus_repository::manifest::entry::{Content, Entry, Kind, Piece};
use palinurus_repository::manifest::{ManifestWriter, Warnings};
use palinurus_repository::pack::{ChunkAt, PackWriter};
use palinurus_repository::storage::{Counted, MemoryStorage, list_all};
use palinurus_repository::verify::{DamageKind, Memory, Progress, Report, check, check_within};
use palinurus_repository::{ChunkId, KeyFile, Repository, Storage, TransactionId, WriterId};

mod backup;

use backup::{EPOCH, Known, begin, restore, tree};

const FIRST: TransactionId = TransactionId([1; 16]);
const SECOND: TransactionId = TransactionId([2; 16]);

/// Two backups: the second has a changed n1, which reuses packs of the first, and n2 as it was.
async fn repository() -> Repository {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let entropy = SeededEntropy::new(11);
    let key = KeyFile::generate(&entropy).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let repository = Repository::create(storage, &key, &entropy, clock).await.unwrap();
    repository.lead(EPOCH, "c1").await.unwrap();
    let mut known = Known::new();

    let mut writing = begin(&repository, 1, &mut known, 1).await;
    let one = writing.node("n1", WriterId([0x11; 8]), &tree(0)).await;
    let two = writing.node("n2", WriterId([0x12; 8]), &many(4200)).await;
    writing.commit(vec![one, two.clone()]).await;

    let mut writing = begin(&repository, 2, &mut known, 1).await;
    let one = writing.node("n1", WriterId([0x21; 8]), &tree(1)).await;
    let mut two = two;
    two.0.unchanged = true;
    writing.commit(vec![one, two]).await;
    repository
}

/// Many small files, for a manifest of several blocks and parts.
fn many(count: usize) -> Vec<backup::Source> {
    let tree = tree(0);
    let mut sources = vec![tree[0].clone()];
    for i in 0..count {
        let bytes = format!("file {i}").into_bytes();
        let mut source = tree[1].clone();
        source.path = format!("f{i:05}").into_bytes();
        source.what = backup::What::File(vec![backup::Run::Bytes(bytes)]);
        sources.push(source);
    }
    sources
}

/// The least that a check can do with: nothing is kept, and every block is a window of its own.
const NO_MEMORY: Memory = Memory { trailers: 0, window: 0 };

/// With memory and without, a check finds the same.
async fn verify(repository: &Repository, read_data: bool) -> Report {
    let report = check(repository, read_data, &|_| {}).await.unwrap();
    let mut poor = check_within(repository, read_data, NO_MEMORY, &|_| {}).await.unwrap();
    poor.segments_again = report.segments_again;
    assert_eq!(report, poor);
    report
}

/// Servers run it on any thread.
fn sendable<T: Send>(value: T) -> T {
    value
}

async fn replace(storage: &dyn Storage, key: &str, body: impl Into<Bytes>) {
    storage.delete(&[key.to_owned()]).await.unwrap();
    storage.put_new(key, body.into()).await.unwrap();
}

/// Which backups an object of that name breaks.
fn broken(key: &str) -> Vec<TransactionId> {
    match key {
        _ if key.contains("/x/") => vec![],
        // The second transaction's own.
        _ if key.starts_with("t/0202") => vec![SECOND],
        // Not the second's: it has a manifest of n1 of its own.
        _ if key.contains("/m/n1-") => vec![FIRST],
        _ => vec![FIRST, SECOND],
    }
}

#[tokio::test]
async fn a_whole_repository_has_no_damage() {
    let repository = repository().await;
    let calls = AtomicU64::new(0);
    let progress = |progress: Progress| {
        assert!(progress.done <= progress.total);
        calls.fetch_add(1, Ordering::Relaxed);
    };
    let report = sendable(check(&repository, true, &progress)).await.unwrap();
    assert_eq!(report.damages, []);
    assert_eq!((report.backups_checked, report.manifests_checked, report.records_checked), (2, 3, 5));
    assert_eq!(report.entries_checked, 12 + 12 + 4201);
    assert!(report.packs_checked >= 5 && report.segments_checked == 3 && report.chunks_checked > 4200);
    assert!(report.bytes_checked > 2 << 20 && calls.load(Ordering::Relaxed) > report.packs_checked);
    let quick = verify(&repository, false).await;
    assert_eq!((quick.damages, quick.bytes_checked), (vec![], 0));
    assert_eq!(quick.packs_checked, report.packs_checked);
    for backup in repository.backups().await {
        restore(&repository, &backup.nodes[0]).await;
    }
}

#[tokio::test]
async fn every_damage_to_every_object_is_found() {
    let repository = repository().await;
    let storage = repository.storage().clone();
    let objects = list_all(&*storage, "").await.unwrap();
    for kind in ["repo", "keys/", "ledger/", "/p/", "/x/", "/m/"] {
        assert!(objects.iter().any(|object| object.key.contains(kind)), "{kind}");
    }
    assert!(objects.iter().any(|object| object.key.contains("/m/n2") && object.key.ends_with("-0001")));
    let random = SeededEntropy::new(5);
    let below = |limit: usize| {
        let mut bytes = [0; 8];
        random.fill(&mut bytes).unwrap();
        (u64::from_le_bytes(bytes) % limit as u64) as usize
    };
    // A label is a name for people: sealed, read by `keys list` alone, and no backup hangs on it.
    for object in objects.iter().filter(|object| !object.key.starts_with("labels/")) {
        let key = &object.key;
        let whole = storage.get(key, None).await.unwrap();
        let mut places: Vec<usize> = (0..3).map(|_| below(whole.len())).collect();
        places.extend([0, 5, whole.len() - 1, whole.len() - 12, whole.len() - 20]);
        let mut damages: Vec<Option<Vec<u8>>> = vec![
            None,
            Some(Vec::new()),
            Some(whole[..whole.len() - 1].to_vec()),
            Some(whole[..below(whole.len())].to_vec()),
            Some([&whole[..], b"x"].concat()),
        ];
        for at in places {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << below(8);
            damages.push(Some(flipped));
        }
        for damage in damages {
            let gone = damage.is_none();
            match &damage {
                None => storage.delete(std::slice::from_ref(key)).await.unwrap(),
                Some(bytes) => replace(&*storage, key, bytes.clone()).await,
            }
            let report = match key.starts_with("t/") {
                true => verify(&repository, true).await,
                false => check(&repository, true, &|_| {}).await.unwrap(),
            };
            let lengths = damage.as_ref().map(|bytes| (bytes.len(), whole.len()));
            // A segment or key that is gone leaves its place behind, not its name.
            let place =
                key.rsplit_once('/').filter(|(place, _)| gone && (*place == "keys" || place.ends_with("/x")));
            let named = place.map_or(key.clone(), |(place, _)| format!("{place}/"));
            let found: Vec<_> = report.damages.iter().filter(|found| found.object == named).collect();
            assert!(!found.is_empty(), "{key} {lengths:?} gave {:?}", report.damages);
            let all = key == "repo" || key.starts_with("keys/") || key.starts_with("ledger/");
            let backups = if all { vec![FIRST, SECOND] } else { broken(key) };
            for found in &found {
                assert_eq!(found.backups, backups, "{key}: {found:?}");
                assert_eq!(found.kind == DamageKind::Missing, gone, "{key}: {found:?}");
            }
            if key.contains("/p/") && lengths.is_some_and(|(is, was)| is != was) {
                assert!(found.iter().any(|found| found.kind == DamageKind::WrongSize), "{key}: {found:?}");
            }
            // Nothing else is called damaged, but packs whose segment is.
            let mut others = report.damages.iter().filter(|found| found.object != named);
            assert!(
                others.all(|found| key.contains("/x/") && found.object.ends_with("/x/")),
                "{:?}",
                report.damages
            );
        }
        replace(&*storage, key, whole).await;
    }
    assert_eq!(verify(&repository, true).await.damages, []);
}

#[tokio::test]
async fn swapped_objects_are_found() {
    let repository = repository().await;
    let storage = repository.storage().clone();
    let objects = list_all(&*storage, "").await.unwrap();
    for kind in ["/p/", "/x/", "/m/", "ledger/"] {
        let keys: Vec<_> =
            objects.iter().map(|object| &object.key).filter(|key| key.contains(kind)).collect();
        let (a, b) = (keys[0], keys[keys.len() - 1]);
        let (one, other) = (storage.get(a, None).await.unwrap(), storage.get(b, None).await.unwrap());
        replace(&*storage, a, other.clone()).await;
        replace(&*storage, b, one.clone()).await;
        for read_data in [false, true] {
            let report = verify(&repository, read_data).await;
            let names: Vec<_> = report.damages.iter().map(|found| &found.object).collect();
            // The chain ends at the first bad record.
            assert!(names.contains(&a) && (names.contains(&b) || kind == "ledger/"), "{names:?}");
        }
        replace(&*storage, a, one).await;
        replace(&*storage, b, other).await;
    }
}

#[tokio::test]
async fn damage_everywhere_is_found_at_once() {
    let repository = repository().await;
    let storage = repository.storage().clone();
    let mut damaged = Vec::new();
    for object in list_all(&*storage, "t/").await.unwrap() {
        let mut bytes = storage.get(&object.key, None).await.unwrap().to_vec();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 8;
        replace(&*storage, &object.key, bytes).await;
        damaged.push(object.key);
    }
    let report = verify(&repository, true).await;
    for key in damaged {
        assert!(report.damages.iter().any(|found| found.object == key), "{key}");
    }
}

#[tokio::test]
async fn what_open_and_ended_transactions_left_is_no_damage() {
    let repository = repository().await;
    let storage = repository.storage().clone();
    for (id, ends) in [(7, false), (8, true)] {
        let mut known = Known::new();
        let mut writing = begin(&repository, id, &mut known, 1).await;
        writing.node("n1", WriterId([id; 8]), &tree(0)).await;
        let transaction = TransactionId([id; 16]);
        for object in list_all(&*storage, &format!("t/{transaction}/")).await.unwrap() {
            replace(&*storage, &object.key, &b"half"[..]).await;
        }
        if ends {
            repository.abort(EPOCH, transaction).await.unwrap();
        }
    }
    repository.begin(EPOCH, TransactionId([9; 16]), Purpose::Pin).await.unwrap();
    assert_eq!(verify(&repository, true).await.damages, []);
}

#[tokio::test]
async fn a_backup_that_is_forgotten_meanwhile_is_not_broken() {
    let repository = repository().await;
    let storage = repository.storage().clone();
    let key = list_all(&*storage, "t/0202")
        .await
        .unwrap()
        .into_iter()
        .find(|object| object.key.contains("/p/"))
        .unwrap()
        .key;
    storage.delete(std::slice::from_ref(&key)).await.unwrap();
    let broken = verify(&repository, false).await;
    assert_eq!((broken.damages.len(), &broken.damages[0].object), (1, &key));

    let forgotten = std::sync::atomic::AtomicBool::new(false);
    let handle = tokio::runtime::Handle::current();
    let report = check(&repository, false, &|progress| {
        if progress.phase == "manifests" && !forgotten.swap(true, Ordering::SeqCst) {
            let forget = repository.forget(EPOCH, SECOND);
            // Another process would do this; here the check itself waits for it.
            std::thread::scope(|scope| scope.spawn(|| handle.block_on(forget)).join().unwrap().unwrap());
        }
    })
    .await
    .unwrap();
    assert_eq!(report.damages, []);
}

/// What a broken writer could commit: sealed well, and wrong.
#[tokio::test]
async fn what_contradicts_itself_is_found() {
    let repository = repository().await;
    let backups = repository.backups().await;
    let entries: Vec<Entry> =
        restore(&repository, &backups[0].nodes[0]).await.into_iter().map(|(entry, _)| entry).collect();
    let change = |path: &str, change: &dyn Fn(&mut Content)| {
        let mut entries = entries.clone();
        let entry = entries.iter_mut().find(|entry| entry.path == path.as_bytes()).unwrap();
        let Kind::File(content) = &mut entry.kind else { panic!() };
        change(content);
        entries
    };
    let chunk = |content: &mut Content, change: &dyn Fn(&mut ChunkAt)| {
        let Piece::Data(at) = &mut content.pieces[0] else { panic!() };
        change(at);
        content.size = content.pieces.iter().map(Piece::len).sum();
    };
    let cases: Vec<(&str, Vec<Entry>)> = vec![
        ("file id", change("log", &|content| content.id.0[0] ^= 1)),
        ("file id", change("table", &|content| content.id.0[0] ^= 1)),
        ("file id", change("base/empty", &|content| content.id.0[0] ^= 1)),
        ("file id", change("base/large", &|content| content.pieces.swap(0, 1))),
        ("a chunk", change("log", &|content| chunk(content, &|at| at.len -= 1))),
        ("a chunk", change("log", &|content| chunk(content, &|at| at.frame.ordinal += 1))),
        ("a chunk", change("log", &|content| chunk(content, &|at| at.frame.stored -= 1))),
        ("a frame", change("table", &|content| chunk(content, &|at| at.frame.offset += 1))),
    ];
    for (number, (said, entries)) in (0x40..).zip(cases) {
        let transaction = TransactionId([number; 16]);
        repository.begin(EPOCH, transaction, Purpose::Backup).await.unwrap();
        let (commit, packs) = commit_of(&repository, transaction, &entries).await;
        repository.commit(EPOCH, transaction, vec![commit], Vec::new(), packs).await.unwrap();
        let report = verify(&repository, false).await;
        let [damage] = &report.damages[..] else { panic!("{said}: {:?}", report.damages) };
        assert_eq!((damage.kind, &damage.backups), (DamageKind::Inconsistent, &vec![transaction]));
        assert!(damage.what.contains(said), "{said}: {damage:?}");
        repository.forget(EPOCH, transaction).await.unwrap();
    }

    // The other version's maps, with the id that they make: only the pages themselves tell.
    let newer = restore(&repository, &backups[1].nodes[0]).await;
    let (newer, _) = newer.iter().find(|(entry, _)| entry.path == b"table").unwrap();
    let wrong = change("table", &|content| {
        (content.pages, content.id) = (newer.content().unwrap().pages.clone(), newer.content().unwrap().id);
    });
    let transaction = TransactionId([0x5f; 16]);
    repository.begin(EPOCH, transaction, Purpose::Backup).await.unwrap();
    let (commit, packs) = commit_of(&repository, transaction, &wrong).await;
    repository.commit(EPOCH, transaction, vec![commit], Vec::new(), packs).await.unwrap();
    assert_eq!(verify(&repository, false).await.damages, []);
    let report = verify(&repository, true).await;
    let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
    assert_eq!((damage.kind, &damage.backups), (DamageKind::Inconsistent, &vec![transaction]));
    let page = format!("the page at byte {} is another one", 9 * 8192);
    assert!(damage.what.contains("table") && damage.what.contains(&page), "{damage:?}");
    repository.forget(EPOCH, transaction).await.unwrap();

    let transaction = TransactionId([0x60; 16]);
    repository.begin(EPOCH, transaction, Purpose::Backup).await.unwrap();
    let (mut commit, _) = commit_of(&repository, transaction, &entries).await;
    commit.files += 1;
    let body = Body::Commit { transaction, nodes: vec![commit], missing: Vec::new(), packs: PackSet::new() };
    repository.append(EPOCH, body).await.unwrap();
    let report = verify(&repository, false).await;
    let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
    assert!(
        damage.what.contains("its COMMIT does not name") && damage.what.contains("its COMMIT 8 of"),
        "{damage:?}"
    );
}

async fn commit_of(
    repository: &Repository,
    transaction: TransactionId,
    entries: &[Entry],
) -> (NodeCommit, PackSet) {
    let mut writer =
        ManifestWriter::new(repository.keys(), transaction, "n1", WriterId([9; 8]), Timestamp(1)).unwrap();
    entries.iter().for_each(|entry| writer.push(entry).unwrap());
    let finished = writer.finish(Warnings::default()).unwrap();
    for (key, body) in &finished.parts {
        repository.storage().put_new(key, body.clone()).await.unwrap();
    }
    let like = repository.backups().await[0].nodes[0].clone();
    let commit =
        NodeCommit { manifest: finished.reference, files: finished.files, bytes: finished.bytes, ..like };
    (commit, finished.packs)
}

/// What the backups before have.
#[derive(Default)]
struct Before {
    entries: Vec<Entry>,
    packs: PackSet,
}

/// One backup with `packs` packs of its own, each a file of 32 chunks with a frame for each, and all that was before.
async fn wide(repository: &Repository, number: u8, packs: u32, before: &mut Before, buffer: &mut Vec<u8>) {
    let transaction = TransactionId([number; 16]);
    let writer = WriterId([number; 8]);
    let (keys, storage) = (repository.keys().clone(), repository.storage().clone());
    repository.begin(EPOCH, transaction, Purpose::Backup).await.unwrap();
    let derived = keys.transaction(transaction).unwrap();
    let (mut summaries, used) = (Vec::new(), &mut before.packs);
    let mut manifest =
        ManifestWriter::new(&keys, transaction, "n1", writer, Timestamp(1_700_000_000_000)).unwrap();
    let root = many(0).remove(0);
    let directory = Entry { path: root.path, meta: root.meta.clone(), kind: Kind::Directory };
    manifest.push(&directory).unwrap();
    for counter in 0..packs {
        let taken = std::mem::take(buffer);
        let mut pack = PackWriter::new(&keys, &derived, writer, counter, 1, taken).unwrap();
        for chunk in 0..32u32 {
            let mut plain = [0u8; 1024];
            plain[..9].copy_from_slice(
                &[&[number][..], &counter.to_be_bytes()[..], &chunk.to_be_bytes()[..]].concat(),
            );
            pack.append(&plain, vec![(keys.chunk_id(&plain), 1024)]).unwrap();
        }
        let sealed = pack.finish().unwrap();
        let body = Bytes::copy_from_slice(&sealed.buffer[..sealed.len]);
        storage.put_new(&sealed.summary.pack.key(), body).await.unwrap();
        *buffer = sealed.buffer;
        let places: Vec<(ChunkId, ChunkAt)> = sealed.summary.chunks().collect();
        let id = keys.file_id(32 * 1024, places.iter().map(|(id, _)| *id));
        let pieces = places.iter().map(|(_, at)| Piece::Data(*at)).collect();
        let kind = Kind::File(Content { size: 32 * 1024, id, pieces, pages: None });
        let path = format!("{number:03} {counter:08}").into_bytes();
        before.entries.push(Entry { path, meta: root.meta.clone(), kind });
        used.insert(sealed.summary.pack);
        summaries.push(sealed.summary);
    }
    before.entries.iter().for_each(|entry| manifest.push(entry).unwrap());
    let (key, body) = IndexSegment::seal(&keys, transaction, writer, 0, &summaries).unwrap();
    storage.put_new(&key, body).await.unwrap();
    let finished = manifest.finish(Warnings::default()).unwrap();
    for (key, body) in finished.parts {
        storage.put_new(&key, body).await.unwrap();
    }
    let node = NodeCommit {
        node: "n1".to_owned(),
        manifest: finished.reference,
        files: finished.files,
        bytes: finished.bytes,
        bytes_read: finished.bytes,
        bytes_new: finished.bytes,
        bytes_stored: finished.bytes,
        warnings: 0,
        unchanged: false,
        log: None,
        cut: None,
    };
    repository.commit(EPOCH, transaction, vec![node], Vec::new(), used.clone()).await.unwrap();
}

async fn counted_repository() -> (Repository, Arc<Counted>) {
    let counted = Arc::new(Counted::new(Arc::new(MemoryStorage::default())));
    let entropy = SeededEntropy::new(11);
    let key = KeyFile::generate(&entropy).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let repository = Repository::create(counted.clone(), &key, &entropy, clock).await.unwrap();
    repository.lead(EPOCH, "c1").await.unwrap();
    (repository, counted)
}

#[tokio::test]
async fn with_little_memory_trailers_and_manifests_are_read_once_all_the_same() {
    const BACKUPS: u8 = 6;
    const PACKS: u32 = 40;
    let (repository, counted) = counted_repository().await;
    let (mut before, mut buffer) = (Before::default(), Vec::new());
    for number in 1..=BACKUPS {
        wide(&repository, number, PACKS, &mut before, &mut buffer).await;
    }
    let asked = counted.requests();
    let all = check(&repository, false, &|_| {}).await.unwrap();
    let rich = counted.requests().since(&asked);
    assert_eq!((all.damages.len(), all.packs_checked, all.segments_again), (0, 240, 0));
    // Every pack's trailer, every segment, and the rest: manifests, ledger, keys.
    let named: usize = (1..=usize::from(BACKUPS)).map(|backups| backups * PACKS as usize * 32).sum();
    for (trailers, window) in [(400 << 10, 1 << 20), (20 << 10, 1 << 20), (0, 8 << 20), (0, 0)] {
        let told = AtomicU64::new(0);
        let progress = |at: Progress| {
            told.fetch_max(at.again, Ordering::Relaxed);
        };
        let asked = counted.requests();
        let report = check_within(&repository, false, Memory { trailers, window }, &progress).await.unwrap();
        let poor = counted.requests().since(&asked);
        let again = report.segments_again;
        assert_eq!(Report { segments_again: 0, ..report }, all);
        // Segments make all the difference, and it was told before.
        assert_eq!((poor.gets, poor.sizes, poor.lists), (rich.gets + again, rich.sizes, rich.lists));
        assert_eq!(told.load(Ordering::Relaxed), u64::from(BACKUPS));
        let windows =
            if window == 0 { u64::from(BACKUPS) } else { (named * 256).div_ceil(window) as u64 + 1 };
        assert!(again > 0 && again <= windows * u64::from(BACKUPS), "{again} in {windows} windows");
    }
}

#[tokio::test]
async fn cancelled_among_the_manifests_it_ends_at_once() {
    let (repository, counted) = counted_repository().await;
    let mut known = Known::new();
    for number in 1..=3u8 {
        let mut writing = begin(&repository, number, &mut known, 1).await;
        let node = writing.node("n1", WriterId([number; 8]), &many(4200)).await;
        writing.commit(vec![node]).await;
    }
    let asked = counted.requests();
    check(&repository, false, &|_| {}).await.unwrap();
    let whole = counted.requests().since(&asked).total();
    // One manifest is read, two are not.
    let cancel = tokio::sync::Notify::new();
    let at = AtomicU64::new(0);
    let progress = |progress: Progress| {
        if progress.phase == "manifests" && progress.done == 1 {
            at.store(counted.requests().total(), Ordering::Relaxed);
            cancel.notify_one();
        }
    };
    let asked = counted.requests();
    tokio::select! {
        biased;
        () = cancel.notified() => {}
        _ = check(&repository, false, &progress) => panic!("it went on to its end"),
    }
    let now = counted.requests();
    assert!(now.total() - at.load(Ordering::Relaxed) <= 8, "the next manifest's first block, and no more");
    assert!(now.since(&asked).total() < whole);
}

/// `cargo test -p palinurus-repository --test verify measure -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement")]
async fn measure_a_million_chunks() {
    let counted = Arc::new(Counted::new(Arc::new(MemoryStorage::default())));
    let entropy = SeededEntropy::new(11);
    let key = KeyFile::generate(&entropy).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let repository = Repository::create(counted.clone(), &key, &entropy, clock).await.unwrap();
    repository.lead(EPOCH, "c1").await.unwrap();
    let mut buffer = Vec::new();
    for number in 1..=250 {
        wide(&repository, number, 125, &mut Before::default(), &mut buffer).await;
    }
    drop(buffer);
    let status = |name: &str| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    for read_data in [false, true] {
        std::fs::write("/proc/self/clear_refs", "5").unwrap(); // the peak begins anew
        let (before, asked) = (status("VmRSS"), counted.requests());
        let began = std::time::Instant::now();
        let report = check(&repository, read_data, &|_| {}).await.unwrap();
        assert_eq!((report.damages.len(), report.packs_checked), (0, 31_250));
        println!("read data {read_data}: {:?}, {:?}", began.elapsed(), counted.requests().since(&asked));
        println!("resident: {before} KiB before, {} KiB at most", status("VmHWM"));
    }
}
