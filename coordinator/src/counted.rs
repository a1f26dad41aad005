//! How many instructions the hot paths take: counted by valgrind, so that a busy machine changes nothing. Counted are
//! only functions that are Rust and ours to answer for; what chooses its instructions by the processor (BLAKE3, zstd,
//! AES, memcpy) is left out, and calls of the allocator are counted beside. docs/testing.md says how to renew the counts.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use palinurus_proto::v1::{self, TaskState};
use palinurus_repository::chunk::content_cut;
use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::index::IndexSegment;
use palinurus_repository::keys::FileHasher;
use palinurus_repository::ledger::{Purpose, State};
use palinurus_repository::manifest::entry::{Content, Entry, Kind, Meta, Piece};
use palinurus_repository::manifest::{ManifestReader, ManifestWriter, Warnings};
use palinurus_repository::pack::{PACK_BUFFER, PackWriter, open_whole};
use palinurus_repository::storage::{MemoryStorage, Storage};
use palinurus_repository::{
    ChunkId, Entropy, Epoch, FileId, KeyFile, Keys, Repository, RepositoryId, RootKey, Timestamp,
    TransactionId, WriterId,
};

use crate::claim::{Asked, Claims};
use crate::index::Index;
use crate::index::tests::{chunk, pack};
use crate::operation::record::{self, Detail};
use crate::operation::{Limits, Presence, Seen, Step, View, decide};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/counted.txt");
/// More or less than that is worth a look.
const TOLERANCE: f64 = 0.05;
const RENEW: &str = "TEST_COUNTS=renew cargo test --workspace --lib counted::the -- --ignored";
/// And of small numbers, more than that.
const FEW: u64 = 10;
const PATHS: [&str; 8] = ["chunk", "pack", "segment", "claim", "manifest", "ledger", "decide", "plan"];
/// In the names of functions that count.
const OURS: [&str; 4] = ["palinurus_", "redb::", "prost::", "fastcdc::"];
/// And those among them that do not: redb takes its checksums as the processor can.
const NOT_OURS: [&str; 2] = ["xxh3", "blake3"];

fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SeededEntropy::new(7).fill(&mut bytes).unwrap();
    // Half of each block is as the last one's: it compresses, and cuts.
    bytes.chunks_mut(8192).for_each(|block| block[4096..].fill(0x61));
    bytes
}

fn keys() -> Keys {
    Keys::derive(&RootKey::generate(&SeededEntropy::new(1)).unwrap(), RepositoryId([1; 16])).unwrap()
}

/// What was counted until then is dumped; functions of this name are looked for by [`count`].
#[inline(never)]
fn next_path(path: &str) {
    std::hint::black_box(path);
}

/// Cuts 2 MiB by content and names the chunks and the file.
fn chunks() {
    let (keys, data) = (keys(), bytes(2 << 20));
    let mut file = FileHasher::new(&keys, data.len() as u64);
    let mut rest = &data[..];
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(content_cut(rest));
        file.push(&keys.chunk_id(chunk));
        rest = after;
    }
    std::hint::black_box(file.finish());
}

/// Four frames of 64 chunks each into one pack, and out of it.
fn packed() {
    let (keys, data) = (keys(), bytes(256 << 10));
    let transaction = keys.transaction(TransactionId([2; 16])).unwrap();
    let mut pack =
        PackWriter::new(&keys, &transaction, WriterId([3; 8]), 0, 1, vec![0; PACK_BUFFER]).unwrap();
    let ids: Vec<_> = data.chunks(4 << 10).map(|chunk| (keys.chunk_id(chunk), 4 << 10)).collect();
    for _ in 0..4 {
        pack.append(&data, ids.clone()).unwrap();
    }
    let id = pack.id();
    let sealed = pack.finish().unwrap();
    assert_eq!(open_whole(&keys, id, &sealed.buffer[..sealed.len]).unwrap(), sealed.summary);
}

/// 2,000 chunks listed by an index segment, and read from it.
fn segment() {
    let (keys, packs) = (keys(), [pack(1, 0, 0..1000), pack(1, 1, 1000..2000)]);
    let (key, object) =
        IndexSegment::seal(&keys, packs[0].pack.transaction, WriterId([4; 8]), 0, &packs).unwrap();
    assert_eq!(IndexSegment::open(&keys, &key, &object).unwrap(), packs);
}

/// 2,000 chunks claimed, stored, asked for again, committed and asked for by the next transaction. The index has so
/// little memory that it writes runs and merges them.
fn claims() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    let index = Arc::new(Index::open(&path, RepositoryId([1; 16]), || 128 << 10).unwrap());
    let ids: Vec<ChunkId> = (0..2000).map(chunk).collect();
    let open = |n| Arc::new(Claims::open(TransactionId([n; 16]), State::default(), index.clone()).unwrap());
    let ask = |claims: &Arc<Claims>| claims.join("n1").ask(&ids, Asked::Claim).unwrap().places.len();
    let first = open(1);
    let packs: Vec<_> = (0..20).map(|n| pack(1, n, n * 100..(n + 1) * 100)).collect();
    assert_eq!(ask(&first), 0);
    packs.iter().for_each(|pack| first.join("n1").stored(pack).unwrap());
    assert_eq!(ask(&first), 2000);
    let own = packs.iter().map(|pack| pack.pack).collect();
    assert!(index.fold_open(TransactionId([1; 16]), &own, |_| true).unwrap());
    index.fold_done(TransactionId([1; 16])).unwrap();
    let second = open(2);
    // Nothing is committed in the state of this ledger: all is to be uploaded again.
    assert_eq!(ask(&second), 0);
}

/// 2,000 files into a manifest, and out of it.
async fn manifest() {
    let keys = keys();
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let meta = |mode, inode| Meta { mode, inode, ..Meta::default() };
    let places: Vec<_> =
        (0..2).flat_map(|n| pack(1, n, n * 1000..(n + 1) * 1000).chunks().collect::<Vec<_>>()).collect();
    let mut writer =
        ManifestWriter::new(&keys, TransactionId([1; 16]), "n1", WriterId([4; 8]), Timestamp(1)).unwrap();
    writer.push(&Entry { path: b".".to_vec(), meta: meta(0o755, 1), kind: Kind::Directory }).unwrap();
    for (n, (_, at)) in places.iter().enumerate() {
        let content = Content {
            size: u64::from(at.len),
            id: FileId([n as u8; 16]),
            pieces: vec![Piece::Data(*at)],
            pages: None,
        };
        let path = format!("f{n:06}").into_bytes();
        writer.push(&Entry { path, meta: meta(0o600, n as u64), kind: Kind::File(content) }).unwrap();
    }
    let finished = writer.finish(Warnings::default()).unwrap();
    for (key, part) in finished.parts {
        storage.put_new(&key, part).await.unwrap();
    }
    let mut reader = ManifestReader::open(storage, &keys, &finished.reference).await.unwrap();
    let mut entries = 0;
    while let Some(block) = reader.next_block().await.unwrap() {
        entries += block.entries.len();
    }
    assert_eq!(entries, 2001);
}

/// 100 transactions written to a ledger, and read by the next who opens it.
async fn ledger() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let entropy = SeededEntropy::new(5);
    let key = KeyFile::generate(&entropy).unwrap();
    let clock = Arc::new(palinurus_repository::clock::ManualClock::at(Timestamp(1_700_000_000_000)));
    let repository = Repository::create(storage.clone(), &key, &entropy, clock).await.unwrap();
    repository.lead(Epoch(1), "c1").await.unwrap();
    for n in 0..50 {
        let id = TransactionId([n; 16]);
        repository.begin(Epoch(1), id, Purpose::Backup).await.unwrap();
        repository.abort(Epoch(1), id).await.unwrap();
    }
    let again = Repository::open(storage, &[key]).await.unwrap();
    assert_eq!(again.head().await, repository.head().await);
}

/// A backup of 20 nodes, from its first decision to its last.
fn decisions() {
    let nodes: Vec<String> = (0..20).map(|n| format!("n{n:02}")).collect();
    let detail = v1::BackupDetail { backup_id: TransactionId([1; 16]).to_string(), ..Default::default() };
    let mut now = Timestamp(1000);
    let mut operation =
        record::create("o1".into(), "docs", nodes.clone(), Epoch(1), now, Detail::Backup(detail));
    let mut seen = Seen::default();
    seen.nodes.extend(nodes.iter().map(|node| (node.clone(), Presence::Connected)));
    let limits =
        Limits { patience: std::time::Duration::from_secs(60), cancel: std::time::Duration::from_secs(60) };
    let mut steps = 0;
    loop {
        steps += 1;
        now = Timestamp(now.0 + 1);
        let step = decide(View { operation: &operation, seen: &seen, limits, now });
        record::apply(&mut operation, &step, now);
        match step {
            Step::Do(actions) => {
                for action in &actions {
                    let crate::operation::Action::Assign { node, work, attempt } = action else { continue };
                    seen.told.insert((node.clone(), *work));
                    if node.is_empty() {
                        done_by_us(&mut operation, *work, now);
                        continue;
                    }
                    let mut report = v1::TaskReport {
                        task: work.name().to_owned(),
                        attempt: *attempt,
                        ..Default::default()
                    };
                    report.set_state(TaskState::TaskDone);
                    record::report(&mut operation, node, &report, now);
                    std::hint::black_box(decide(View { operation: &operation, seen: &seen, limits, now }));
                }
            }
            Step::Finish(_) => break,
            Step::Wait(_) => panic!("it waits in {}", operation.phase),
            _ => {}
        }
    }
    assert!(steps < 40, "{steps}");
}

/// A restore of 100 nodes onto themselves, ten times.
fn plan() {
    let names: Vec<String> = (0..100).map(|n| format!("n{n:03}")).collect();
    let backup = crate::fixture::backup(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let node = |name: &String| v1::Node {
        name: name.clone(),
        connected: true,
        data_empty: true,
        ..Default::default()
    };
    let nodes: Vec<v1::Node> = names.iter().map(node).collect();
    let request = v1::RestoreRequest { service: "docs".into(), ..Default::default() };
    for _ in 0..10 {
        let planned = crate::plan::plan(&nodes, &backup, &[], &request).unwrap();
        assert_eq!(planned.manifests.len(), 100);
    }
}

fn done_by_us(operation: &mut v1::Operation, work: crate::operation::Work, now: Timestamp) {
    let patch = match work {
        crate::operation::Work::Begin => record::Patch::Begun {
            bases: Vec::new(),
            key_epochs: Vec::new(),
            damaged: Default::default(),
            warnings: Vec::new(),
        },
        crate::operation::Work::Commit => record::Patch::Committed { chunks_moved: 0 },
        _ => record::Patch::Nothing,
    };
    record::own(operation, work, Ok(patch), now);
}

/// Run by [`count`], under valgrind.
#[test]
#[ignore = "its instructions are counted by the test beside it"]
fn paths() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for path in PATHS {
        next_path(path);
        match path {
            "chunk" => chunks(),
            "pack" => packed(),
            "segment" => segment(),
            "claim" => claims(),
            "manifest" => runtime.block_on(manifest()),
            "ledger" => runtime.block_on(ledger()),
            "decide" => decisions(),
            _ => plan(),
        }
    }
    next_path("");
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    instructions: u64,
    allocations: u64,
}

/// One file for each path, and one for what came before.
fn count(directory: &Path) -> BTreeMap<&'static str, Counts> {
    let out = directory.join("out");
    let program = std::env::current_exe().unwrap();
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no", "--dump-line=no"])
        .args(["--dump-before=*counted::next_path*", "-q"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["counted::paths", "--exact", "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    // The first dump is of what came before the first path.
    let dump = |n: usize| std::fs::read_to_string(directory.join(format!("out.{n}"))).unwrap();
    PATHS.iter().enumerate().map(|(at, path)| (*path, read(&dump(at + 2)))).collect()
}

/// As <https://valgrind.org/docs/manual/cl-format.html> says: a function's own costs, one line each; what it calls is a
/// `calls=` line followed by one of what that cost.
fn read(dump: &str) -> Counts {
    let mut counts = Counts::default();
    let (mut is_ours, mut allocates, mut of_callee) = (false, false, false);
    for line in dump.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            let is_one = |of: &[&str]| of.iter().any(|it| name.contains(it));
            is_ours = is_one(&OURS) && !is_one(&NOT_OURS);
        } else if let Some(name) = line.strip_prefix("cfn=") {
            allocates = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"].contains(&name);
        } else if let Some(calls) = line.strip_prefix("calls=") {
            let calls = calls.split(' ').next().and_then(|calls| calls.parse::<u64>().ok());
            counts.allocations += calls.filter(|_| allocates).unwrap_or(0);
            of_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok());
            if is_ours && !std::mem::take(&mut of_callee) {
                counts.instructions += cost.unwrap_or(0);
            }
            of_callee = false;
        }
    }
    counts
}

fn toolchain() -> String {
    let version =
        Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-V").output();
    let version = version.map(|ran| String::from_utf8_lossy(&ran.stdout).trim().to_owned());
    format!("{} {}", version.unwrap_or_default(), std::env::consts::ARCH)
}

fn text(counts: &BTreeMap<&str, Counts>) -> String {
    let mut text = format!("{}\n", toolchain());
    for (path, Counts { instructions, allocations }) in counts {
        writeln!(text, "{path} {instructions} {allocations}").unwrap();
    }
    text
}

/// Apart from the others: what it says when it does not compare must be seen.
#[test]
#[ignore = "valgrind is slow, and its answer is to be read: tests/run has a step for it"]
fn the_hot_paths_take_no_more_instructions_than_before() {
    let asked = std::env::var("TEST_COUNTS").unwrap_or_default();
    let skipped = |why: &str| eprintln!("instruction counts: NOT COMPARED: {why}");
    if asked == "skip" {
        return skipped("TEST_COUNTS=skip");
    }
    if !cfg!(debug_assertions) {
        return skipped("they are of the build without optimisation");
    }
    let there = Command::new("valgrind").arg("--version").output().is_ok();
    assert!(there, "valgrind is missing: install it (tests/run does), or say TEST_COUNTS=skip");
    let committed = std::fs::read_to_string(COMMITTED).unwrap();
    let (said, lines) = committed.split_once('\n').unwrap();
    if said != toolchain() && asked != "renew" {
        return skipped(&format!("the counts are of {said}, and this is {}", toolchain()));
    }
    let directory = tempfile::tempdir().unwrap();
    let counts = count(directory.path());
    if asked == "renew" {
        std::fs::write(COMMITTED, text(&counts)).unwrap();
        return;
    }
    let held: Vec<&str> = lines.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(PATHS.iter().all(|path| held.contains(path)), "a path without counts: {RENEW}");
    let mut wrong = String::new();
    for line in lines.lines() {
        let mut words = line.split(' ');
        let path = words.next().unwrap();
        let before: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        let now = counts[path];
        for (what, before, now) in
            [("instructions", before[0], now.instructions), ("allocations", before[1], now.allocations)]
        {
            let change = now as f64 / before as f64 - 1.0;
            eprintln!("{path}: {now} {what}, {before} before ({:+.1} %)", change * 100.0);
            if change.abs() > TOLERANCE && now.abs_diff(before) > FEW {
                writeln!(wrong, "{path}: {now} {what}, {before} before ({:+.1} %)", change * 100.0).unwrap();
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{wrong}more: see why; wanted, or less: renew the counts and commit them with the change: {RENEW}"
    );
}
