//! The rules of `state.rs`, one by one.
use super::fixture::*;
use super::*;
use crate::epochs::KeyEpoch;
use crate::error::ErrorKind::{Conflict, Fenced, Invalid, NotFound};
use crate::id::{Draw, Epoch, KeyId};

#[test]
fn a_transaction_begins_once_and_ends_once() {
    let state = after(&[begin(1)]);
    assert_eq!(refused(&state, begin(1)), Conflict);
    assert_eq!(refused(&state, commit(2, &[])), NotFound);
    assert_eq!(refused(&state, abort(2)), NotFound);
    let committed = after(&[begin(1), commit(1, &[(1, 0)])]);
    let aborted = after(&[begin(1), abort(1)]);
    let forgotten = after(&[begin(1), commit(1, &[(1, 0)]), forget(1)]);
    for state in [committed, aborted, forgotten] {
        for body in [begin(1), commit(1, &[(1, 0)]), abort(1)] {
            assert_eq!(refused(&state, body), Conflict);
        }
    }
}

#[test]
fn only_the_purpose_it_began_with() {
    let state = after(&[begin_as(1, Purpose::Pin), begin_as(2, Purpose::Rewrite), begin(3)]);
    assert_eq!(refused(&state, commit(1, &[])), Invalid);
    assert_eq!(refused(&state, commit(2, &[])), Invalid);
    assert_eq!(refused(&state, Body::Rewrite { transaction: txn(3), backups: vec![] }), Invalid);
    for n in 1..=3 {
        allowed(&state, abort(n));
    }
}

#[test]
fn epochs_fence() {
    let mut state = State::default();
    let mut number = 0;
    let mut apply = |state: &mut State, epoch, body| {
        number += 1;
        state.apply(number, &record(epoch, body))
    };
    let kind = |state: &State, epoch, body| state.check(&record(epoch, body)).unwrap_err().kind();
    apply(&mut state, 0, begin(1)).unwrap();
    apply(&mut state, 4, leader("c1")).unwrap();
    assert_eq!(kind(&state, 0, begin(2)), Fenced);
    assert_eq!(kind(&state, 3, leader("c0")), Fenced);
    assert_eq!(kind(&state, 4, leader("c2")), Fenced, "an epoch has one leader");
    assert_eq!(kind(&state, 5, begin(2)), Invalid, "an epoch begins with its LEADER");
    apply(&mut state, 4, begin(2)).unwrap();
    apply(&mut state, 7, leader("c2")).unwrap();
    for body in [begin(3), commit(2, &[]), abort(2), forget(1), condemn(&[(1, 0)]), sweep(&[(1, 0)])] {
        assert_eq!(kind(&state, 4, body), Fenced, "whatever else is wrong with it");
    }
    // The new leader takes the old one's transactions over.
    apply(&mut state, 7, commit(1, &[(1, 0)])).unwrap();
    apply(&mut state, 7, abort(2)).unwrap();
    assert_eq!(state.leader(), (Epoch(7), "c2"));
}

#[test]
fn key_epochs_are_numbered_and_transactions_stay_in_theirs() {
    let epoch = |number, draw| Body::KeyEpoch(KeyEpoch { number, draw: Draw([draw; 8]) });
    let state = after(&[begin(1), epoch(1, 7), begin(2), epoch(2, 8), begin(3), abort(2)]);
    assert_eq!(state.key_epoch(), Some(KeyEpoch { number: 2, draw: Draw([8; 8]) }));
    let sealed = state.sealed([txn(1), txn(2), txn(3), txn(4)]);
    let found: Vec<_> = sealed.iter().map(|of| (of.epoch.number, of.transactions.clone())).collect();
    assert_eq!(found, [(1, vec![txn(2)]), (2, vec![txn(3)])]);
    for (number, draw) in [(1, 9), (2, 9), (4, 9), (0, 9), (3, 7)] {
        assert_eq!(refused(&state, epoch(number, draw)), Conflict);
    }
    allowed(&state, epoch(3, 9));
}

#[test]
fn who_is_removed_removes_nobody() {
    let said = |key, by, removed| Body::OperatorKey { key: KeyId([key; 8]), by: KeyId([by; 8]), removed };
    let state = after(&[said(2, 1, true)]);
    assert!(state.is_removed(KeyId([2; 8])) && !state.is_removed(KeyId([1; 8])));
    assert_eq!(refused(&state, said(1, 2, true)), Conflict);
    assert_eq!(refused(&state, said(3, 2, false)), Conflict);
    assert_eq!(refused(&state, said(1, 1, true)), Invalid);
    allowed(&after(&[said(2, 1, true), said(2, 1, false)]), said(1, 2, true));
}

#[test]
fn a_commit_needs_nodes_each_once() {
    let state = after(&[begin(1)]);
    let commit = |nodes| Body::Commit { transaction: txn(1), nodes, missing: Vec::new(), packs: packs(&[]) };
    assert_eq!(refused(&state, commit(vec![])), Invalid);
    assert_eq!(refused(&state, commit(vec![node(1, "a"), node(1, "a")])), Invalid);
    assert_eq!(refused(&state, commit(vec![node(1, "../a")])), Invalid);
    allowed(&state, commit(vec![node(1, "a"), node(1, "b")]));
}

#[test]
fn a_node_is_in_a_backup_or_missing_from_it() {
    let state = after(&[begin(1)]);
    for names in [&["n1"][..], &["n2", "n2"], &["../a"]] {
        assert_eq!(refused(&state, commit_without(1, &[], names)), Invalid, "{names:?}");
    }
    allowed(&state, commit_without(1, &[], &["n2", "n3"]));
    let state = after(&[begin(1), commit_without(1, &[(1, 0)], &["n2"])]);
    assert_eq!(state.backup(txn(1)).unwrap().missing, [absent("n2")]);
    // Elsewhere by now, and as partial as before.
    let rewritten = Rewritten { backup: txn(1), nodes: vec![node(2, "n1")], packs: packs(&[(2, 0)]) };
    let rewrite = Body::Rewrite { transaction: txn(2), backups: vec![rewritten] };
    let state =
        after(&[begin(1), commit_without(1, &[(1, 0)], &["n2"]), begin_as(2, Purpose::Rewrite), rewrite]);
    assert_eq!(state.backup(txn(1)).unwrap().missing, [absent("n2")]);
}

#[test]
fn packs_of_others_only_when_they_were_committed() {
    let state = after(&[begin(1), commit(1, &[(1, 0)]), begin(2), abort(2), begin(3), begin(4)]);
    allowed(&state, commit(3, &[(1, 0), (3, 0)]));
    assert_eq!(refused(&state, commit(3, &[(2, 0)])), Invalid, "of an aborted one");
    assert_eq!(refused(&state, commit(3, &[(4, 0)])), Invalid, "of an open one");
    assert_eq!(refused(&state, commit(3, &[(1, 1)])), Invalid, "never committed");
}

const OLD: [fn() -> Body; 4] =
    [|| begin(1), || commit(1, &[(1, 0), (1, 1)]), || begin(2), || commit(2, &[(2, 0), (1, 1)])];

fn old() -> Vec<Body> {
    OLD.iter().map(|body| body()).collect()
}

#[test]
fn only_what_nothing_references_is_condemned() {
    let state = after(&old());
    assert!(state.unreferenced().is_empty());
    assert_eq!(refused(&state, condemn(&[(1, 0)])), Conflict);
    let state = after(&[old(), vec![forget(1)]].concat());
    assert_eq!(state.unreferenced(), packs(&[(1, 0)]));
    assert_eq!(refused(&state, condemn(&[(1, 1)])), Conflict, "the second backup uses it");
    assert_eq!(refused(&state, condemn(&[(1, 7)])), Conflict, "no such pack");
    assert_eq!(refused(&state, condemn(&[])), Invalid);
    allowed(&state, condemn(&[(1, 0)]));
    assert!(state.usable(&pack(1, 0)), "forgotten is not condemned");
    let state = after(&[old(), vec![forget(1), condemn(&[(1, 0)])]].concat());
    assert!(!state.usable(&pack(1, 0)) && state.usable(&pack(1, 1)));
    assert!(state.unreferenced().is_empty());
}

#[test]
fn only_what_is_condemned_is_swept_and_only_past_the_barrier() {
    let condemned = [old(), vec![begin(3), forget(1), condemn(&[(1, 0)])]].concat();
    let state = after(&condemned);
    assert_eq!(refused(&state, sweep(&[(1, 0)])), Conflict, "3 began before and may use it");
    assert_eq!(state.sweepable(), (packs(&[]), packs(&[(1, 0)]), vec![txn(3)]));
    assert_eq!(refused(&state, sweep(&[(1, 1)])), Conflict, "not condemned");
    assert_eq!(refused(&state, sweep(&[])), Invalid);
    let state = after(&[condemned.clone(), vec![begin(4), abort(3)]].concat());
    assert_eq!(state.sweepable(), (packs(&[(1, 0)]), packs(&[]), vec![]), "4 began after");
    let state = after(&[condemned, vec![abort(3), begin(4), sweep(&[(1, 0)])]].concat());
    assert_eq!(refused(&state, commit(4, &[(1, 0)])), Conflict, "swept");
    assert_eq!(refused(&state, sweep(&[(1, 0)])), Conflict, "once");
    assert_eq!(refused(&state, condemn(&[(1, 0)])), Conflict, "once");
    assert!(!state.usable(&pack(1, 0)));
    assert_eq!(*state.committed(), packs(&[(1, 1), (2, 0)]));
}

#[test]
fn a_commit_reprieves_what_it_uses() {
    let bodies = [
        old(),
        vec![begin(3), forget(1), forget(2), condemn(&[(1, 0), (1, 1), (2, 0)]), commit(3, &[(1, 1)])],
    ];
    let state = after(&bodies.concat());
    assert!(state.usable(&pack(1, 1)));
    assert_eq!(refused(&state, sweep(&[(1, 1)])), Conflict);
    assert_eq!(state.sweepable().0, packs(&[(1, 0), (2, 0)]));
}

#[test]
fn who_is_condemned_again_keeps_the_first_place() {
    let mut bodies =
        [old(), vec![forget(1), condemn(&[(1, 0)]), begin(3), forget(2), condemn(&[(1, 0), (2, 0)])]]
            .concat();
    let state = after(&bodies);
    assert_eq!(state.sweepable(), (packs(&[(1, 0)]), packs(&[(2, 0)]), vec![txn(3)]));
    bodies.push(sweep(&[(1, 0)]));
    after(&bodies);
}

#[test]
fn a_pin_holds_what_it_reads() {
    let bodies = [old(), vec![begin_as(3, Purpose::Pin), forget(2), condemn(&[(2, 0)])]].concat();
    assert_eq!(refused(&after(&bodies), sweep(&[(2, 0)])), Conflict);
    assert!(after(&bodies).kept_manifests().len() == 2, "the manifest of the pinned backup too");
    let bodies = [bodies, vec![abort(3)]].concat();
    allowed(&after(&bodies), sweep(&[(2, 0)]));
    assert_eq!(after(&bodies).kept_manifests().len(), 1);
}

#[test]
fn an_unchanged_node_names_the_manifest_of_a_backup() {
    let unchanged = |transaction, base| {
        let nodes = vec![NodeCommit { unchanged: true, ..node(base, "n1") }];
        Body::Commit { transaction: txn(transaction), nodes, missing: Vec::new(), packs: packs(&[]) }
    };
    let began = [old(), vec![begin(3)]].concat();
    allowed(&after(&began), unchanged(3, 1));
    assert_eq!(refused(&after(&began), unchanged(3, 7)), Conflict, "nobody's");
    // Forgotten while 3 is open: still there for 3, not for who begins later.
    let forgotten = [began, vec![forget(1), begin(4)]].concat();
    let state = after(&forgotten);
    allowed(&state, unchanged(3, 1));
    assert!(state.kept_manifests().contains(&format!("t/{}/m/n1-{}", txn(1), node(1, "n1").manifest.writer)));
    let later = after(&[forgotten.clone(), vec![abort(3)]].concat());
    assert_eq!(refused(&later, unchanged(4, 1)), Conflict);
    assert_eq!(later.kept_manifests().len(), 1);
    // Named again, it lives on.
    let named = after(&[forgotten, vec![unchanged(3, 1), begin(5), forget(2)]].concat());
    assert_eq!(named.kept_manifests().len(), 1 + 1, "1's for 3, and 2's as long as 4 and 5 are open");
    allowed(&named, unchanged(5, 1));
}

#[test]
fn a_rewrite_replaces_where_backups_lie() {
    let to = |backup, packs| Rewritten { backup: txn(backup), nodes: vec![node(3, "n1")], packs };
    let rewrite = |backups| Body::Rewrite { transaction: txn(3), backups };
    let began = [old(), vec![begin_as(3, Purpose::Rewrite)]].concat();
    let state = after(&began);
    assert_eq!(refused(&state, rewrite(vec![to(9, packs(&[]))])), NotFound);
    assert_eq!(refused(&state, rewrite(vec![to(1, packs(&[])), to(1, packs(&[]))])), Invalid);
    assert_eq!(refused(&state, rewrite(vec![to(1, packs(&[(8, 0)]))])), Invalid);
    let state = after(&[began.clone(), vec![rewrite(vec![to(1, packs(&[(3, 0), (1, 1)]))])]].concat());
    let backup = state.backup(txn(1)).unwrap();
    assert_eq!((backup.packs.clone(), backup.nodes.clone()), (packs(&[(3, 0), (1, 1)]), vec![node(3, "n1")]));
    assert_eq!(
        state.backups().map(|backup| backup.id).collect::<Vec<_>>(),
        [txn(1), txn(2)],
        "the order stays"
    );
    assert_eq!(state.unreferenced(), packs(&[(1, 0)]));
    assert!(state.is_closed(txn(3)));
    let swept = [began, vec![forget(1), begin(4), condemn(&[(1, 0)])]].concat();
    assert_eq!(refused(&after(&swept), sweep(&[(1, 0)])), Conflict, "an open rewrite is a barrier too");
}

#[test]
fn the_last_drill_of_a_node_counts_until_the_backup_goes() {
    let seen = |state: &State, n| {
        let drilled = state.drilled(txn(n));
        drilled.map(|last| (last.proof.node.clone(), last.proof.passed())).collect::<Vec<_>>()
    };
    assert_eq!(refused(&after(&old()), drill(9, "n1", &[])), NotFound);
    assert_eq!(refused(&after(&old()), drill(1, "n9", &[])), Invalid);
    assert_eq!(refused(&after(&old()), drill(1, "n1", &["x"; 33])), Invalid);
    assert_eq!(refused(&after(&old()), drill(1, "n1", &["x".repeat(2049).as_str()])), Invalid);
    let none = Body::Drill { backup: txn(1), operation: "0d".to_owned(), proofs: Vec::new() };
    assert_eq!(refused(&after(&old()), none), Invalid);

    let drilled =
        [old(), vec![drill(1, "n1", &["a page"]), drill(1, "n1", &[]), drill(2, "n1", &["x"])]].concat();
    let state = after(&drilled);
    assert_eq!(seen(&state, 1), [("n1".to_owned(), true)]);
    assert_eq!(seen(&state, 2), [("n1".to_owned(), false)]);
    let state = after(&[drilled, vec![forget(1)]].concat());
    assert!(seen(&state, 1).is_empty() && seen(&state, 2).len() == 1);
}

#[test]
fn what_is_pinned_or_held_is_not_forgotten() {
    let unpin = || Body::Unpin { backup: txn(1) };
    let unhold = || Body::Unhold { backup: txn(1) };
    assert_eq!(refused(&after(&old()), unpin()), Conflict);
    assert_eq!(refused(&after(&old()), unhold()), Conflict);
    assert_eq!(refused(&after(&old()), pin(9, "")), NotFound);
    assert_eq!(refused(&after(&old()), hold(9, 5_000)), NotFound);
    assert_eq!(refused(&after(&old()), pin(1, "two\nlines")), Invalid);
    assert_eq!(refused(&after(&old()), pin(1, &"x".repeat(501))), Invalid);

    let pinned = [old(), vec![pin(1, "first"), pin(1, "release 7")]].concat();
    let state = after(&pinned);
    assert_eq!(state.backup(txn(1)).unwrap().pin.as_ref().unwrap().reason, "release 7");
    assert_eq!(refused(&state, forget(1)), Conflict);
    allowed(&state, forget(2));
    let error = state.check(&record(0, forget(1))).unwrap_err();
    assert!(error.what().contains("release 7") && error.hint().unwrap().contains("unpin"), "{error:?}");
    allowed(&after(&[pinned, vec![unpin()]].concat()), forget(1));

    // Records here are of the time 1000.
    let held = [old(), vec![hold(1, 5_000)]].concat();
    let state = after(&held);
    assert_eq!(refused(&state, forget(1)), Conflict);
    assert_eq!(refused(&state, hold(1, 4_999)), Conflict, "a hold cannot be shortened");
    allowed(&state, hold(1, 6_000));
    let mut late = record(0, forget(1));
    late.at = crate::clock::Timestamp(5_000);
    state.check(&late).unwrap();
    allowed(&after(&[held.clone(), vec![unhold()]].concat()), forget(1));
    // A rewrite moves the backup with all that is said of it.
    let to = Rewritten { backup: txn(1), nodes: vec![node(3, "n1")], packs: packs(&[]) };
    let rewrite =
        vec![begin_as(3, Purpose::Rewrite), Body::Rewrite { transaction: txn(3), backups: vec![to] }];
    assert_eq!(refused(&after(&[held, rewrite].concat()), forget(1)), Conflict);
}
