use palinurus_repository::log::{Grant, Piece};
use proptest::prelude::*;

use super::*;

const SEGMENT: u32 = 16;

fn identity(cluster: u8, timeline: u8) -> Vec<u8> {
    [vec![cluster; CLUSTER_LEN], vec![timeline]].concat()
}

fn opening(timeline: u8, history: &[(u8, Position)], position: Position) -> Opening {
    Opening {
        node: "n1".into(),
        node_epoch: 1,
        kind: "postgresql".into(),
        identity: identity(1, timeline),
        history: history.iter().map(|(timeline, until)| (identity(1, *timeline), *until)).collect(),
        position,
        oldest: 0,
        segment: SEGMENT,
        held: None,
        goes_on: false,
    }
}

/// What ledger and store would be after steps were carried out.
#[derive(Default)]
struct World {
    lineages: Lineages,
    pieces: Vec<Piece>,
}

impl World {
    fn step(&self, opening: &Opening) -> Result<Step> {
        let lineage = known(opening, &self.lineages).map(|(lineage, _)| lineage);
        let covered = lineage.map(|it| it.coverage(self.pieces.iter().copied())).unwrap_or_default();
        decide(opening, &self.lineages, &covered)
    }

    fn add(&mut self, opening: &Opening, parent: Option<LineageId>, from: Position, identity: Vec<u8>) {
        let n = self.lineages.len() as u64 + 1;
        let id = LineageId([n as u8; 16]);
        let new = Lineage { id, number: n, ..opening.lineage(parent, from, identity) };
        self.lineages.insert(id, Arc::new(new));
    }

    fn grant(&mut self, lineage: LineageId, node: &str, from: Position) -> u32 {
        let lineage = Arc::make_mut(self.lineages.get_mut(&lineage).unwrap());
        let (epoch, least) = lineage.last_grant().map_or((1, lineage.from), |it| (it.epoch + 1, it.from));
        assert!(from >= least.max(lineage.floor), "the ledger would refuse it");
        lineage.grants.push(Grant { epoch, node: node.into(), from, key_epoch: None });
        epoch
    }

    fn raise(&mut self, lineage: LineageId, floor: Position) {
        Arc::make_mut(self.lineages.get_mut(&lineage).unwrap()).floor = floor;
        let lineage = &self.lineages[&lineage];
        self.pieces.retain(|piece| piece.lineage != lineage.id || piece.to > floor);
    }

    fn covered(&self, lineage: LineageId) -> Coverage {
        self.lineages[&lineage].coverage(self.pieces.iter().copied())
    }

    fn put(&mut self, lineage: LineageId, from: Position, to: Position) {
        let epoch = self.lineages[&lineage].last_grant().unwrap().epoch;
        self.pieces.push(Piece { lineage, epoch, from, to, whole: false });
    }

    /// Until it may write: where, and what it had to give of parents before. It gives all it may.
    fn open(&mut self, opening: &Opening) -> (LineageId, Position, Vec<(LineageId, Position, Position)>) {
        let mut given = Vec::new();
        for _ in 0..20 {
            match self.step(opening).unwrap() {
                Step::Keep(lineage) => return (lineage, 0, given),
                Step::Begin { parent, from, identity, .. } => self.add(opening, parent, from, identity),
                Step::Grant { lineage, from, until: Some(until), .. } => {
                    self.grant(lineage, &opening.node, from);
                    self.put(lineage, from, until);
                    given.push((lineage, from, until));
                }
                Step::Grant { lineage, from, .. } => {
                    self.grant(lineage, &opening.node, from);
                    return (lineage, from, given);
                }
            }
        }
        unreachable!("it never ends");
    }
}

#[test]
fn the_first_of_all_begins_where_its_segment_does() {
    let mut world = World::default();
    let (first, from, given) = world.open(&opening(1, &[], 100));
    assert_eq!((from, given.len()), (96, 0));
    world.put(first, 96, 130);
    let mut again = opening(1, &[], 140);
    assert!(matches!(world.step(&again).unwrap(), Step::Grant { from: 130, .. }));
    again.held = Some((first, 1));
    assert_eq!(world.step(&again).unwrap(), Step::Keep(first));
    again.node = "n2".into();
    assert!(matches!(world.step(&again).unwrap(), Step::Grant { from: 130, .. }), "it is another's");
    let oldest = Opening { oldest: 32, ..opening(1, &[], 100) };
    assert_eq!(World::default().open(&oldest).1, 32);
}

/// Where it goes on, and what is lost.
fn next(world: &World, opening: &Opening) -> (Position, Vec<Gap>) {
    match world.step(opening).unwrap() {
        Step::Grant { from, until: None, lost, .. } => (from, lost),
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_floor_and_a_hole_put_nothing_out_of_count() {
    let mut world = World::default();
    let (first, ..) = world.open(&opening(1, &[], 100));
    for (from, to) in [(96, 200), (200, 280), (290, 400), (400, 500)] {
        world.put(first, from, to);
    }
    let server = Opening { oldest: 256, ..opening(1, &[], 600) };
    assert_eq!(
        next(&world, &server),
        (500, vec![(280, 290)]),
        "it could fill the hole, but not what is behind"
    );
    // All that the last grant begins with is given up, in the middle of a piece.
    world.raise(first, 350);
    assert_eq!(next(&world, &server), (500, vec![]));
    assert_eq!(end(&world.lineages[&first], &world.covered(first)), (500, vec![]), "nor does a fence");
    world.raise(first, 500);
    assert_eq!(next(&world, &server), (500, vec![]), "nothing is left that could say where it ends");
    let promoted = Opening { node: "n2".into(), ..opening(2, &[(1, 550)], 600) };
    let (_, from, given) = world.open(&promoted);
    assert_eq!((from, given), (550, vec![(first, 500, 550)]));
}

#[test]
fn what_cannot_be_given_any_more_is_a_gap() {
    let mut world = World::default();
    let (first, ..) = world.open(&opening(1, &[], 100));
    world.put(first, 96, 130);
    let next = |oldest| next(&world, &Opening { oldest, ..opening(1, &[], 300) });
    for nothing_is_lost in [128, 129, 130] {
        assert_eq!(next(nothing_is_lost), (130, vec![]));
    }
    assert_eq!(next(131), (144, vec![(130, 144)]));
    assert_eq!(next(144), (144, vec![(130, 144)]));
}

#[test]
fn a_promoted_standby_gives_what_its_parent_has_not_given() {
    let mut world = World::default();
    let (first, ..) = world.open(&opening(1, &[], 100));
    world.put(first, 96, 130);
    let promoted = Opening { node: "n2".into(), oldest: 64, ..opening(2, &[(1, 150)], 170) };
    let (second, from, given) = world.open(&promoted);
    assert_eq!((from, given), (150, vec![(first, 130, 150)]));
    assert_eq!((world.lineages[&second].parent, world.lineages[&second].from), (Some(first), 150));
    // Told again, and a second promotion of which nobody has heard in between.
    assert_eq!(
        world.step(&promoted).unwrap(),
        Step::Grant { lineage: second, from: 150, until: None, lost: vec![] }
    );
    world.put(second, 150, 160);
    let again = opening(4, &[(1, 150), (2, 170), (3, 180)], 200);
    let (fourth, from, given) = world.open(&again);
    assert_eq!((from, given.len(), world.lineages.len()), (180, 2, 4));
    assert_ne!(fourth, second);
    // A parent of whose log some is gone, and one of whose nothing is left.
    let mut world = World::default();
    let (first, ..) = world.open(&opening(1, &[], 100));
    world.put(first, 96, 130);
    let late = Opening { oldest: 144, ..opening(2, &[(1, 150)], 170) };
    let lost = vec![(130, 144)];
    assert_eq!(world.step(&late).unwrap(), Step::Grant { lineage: first, from: 144, until: Some(150), lost });
    let step = world.step(&Opening { oldest: 160, ..late }).unwrap();
    let Step::Begin { from: 150, lost, .. } = step else { panic!("{step:?}") };
    assert_eq!(lost, [(130, 150)]);
}

#[test]
fn a_standby_promoted_before_its_parent_was_stored_begins_without_it() {
    let mut world = World::default();
    let (first, ..) = world.open(&opening(1, &[], 100));
    world.put(first, 96, 130);
    let (early, from, given) = world.open(&opening(2, &[(1, 50)], 170));
    assert_eq!((from, given), (160, vec![]));
    assert_eq!((world.lineages[&early].parent, world.lineages[&early].from), (None, 160));
    let (child, from, _) = world.open(&opening(3, &[(1, 50), (2, 180)], 190));
    assert_eq!((world.lineages[&child].parent, from), (Some(early), 180));
}

#[test]
fn two_restores_of_one_timeline_are_two_lineages() {
    let mut world = World::default();
    let (first, ..) = world.open(&opening(1, &[], 100));
    world.put(first, 96, 200);
    let (one, ..) = world.open(&opening(2, &[(1, 150)], 170));
    let (two, ..) = world.open(&opening(2, &[(1, 160)], 170));
    assert_ne!(one, two);
    assert_eq!(known(&opening(2, &[(1, 150)], 170), &world.lineages).unwrap().0.id, one);
}

#[test]
fn a_server_that_was_set_back_begins_anew() {
    let mut world = World::default();
    let (first, ..) = world.open(&opening(1, &[], 100));
    world.put(first, 96, 500);
    let (second, from, _) = world.open(&opening(1, &[], 300));
    assert_ne!(first, second);
    assert_eq!((from, world.lineages[&second].parent), (288, None));
    world.put(second, 288, 600);
    assert!(matches!(world.step(&opening(1, &[], 700)).unwrap(), Step::Grant { from: 600, .. }));
    // Set back to the same file once more: a third history, and never the second one again.
    let (third, from, _) = world.open(&opening(1, &[], 310));
    assert!(third != first && third != second);
    assert_eq!(from, 304);
    world.put(third, 304, 700);
    let (fourth, from, _) = world.open(&opening(1, &[], 305));
    assert_eq!((from, world.lineages.len(), fourth == third), (304, 4, false), "to the very same position");
    // It went on putting between the look at its position and the listing.
    world.put(fourth, 304, 400);
    let held = Opening { held: Some((fourth, 1)), ..opening(1, &[], 390) };
    assert_eq!(world.step(&held).unwrap(), Step::Keep(fourth));
}

#[test]
fn another_cluster_is_refused_and_so_is_nonsense() {
    let mut world = World::default();
    world.open(&opening(1, &[], 100));
    let other = Opening { identity: identity(9, 1), ..opening(1, &[], 100) };
    assert!(world.step(&other).unwrap_err().hint().is_some());
    let good = v1::LogOpen {
        node: "n1".into(),
        kind: "postgresql".into(),
        identity: identity(1, 2).into(),
        history: vec![v1::LogFork { identity: identity(1, 1).into(), until: 100 }],
        position: 200,
        segment: 16,
        ..Default::default()
    };
    Opening::of(&good, 1).unwrap();
    let bad: [fn(&mut v1::LogOpen); 7] = [
        |open| open.segment = 0,
        |open| open.identity = vec![1; 7].into(),
        |open| open.identity = vec![1; 257].into(),
        |open| open.kind.clear(),
        |open| open.history[0].until = 201,
        |open| open.history.insert(0, v1::LogFork { identity: vec![1; 9].into(), until: 101 }),
        |open| open.held = vec![1; 15].into(),
    ];
    for change in bad {
        let mut open = good.clone();
        change(&mut open);
        Opening::of(&open, 1).unwrap_err();
    }
}

proptest! {
    /// Servers that come, go, promote, are set back and lose their log, floors, lost objects and fences, in any order: no
    /// grant is ever refused by the ledger's rules, every opening ends in a grant, and no grant puts out of count what
    /// was covered.
    #[test]
    fn no_schedule_loses_what_is_covered(
        steps in proptest::collection::vec((0..10u8, 0..60u64, 0..60u64, any::<bool>()), 1..25),
    ) {
        let mut world = World::default();
        let mut history: Vec<(u8, Position)> = Vec::new();
        let (mut timeline, mut position) = (1u8, 100u64);
        for (what, more, put, forgetful) in steps {
            position += more;
            if what == 0 && timeline < 200 {
                history.push((timeline, position));
                timeline += 1;
            }
            let ids: Vec<LineageId> = world.lineages.keys().copied().collect();
            let some = ids.get(put as usize % ids.len().max(1)).copied();
            match (what, some) {
                (4, Some(id)) => {
                    let floor = world.lineages[&id].floor + more;
                    world.raise(id, floor.max(1));
                }
                (5, _) if !world.pieces.is_empty() => {
                    world.pieces.swap_remove(more as usize % world.pieces.len());
                }
                (6, Some(id)) => {
                    let before = world.covered(id);
                    let (from, _) = end(&world.lineages[&id], &before);
                    world.grant(id, "n2", from);
                    let after = world.covered(id);
                    prop_assert_eq!(after.stretches(), before.stretches(), "a fence");
                }
                (7, Some(_)) => {
                    position = position.saturating_sub(more).max(history.last().map_or(1, |last| last.1));
                }
                _ => {}
            }
            let oldest = if forgetful { position / 16 * 16 } else { 0 };
            let before: Vec<_> = world.lineages.keys().map(|id| (*id, world.covered(*id))).collect();
            let (lineage, from, _) = world.open(&Opening { oldest, ..opening(timeline, &history, position) });
            for (id, before) in before {
                let now = world.covered(id);
                prop_assert!(now.end() >= before.end());
                prop_assert!(before.stretches().iter().all(|(from, to)| now.covers(*from, *to)), "{id}");
            }
            prop_assert!(from <= position.next_multiple_of(16));
            position = position.max(from) + put;
            if position > from {
                world.put(lineage, from, position);
            }
        }
    }
}
