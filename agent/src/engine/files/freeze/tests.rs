use super::*;
use palinurus_repository::ErrorKind;

const LONG: Duration = Duration::from_secs(3600);

/// Commands that write what they did to a log, and obey what lies in files.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn freezer(&self) -> Freezer {
        let log = self.0.path().join("log");
        let script = |verb: &str| {
            let fail = self.0.path().join(format!("fail-{verb}"));
            let script =
                format!("echo {verb} $PALINURUS_OPERATION >>{}; test ! -e {}", log.display(), fail.display());
            ["sh", "-c", &script].map(str::to_owned).to_vec()
        };
        let commands = Commands {
            freeze: script("freeze"),
            thaw: script("thaw"),
            timeout: LONG,
            environment: Vec::new(),
        };
        Freezer::new(Some(commands), self.0.path())
    }

    fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.0.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn break_command(&self, verb: &str, broken: bool) {
        let path = self.0.path().join(format!("fail-{verb}"));
        if broken { std::fs::write(path, b"").unwrap() } else { std::fs::remove_file(path).unwrap() }
    }

    fn record(&self) -> Option<Record> {
        read(&self.0.path().join("freeze.json")).unwrap()
    }
}

async fn freeze(freezer: &Freezer, operation: &str, dead_man: Duration) -> Result<()> {
    freezer.freeze(operation, dead_man, &CancellationToken::new()).await
}

#[tokio::test]
async fn twice_is_once() {
    let world = World::new();
    let freezer = world.freezer();
    for _ in 0..2 {
        freeze(&freezer, "op1", LONG).await.unwrap();
        freezer.check("op1").await.unwrap();
    }
    assert_eq!(freeze(&freezer, "op2", LONG).await.unwrap_err().kind(), ErrorKind::Conflict);
    freezer.thaw("op2").await.unwrap();
    for _ in 0..2 {
        freezer.thaw("op1").await.unwrap();
    }
    assert!(freezer.check("op1").await.is_err(), "thawed");
    for _ in 0..2 {
        freezer.release("op1").await.unwrap();
    }
    assert_eq!(world.log(), ["freeze op1", "thaw op1"]);
    assert_eq!(world.record(), None);
    freezer.check("op1").await.unwrap();
}

#[tokio::test]
async fn without_commands_everything_is_done_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let freezer = Freezer::new(None, dir.path());
    freezer.recover().await.unwrap();
    freeze(&freezer, "op1", LONG).await.unwrap();
    freezer.check("op1").await.unwrap();
    freezer.thaw("op1").await.unwrap();
    freezer.release("op1").await.unwrap();
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

/// Waits for the timer's deed without a clock: its record is its end.
async fn until(world: &World, state: &State) {
    while world.record().is_none_or(|record| record.state != *state) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_dead_mans_timer_thaws_and_the_snapshot_learns_it() {
    let world = World::new();
    let freezer = world.freezer();
    freeze(&freezer, "op1", LONG).await.unwrap();
    // Asked for again: the command, which has no more time than the dead man, is not run for that.
    freeze(&freezer, "op1", Duration::from_millis(20)).await.unwrap();
    let early = early(TIME_UP);
    until(&world, &early).await;
    let error = freezer.check("op1").await.unwrap_err();
    assert!(error.what().contains(TIME_UP), "{error:?}");
    freezer.thaw("op1").await.unwrap();
    assert_eq!(world.log(), ["freeze op1", "thaw op1"]);
    // A new attempt begins anew.
    freeze(&freezer, "op1", LONG).await.unwrap();
    freezer.check("op1").await.unwrap();
}

#[tokio::test]
async fn a_freeze_that_fails_or_is_cancelled_is_undone() {
    let world = World::new();
    world.break_command("freeze", true);
    let freezer = world.freezer();
    assert!(freeze(&freezer, "op1", LONG).await.is_err());
    assert_eq!(world.log(), ["freeze op1", "thaw op1"]);
    world.break_command("freeze", false);
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert!(freezer.freeze("op2", LONG, &cancel).await.is_err());
    assert_eq!(world.log().last().unwrap(), "thaw op2");
    assert!(!world.record().unwrap().is_frozen());
}

#[test]
fn what_a_killed_agent_left_frozen_thaws_at_the_next_start() {
    let world = World::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime().block_on(async {
        let freezer = world.freezer();
        freeze(&freezer, "op1", LONG).await.unwrap();
        // As kill -9 would: no thaw, no timer.
    });
    assert_eq!(world.log(), ["freeze op1"]);
    runtime().block_on(async {
        let freezer = world.freezer();
        freezer.recover().await.unwrap();
        assert_eq!(world.log(), ["freeze op1", "thaw op1"]);
        assert!(freezer.check("op1").await.is_err(), "the snapshot must not believe in it");
        freezer.recover().await.unwrap();
        freezer.release("op1").await.unwrap();
    });
    assert_eq!(world.log().len(), 2);
}

#[tokio::test]
async fn a_record_before_the_deed_or_a_damaged_one_counts_as_frozen() {
    for bytes in [&br#"{"operation":"op1","state":"freezing"}"#[..], b"{", b""] {
        let world = World::new();
        std::fs::write(world.0.path().join("freeze.json"), bytes).unwrap();
        let freezer = world.freezer();
        freezer.recover().await.unwrap();
        assert_eq!(world.log().len(), 1);
        assert!(!world.record().unwrap().is_frozen());
    }
}

#[tokio::test]
async fn frozen_without_a_way_to_thaw_stops_the_agent() {
    let world = World::new();
    freeze(&world.freezer(), "op1", LONG).await.unwrap();
    let error = Freezer::new(None, world.0.path()).recover().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.hint().unwrap().contains("freeze.json"));
}

#[tokio::test]
async fn a_thaw_that_fails_is_tried_again() {
    let world = World::new();
    world.break_command("thaw", true);
    let freezer = world.freezer();
    freeze(&freezer, "op1", LONG).await.unwrap();
    assert!(freezer.thaw("op1").await.is_err());
    assert!(world.record().unwrap().is_frozen());
    assert!(freezer.close().await.is_err());
    world.break_command("thaw", false);
    freezer.close().await.unwrap();
    assert_eq!(world.log(), ["freeze op1", "thaw op1", "thaw op1", "thaw op1"]);
}
