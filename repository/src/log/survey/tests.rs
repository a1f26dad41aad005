use std::sync::Arc;

use super::*;
use crate::clock::SystemClock;
use crate::entropy::SeededEntropy;
use crate::error::ErrorKind;
use crate::id::Epoch;
use crate::keyfile::KeyFile;
use crate::ledger::Body;
use crate::ledger::fixture::{begin, commit_with_log, txn};
use crate::log::{Lineage, RestorePoint, Span, seal};
use crate::storage::MemoryStorage;

const E: Epoch = Epoch(1);

pub(crate) struct World {
    pub(crate) repository: Repository,
    pub(crate) lines: Vec<LineageId>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let entropy = SeededEntropy::new(1);
        let key = KeyFile::generate(&entropy).unwrap();
        let storage = Arc::new(MemoryStorage::default());
        let repository = Repository::create(storage, &key, &entropy, Arc::new(SystemClock)).await.unwrap();
        repository.lead(E, "c1").await.unwrap();
        let mut lines = Vec::new();
        for from in [0, 60] {
            let new = Lineage {
                id: LineageId([0; 16]),
                parent: lines.last().copied(),
                from,
                kind: "postgresql".to_owned(),
                identity: vec![lines.len() as u8],
                segment: 16,
                grants: Vec::new(),
                floor: 0,
                number: 0,
            };
            let added = repository.add_lineage(E, new.clone(), &entropy).await.unwrap();
            let again = repository.add_lineage(E, new, &entropy).await.unwrap().id;
            assert_eq!(again == added.id, added.parent.is_some(), "a promotion told twice is one");
            repository.grant_log(E, added.id, "n1", from).await.unwrap();
            lines.push(added.id);
        }
        Self { repository, lines }
    }

    async fn append(&self, body: Body) {
        self.repository.append(E, body).await.unwrap();
    }

    pub(crate) async fn backup(&self, n: u32, of: usize, start: Position, stop: Position) {
        self.append(begin(n)).await;
        self.append(commit_with_log(n, Span { lineage: self.lines[of], start, stop })).await;
    }

    /// The last commit in milliseconds, the server's time at the end, and a restore point at the end.
    pub(crate) async fn put(
        &self,
        of: usize,
        from: Position,
        to: Position,
        last: Option<i64>,
        as_of: u64,
        name: &str,
    ) {
        let piece = Piece { lineage: self.lines[of], epoch: 1, from, to, whole: false };
        let named = (!name.is_empty()).then(|| RestorePoint { name: name.to_owned(), position: to });
        let commit = last.map(|at| at * 1000);
        let trail = Trail {
            first_commit: commit,
            last_commit: commit,
            points: named.into_iter().collect(),
            as_of: Timestamp(as_of),
        };
        let plain = vec![7; (to - from) as usize];
        let object = seal(self.repository.keys(), None, &piece, &trail, &plain, 1).unwrap();
        self.repository.logs().put(&piece, None, object).await.unwrap();
    }

    pub(crate) async fn put_whole(&self, of: usize, from: Position, to: Position) {
        let piece = Piece { lineage: self.lines[of], epoch: 1, from, to, whole: true };
        let plain = vec![7; (to - from) as usize];
        let object = seal(self.repository.keys(), None, &piece, &Trail::default(), &plain, 1).unwrap();
        self.repository.logs().put(&piece, None, object).await.unwrap();
    }

    async fn resolve(&self, target: Target, of: usize) -> Result<(u32, Target)> {
        let survey = Survey::of(&self.repository).await.unwrap();
        let found = survey.resolve(&target, self.lines[of], None).await?;
        let backup = (1..9).find(|n| txn(*n) == found.window.anchor.backup).unwrap();
        Ok((backup, found.target))
    }

    async fn time(&self, ms: i64, of: usize) -> Result<(u32, Target)> {
        self.resolve(Target::Time(ms * 1000), of).await
    }
}

/// Two backups on the first lineage, a fork at 60, and a hole at 90 of the first.
async fn world() -> World {
    let world = World::new().await;
    world.put(0, 0, 20, Some(1_000), 1_500, "").await;
    world.put(0, 20, 40, Some(2_000), 2_500, "early").await;
    world.backup(1, 0, 10, 20).await;
    world.put(0, 40, 70, Some(3_000), 3_500, "twice").await;
    world.put(0, 70, 80, None, 5_000, "").await;
    world.put(0, 80, 90, None, 6_000, "twice").await;
    world.put(0, 100, 120, Some(9_000), 9_500, "late").await;
    world.backup(2, 0, 50, 70).await;
    world.put(1, 60, 75, Some(4_000), 4_500, "forked").await;
    world
}

#[tokio::test]
async fn times_at_before_and_after_every_commit() {
    let world = world().await;
    // Backup 1 ended at 20, which was the server's end at 1.5 s; backup 2 at 3.5 s.
    let refused = world.time(1_499, 0).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert!(refused.hint().unwrap().contains("0/14 to 0/5A"), "{refused:?}");
    for at in [1_500, 1_999, 2_000, 2_001, 2_999] {
        assert_eq!(world.time(at, 0).await.unwrap(), (1, Target::Time(at * 1000)), "a later commit is there");
    }
    // From the last commit on it is the end: nothing was committed in between.
    for at in [3_000, 3_001, 3_499] {
        assert_eq!(world.time(at, 0).await.unwrap(), (1, Target::Position(90)));
    }
    for at in [3_500, 6_000] {
        assert_eq!(
            world.time(at, 0).await.unwrap(),
            (2, Target::Position(90)),
            "the newest backup before it"
        );
    }
    for at in [6_001, 9_000, 9_600] {
        world.time(at, 0).await.unwrap_err();
    }
    // On the fork: its own commits, and those of its parent before it.
    assert_eq!(world.time(1_700, 1).await.unwrap(), (1, Target::Time(1_700_000)));
    assert_eq!(world.time(3_999, 1).await.unwrap(), (1, Target::Time(3_999_000)));
    assert_eq!(world.time(4_500, 1).await.unwrap(), (1, Target::Position(75)));
    world.time(4_501, 1).await.unwrap_err();
}

#[tokio::test]
async fn a_backup_that_stopped_in_a_piece_of_no_known_time_is_not_taken_for_an_old_one() {
    let world = World::new().await;
    world.put(0, 0, 20, Some(1_000), 1_500, "").await;
    world.put(0, 20, 40, Some(2_000), 0, "").await;
    world.put(0, 40, 60, Some(9_000), 9_500, "").await;
    world.backup(1, 0, 10, 20).await;
    world.backup(2, 0, 25, 35).await;
    for at in [1_600, 8_999] {
        assert_eq!(world.time(at, 0).await.unwrap(), (1, Target::Time(at * 1000)));
    }
    // Nor is the end of what is covered lost when the last piece does not say when that was.
    world.put(0, 60, 70, None, 0, "").await;
    assert_eq!(world.time(9_500, 0).await.unwrap(), (1, Target::Position(70)));
    world.time(9_501, 0).await.unwrap_err();
    let survey = Survey::of(&world.repository).await.unwrap();
    assert_eq!(survey.times(&survey.windows[0]).await.unwrap(), (Timestamp(1_500), Some(Timestamp(9_500))));
    world.put(0, 70, 80, Some(9_700), 0, "").await;
    assert_eq!(world.time(9_700, 0).await.unwrap(), (1, Target::Position(80)));
    let error = world.time(9_701, 0).await.unwrap_err();
    assert!(error.to_string().starts_with("1970-01-01T00:00:09.701Z can not be restored"), "{error}");
    assert!(error.hint().unwrap().contains("1970-01-01T00:00:01.5Z to 1970-01-01T00:00:09.7Z"), "{error:?}");
}

#[tokio::test]
async fn positions_names_and_ends() {
    let world = world().await;
    let at = |position| world.resolve(Target::Position(position), 0);
    assert_eq!(at(20).await.unwrap().0, 1);
    assert_eq!(at(69).await.unwrap().0, 1, "in the middle of the second backup");
    assert_eq!(at(70).await.unwrap().0, 2);
    assert_eq!(at(90).await.unwrap().0, 2);
    for outside in [19, 91, 110] {
        assert!(at(outside).await.unwrap_err().hint().unwrap().contains("nearest"));
    }
    assert_eq!(world.resolve(Target::Latest, 0).await.unwrap(), (2, Target::Position(90)));
    assert_eq!(world.resolve(Target::Latest, 1).await.unwrap(), (1, Target::Position(75)));
    assert_eq!(world.resolve(Target::Immediate, 0).await.unwrap(), (2, Target::Immediate));
    let name = |name: &str, of| world.resolve(Target::Name(name.to_owned()), of);
    assert_eq!(name("early", 0).await.unwrap().0, 1);
    assert_eq!(name("forked", 1).await.unwrap().0, 1);
    let twice = name("twice", 0).await.unwrap_err();
    assert!(twice.what().contains("0/46") && twice.what().contains("0/5A"), "{twice:?}");
    for absent in ["late", "forked", "never"] {
        assert_eq!(name(absent, 0).await.unwrap_err().kind(), ErrorKind::NotFound, "{absent}");
    }
    assert_eq!(
        name("twice", 1).await.unwrap_err().kind(),
        ErrorKind::NotFound,
        "its parent's, behind the fork"
    );
    // A backup behind the hole begins a window again, and what is forgotten ends one.
    world.backup(3, 0, 100, 105).await;
    assert_eq!(world.resolve(Target::Latest, 0).await.unwrap(), (3, Target::Position(120)));
    assert_eq!(name("late", 0).await.unwrap().0, 3);
    world.repository.forget(E, txn(1)).await.unwrap();
    world.resolve(Target::Latest, 1).await.unwrap_err();
}

#[tokio::test]
async fn what_a_cut_piece_says_of_commits_is_not_believed() {
    let world = World::new().await;
    world.put(0, 0, 20, Some(1_000), 1_500, "").await;
    world.backup(1, 0, 10, 20).await;
    world.put(0, 20, 40, Some(2_000), 2_500, "").await;
    // Its last commit may lie behind the fork at 60.
    world.put(0, 40, 70, Some(3_000), 3_500, "").await;
    let doubtful = |at| {
        let world = &world;
        async move {
            let refused = world.time(at, 1).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotFound);
            assert!(refused.hint().unwrap().contains("0/3C"), "{refused:?}");
        }
    };
    for at in [2_500, 3_200] {
        doubtful(at).await;
    }
    assert!(world.time(3_600, 1).await.unwrap_err().what().contains("no window"));
    // A child that wrote, and committed nothing.
    world.put(1, 60, 75, None, 4_500, "").await;
    doubtful(2_500).await;
    assert_eq!(world.time(1_700, 1).await.unwrap(), (1, Target::Time(1_700_000)), "a later one is known");
    assert_eq!(world.time(3_200, 1).await.unwrap(), (1, Target::Position(75)), "there is none later");
}
