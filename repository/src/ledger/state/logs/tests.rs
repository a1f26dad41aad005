use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::epochs::KeyEpoch;
use crate::error::ErrorKind::{Conflict, Invalid, NotFound};
use crate::id::Draw;
use crate::ledger::Purpose;
use crate::ledger::fixture::{abort, after, allowed, begin, line, lineage, record, refused, txn};
use crate::ledger::state::Rules;

fn grant(n: u8, epoch: u32, from: Position) -> Body {
    Body::Grant { lineage: line(n), epoch, node: "n1".into(), from }
}

fn floor(n: u8, position: Position) -> Body {
    Body::Floor(At { lineage: line(n), position })
}

fn reading(transaction: u32, n: u8, position: Position) -> Body {
    let log = Some(At { lineage: line(n), position });
    Body::Begin { transaction: txn(transaction), purpose: Purpose::Pin, log }
}

fn piece(epoch: u32, from: Position, to: Position) -> Piece {
    Piece { lineage: line(1), epoch, from, to, whole: false }
}

#[test]
fn a_lineage_is_told_once_and_follows_its_parent() {
    let state = after(&[lineage(1, None, 100), lineage(2, Some(1), 300)]);
    assert_eq!(refused(&state, lineage(1, None, 500)), Conflict, "the id is known");
    assert_eq!(refused(&state, lineage(3, Some(9), 300)), NotFound);
    assert_eq!(refused(&state, lineage(3, Some(1), 99)), Invalid);
    let named = |n, identity: &[u8], from| {
        let Body::Lineage(new) = lineage(n, Some(1), from) else { unreachable!() };
        Body::Lineage(Box::new(Lineage { identity: identity.to_vec(), ..*new }))
    };
    assert_eq!(refused(&state, named(3, &[2], 300)), Conflict, "the same promotion, told twice");
    allowed(&state, named(3, &[2], 301));
    allowed(&state, named(3, &[7], 300));
    let twin = |of| {
        let Body::Lineage(new) = lineage(3, None, 100) else { unreachable!() };
        Body::Lineage(Box::new(Lineage {
            identity: state.lineage(line(of)).unwrap().identity.clone(),
            ..*new
        }))
    };
    allowed(&state, twin(1));
    assert_eq!(refused(&state, named(3, &[], 300)), Invalid);
    assert_eq!(refused(&state, named(3, &[1; 257], 300)), Invalid);
}

#[test]
fn grants_rise_and_know_their_key_epoch() {
    let mut bodies = vec![lineage(1, None, 100)];
    assert_eq!(refused(&after(&bodies), grant(1, 1, 99)), Invalid, "before its beginning");
    assert_eq!(refused(&after(&bodies), grant(2, 1, 100)), NotFound);
    assert_eq!(refused(&after(&bodies), grant(1, 0, 100)), Conflict);
    let epoch = KeyEpoch { number: 1, draw: Draw([4; 8]) };
    bodies.extend([grant(1, 2, 150), Body::KeyEpoch(epoch), grant(1, 5, 150)]);
    let state = after(&bodies);
    assert_eq!(refused(&state, grant(1, 5, 200)), Conflict);
    assert_eq!(refused(&state, grant(1, 6, 149)), Invalid);
    allowed(&state, grant(1, 6, 150));
    let grants = &state.lineage(line(1)).unwrap().grants;
    assert_eq!(grants.iter().map(|it| it.key_epoch).collect::<Vec<_>>(), [None, Some(epoch)]);
    let body = Body::Grant { lineage: line(1), epoch: 6, node: "../n".into(), from: 150 };
    assert_eq!(refused(&state, body), Invalid);
}

#[test]
fn a_floor_rises_and_never_above_a_reader() {
    let bodies = vec![lineage(1, None, 0), lineage(2, None, 1), grant(1, 1, 0), reading(1, 1, 200), begin(2)];
    let state = after(&bodies);
    assert_eq!(refused(&state, floor(1, 201)), Conflict);
    assert_eq!(refused(&state, floor(3, 1)), NotFound);
    allowed(&state, floor(2, 500));
    let state = after(&[bodies.clone(), vec![floor(1, 200)]].concat());
    assert_eq!(refused(&state, floor(1, 200)), Invalid);
    assert_eq!(refused(&state, floor(1, 150)), Invalid);
    allowed(&after(&[bodies, vec![abort(1)]].concat()), floor(1, 900));
    assert_eq!(refused(&state, grant(1, 2, 199)), Invalid, "what it counts would be given up already");
    allowed(&state, grant(1, 2, 200));
    assert!(state.is_spare(&piece(1, 150, 200)) && !state.is_spare(&piece(1, 150, 201)));
}

/// What is left out.
#[derive(Clone, Copy, Default)]
struct Mutant {
    rules: Rules,
    /// A piece counts wherever it lies.
    no_rule_3: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The writer of that grant, which may be over, goes on where it is.
    Put {
        writer: usize,
        len: u64,
        late: bool,
    },
    /// Another writer, from what is covered on, or that far beyond or before it.
    Grant {
        beyond: i64,
    },
    Floor {
        at: u64,
    },
    Read {
        at: u64,
    },
    Done,
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6usize, 1..20u64, any::<bool>()).prop_map(|(writer, len, late)| Step::Put { writer, len, late }),
        2 => (-15..15i64).prop_map(|beyond| Step::Grant { beyond }),
        1 => (0..150u64).prop_map(|at| Step::Floor { at }),
        1 => (0..150u64).prop_map(|at| Step::Read { at }),
        1 => Just(Step::Done),
        2 => Just(Step::Delete),
    ]
}

/// Writers that do not know that they are over, late puts, readers, and who deletes with an old view. What was durable
/// under the grant of that time stays covered above the floor, no position ever reads as a writer's whose grant is over
/// there, and what a reader keeps stays.
fn violates(steps: &[Step], mutant: Mutant) -> bool {
    let mut state = State::with_rules(mutant.rules);
    let mut number = 0;
    let mut tell = |state: &mut State, body| {
        number += 1;
        state.apply(number, &record(0, body)).is_ok()
    };
    tell(&mut state, lineage(1, None, 0));
    tell(&mut state, grant(1, 1, 0));
    let mut at = vec![0u64];
    let mut store: BTreeSet<Piece> = BTreeSet::new();
    // Every position that was durable, with the epoch of who wrote it.
    let mut durable: Vec<(Position, Position, u32)> = Vec::new();
    let mut reader: Option<(u32, Position)> = None;
    let mut old = state.clone();
    for step in steps {
        let line1 = state.lineage(line(1)).unwrap().clone();
        let coverage = |pieces: &BTreeSet<Piece>| covered(&line1, pieces, mutant);
        match *step {
            Step::Put { writer, len, late } => {
                let writer = if late { writer % at.len() } else { at.len() - 1 };
                let grant = &line1.grants[writer];
                let new = piece(grant.epoch, at[writer], at[writer] + len);
                at[writer] += len;
                store.insert(new);
                if writer + 1 == at.len() {
                    durable.push((new.from, new.to, grant.epoch));
                }
            }
            Step::Grant { beyond } => {
                let last = line1.last_grant().unwrap();
                let end = coverage(&store).iter().map(|(_, to, _)| *to).max().unwrap_or_default();
                let from = end.max(last.from).saturating_add_signed(beyond);
                if tell(&mut state, grant(1, last.epoch + 1, from)) {
                    // The rule that a leader keeps beside those of the ledger: from what is covered on.
                    durable.retain(|(_, to, _)| *to <= from || beyond >= 0 || from < last.from);
                    at.push(from);
                }
            }
            Step::Floor { at } => drop(tell(&mut state, floor(1, at))),
            Step::Read { at } if reader.is_none() && at >= line1.floor => {
                let id = 1000 + state.open_transactions().len() as u32 + durable.len() as u32;
                if tell(&mut state, reading(id, 1, at)) {
                    reader = Some((id, at));
                }
            }
            Step::Read { .. } => {}
            Step::Done => {
                if let Some((id, _)) = reader.take() {
                    tell(&mut state, abort(id));
                }
            }
            Step::Delete => {
                store.retain(|piece| !old.is_spare(piece));
                old = state.clone();
            }
        }
        let now = state.lineage(line(1)).unwrap();
        let seen = covered(now, &store, mutant);
        let owner = |at: Position| now.grants.iter().rev().find(|grant| grant.from <= at).map(|it| it.epoch);
        if seen.iter().any(|(from, _, epoch)| owner(*from) != Some(*epoch)) {
            return true;
        }
        let keep = reader.map_or(now.floor, |(_, from)| from);
        for (from, to, _) in &durable {
            let wanted = (*from).max(keep)..*to;
            if wanted.into_iter().any(|at| !seen.iter().any(|(from, to, _)| (*from..*to).contains(&at))) {
                return true;
            }
        }
    }
    false
}

/// In stretches of one writer each.
fn covered(lineage: &Lineage, pieces: &BTreeSet<Piece>, mutant: Mutant) -> Vec<(Position, Position, u32)> {
    let own = |counted: crate::log::Counted| (counted.from, counted.to, counted.piece.epoch);
    if !mutant.no_rule_3 {
        return lineage.coverage(pieces.iter().copied()).counted().map(own).collect();
    }
    let alone = |grant: &Grant| Lineage { grants: vec![grant.clone()], ..lineage.clone() };
    let each = lineage.grants.iter().map(|grant| alone(grant).coverage(pieces.iter().copied()));
    each.flat_map(|coverage| coverage.counted().map(own).collect::<Vec<_>>()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_was_durable_stays_and_stale_writers_are_not_read(steps in proptest::collection::vec(step(), 1..80)) {
        prop_assert!(!violates(&steps, Mutant::default()));
    }
}

#[test]
fn every_rule_is_needed() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mutants = [
        ("rule 3", Mutant { no_rule_3: true, ..Mutant::default() }),
        ("falling grants", Mutant { rules: Rules { grants: false, ..Rules::default() }, no_rule_3: false }),
        (
            "floors above readers",
            Mutant { rules: Rules { floors: false, ..Rules::default() }, no_rule_3: false },
        ),
    ];
    for (name, mutant) in mutants {
        let mut runner = TestRunner::deterministic();
        let schedules = proptest::collection::vec(step(), 1..80);
        let found = (0..2000).any(|_| violates(&schedules.new_tree(&mut runner).unwrap().current(), mutant));
        assert!(found, "nobody notices when {name} is left out");
    }
}

/// As it is where nothing is forgotten.
fn remembered(grants: &[(u32, Position)], floor: Position) -> Lineage {
    let Body::Lineage(new) = lineage(1, None, 100) else { unreachable!() };
    let grant = |(epoch, from): &(u32, Position)| Grant {
        epoch: *epoch,
        node: "n1".into(),
        from: *from,
        key_epoch: None,
    };
    Lineage { grants: grants.iter().map(grant).collect(), floor, ..*new }
}

#[test]
fn a_writer_that_is_started_again_and_again_is_no_longer_list_each_time() {
    let mut bodies = vec![lineage(1, None, 100), grant(1, 1, 100)];
    bodies.extend((2..=1000).map(|epoch| grant(1, epoch, 200)));
    let grants = |bodies: &[Body]| -> Vec<u32> {
        after(bodies).lineage(line(1)).unwrap().grants.iter().map(|grant| grant.epoch).collect()
    };
    let kept = grants(&bodies);
    assert!(kept.len() < 70 && kept[0] == 1 && kept.contains(&1000), "{kept:?}");
    // What counts stays until the floor is above it.
    bodies.extend((1001..=1200).map(|epoch| grant(1, epoch, Position::from(epoch))));
    assert!(grants(&bodies).len() > 200);
    bodies.push(floor(1, 1190));
    assert!(grants(&bodies).len() < 70);
}

proptest! {
    #[test]
    fn what_is_forgotten_of_grants_counts_for_nothing_above_the_floor(
        steps in prop::collection::vec((0..3u64, 0..20u8), 60..300),
        pieces in prop::collection::vec((1..300u32, 90..400u64, 1..40u64), 0..200),
    ) {
        let (mut bodies, mut grants) = (vec![lineage(1, None, 100)], Vec::new());
        let (mut from, mut low) = (100, 0);
        for (epoch, (more, raised)) in (1..).zip(steps) {
            from += more;
            grants.push((epoch, from));
            bodies.push(grant(1, epoch, from));
            if raised == 0 && from - 5 > low {
                low = from - 5;
                bodies.push(floor(1, low));
            }
        }
        let (state, all) = (after(&bodies), remembered(&grants, low));
        let known = state.lineage(line(1)).unwrap();
        prop_assert!(known.check().is_ok());
        let pieces: Vec<Piece> = pieces.into_iter().map(|(epoch, at, len)| piece(epoch, at, at + len)).collect();
        let above = |lineage: &Lineage| -> Vec<(Position, Position)> {
            let covered = lineage.coverage(pieces.clone());
            let cut = covered.stretches().iter().map(|(from, to)| ((*from).max(low), *to));
            cut.filter(|(from, to)| from < to).collect()
        };
        prop_assert_eq!(above(known), above(&all));
        for counted in all.coverage(pieces.clone()).counted().filter(|counted| counted.to > low) {
            prop_assert!(!state.is_spare(&counted.piece));
        }
        // Where a gap may be told to end.
        let begin = |lineage: &Lineage| -> BTreeSet<Position> {
            lineage.grants.iter().map(|grant| grant.from).filter(|from| *from > low).collect()
        };
        prop_assert_eq!(begin(known), begin(&all));
    }
}
