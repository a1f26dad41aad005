#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::entropy::SeededEntropy;
use crate::error::ErrorKind;
use crate::id::{LineageId, RepositoryId};
use crate::keys::{Keys, RootKey};
use crate::storage::{MemoryStorage, Storage};

const LINE: LineageId = LineageId([7; 16]);

fn keys() -> Keys {
    let root = RootKey::generate(&SeededEntropy::new(1)).unwrap();
    Keys::derive(&root, RepositoryId([1; 16])).unwrap()
}

fn piece(epoch: u32, from: u64, to: u64) -> Piece {
    Piece { lineage: LINE, epoch, from, to, whole: false }
}

fn grant(epoch: u32, from: u64) -> Grant {
    Grant { epoch, node: "n1".into(), from, key_epoch: None }
}

fn lineage(grants: Vec<Grant>) -> Lineage {
    Lineage {
        id: LINE,
        parent: None,
        from: 0,
        kind: "postgresql".into(),
        identity: vec![1],
        segment: 16,
        grants,
        floor: 0,
        number: 0,
    }
}

/// What a lineage holds at each position.
fn plain(from: u64, to: u64) -> Vec<u8> {
    (from..to).map(|at| (at * 7 % 251) as u8).collect()
}

fn trail() -> Trail {
    let points = vec![RestorePoint { name: "before the flood".into(), position: 40 }];
    Trail { first_commit: Some(-5), last_commit: Some(1_700), points, as_of: Timestamp(9) }
}

fn sealed(piece: Piece) -> bytes::Bytes {
    seal(&keys(), None, &piece, &trail(), &plain(piece.from, piece.to), 1).unwrap()
}

#[test]
fn only_the_piece_itself_opens() {
    let own = piece(1, 100, 1100);
    let object = sealed(own);
    let (read, bytes) = open(&keys(), None, &own, &object).unwrap();
    assert_eq!((read, bytes), (trail(), plain(100, 1100)));
    let others = [
        Piece { whole: true, ..own },
        Piece { epoch: 2, ..own },
        Piece { from: 99, ..own },
        Piece { to: 1101, ..own },
        Piece { lineage: LineageId([8; 16]), ..own },
    ];
    for other in others {
        assert_eq!(open(&keys(), None, &other, &object).unwrap_err().kind(), ErrorKind::Corrupt, "{other}");
    }
    for i in 0..object.len() {
        let mut flipped = object.to_vec();
        flipped[i] ^= 1;
        assert_eq!(open(&keys(), None, &own, &flipped).unwrap_err().kind(), ErrorKind::Corrupt, "byte {i}");
        assert_eq!(open(&keys(), None, &own, &object[..i]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let longer = [&object[..], &object[object.len() - 12..]].concat();
    open(&keys(), None, &own, &longer).unwrap_err();
}

#[test]
fn different_contents_never_share_a_salt() {
    let own = piece(1, 0, 64);
    let salt = |trail: &Trail, plain: &[u8], level| {
        seal(&keys(), None, &own, trail, plain, level).unwrap()[8..24].to_vec()
    };
    let later = Trail { as_of: Timestamp(10), ..trail() };
    let first = salt(&trail(), &plain(0, 64), 1);
    assert_eq!(first, salt(&trail(), &plain(0, 64), 1), "the same is the same");
    assert_ne!(first, salt(&later, &plain(0, 64), 1), "the trailer is sealed under that key too");
    assert_ne!(first, salt(&trail(), &plain(1, 65), 1));
}

#[test]
fn impossible_pieces_are_refused() {
    let most = PIECE_MAX as u64;
    for bad in [piece(1, 5, 5), piece(1, 6, 5), piece(1, 0, most + 1), piece(0, 0, 5)] {
        assert!(bad.check().is_err() && Piece::from_key(&bad.key()).is_err(), "{bad}");
        open(&keys(), None, &bad, &sealed(piece(1, 0, 5))).unwrap_err();
    }
    Piece { whole: true, ..piece(1, 0, WHOLE_MAX as u64) }.check().unwrap();
    for bad in ["l/", "l/07/0000000001/0-5", "l/07070707070707070707070707070707/history", "t/x"] {
        Piece::from_key(bad).unwrap_err();
    }
}

#[test]
fn a_grant_ends_where_the_next_begins() {
    let line = lineage(vec![grant(1, 0), grant(2, 50), grant(4, 50), grant(5, 80)]);
    // The stale writers of 1 and 2 go on, and 5 is not there yet.
    let late = [piece(1, 0, 60), piece(1, 60, 90), piece(2, 50, 70), piece(3, 50, 70), piece(4, 55, 85)];
    let coverage = line.coverage(late);
    assert_eq!(coverage.stretches(), [(0, 50), (55, 80)]);
    assert_eq!(coverage.holes().collect::<Vec<_>>(), [(50, 55)]);
    assert_eq!((coverage.end_from(10), coverage.end_from(50), coverage.end_from(79)), (50, 50, 80));
    let floored = Lineage { floor: 60, ..line };
    assert_eq!(floored.coverage(late).stretches(), [(55, 80)]);
}

fn history() -> impl Strategy<Value = (Vec<Grant>, Vec<Piece>)> {
    let grants = proptest::collection::vec((1..4u32, 0..40u64), 1..5).prop_map(|steps| {
        let (mut epoch, mut from) = (0, 0);
        let grants = steps.into_iter().map(|(more, further)| {
            (epoch, from) = (epoch + more, from + further);
            grant(epoch, from)
        });
        grants.collect::<Vec<_>>()
    });
    let pieces = proptest::collection::vec((1..16u32, 0..200u64, 1..30u64, any::<bool>()), 0..40);
    let pieces = pieces.prop_map(|all| {
        let piece = |(epoch, from, len, whole)| Piece { lineage: LINE, epoch, from, to: from + len, whole };
        all.into_iter().map(piece).collect()
    });
    (grants, pieces)
}

proptest! {
    #[test]
    fn names_there_and_back(id: [u8; 16], epoch in 1u32.., from: u64, len in 1..PIECE_MAX as u64, whole: bool) {
        let piece = Piece { lineage: LineageId(id), epoch, from, to: from.saturating_add(len), whole };
        crate::storage::check_key(&piece.key()).unwrap();
        if piece.check().is_ok() {
            prop_assert_eq!(Piece::from_key(&piece.key()).unwrap(), piece);
        }
    }

    #[test]
    fn no_name_opens_a_door(text in "(l/[0-9a-f/w-]{0,80}|.{0,60})") {
        if let Ok(piece) = Piece::from_key(&text) {
            prop_assert_eq!(piece.key(), text);
        }
    }

    #[test]
    fn hostile_bytes_are_refused(mut bytes: Vec<u8>, as_object: bool) {
        if as_object {
            let mut object = b"PALNW\x01\x01\x00".to_vec();
            object.append(&mut bytes);
            object.extend_from_slice(b"\x20\x00\x00\x00PALNWEND");
            bytes = object;
        }
        prop_assert!(open(&keys(), None, &piece(1, 0, 100), &bytes).is_err());
        prop_assert!(Trail::decode(&bytes, &piece(1, 0, 100)).is_err());
    }

    /// Against the rule, position by position.
    #[test]
    fn coverage_is_what_the_rule_says((grants, pieces) in history(), floor in 0..100u64) {
        let line = Lineage { floor, ..lineage(grants) };
        line.check().unwrap();
        let coverage = line.coverage(pieces.clone());
        let counts = |at: u64| pieces.iter().any(|piece| {
            let Some(i) = line.grants.iter().position(|grant| grant.epoch == piece.epoch) else { return false };
            let next = line.grants.get(i + 1).map_or(u64::MAX, |next| next.from);
            piece.from <= at && at < piece.to && piece.to > floor && line.grants[i].from <= at && at < next
        });
        for at in 0..240 {
            let covered = coverage.stretches().iter().any(|(from, to)| *from <= at && at < *to);
            prop_assert_eq!(covered, counts(at), "at {}", at);
            let end = coverage.end_from(at);
            prop_assert!((at..end).all(counts) && !counts(end));
            let picked = coverage.pick(at, end).unwrap();
            prop_assert_eq!(picked.iter().map(|part| part.to - part.from).sum::<u64>(), end - at);
            prop_assert!(picked.iter().all(|part| part.piece.from <= part.from && part.to <= part.piece.to));
            prop_assert!(coverage.pick(at, end + 1).is_none());
        }
    }
}

fn store() -> (Arc<MemoryStorage>, LogStore) {
    let storage = Arc::new(MemoryStorage::default());
    (storage.clone(), LogStore::new(storage, keys()))
}

#[tokio::test]
async fn the_same_bytes_again_are_success_and_others_are_damage() {
    let (_, store) = store();
    let own = piece(1, 0, 64);
    store.put(&own, None, sealed(own)).await.unwrap();
    store.put(&own, None, sealed(own)).await.unwrap();
    let later = Trail { as_of: Timestamp(10), ..trail() };
    let again = seal(&keys(), None, &own, &later, &plain(0, 64), 1).unwrap();
    store.put(&own, None, again).await.unwrap();
    let other = seal(&keys(), None, &own, &trail(), &plain(1, 65), 1).unwrap();
    let error = store.put(&own, None, other).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.hint().is_some(), "{error:?}");
    assert_eq!(store.read(&own, None).await.unwrap(), (trail(), plain(0, 64)));
    let line = lineage(vec![grant(1, 0)]);
    let mut stored = Vec::new();
    store.visit(&line, 0..u64::MAX, &mut |it| stored.push(it)).await.unwrap();
    assert_eq!(store.trail(&stored[0], None).await.unwrap(), trail());
    let long = Stored { size: 64 << 20, ..stored[0] };
    assert_eq!(store.trail(&long, None).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_history_is_written_once() {
    let (storage, store) = store();
    let line = lineage(vec![grant(1, 0)]);
    assert_eq!(store.history(&line).await.unwrap(), None);
    store.put_history(&line, b"1\t0/3000000\tno reason").await.unwrap();
    store.put_history(&line, b"1\t0/3000000\tno reason").await.unwrap();
    store.put_history(&line, b"another").await.unwrap_err();
    assert_eq!(store.history(&line).await.unwrap().unwrap(), b"1\t0/3000000\tno reason");
    let key = history_key(LINE);
    let mut object = storage.get(&key, None).await.unwrap().to_vec();
    object[30] ^= 1;
    storage.put(&key, object.into()).await.unwrap();
    assert_eq!(store.history(&line).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_chain_is_read_across_its_forks_and_nothing_is_read_of_a_hole() {
    let (storage, store) = store();
    let put = async |piece: Piece, shift: u64| {
        let bytes = plain(piece.from + shift, piece.to + shift);
        let object = seal(&keys(), None, &piece, &trail(), &bytes, 1).unwrap();
        store.put(&piece, None, object).await.unwrap();
    };
    let parent = lineage(vec![grant(1, 0), grant(2, 30)]);
    for (epoch, from, to) in [(1, 0, 20), (1, 20, 40), (2, 25, 60), (2, 60, 100)] {
        put(piece(epoch, from, to), 0).await;
    }
    let child = LineageId([9; 16]);
    let grants = vec![grant(1, 70)];
    let line = Lineage { id: child, parent: Some(LINE), from: 70, grants, ..parent.clone() };
    for (from, to) in [(64, 90), (95, 99)] {
        put(Piece { lineage: child, ..piece(1, from, to) }, 1000).await;
    }
    let chain =
        vec![Section { lineage: parent.clone(), to: Some(70) }, Section { lineage: line.clone(), to: None }];
    let mut reader = LogReader::open(store.clone(), chain.clone(), 10).await.unwrap();
    assert_eq!(reader.end_from(10), 90);
    let expected = [plain(10, 70), plain(1070, 1090)].concat();
    assert_eq!(reader.read(10..90).await.unwrap(), expected);
    assert_eq!(reader.read(90..95).await.unwrap_err().kind(), ErrorKind::Corrupt, "a hole");
    assert_eq!(reader.read(96..120).await.unwrap_err().kind(), ErrorKind::NotFound, "the end");
    assert!(!reader.goes_on_behind(99) && reader.goes_on_behind(90));

    // A whole takes the place of pieces under a reader.
    let whole = Piece { whole: true, ..piece(2, 25, 100) };
    put(whole, 0).await;
    assert!(
        whole.replaces(&piece(2, 25, 60)) && !whole.replaces(&piece(1, 30, 40)) && !whole.replaces(&whole)
    );
    storage.delete(&[piece(2, 25, 60).key(), piece(2, 60, 100).key()]).await.unwrap();
    assert_eq!(reader.read(10..90).await.unwrap(), expected);

    let backwards = vec![chain[1].clone(), chain[0].clone()];
    assert!(Section::check_chain(&backwards).is_err() && Section::check_chain(&[]).is_err());
    let far = Section { lineage: parent, to: Some(71) };
    Section::check_chain(&[far, chain[1].clone()]).unwrap_err();
}
