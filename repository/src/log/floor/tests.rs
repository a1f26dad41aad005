use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::id::TransactionId;
use crate::log::{Grant, Piece, Span, Window, windows};

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
fn a_parent_goes_when_no_backup_leads_through_it_and_a_child_has_an_old_one() {
    let two = known(&[lineage(1, None, 0), lineage(2, Some(1), 300)]);
    let old = anchor(1, 100, 20);
    assert_eq!(raised(&[old.clone(), anchor(2, 330, 25)], &two, &[]), [(1, 96)], "the way from the old one");
    let own = anchor(2, 330, 22);
    assert_eq!(raised(&[old.clone(), own.clone()], &two, &[]), [(1, 96), (2, 320)], "it may go on besides");
    assert_eq!(raised(std::slice::from_ref(&own), &two, &[]), [(1, 300), (2, 320)]);
    // Another child, which has no backup yet, is reached through it.
    let three = known(&[lineage(1, None, 0), lineage(2, Some(1), 300), lineage(3, Some(1), 200)]);
    assert_eq!(raised(&[old, own.clone()], &three, &[]), [(1, 96), (2, 320)]);
    // A grandchild, through a child that has none.
    let deep = known(&[lineage(1, None, 0), lineage(2, Some(1), 300), lineage(3, Some(2), 340)]);
    assert_eq!(raised(&[own, anchor(1, 400, 29)], &deep, &[]), [(1, 400), (2, 320)]);
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

    /// The same in a tree of lineages, by the windows that there are before and after: those of backups inside the time,
    /// and of each lineage the one of the newest backup before.
    #[test]
    fn no_floor_closes_a_window_that_is_wanted(
        tree in proptest::collection::vec((0..5usize, 0..100u64), 0..5),
        backups in proptest::collection::vec((0..6usize, 0..200u64, 0..30u64), 0..8),
    ) {
        let mut all = vec![lineage(1, None, 0)];
        for (n, (parent, more)) in (2u8..).zip(tree) {
            let parent = &all[parent % all.len()];
            let from = parent.from + more;
            let child = lineage(n, Some(parent.id.0[0]), from);
            all.push(child);
        }
        let anchors: Vec<Anchor> = backups
            .iter()
            .map(|(of, more, day)| {
                let of = &all[of % all.len()];
                anchor(of.id.0[0], of.from + more, *day)
            })
            .collect();
        let covered = |all: &[Lineage]| {
            let pieces = |it: &Lineage| (it.from..it.from + 400).step_by(8).map({
                let lineage = it.id;
                move |from| Piece { lineage, epoch: 1, from, to: from + 8, whole: false }
            });
            all.iter().map(|it| (it.id, it.coverage(pieces(it)))).collect()
        };
        for it in &mut all {
            it.grants.push(Grant { epoch: 1, node: "n1".into(), from: it.from, key_epoch: None });
        }
        let before = windows(&anchors, &known(&all), &covered(&all));
        for (of, floor) in raised(&anchors, &known(&all), &[]) {
            all[usize::from(of) - 1].floor = floor;
        }
        let after = windows(&anchors, &known(&all), &covered(&all));
        let young = |window: &&Window| window.anchor.committed.0 > 23 * DAY;
        for it in &all {
            let on = before.iter().filter(|window| window.lineage() == it.id);
            let old = on.clone().filter(|window| !young(window)).max_by_key(|window| window.anchor.committed);
            for wanted in on.filter(young).chain(old) {
                prop_assert!(after.contains(wanted), "{wanted:?}");
            }
        }
    }
}
