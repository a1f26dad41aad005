use super::*;
use crate::crypto::TAG_LEN;
use crate::entropy::{Entropy, SeededEntropy};
use crate::id::{RepositoryId, TransactionId, WriterId};
use crate::keys::Keys;
use crate::keys::RootKey;

fn keys() -> Keys {
    let entropy = SeededEntropy::new(3);
    Keys::derive(&RootKey::generate(&entropy).unwrap(), RepositoryId([5; 16])).unwrap()
}

fn sealed(keys: &Keys, frames: &[Vec<u8>]) -> SealedPack {
    let transaction = keys.transaction(TransactionId([9; 16])).unwrap();
    let mut writer = PackWriter::new(keys, &transaction, WriterId([1; 8]), 7, 1, Vec::new()).unwrap();
    for frame in frames {
        let half = frame.len() / 2;
        let chunks = vec![
            (keys.chunk_id(&frame[..half]), half as u32),
            (keys.chunk_id(&frame[half..]), (frame.len() - half) as u32),
        ];
        writer.append(frame, chunks).unwrap();
    }
    writer.finish().unwrap()
}

fn frames() -> Vec<Vec<u8>> {
    let mut random = vec![0; 70_000];
    SeededEntropy::new(8).fill(&mut random).unwrap();
    vec![b"to be, or not to be ".repeat(9_000), random, Vec::new(), vec![0; FRAME_MAX], b"x".to_vec()]
}

#[test]
fn what_is_sealed_opens_again() {
    let keys = keys();
    let frames = frames();
    let pack = sealed(&keys, &frames);
    let object = &pack.buffer[..pack.len];
    let transaction = keys.transaction(TransactionId([9; 16])).unwrap();
    let tail = trailer_len(&object[object.len() - FOOTER_LEN..]).unwrap() as usize + FOOTER_LEN;
    let summary =
        open_trailer(&keys, &transaction, pack.summary.pack, &object[object.len() - tail..], pack.len as u64)
            .unwrap();
    assert_eq!(summary, pack.summary);
    assert_eq!(PackSummary::decode(&summary.encode()).unwrap(), summary);

    let mut reader = FrameReader::new(&keys).unwrap();
    let mut plain = Vec::new();
    for (ordinal, frame) in (0u32..).zip(&frames) {
        let at = summary.frame(ordinal).unwrap();
        let mut stored = object[at.range().start as usize..at.range().end as usize].to_vec();
        reader.open(&at, &mut stored, &mut plain).unwrap();
        assert_eq!(&plain, frame);
    }
    for (id, at) in summary.chunks() {
        let mut stored = object[at.frame.range().start as usize..at.frame.range().end as usize].to_vec();
        reader.open(&at.frame, &mut stored, &mut plain).unwrap();
        assert_eq!(keys.chunk_id(&plain[at.start as usize..(at.start + at.len) as usize]), id);
        assert_eq!(ChunkAt::decode(&at.encode()).unwrap(), at);
    }
}

#[test]
fn a_frame_cannot_be_moved_swapped_or_cut() {
    let keys = keys();
    let pack = sealed(&keys, &frames());
    let bytes = |at: &FrameAt| pack.buffer[at.range().start as usize..at.range().end as usize].to_vec();
    let first = pack.summary.frame(0).unwrap();
    let mut reader = FrameReader::new(&keys).unwrap();
    let mut plain = Vec::new();
    let wrong = [
        FrameAt { ordinal: 1, ..first },
        FrameAt { codec: Codec::Raw, ..first },
        FrameAt { plain: first.plain + 1, ..first },
        FrameAt { pack: PackId { counter: 8, ..first.pack }, ..first },
        FrameAt { pack: PackId { writer: WriterId([2; 8]), ..first.pack }, ..first },
        FrameAt { pack: PackId { transaction: TransactionId([8; 16]), ..first.pack }, ..first },
    ];
    for at in wrong {
        let error = reader.open(&at, &mut bytes(&first), &mut plain).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Corrupt, "{at:?}");
    }
    for cut in [0, 1, TAG_LEN, bytes(&first).len() - 1] {
        assert!(reader.open(&first, &mut bytes(&first)[..cut], &mut plain).is_err());
    }
    reader.open(&first, &mut bytes(&first), &mut plain).unwrap();
}

#[test]
fn impossible_lengths_are_refused_before_anything_is_allocated() {
    let keys = keys();
    let pack = sealed(&keys, &frames());
    let first = pack.summary.frame(0).unwrap();
    let mut reader = FrameReader::new(&keys).unwrap();
    for at in [
        FrameAt { plain: u32::MAX, ..first },
        FrameAt { stored: u32::MAX, ..first },
        FrameAt { stored: 3, ..first },
        FrameAt { offset: u32::MAX, ..first },
    ] {
        assert!(reader.open(&at, &mut [], &mut Vec::new()).is_err());
    }
    let inside = ChunkAt { frame: first, start: u32::MAX, len: 2 };
    assert!(inside.check().is_err());
}

#[test]
fn trailers_that_lie_are_refused() {
    let keys = keys();
    let good = sealed(&keys, &frames()).summary.to_wire();
    let lies: [fn(&mut wire::PackSummary); 6] = [
        |w| w.ids.truncate(31),
        |w| w.plain[0] += 1,
        |w| w.chunks[0] = u32::MAX,
        |w| w.codec[0] = 9,
        |w| w.stored.push(16),
        |w| w.transaction.clear(),
    ];
    for lie in lies {
        let mut w = good.clone();
        lie(&mut w);
        assert!(PackSummary::from_wire(&w).is_err());
    }
}

#[test]
fn names_go_both_ways() {
    let id = PackId { transaction: TransactionId([0xab; 16]), writer: WriterId([0xcd; 8]), counter: 0x1f };
    assert_eq!(PackId::from_key(&id.key()).unwrap(), id);
    assert!(PackId::from_key("t/../p/x-1").is_err());
    assert!(PackId::from_key(&id.key().to_uppercase()).is_err());
}
