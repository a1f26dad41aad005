//! Whether the snapshots of several nodes fit together. Each node that has thawed says what of the cluster's schema has
//! changed since its own snapshot, all of which had ended by then: where nothing has, all of them saw the same one.
//! Nodes are never held against each other, so that they may hold what no other does.
use palinurus_proto::v1::{self, Failure, TaskState, task_result};
use palinurus_repository::Timestamp;
use palinurus_repository::ledger::Cut;

use super::{Phase, Step, Work, record, taking_part};

/// How often all nodes make their snapshots.
const TRIES: u32 = 3;
/// Of a node's own words.
const WORDS_MAX: usize = 400;

/// When all have thawed: makes all snapshots again if one does not fit, and gives up in the end.
pub(super) fn again(operation: &v1::Operation) -> Option<Step> {
    let changed: Vec<(&str, String)> =
        taking_part(operation).filter_map(|node| Some((node, changed(operation, node)?))).collect();
    let (first, _) = changed.first()?;
    let told = changed.iter().map(|(node, what)| format!("{node}: {what}")).collect::<Vec<_>>().join("; ");
    if round(operation) < TRIES {
        return Some(Step::Again(told));
    }
    let failure = Failure {
        kind: "conflict".to_owned(),
        message: format!("something changed between the snapshots of the nodes, {TRIES} times: {told}"),
        hint: "start the backup again when nobody makes, changes or drops tables".to_owned(),
        node: (*first).to_owned(),
    };
    Some(Step::Advance(Phase::Release, Some(failure)))
}

/// A single node's snapshot has no other to fit.
pub(super) fn is_compared(operation: &v1::Operation) -> bool {
    taking_part(operation).nth(1).is_some()
}

/// Which attempt of the snapshots this is. What is done once for each of them has the same number.
pub(super) fn round(operation: &v1::Operation) -> u32 {
    record::ATTEMPT + operation.backup.as_ref().map_or(0, |backup| backup.snapshots_again)
}

/// Of an earlier snapshot, which is no part of the backup any more.
pub(super) fn is_over(operation: &v1::Operation, task: &v1::TaskRecord, work: Work) -> bool {
    matches!(work, Work::Freeze | Work::Snapshot | Work::Thaw) && task.attempt < round(operation)
}

/// Which moment the node's last snapshot is of.
pub(super) fn cut(operation: &v1::Operation, node: &str) -> Cut {
    let result = |work| record::find(operation, node, work)?.result.as_ref()?.result.as_ref();
    let (from, to) = match result(Work::Snapshot) {
        Some(task_result::Result::Snapshot(snapshot)) => {
            (snapshot.taken_ms, snapshot.taken_to_ms.max(snapshot.taken_ms))
        }
        _ => (0, 0),
    };
    let shard = match result(Work::Inspect) {
        Some(task_result::Result::Inspect(inspected)) => inspected.shard.clone(),
        _ => String::new(),
    };
    Cut { from: Timestamp(from), to: Timestamp(to), shard }
}

fn changed(operation: &v1::Operation, node: &str) -> Option<String> {
    let task = record::find(operation, node, Work::Thaw)?;
    match task.result.as_ref()?.result.as_ref()? {
        task_result::Result::Thaw(thawed)
            if task.state() == TaskState::TaskDone && !thawed.changed.is_empty() =>
        {
            Some(thawed.changed.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn thawed(nodes: &[&str], again: u32) -> v1::Operation {
        let names: Vec<String> = (1..=nodes.len()).map(|number| format!("n{number}")).collect();
        let task = |(node, changed): (&String, &&str)| v1::TaskRecord {
            node: node.clone(),
            name: Work::Thaw.name().to_owned(),
            attempt: record::ATTEMPT + again,
            state: TaskState::TaskDone.into(),
            result: Some(v1::TaskResult {
                result: Some(task_result::Result::Thaw(v1::ThawResult { changed: (*changed).to_owned() })),
            }),
            ..Default::default()
        };
        v1::Operation {
            tasks: names.iter().zip(nodes).map(task).collect(),
            nodes: names,
            backup: Some(v1::BackupDetail { snapshots_again: again, ..Default::default() }),
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn snapshots_that_do_not_fit_are_made_again_and_not_for_ever(
            words in prop::collection::vec(prop::sample::select(vec!["", "", "table \u{1b}[31mt"]), 1..5),
            again_before in 0u32..TRIES,
        ) {
            let operation = thawed(&words, again_before);
            let says = words.iter().position(|word| !word.is_empty());
            match (again(&operation), says) {
                (None, None) => {}
                (Some(Step::Again(told)), Some(first)) => {
                    let named = told.starts_with(&format!("n{}: ", first + 1));
                    prop_assert!(again_before + 1 < TRIES && named);
                }
                (Some(Step::Advance(Phase::Release, Some(failure))), Some(first)) => {
                    prop_assert_eq!(again_before + 1, TRIES);
                    prop_assert_eq!((failure.kind.as_str(), failure.node), ("conflict", format!("n{}", first + 1)));
                    let clean = failure.message.chars().all(|c| !c.is_control());
                    prop_assert!(clean && !failure.hint.is_empty());
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn what_a_lost_node_said_holds_up_nobody() {
        let mut operation = thawed(&["", "table t was made"], 0);
        assert!(again(&operation).is_some());
        let missing = v1::MissingNode { node: "n2".to_owned(), ..Default::default() };
        operation.backup.as_mut().unwrap().missing.push(missing);
        assert_eq!((again(&operation), is_compared(&operation)), (None, false));
    }
}
