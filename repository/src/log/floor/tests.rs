use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::id::TransactionId;
use crate::log::Span;

const DAY: u64 = 86_400_000;

fn id(n: u8) -> LineageId {
    LineageId([n; 16])
}

fn lineage(n: u8, parent: Option<u8>, from: Position) -> Lineage {
    Lineage {
        id: id(n),
        parent: parent.map(id),
        from,
        kind: "postgresql".into(),
        identity: vec![n],
        segment: 16,
        grants: Vec::new(),
        floor: 0,
        number: n.into(),
    }
}

fn known(all: &[Lineage]) -> Lineages {
    all.iter().map(|it| (it.id, Arc::new(it.clone()))).collect()
}

fn anchor(of: u8, start: Position, day: u64) -> Anchor {
    Anchor {
        backup: TransactionId([day as u8; 16]),
        node: "n1".into(),
        span: Span { lineage: id(of), start, stop: start + 5 },
        committed: Timestamp(day * DAY),
    }
}

fn raised(anchors: &[Anchor], lineages: &Lineages, pins: &[At]) -> Vec<(u8, Position)> {
    let all = floors(anchors, lineages, pins, Timestamp(30 * DAY), Duration::from_millis(7 * DAY));
    all.into_iter().map(|at| (at.lineage.0[0], at.position)).collect()
}

#[test]
fn the_newest_backup_before_the_window_is_where_it_begins() {
    let one = known(&[lineage(1, None, 0)]);
    assert_eq!(raised(&[], &one, &[]), [], "nothing to begin with: all stays");
    let young = [anchor(1, 170, 25), anchor(1, 200, 28)];
    assert_eq!(raised(&young, &one, &[]), [(1, 160)], "what no backup leads to");
    let all = [&[anchor(1, 40, 1), anchor(1, 100, 20)], &young[..]].concat();
    assert_eq!(raised(&all, &one, &[]), [(1, 96)]);
    assert_eq!(raised(&all, &one, &[At { lineage: id(1), position: 50 }]), [(1, 50)], "somebody reads");
    let before = known(&[Lineage { floor: 96, ..lineage(1, None, 0) }]);
    assert_eq!(raised(&all, &before, &[]), [], "a floor only rises");
}

#[test]
fn a_parent_goes_when_a_child_has_a_backup_of_its_own_that_is_as_old() {
    let two = known(&[lineage(1, None, 0), lineage(2, Some(1), 300)]);
    let old = anchor(1, 100, 20);
    assert_eq!(raised(&[old.clone(), anchor(2, 330, 25)], &two, &[]), [(1, 96)], "the way from the old one");
    assert_eq!(raised(&[old, anchor(2, 330, 22)], &two, &[]), [(1, 300), (2, 320)]);
}

proptest! {
    /// Whatever is kept: each moment behind the newest backup before the window stays restorable.
    #[test]
    fn the_window_stays(backups in proptest::collection::vec((0..500u64, 0..30u64), 0..8)) {
        let one = known(&[lineage(1, None, 0)]);
        let mut at = 0;
        let mut day = 0;
        let anchors: Vec<Anchor> = backups
            .into_iter()
            .map(|(more, days)| {
                (at, day) = (at + more, (day + days).min(30));
                anchor(1, at, day)
            })
            .collect();
        for (_, floor) in raised(&anchors, &one, &[]) {
            let base = anchors.iter().filter(|it| it.committed.0 <= 23 * DAY).max_by_key(|it| it.committed);
            if let Some(base) = base {
                prop_assert!(floor <= base.span.start);
            }
            prop_assert!(anchors.iter().filter(|it| it.committed.0 > 23 * DAY).all(|it| floor <= it.span.start));
        }
    }
}
