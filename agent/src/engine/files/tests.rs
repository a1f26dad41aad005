use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::engine::suite::{self, Fixture, parts};
use crate::source::{SourceEntry, SourceKind, SourceListReader};
use palinurus_repository::ErrorKind;

struct World {
    dir: tempfile::TempDir,
    settings: String,
}

impl World {
    fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root/sub", "spool", "state"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["root/a.sst", "root/sub/b.sst", "root/wal", "root/live"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        Self { dir, settings: settings.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> Result<Arc<dyn Engine>> {
        let dir = self.dir.path().display().to_string();
        let text = format!("type = 'files'\nroot = '{dir}/root'\n{}", self.settings.replace("DIR", &dir));
        super::super::open(text.parse().unwrap(), parts(&self.path("state")))
    }

    async fn list(&self, engine: &Arc<dyn Engine>) -> Vec<SourceEntry> {
        engine.snapshot("op1", self.order()).await.unwrap();
        SourceListReader::open(&self.path("spool/walk")).unwrap().map(Result::unwrap).collect()
    }

    fn order(&self) -> SnapshotOrder {
        SnapshotOrder {
            added: self.path("added"),
            list: self.path("spool/walk"),
            counters: Arc::default(),
            cancel: CancellationToken::new(),
        }
    }
}

impl Fixture for World {
    fn engine(&self) -> Arc<dyn Engine> {
        self.open().unwrap()
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = ["root/.palinurus", "state/freeze.json", "frozen", "links/db.n1"]
            .map(|name| self.path(name))
            .into_iter()
            .filter(|path| path.exists())
            .collect();
        for name in ["root/a.sst", "root/wal"] {
            if self.path(name).metadata().unwrap().nlink() != 1 {
                found.push(self.path(name));
            }
        }
        found
    }

    fn spool(&self) -> PathBuf {
        self.path("spool")
    }
}

const LINKED: &str = "immutable = ['*.sst']\nappend_only = ['wal']\n";
const FROZEN: &str =
    "freeze_command = ['mkdir', '-p', 'DIR/frozen']\nthaw_command = ['rm', '-rf', 'DIR/frozen']\n";

#[tokio::test]
async fn suite() {
    for settings in
        ["", LINKED, &format!("{LINKED}{FROZEN}"), &format!("{LINKED}snapshot_dir = 'DIR/links'\n")]
    {
        suite::keeps_to_the_contract(&World::new(settings)).await;
    }
}

#[tokio::test]
async fn a_snapshot_leaves_no_trace_on_the_data_directory() {
    let world = World::new(LINKED);
    let engine = world.engine();
    let before = world.path("root").metadata().unwrap();
    let entries = world.list(&engine).await;
    assert!(world.path("root/.palinurus/op1").is_dir());
    assert_eq!(entries[0].meta.mtime_seconds, before.mtime());
    assert_eq!(i64::from(entries[0].meta.mtime_nanos), before.mtime_nsec());
    assert!(entries.iter().all(|entry| !entry.path.starts_with(b".palinurus")));
    engine.release("op1").await.unwrap();
    let after = world.path("root").metadata().unwrap();
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
}

#[tokio::test]
async fn only_what_nobody_else_may_see_is_linked_and_only_where_told() {
    let world = World::new(&format!("{LINKED}snapshot_dir = 'DIR/root/sub/links'\n"));
    let engine = world.engine();
    let entries = world.list(&engine).await;
    let mode = world.path("root/sub/links/db.n1/op1").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "links must not open what the directories above them closed");
    assert!(entries.iter().all(|entry| !entry.path.starts_with(b"sub/links/db.n1")));
    let linked = entries.iter().filter(|entry| matches!(entry.kind, SourceKind::File { snapshot: true, .. }));
    assert_eq!(linked.count(), 3);
}

#[tokio::test]
async fn a_backup_of_half_a_restore_is_refused() {
    let world = World::new("");
    let engine = world.engine();
    fs::write(world.path("root/.palinurus-restore"), b"{}").unwrap();
    assert_eq!(engine.inspect().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(engine.snapshot("op1", world.order()).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(engine.probe().await.unwrap().data_empty, "a restore may go on");
}

#[tokio::test]
async fn what_counts_as_empty() {
    let world = World::new("");
    let engine = world.engine();
    assert!(!engine.probe().await.unwrap().data_empty);
    fs::remove_dir_all(world.path("root")).unwrap();
    assert!(engine.probe().await.unwrap().data_empty, "absent");
    assert_eq!(
        engine.inspect().await.unwrap_err().kind(),
        ErrorKind::NotFound,
        "an unmounted disk is no empty one"
    );
    fs::create_dir_all(world.path("root/lost+found")).unwrap();
    fs::create_dir_all(world.path("root/.palinurus/op")).unwrap();
    assert!(engine.probe().await.unwrap().data_empty);
    let inspection = engine.inspect().await.unwrap();
    assert!(inspection.data_empty && inspection.free_bytes > 0);
    fs::write(world.path("root/x"), b"").unwrap();
    assert!(!engine.probe().await.unwrap().data_empty);
}

#[tokio::test]
async fn a_freeze_that_ended_early_fails_the_snapshot() {
    let world = World::new(FROZEN);
    let engine = world.engine();
    engine.freeze("op1", Duration::from_secs(3600), &CancellationToken::new()).await.unwrap();
    assert!(world.path("frozen").exists());
    let engine = world.engine(); // another process, the first was killed
    engine.recover(&|_| true).await.unwrap();
    assert!(!world.path("frozen").exists());
    assert!(engine.snapshot("op1", world.order()).await.is_err());
    engine.freeze("op1", Duration::from_secs(3600), &CancellationToken::new()).await.unwrap();
    engine.snapshot("op1", world.order()).await.unwrap();
    engine.close().await.unwrap();
    assert!(!world.path("frozen").exists());
}

#[test]
fn the_agents_own_state_is_never_data() {
    let world = World::new("");
    let inside = world.path("root/state");
    fs::create_dir(&inside).unwrap();
    let text = format!("type = 'files'\nroot = '{}'", world.path("root").display());
    let error = super::super::open(text.parse().unwrap(), parts(&inside)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for bad in ["root = '/d'", "type = 'oracle'\nroot = '/d'"] {
        assert_eq!(
            super::super::open(bad.parse().unwrap(), parts(&inside)).unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
}

#[tokio::test]
async fn restored_data_is_in_use_when_it_is_whole_and_the_operator_says_so() {
    let never = CancellationToken::new();
    let world = World::new("");
    let told = world.engine().check_in_use("op1", &never).await.unwrap();
    assert!(told.contains("root holds 4 names"), "{told}");
    let marker = world.path("root").join(crate::restore::UNFINISHED);
    fs::write(&marker, b"").unwrap();
    let error = world.engine().check_in_use("op1", &never).await.unwrap_err();
    assert!(error.what().contains("not ended"), "{error:?}");
    fs::remove_file(marker).unwrap();

    let script =
        "test $PALINURUS_NODE = n1 && test -e $PALINURUS_ROOT/live || { echo no such table >&2; exit 3; }";
    let world = World::new(&format!("probe_command = ['sh', '-c', '{script}']"));
    let told = world.engine().check_in_use("op1", &never).await.unwrap();
    assert!(told.contains("probe_command"), "{told}");
    fs::remove_file(world.path("root/live")).unwrap();
    let error = world.engine().check_in_use("op1", &never).await.unwrap_err();
    assert!(error.chain().contains("no such table"), "{error:?}");

    let world = World::new("probe_command = ['sleep', '600']\nprobe_timeout = '100ms'");
    let error = world.engine().check_in_use("op1", &never).await.unwrap_err();
    assert!(error.hint().unwrap().contains("engine.probe_timeout"), "{error:?}");
    fs::remove_dir_all(world.path("root")).unwrap();
    assert!(world.engine().check_in_use("op1", &never).await.is_err());
}
