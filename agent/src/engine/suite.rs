//! What every engine must keep to, whatever it is.
use std::collections::HashMap;
use std::io::Read;

use palinurus_repository::{SystemClock, SystemEntropy};

use super::*;
use crate::source::{SourceKind, SourceListReader};

/// A place with some data in it, and an engine for it as often as the agent starts.
pub(crate) trait Fixture {
    fn engine(&self) -> Arc<dyn Engine>;
    /// Everything there is besides the data: must be nothing once all is released.
    fn leftovers(&self) -> Vec<PathBuf>;
    fn spool(&self) -> PathBuf;
}

pub(crate) fn parts(state: &Path) -> Parts {
    Parts {
        service: "db".into(),
        node: "n1".into(),
        state: state.to_owned(),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy::new()),
    }
}

const DEAD_MAN: Duration = Duration::from_secs(3600);

fn order(fixture: &impl Fixture) -> SnapshotOrder {
    SnapshotOrder {
        list: fixture.spool().join("walk"),
        added: fixture.spool().join("added"),
        counters: Arc::default(),
        cancel: CancellationToken::new(),
    }
}

fn nobody(_: &str) -> bool {
    false
}

pub(crate) async fn keeps_to_the_contract(fixture: &impl Fixture) {
    repeats_change_nothing(fixture).await;
    unknown_operations_are_quiet(fixture).await;
    a_crash_anywhere_leaves_nothing(fixture).await;
    what_was_listed_can_be_read(fixture).await;
}

async fn repeats_change_nothing(fixture: &impl Fixture) {
    let engine = fixture.engine();
    let never = CancellationToken::new();
    engine.recover(&nobody).await.unwrap();
    assert!(!engine.probe().await.unwrap().data_empty);
    assert!(!engine.inspect().await.unwrap().data_empty);
    for _ in 0..2 {
        engine.freeze("op1", DEAD_MAN, &never).await.unwrap();
    }
    let first = engine.snapshot("op1", order(fixture)).await.unwrap();
    let second = engine.snapshot("op1", order(fixture)).await.unwrap();
    assert_eq!((first.totals.entries, first.totals.bytes), (second.totals.entries, second.totals.bytes));
    for _ in 0..2 {
        engine.thaw("op1").await.unwrap();
    }
    for _ in 0..2 {
        engine.release("op1").await.unwrap();
    }
    assert_eq!(fixture.leftovers(), Vec::<PathBuf>::new());
}

async fn unknown_operations_are_quiet(fixture: &impl Fixture) {
    let engine = fixture.engine();
    engine.thaw("never-heard-of").await.unwrap();
    engine.release("never-heard-of").await.unwrap();
    engine.close().await.unwrap();
    for hostile in ["../x", "", "a/b"] {
        assert!(engine.snapshot(hostile, order(fixture)).await.is_err());
        assert!(engine.release(hostile).await.is_err());
    }
    assert_eq!(fixture.leftovers(), Vec::<PathBuf>::new());
}

/// Stops after each step, as a kill would, and starts again: once with the operation known, to be released, once
/// without, to be cleaned up unasked.
async fn a_crash_anywhere_leaves_nothing(fixture: &impl Fixture) {
    for known in [true, false] {
        for steps in 0..4 {
            let engine = fixture.engine();
            let never = CancellationToken::new();
            if steps > 0 {
                engine.freeze("op1", DEAD_MAN, &never).await.unwrap();
            }
            if steps > 1 {
                engine.snapshot("op1", order(fixture)).await.unwrap();
            }
            if steps > 2 {
                engine.thaw("op1").await.unwrap();
            }
            drop(engine);
            let engine = fixture.engine();
            engine.recover(&move |operation| known && operation == "op1").await.unwrap();
            if known {
                if steps > 1 {
                    engine.tree("op1").unwrap();
                }
                engine.release("op1").await.unwrap();
            } else {
                // Frozen state is gone at once, its record with the release.
                engine.release("op1").await.unwrap();
            }
            assert_eq!(fixture.leftovers(), Vec::<PathBuf>::new(), "known {known}, {steps} steps");
        }
    }
}

async fn what_was_listed_can_be_read(fixture: &impl Fixture) {
    let engine = fixture.engine();
    let snapshot = engine.snapshot("op1", order(fixture)).await.unwrap();
    let tree = engine.tree("op1").unwrap();
    let mut read: HashMap<Vec<u8>, u64> = HashMap::new();
    for entry in SourceListReader::open(&fixture.spool().join("walk")).unwrap() {
        let entry = entry.unwrap();
        if let SourceKind::File { size, .. } = entry.kind {
            let mut bytes = Vec::new();
            tree.open_file(&entry).unwrap().read_to_end(&mut bytes).unwrap();
            assert!(bytes.len() as u64 >= size);
            read.insert(entry.path, size);
        }
    }
    assert_eq!(
        (read.len() as u64, read.values().sum::<u64>()),
        (snapshot.totals.files, snapshot.totals.bytes)
    );
    engine.release("op1").await.unwrap();
}
