use std::ops::Range;

use palinurus_repository::pack::ChunkAt;
use palinurus_repository::{ErrorKind, RepositoryId};

use super::*;
use crate::index::tests::{chunk, pack};

struct World {
    _directory: tempfile::TempDir,
    index: Arc<Index>,
    claims: Arc<Claims>,
}

fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    let index =
        Arc::new(Index::open(&directory.path().join("index"), RepositoryId([1; 16]), || 8 << 20).unwrap());
    let claims = Arc::new(Claims::open(TransactionId([1; 16]), State::default(), index.clone()).unwrap());
    World { _directory: directory, index, claims }
}

fn ids(range: Range<u32>) -> Vec<ChunkId> {
    range.map(chunk).collect()
}

fn verdicts(claimant: &Claimant, range: Range<u32>, settle: bool) -> Vec<u8> {
    let how = if settle { Asked::Settle } else { Asked::Claim };
    claimant.ask(&ids(range), how).unwrap().verdicts
}

#[test]
fn the_first_to_ask_uploads_and_the_others_learn_where() {
    let world = world();
    let (one, two) = (world.claims.join("n1"), world.claims.join("n2"));
    assert_eq!(verdicts(&one, 0..4, false), [YOURS; 4]);
    assert_eq!(verdicts(&two, 2..6, false), [ANOTHER, ANOTHER, YOURS, YOURS]);
    assert_eq!(verdicts(&one, 0..1, false), [ANOTHER], "the same content twice in one node");

    one.stored(&pack(1, 0, 0..4)).unwrap();
    one.stored(&pack(1, 0, 0..4)).unwrap();
    let answer = two.ask(&ids(2..5), Asked::Claim).unwrap();
    assert_eq!(answer.verdicts, [STORED, STORED, ANOTHER]);
    let place = ChunkAt::decode(&answer.places[0]).unwrap();
    assert_eq!((place.frame.pack, place.start), (pack(1, 0, 0..4).pack, 2 * 4096));
}

#[test]
fn settling_never_waits_for_others() {
    let world = world();
    let (one, two) = (world.claims.join("n1"), world.claims.join("n2"));
    assert_eq!(verdicts(&one, 0..2, false), [YOURS; 2]);
    one.stored(&pack(1, 0, 0..1)).unwrap();
    assert_eq!(verdicts(&two, 0..2, true), [STORED, YOURS]);
    drop(one);
    assert_eq!(verdicts(&world.claims.join("n3"), 1..2, false), [ANOTHER], "the settler has the claim now");
}

#[test]
fn claims_of_a_stream_that_ends_are_free() {
    let world = world();
    let (one, two) = (world.claims.join("n1"), world.claims.join("n2"));
    assert_eq!(verdicts(&one, 0..2, false), [YOURS; 2]);
    one.stored(&pack(1, 0, 0..1)).unwrap();
    drop(one);
    assert_eq!(verdicts(&two, 0..2, false), [STORED, YOURS]);

    let again = world.claims.join("n2");
    assert_eq!(verdicts(&again, 1..2, false), [YOURS], "a new stream takes the old one's place");
    assert_eq!(two.ask(&ids(0..1), Asked::Claim).unwrap_err().kind(), ErrorKind::Unavailable);
    drop(two);
    assert_eq!(
        verdicts(&world.claims.join("n3"), 1..2, false),
        [ANOTHER],
        "and the old one's end frees nothing of it"
    );
}

#[test]
fn what_a_lost_node_claimed_moves_and_is_counted_once_stored() {
    let world = world();
    let (one, two) = (world.claims.join("n1"), world.claims.join("n2"));
    assert_eq!(verdicts(&one, 0..6, false), [YOURS; 6]);
    assert_eq!(verdicts(&two, 0..4, false), [ANOTHER; 4]);
    one.stored(&pack(1, 0, 0..1)).unwrap();
    drop(one);
    let look = |claimant: &Claimant, range| claimant.ask(&ids(range), Asked::Look).unwrap().verdicts;
    assert_eq!(look(&two, 0..6), [STORED, YOURS, YOURS, YOURS, YOURS, YOURS]);
    assert_eq!(look(&two, 1..2), [YOURS], "a look claims nothing");
    assert_eq!(verdicts(&two, 1..4, false), [YOURS; 3]);
    assert_eq!(look(&world.claims.join("n3"), 1..5), [ANOTHER, ANOTHER, ANOTHER, YOURS]);
    assert_eq!(world.claims.moved(), 0, "claimed is not stored");
    two.stored(&pack(1, 1, 1..4)).unwrap();
    two.stored(&pack(1, 1, 1..4)).unwrap();
    assert_eq!(world.claims.moved(), 3);

    // It is back, and stores the rest itself.
    let one = world.claims.join("n1");
    assert_eq!(verdicts(&one, 4..6, false), [YOURS; 2]);
    one.stored(&pack(1, 2, 4..5)).unwrap();
    assert_eq!(world.claims.moved(), 3);

    // Its stream is there still, and it has no part in the backup any more.
    assert_eq!(look(&two, 5..6), [ANOTHER]);
    world.claims.part("n1");
    assert_eq!(look(&two, 5..6), [YOURS]);
    assert_eq!(one.ask(&ids(5..6), Asked::Claim).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn what_is_left_makes_room_for_claims() {
    let mut unstored = Unstored::default();
    for n in 0..CLAIMS_MAX as u32 {
        unstored.claim(chunk(n), 1);
    }
    unstored.claim(chunk(CLAIMS_MAX as u32), 1);
    assert_eq!(unstored.claimed.len(), CLAIMS_MAX);
    unstored.leave(1, "n1");
    assert_eq!((unstored.claimed.len(), unstored.left.len()), (0, CLAIMS_MAX));
    unstored.claim(chunk(7), 2);
    assert_eq!((unstored.claimed.len(), unstored.left.len()), (1, 0));
}

#[test]
fn nothing_outlives_its_transaction() {
    let world = world();
    let one = world.claims.join("n1");
    assert_eq!(one.stored(&pack(2, 0, 0..1)).unwrap_err().kind(), ErrorKind::Invalid);
    world.claims.close();
    assert_eq!(one.ask(&ids(0..1), Asked::Claim).unwrap_err().kind(), ErrorKind::Conflict);
}

/// What a restarted coordinator knows of an open transaction: what the file kept, and what agents tell again.
#[test]
fn stored_packs_survive_and_uncommitted_foreign_ones_never_count() {
    let world = world();
    let one = world.claims.join("n1");
    one.stored(&pack(1, 0, 0..10)).unwrap();
    let claims =
        Arc::new(Claims::open(TransactionId([1; 16]), State::default(), world.index.clone()).unwrap());
    let one = claims.join("n1");
    assert_eq!(verdicts(&one, 0..10, false), [STORED; 10]);
    world.index.fold(&[pack(7, 0, 20..30)]).unwrap();
    assert_eq!(verdicts(&one, 20..30, false), [YOURS; 10], "no COMMIT of that pack in the ledger's state");
}

#[test]
fn a_hundred_thousand_ids_are_quick() {
    let world = world();
    let one = world.claims.join("n1");
    for i in 0..5 {
        one.stored(&pack(1, i, i * 20_000..(i + 1) * 20_000)).unwrap();
    }
    let ids = ids(50_000..150_000);
    let start = tokio::time::Instant::now();
    let mut stored = 0;
    for batch in ids.chunks(ASK_MAX) {
        stored += one.ask(batch, Asked::Claim).unwrap().places.len();
    }
    println!("100,000 ids in {:?}", start.elapsed());
    assert_eq!(stored, 50_000);
}
