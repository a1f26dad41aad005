//! A piece a second for a week: what of their names is held.
#![allow(clippy::unwrap_used)]
use super::tests::World;
use super::*;
use crate::storage::list_all;
use crate::sweep;

const WEEK: u64 = 7 * 24 * 60 * 60;

#[tokio::test]
async fn a_week_of_pieces_of_a_second_is_looked_at_in_little_memory() {
    let world = World::new().await;
    let (repository, line) = (&world.repository, world.lines[0]);
    world.put(0, 0, 8, Some(1_000), 1_500, "").await;
    world.backup(1, 0, 2, 8).await;
    // Names alone are looked at, but for the last one.
    let storage = repository.storage();
    for at in (8..8 * WEEK).step_by(8) {
        let piece = Piece { lineage: line, epoch: 1, from: at, to: at + 8, whole: false };
        storage.put_new(&piece.key(), bytes::Bytes::from_static(b"x")).await.unwrap();
    }
    world.put(0, 8 * WEEK, 8 * WEEK + 8, Some(9_000), 9_500, "").await;
    let lost = Piece { lineage: line, epoch: 1, from: 8 * 1000, to: 8 * 1001, whole: false };
    storage.delete(&[lost.key()]).await.unwrap();

    let survey = Survey::of(repository).await.unwrap();
    assert_eq!(survey.stored[&line].0, WEEK);
    assert_eq!(survey.coverage[&line].stretches(), [(0, 8000), (8008, 8 * WEEK + 8)]);
    assert!(survey.held() < 5 * WEEK as usize, "{} bytes for {WEEK} names", survey.held());
    let window = Window { from: 8008, to: 8 * WEEK + 8, ..survey.windows[0].clone() };
    assert_eq!(survey.times(&window).await.unwrap_err().kind(), crate::ErrorKind::Corrupt, "no piece there");
    let last = Window { from: 8 * WEEK, ..window };
    assert_eq!(survey.times(&last).await.unwrap().1, Some(Timestamp(9_500)));

    // The sweep holds a page of names, and those of wholes.
    let whole = Piece { lineage: line, epoch: 1, from: 16, to: 8 * 900, whole: true };
    storage.put_new(&whole.key(), bytes::Bytes::from_static(b"x")).await.unwrap();
    let leftovers = sweep::leftovers(repository).await.unwrap();
    assert_eq!(leftovers.objects, 898);
    assert_eq!(sweep::delete_leftovers(repository).await.unwrap().objects, 898);
    let left = list_all(&**storage, &format!("l/{line}/")).await.unwrap();
    assert_eq!(left.len() as u64, WEEK + 1 - 898);
}
