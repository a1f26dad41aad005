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
        assert!(from >= least, "the ledger would refuse it");
        lineage.grants.push(Grant { epoch, node: node.into(), from, key_epoch: None });
        epoch
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
    assert!(matches!(world.step(&again).unwrap(), Step::Grant { from: 130, gap: None, .. }));
    again.held = Some((first, 1));
    assert_eq!(world.step(&again).unwrap(), Step::Keep(first));
    again.node = "n2".into();
    assert!(matches!(world.step(&again).unwrap(), Step::Grant { from: 130, .. }), "it is another's");
    let oldest = Opening { oldest: 32, ..opening(1, &[], 100) };
    assert_eq!(World::default().open(&oldest).1, 32);
}

#[test]
fn what_cannot_be_given_any_more_is_a_gap() {
    let mut world = World::default();
    let (first, ..) = world.open(&opening(1, &[], 100));
    world.put(first, 96, 130);
    let open = |oldest| Opening { oldest, ..opening(1, &[], 300) };
    assert!(matches!(world.step(&open(128)).unwrap(), Step::Grant { from: 130, gap: None, .. }));
    assert!(matches!(world.step(&open(144)).unwrap(), Step::Grant { from: 144, gap: Some((130, 144)), .. }));
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
        Step::Grant { lineage: second, from: 150, until: None, gap: None }
    );
    world.put(second, 150, 160);
    let again = opening(4, &[(1, 150), (2, 170), (3, 180)], 200);
    let (fourth, from, given) = world.open(&again);
    assert_eq!((from, given.len(), world.lineages.len()), (180, 2, 4));
    assert_ne!(fourth, second);
    // A parent whose log is gone.
    let mut world = World::default();
    let (first, ..) = world.open(&opening(1, &[], 100));
    world.put(first, 96, 130);
    let late = Opening { oldest: 144, ..opening(2, &[(1, 150)], 170) };
    let step = world.step(&late).unwrap();
    assert!(matches!(step, Step::Begin { from: 150, gap: Some((130, 150)), .. }), "{step:?}");
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
    /// Servers that come, go, promote and lose their log, in any order: no grant is ever refused by the ledger's rules,
    /// every opening ends in a grant, and what is covered of a lineage never shrinks.
    #[test]
    fn no_schedule_loses_what_is_covered(
        steps in proptest::collection::vec((0..4u8, 0..60u64, 0..60u64, any::<bool>()), 1..25),
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
            let oldest = if forgetful { position / 16 * 16 } else { 0 };
            let before: Vec<_> = world.lineages.values().map(|it| covered(it, &world)).collect();
            let (lineage, from, _) = world.open(&Opening { oldest, ..opening(timeline, &history, position) });
            for (id, stretches) in before {
                let now = covered(&world.lineages[&id], &world).1;
                for (from, to) in stretches {
                    prop_assert!(now.iter().any(|(a, b)| *a <= from && to <= *b));
                }
            }
            prop_assert!(from <= position.next_multiple_of(16));
            position = position.max(from) + put;
            if position > from {
                world.put(lineage, from, position);
            }
        }
    }
}

fn covered(lineage: &Lineage, world: &World) -> (LineageId, Vec<(Position, Position)>) {
    (lineage.id, lineage.coverage(world.pieces.iter().copied()).stretches().to_vec())
}
