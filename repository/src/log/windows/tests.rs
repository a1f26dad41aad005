use proptest::prelude::*;

use super::*;
use crate::id::TransactionId;
use crate::log::{Grant, Piece};

fn id(n: usize) -> LineageId {
    LineageId([n as u8 + 1; 16])
}

type Shape = (Vec<(usize, u64)>, Vec<(usize, u64, u64)>, Vec<(usize, u64, u64)>);

/// A tree of lineages, what is stored of each, and backups.
fn shape() -> impl Strategy<Value = Shape> {
    let lineages = proptest::collection::vec((0..4usize, 0..60u64), 0..4);
    let pieces = proptest::collection::vec((0..5usize, 0..120u64, 1..60u64), 0..25);
    let backups = proptest::collection::vec((0..5usize, 0..100u64, 0..30u64), 0..4);
    (lineages, pieces, backups)
}

fn build(shape: &Shape) -> (Vec<Anchor>, Lineages, BTreeMap<LineageId, Coverage>) {
    let mut lineages = Lineages::new();
    let mut from = vec![0u64];
    for n in 0..=shape.0.len() {
        let parent = n.checked_sub(1).map(|at| shape.0[at].0 % n);
        let begins = n.checked_sub(1).map_or(0, |at| from[shape.0[at].0 % n] + shape.0[at].1);
        from.resize(n + 1, begins);
        from[n] = begins;
        let lineage = Lineage {
            id: id(n),
            parent: parent.map(id),
            from: begins,
            kind: "postgresql".into(),
            identity: vec![n as u8],
            segment: 16,
            grants: vec![Grant { epoch: 1, node: "n1".into(), from: begins, key_epoch: None }],
            floor: 0,
            number: n as u64,
        };
        lineages.insert(lineage.id, Arc::new(lineage));
    }
    let pieces: Vec<Piece> = shape
        .1
        .iter()
        .map(|(n, from, len)| Piece { lineage: id(*n), epoch: 1, from: *from, to: from + len, whole: false })
        .collect();
    let coverage = lineages.values().map(|it| (it.id, it.coverage(pieces.iter().copied()))).collect();
    let anchor = |(n, (lineage, start, len)): (usize, &(usize, u64, u64))| Anchor {
        backup: TransactionId([n as u8; 16]),
        node: "n1".into(),
        span: Span { lineage: id(*lineage), start: *start, stop: start + len },
        committed: Timestamp(0),
    };
    (shape.2.iter().enumerate().map(anchor).collect(), lineages, coverage)
}

proptest! {
    /// Whatever a window says can be replayed byte by byte, from the backup's stop along its chain; and what can be, is said.
    #[test]
    fn a_window_is_what_can_be_replayed(shape in shape()) {
        let (anchors, lineages, coverage) = build(&shape);
        let anchors: Vec<_> = anchors.into_iter().filter(|it| lineages.contains_key(&it.span.lineage)).collect();
        let all = windows(&anchors, &lineages, &coverage);
        for window in &all {
            let sections = window.sections(&lineages);
            Section::check_chain(&sections).unwrap();
            prop_assert_eq!(sections.last().unwrap().lineage.id, window.lineage());
            for at in window.anchor.span.stop..window.to {
                let owner = sections.iter().find(|section| section.to.is_none_or(|to| at < to)).unwrap();
                prop_assert!(coverage[&owner.lineage.id].covers(at, at + 1), "{window:?} at {at}");
            }
            prop_assert!(!coverage[&window.lineage()].covers(window.to, window.to + 1), "it goes on");
            prop_assert!(window.anchor.span.stop <= window.from && window.from <= window.to);
        }
        for anchor in &anchors {
            prop_assert!(all.iter().any(|it| it.anchor == *anchor && it.chain == [anchor.span.lineage]));
            for child in lineages.values() {
                let parent = all.iter().find(|it| it.anchor == *anchor && Some(it.lineage()) == child.parent);
                let leads = parent.is_some_and(|it| it.from <= child.from && child.from <= it.to);
                prop_assert_eq!(leads, all.iter().any(|it| it.anchor == *anchor && it.chain.len() > 1 && it.lineage() == child.id));
            }
        }
    }
}
