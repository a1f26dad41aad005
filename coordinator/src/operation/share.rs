//! What each node brings into a backup, as its engine says when it is inspected: its own data, the whole service's, or
//! nothing. Whoever brings nothing has no part in the phases that follow, and is not missing.
use palinurus_proto::v1::{self, Share, TaskState, task_result};

use super::{Work, record, taking_part};

/// Of the nodes' own words in a failure.
const WORDS_MAX: usize = 400;

pub(super) fn brings_nothing(operation: &v1::Operation, node: &str) -> bool {
    match inspected(operation, node).map(v1::InspectResult::share) {
        Some(Share::Nothing) => true,
        Some(Share::Whole | Share::Copy) => copy(operation).is_some_and(|chosen| chosen != node),
        _ => false,
    }
}

/// The one that spares the node which has the whole. Chosen once: whatever becomes of it later, no other takes over.
fn copy(operation: &v1::Operation) -> Option<&str> {
    let copies = |node: &&String| says(operation, node, Share::Copy);
    operation.nodes.iter().find(copies).map(String::as_str)
}

fn says(operation: &v1::Operation, node: &str, share: Share) -> bool {
    inspected(operation, node).is_some_and(|found| found.share() == share)
}

fn inspected<'a>(operation: &'a v1::Operation, node: &str) -> Option<&'a v1::InspectResult> {
    let record = record::find(operation, node, Work::Inspect)?;
    match record.result.as_ref()?.result.as_ref()? {
        task_result::Result::Inspect(inspect) if record.state() == TaskState::TaskDone => Some(inspect),
        _ => None,
    }
}

/// When all have been inspected: why these nodes together make no backup.
pub(super) fn refusal(operation: &v1::Operation) -> Option<v1::Failure> {
    // Two that have the whole are in doubt even where a third brings it.
    let all = operation.nodes.iter().map(String::as_str);
    let wholes: Vec<&str> = all.filter(|node| says(operation, node, Share::Whole)).collect();
    let alone = |node: &&str| says(operation, node, Share::Whole) || says(operation, node, Share::Copy);
    let (bring, others): (Vec<&str>, Vec<&str>) = taking_part(operation).partition(alone);
    let failure = |kind: &str, message: String, hint: &str| {
        Some(v1::Failure { kind: kind.to_owned(), message, hint: hint.to_owned(), ..Default::default() })
    };
    if let [first, second, ..] = wholes.as_slice() {
        return failure(
            "conflict",
            format!("{first} and {second} both say that theirs is all of the service's data"),
            "two primaries: find out which is the right one, stop the other, and start the backup again",
        );
    }
    match (bring.as_slice(), others.as_slice()) {
        ([], []) => failure(
            "unavailable",
            format!("no node brings data into a backup: {}", reasons(operation)),
            "see that the node whose data stands for all, a primary, is up and a node of the service",
        ),
        ([whole, ..], [other, ..]) => failure(
            "conflict",
            format!("{whole} says that its data is all of the service's, and {other} brings its own"),
            "all nodes of a service must run the same engine",
        ),
        _ => None,
    }
}

fn reasons(operation: &v1::Operation) -> String {
    let reason = |node: &String| {
        let found = inspected(operation, node)?;
        let words: String = found.no_share.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
        Some(format!("{node}: {words}"))
    };
    operation.nodes.iter().filter_map(reason).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(shares: &[(&str, Share)]) -> v1::Operation {
        let task = |(node, share): &(&str, Share)| v1::TaskRecord {
            node: (*node).to_owned(),
            name: Work::Inspect.name().to_owned(),
            attempt: 1,
            state: TaskState::TaskDone.into(),
            result: Some(v1::TaskResult {
                result: Some(task_result::Result::Inspect(v1::InspectResult {
                    share: (*share).into(),
                    no_share: if *share == Share::Nothing {
                        "a standby\u{1b}[31m".into()
                    } else {
                        String::new()
                    },
                    ..Default::default()
                })),
            }),
            ..Default::default()
        };
        v1::Operation {
            nodes: shares.iter().map(|(node, _)| (*node).to_owned()).collect(),
            tasks: shares.iter().map(task).collect(),
            backup: Some(v1::BackupDetail::default()),
            ..Default::default()
        }
    }

    #[test]
    fn one_primary_and_its_standbys_make_a_backup() {
        use Share::{Copy, Nothing, Own, Whole};
        for good in [
            &[("n1", Whole), ("n2", Copy), ("n3", Copy)][..],
            &[("n1", Copy), ("n2", Nothing)],
            &[("n1", Own), ("n2", Own)][..],
            &[("n1", Whole)],
            &[("n1", Nothing), ("n2", Whole), ("n3", Nothing)],
        ] {
            assert_eq!(refusal(&operation(good)), None, "{good:?}");
        }
        for (shares, brings) in [
            (&[("n1", Nothing), ("n2", Whole)][..], "n2"),
            (&[("n1", Whole), ("n2", Copy), ("n3", Copy)], "n2"),
            (&[("n1", Nothing), ("n2", Nothing), ("n3", Copy)], "n3"),
        ] {
            let one = operation(shares);
            assert_eq!(taking_part(&one).collect::<Vec<_>>(), [brings], "{shares:?}");
        }
        for (bad, kind) in [
            (&[("n1", Nothing), ("n2", Nothing)][..], "unavailable"),
            (&[("n1", Whole), ("n2", Whole)], "conflict"),
            (&[("n1", Whole), ("n2", Own)], "conflict"),
            (&[("n1", Whole), ("n2", Whole), ("n3", Copy)], "conflict"),
            (&[("n1", Copy), ("n2", Own)], "conflict"),
        ] {
            let failure = refusal(&operation(bad)).unwrap();
            assert_eq!(failure.kind, kind, "{failure:?}");
            assert!(!failure.hint.is_empty() && !failure.message.contains('\u{1b}'), "{failure:?}");
        }
        let failure = refusal(&operation(&[("n1", Nothing)])).unwrap();
        assert!(failure.message.contains("n1: a standby"), "{failure:?}");
    }

    #[test]
    fn what_is_not_known_takes_part() {
        let mut one = operation(&[("n1", Share::Nothing)]);
        one.tasks[0].set_state(TaskState::TaskRunning);
        assert_eq!(taking_part(&one).count(), 1);
        one.tasks.clear();
        assert_eq!(taking_part(&one).count(), 1);
    }
}
