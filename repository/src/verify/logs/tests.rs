#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::id::Epoch;
use crate::ledger::fixture::txn;
use crate::log::{At, Grant, World};
use crate::repair::put_back;
use crate::storage::{MemoryStorage, Storage, list_all};
use crate::verify::{Damage, check};

const E: Epoch = Epoch(1);

/// A log of pieces of 16 with a backup at 20 and one at 150, and a child that begins at 60.
async fn world() -> World {
    let world = World::new().await;
    for from in (0..160).step_by(16) {
        world.put(0, from, from + 16, Some(1_000), 1_500, "").await;
    }
    world.backup(1, 0, 10, 20).await;
    world.backup(2, 0, 140, 150).await;
    world.put(1, 60, 100, Some(1_000), 1_500, "").await;
    let child = world.repository.lineage(world.lines[1]).await.unwrap();
    world.repository.logs().put_history(&child, b"of my parents").await.unwrap();
    world
}

fn piece(world: &World, from: Position) -> String {
    Piece { lineage: world.lines[0], epoch: 1, from, to: from + 16, whole: false }.key()
}

async fn look(world: &World, read_data: bool) -> (Vec<Damage>, Vec<LogSeen>) {
    let report = check(&world.repository, read_data, &|_| {}).await.unwrap();
    let damages = report.damages.into_iter().filter(|it| it.object.starts_with("l/")).collect();
    let seen = |id: &LineageId| report.logs.iter().find(|seen| seen.lineage.id == *id).unwrap().clone();
    (damages, world.lines.iter().map(seen).collect())
}

async fn remove(world: &World, key: &str) {
    world.repository.storage().delete(&[key.to_owned()]).await.unwrap();
}

async fn flip(world: &World, key: &str, back: usize) {
    let storage = world.repository.storage();
    let mut object = storage.get(key, None).await.unwrap().to_vec();
    let at = object.len() - back;
    object[at] ^= 1;
    storage.put(key, object.into()).await.unwrap();
}

#[tokio::test]
async fn a_whole_log_has_neither_gaps_nor_damage() {
    let world = world().await;
    for read_data in [false, true] {
        let (damages, logs) = look(&world, read_data).await;
        assert_eq!(damages, []);
        let [parent, child] = &logs[..] else { unreachable!("two lineages") };
        assert_eq!((parent.pieces, &parent.stretches[..]), (10, &[(0, 160)][..]));
        assert_eq!((child.pieces, &child.stretches[..]), (1, &[(60, 100)][..]));
        assert!(logs.iter().all(|seen| seen.gaps.is_empty() && seen.lost.is_empty()));
        assert_eq!((parent.windows.len(), child.windows.len()), (2, 1));
    }
}

#[tokio::test]
async fn of_what_has_gone_it_is_said_what_stays() {
    let world = world().await;
    remove(&world, &piece(&world, 48)).await;
    flip(&world, &piece(&world, 96), 20).await;
    remove(&world, &piece(&world, 64)).await;
    let (damages, logs) = look(&world, false).await;
    assert_eq!(logs[0].lost, [(48, 80), (96, 112)]);
    assert_eq!(damages.len(), 2);
    let by = |object: &str| damages.iter().find(|it| it.object == object).unwrap();
    let missing = by(&prefix(world.lines[0]));
    assert_eq!(missing.kind, DamageKind::Missing);
    let (one, two) = (txn(1), txn(2));
    let said = format!(
        "the log from 0/30 to 0/50 is lost: restores with backup {one} end at 0/30; they begin again at 0/96 with backup {two}"
    );
    assert_eq!(missing.what, said);
    let damaged = by(&piece(&world, 96));
    assert_eq!(damaged.kind, DamageKind::DoesNotOpen);
    assert!(damaged.what.contains("from 0/60 to 0/70 is lost: no backup leads to it"), "{damaged:?}");
    // The child begins behind the hole: no backup leads to it any more.
    assert!(logs[1].windows.is_empty() && logs[1].lost.is_empty());
    let windows: Vec<_> = logs[0].windows.iter().map(|it| (it.anchor.backup, it.from, it.to)).collect();
    assert_eq!(windows, [(one, 20, 48), (two, 150, 160)]);
    // Given up, it is missed no more.
    world.repository.raise_floor(E, At { lineage: world.lines[0], position: 112 }).await.unwrap();
    let (damages, logs) = look(&world, true).await;
    assert!(damages.is_empty() && logs[0].lost.is_empty(), "{damages:?}");
}

#[tokio::test]
async fn the_last_backup_is_followed_by_advice() {
    let world = world().await;
    remove(&world, &piece(&world, 128)).await;
    world.repository.forget(E, txn(2)).await.unwrap();
    let (damages, _) = look(&world, false).await;
    assert!(damages[0].what.ends_with("take a full backup: it begins the next window"), "{damages:?}");
}

#[tokio::test]
async fn bytes_are_looked_at_with_the_data_only_and_other_objects_may_help() {
    let world = world().await;
    // In its frame, not in its trailer.
    let key = piece(&world, 32);
    let storage = world.repository.storage();
    let length = storage.size(&key).await.unwrap() as usize;
    flip(&world, &key, length - 26).await;
    assert_eq!(look(&world, false).await.0, []);
    let (damages, logs) = look(&world, true).await;
    assert_eq!((damages.len(), &damages[0].object, &logs[0].lost[..]), (1, &key, &[(32, 48)][..]));
    world.put_whole(0, 32, 64).await;
    let (damages, logs) = look(&world, true).await;
    assert!(damages[0].what.ends_with("other objects have the same part of the log"), "{damages:?}");
    assert!(logs[0].lost.is_empty());
    for from in [32, 48] {
        remove(&world, &piece(&world, from)).await;
    }
    assert_eq!(look(&world, true).await.0, []);
    // Another length.
    let key = piece(&world, 0);
    let cut = storage.get(&key, None).await.unwrap().slice(8..);
    storage.put(&key, cut).await.unwrap();
    assert_eq!(look(&world, false).await.0[0].object, key);
}

#[tokio::test]
async fn what_does_not_count_is_not_looked_at_and_accounts_are() {
    let world = world().await;
    // Behind the next grant, from a writer that was slow.
    world.repository.grant_log(E, world.lines[0], "n2", 160).await.unwrap();
    world.put(0, 160, 170, None, 0, "").await;
    flip(&world, &Piece { lineage: world.lines[0], epoch: 1, from: 160, to: 170, whole: false }.key(), 20)
        .await;
    assert_eq!(look(&world, true).await.0, []);
    let history = history_key(world.lines[1]);
    flip(&world, &history, 3).await;
    let (damages, _) = look(&world, false).await;
    assert_eq!((&damages[0].object, damages[0].kind), (&history, DamageKind::DoesNotOpen));
    remove(&world, &history).await;
    let (damages, _) = look(&world, false).await;
    assert_eq!((&damages[0].object, damages[0].kind, damages.len()), (&history, DamageKind::Missing, 1));
}

#[tokio::test]
async fn what_a_copy_has_is_put_back() {
    let world = world().await;
    let storage = world.repository.storage();
    let copy: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    for object in list_all(&**storage, "").await.unwrap() {
        copy.put(&object.key, storage.get(&object.key, None).await.unwrap()).await.unwrap();
    }
    let before = list_all(&**storage, "l/").await.unwrap();
    for from in [32, 48, 96] {
        remove(&world, &piece(&world, from)).await;
    }
    flip(&world, &piece(&world, 80), 20).await;
    let history = history_key(world.lines[1]);
    flip(&world, &history, 3).await;
    // Nor is everything whole there.
    let cut = copy.get(&piece(&world, 112), None).await.unwrap().slice(8..);
    copy.put(&piece(&world, 112), cut).await.unwrap();
    let mut report = check(&world.repository, true, &|_| {}).await.unwrap();
    report.damages.retain(|damage| damage.object.starts_with("l/"));
    assert_eq!(report.damages.len(), 3);
    for act in [false, true] {
        let back = put_back(&world.repository, &copy, &report, act, &|_, _| {}).await.unwrap();
        assert_eq!((back.objects.len(), back.left.len()), (5, 0), "{back:?}");
        assert_eq!(look(&world, true).await.0.is_empty(), act);
    }
    assert_eq!(list_all(&**storage, "l/").await.unwrap(), before);
    remove(&world, &piece(&world, 112)).await;
    let mut report = check(&world.repository, true, &|_| {}).await.unwrap();
    report.damages.retain(|damage| damage.object.starts_with("l/"));
    let back = put_back(&world.repository, &copy, &report, true, &|_, _| {}).await.unwrap();
    assert_eq!(
        (back.objects.len(), back.left.len()),
        (0, 1),
        "what is damaged in the copy stays there: {back:?}"
    );
}

fn lineage(grants: &[(u32, Position)], floor: Position) -> Lineage {
    let grant = |(epoch, from): &(u32, Position)| Grant {
        epoch: *epoch,
        node: "n1".into(),
        from: *from,
        key_epoch: None,
    };
    Lineage {
        id: LineageId([7; 16]),
        parent: None,
        from: 0,
        kind: "postgresql".into(),
        identity: vec![1],
        segment: 16,
        grants: grants.iter().map(grant).collect(),
        floor,
        number: 0,
    }
}

#[test]
fn gaps_are_what_grants_tell() {
    let of = |line: &Lineage, pieces: &[(u32, Position, Position)]| {
        let piece = |(epoch, from, to): &(u32, Position, Position)| Piece {
            lineage: line.id,
            epoch: *epoch,
            from: *from,
            to: *to,
            whole: false,
        };
        let covered = line.coverage(pieces.iter().map(piece));
        holes(line, &covered, &covered)
    };
    let none = Vec::new;
    // Its writer says that it begins with a log file behind what it could not give.
    assert_eq!(of(&lineage(&[(1, 0), (2, 32)], 0), &[(1, 0, 20), (2, 32, 40)]), (vec![(20, 32)], none()));
    // No log file begins at 30: there were pieces up to there.
    assert_eq!(of(&lineage(&[(1, 0), (2, 30)], 0), &[(1, 0, 20), (2, 30, 40)]), (none(), vec![(20, 30)]));
    assert_eq!(of(&lineage(&[(1, 0), (2, 30)], 0), &[(1, 0, 20)]), (none(), vec![(20, 30)]));
    // The first piece behind a gap has gone as well.
    assert_eq!(
        of(&lineage(&[(1, 0), (2, 32)], 0), &[(1, 0, 20), (2, 35, 40)]),
        (vec![(20, 32)], vec![(32, 35)])
    );
    // Of three grants in one hole.
    assert_eq!(
        of(&lineage(&[(1, 0), (2, 30), (3, 48)], 0), &[(1, 0, 20), (3, 48, 50)]),
        (vec![(30, 48)], vec![(20, 30)])
    );
    // Before the floor nothing is missed, and before the first grant.
    assert_eq!(of(&lineage(&[(1, 0), (2, 30)], 30), &[(1, 0, 20), (2, 30, 40)]), (none(), none()));
    assert_eq!(of(&lineage(&[(1, 16)], 0), &[(1, 16, 20)]), (none(), none()));
    assert_eq!(of(&lineage(&[(1, 16)], 0), &[]), (none(), none()));
}

proptest! {
    /// Whatever single piece goes from a log without gaps: just that is lost, as long as something tells of it.
    #[test]
    fn what_goes_is_missed(cuts in proptest::collection::vec(1..40u64, 2..20), gone in 0..19usize, grant in 0..19usize) {
        let ends: Vec<u64> = cuts.iter().scan(0, |at, cut| { *at += cut; Some(*at) }).collect();
        let second = ends[grant % ends.len()];
        let line = lineage(&[(1, 0), (2, second)], 0);
        let mut pieces: Vec<Piece> = ends.iter().scan(0, |at, end| {
            let from = std::mem::replace(at, *end);
            let epoch = if from < second { 1 } else { 2 };
            Some(Piece { lineage: line.id, epoch, from, to: *end, whole: false })
        }).collect();
        let whole = line.coverage(pieces.clone());
        prop_assert_eq!(holes(&line, &whole, &whole), (vec![], vec![]));
        let gone = pieces.remove(gone % pieces.len());
        let left = line.coverage(pieces.clone());
        // Damaged, its name is there yet.
        prop_assert_eq!(holes(&line, &whole, &left), (vec![], vec![(gone.from, gone.to)]));
        let stretch = vec![(gone.from, gone.to)];
        let expected = match () {
            () if Some(&gone.to) == ends.last() && gone.to != second => (vec![], vec![]),
            () if gone.to == second && second.is_multiple_of(16) => (stretch, vec![]),
            () => (vec![], stretch),
        };
        prop_assert_eq!(holes(&line, &left, &left), expected);
    }
}
