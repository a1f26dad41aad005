//! How a service stands by its drills: one that failed is told until a later one has passed, whatever became of its backup. Pure.
use std::collections::{BTreeMap, HashMap};

use palinurus_proto::v1::{self, DrillState, OperationState};
use palinurus_repository::Timestamp;
use palinurus_repository::ledger::State;

use super::every;
use crate::operation::finished;
use crate::settings::in_force;

/// What a drill has said of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    at_ms: u64,
    operation: String,
    /// Why not, where it did not.
    failed: Option<String>,
}

/// By the ledger and by the operations that are kept: either may have forgotten what the other knows. `operations` are the
/// service's.
pub(crate) fn standing<'a>(
    service: &v1::Service,
    state: &State,
    operations: impl Iterator<Item = &'a v1::Operation> + Clone,
    now: Timestamp,
) -> v1::DrillStanding {
    let mut said: BTreeMap<String, Said> = BTreeMap::new();
    for drilled in state.backups().flat_map(|backup| state.drilled(backup.id)) {
        let (at_ms, operation) = (drilled.when.0, drilled.operation.clone());
        let failed = drilled.proof.findings.first().cloned();
        newer(&mut said, &drilled.proof.node, Said { at_ms, operation, failed });
    }
    // Of a node that is gone nobody can prove anything any more.
    let newest = state.backups().next_back();
    let members: Vec<&str> =
        newest.into_iter().flat_map(|backup| &backup.nodes).map(|it| it.node.as_str()).collect();
    let settings = &in_force(service);
    v1::DrillStanding { service: service.name.clone(), ..decided(settings, &members, said, operations, now) }
}

fn newer(said: &mut BTreeMap<String, Said>, node: &str, new: Said) {
    let known = said.entry(node.to_owned()).or_insert_with(|| new.clone());
    if new.at_ms > known.at_ms {
        *known = new;
    }
}

fn decided<'a>(
    settings: &HashMap<String, String>,
    members: &[&str],
    mut said: BTreeMap<String, Said>,
    operations: impl Iterator<Item = &'a v1::Operation> + Clone,
    now: Timestamp,
) -> v1::DrillStanding {
    let drills = operations.filter(|it| it.drill.is_some() && finished(it.state()));
    for operation in drills.clone() {
        for result in operation.drill.iter().filter(|drill| drill.recorded).flat_map(|drill| &drill.results) {
            let failed = (result.finding_count > 0)
                .then(|| result.findings.first().cloned().unwrap_or_else(|| "it was found wrong".to_owned()));
            // As the ledger tells it, within the operation.
            let said_now = Said { at_ms: operation.finished_ms, operation: operation.id.clone(), failed };
            newer(&mut said, &result.source, said_now);
        }
    }
    said.retain(|node, _| members.is_empty() || members.contains(&node.as_str()));
    let passed = said.values().filter(|said| said.failed.is_none()).max();
    // One that could not be made says nothing of a node, and is no drill all the same.
    let last = drills.filter(|it| it.state() != OperationState::Cancelled).max_by_key(|it| it.finished_ms);
    let unmade = last.filter(|it| {
        it.state() == OperationState::Failed && it.drill.as_ref().is_some_and(|drill| !drill.recorded)
    });
    let unmade = unmade.map(|operation| Said {
        at_ms: operation.finished_ms,
        operation: operation.id.clone(),
        failed: Some(operation.failure.clone().unwrap_or_default().message),
    });
    let failed = said.values().filter(|said| said.failed.is_some()).chain(&unmade).max();
    let passed_ms = passed.map_or(0, |said| said.at_ms);
    let asked = every(settings).ok().flatten();
    let (state, of) = match (failed, passed, asked) {
        (Some(failed), ..) => (DrillState::DrillFailed, Some(failed)),
        (None, None, Some(_)) => (DrillState::DrillNever, None),
        (None, Some(passed), Some(every)) if Timestamp(passed_ms).plus(every * 2) < now => {
            (DrillState::DrillLate, Some(passed))
        }
        (None, Some(passed), _) => (DrillState::DrillPassed, Some(passed)),
        (None, None, None) => (DrillState::Unspecified, None),
    };
    v1::DrillStanding {
        service: String::new(),
        state: state.into(),
        operation: of.map(|said| said.operation.clone()).unwrap_or_default(),
        at_ms: of.map_or(0, |said| said.at_ms),
        why: of.and_then(|said| said.failed.clone()).unwrap_or_default(),
        passed_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drill(id: &str, finished_ms: u64, state: OperationState, nodes: &[(&str, u64)]) -> v1::Operation {
        let result = |(source, finding_count): &(&str, u64)| v1::DrillResult {
            source: (*source).to_owned(),
            finding_count: *finding_count,
            ..Default::default()
        };
        let results: Vec<_> = nodes.iter().map(result).collect();
        let drill = v1::DrillDetail { recorded: !results.is_empty(), results, ..Default::default() };
        let mut operation = v1::Operation {
            id: id.to_owned(),
            finished_ms,
            drill: Some(Box::new(drill)),
            failure: Some(v1::Failure { message: "no room".to_owned(), ..Default::default() }),
            ..Default::default()
        };
        operation.set_state(state);
        operation
    }

    fn stands(drill: &str, operations: &[v1::Operation], now: u64) -> (DrillState, String) {
        let settings = [("drill".to_owned(), drill.to_owned())].into();
        let said = BTreeMap::new();
        let it = decided(&settings, &["n1", "n2"], said, operations.iter(), Timestamp(now));
        (it.state(), it.operation)
    }

    #[test]
    fn one_that_failed_is_told_until_a_later_one_has_passed() {
        use DrillState::{DrillFailed, DrillLate, DrillNever, DrillPassed, Unspecified};
        use OperationState::{Cancelled, Failed, Succeeded};
        let told = |operations: &[v1::Operation]| stands("weekly", operations, 2_000);
        assert_eq!(stands("off", &[], 5).0, Unspecified);
        assert_eq!(told(&[]).0, DrillNever);
        let wrong = drill("a", 100, Failed, &[("n1", 2), ("n2", 0)]);
        assert_eq!(told(std::slice::from_ref(&wrong)), (DrillFailed, "a".to_owned()));
        // Neither one that said nothing nor one of another node takes it back.
        let other = drill("b", 200, Succeeded, &[("n2", 0)]);
        let given_up = drill("c", 300, Cancelled, &[]);
        assert_eq!(told(&[wrong.clone(), other, given_up.clone()]), (DrillFailed, "a".to_owned()));
        let passed = drill("d", 400, Succeeded, &[("n1", 0)]);
        assert_eq!(told(&[passed.clone(), wrong.clone()]), (DrillPassed, "d".to_owned()));
        assert_eq!(
            stands("off", std::slice::from_ref(&wrong), 5).0,
            DrillFailed,
            "also where none is asked for"
        );
        let unmade = drill("e", 500, Failed, &[]);
        assert_eq!(told(&[passed.clone(), unmade.clone()]), (DrillFailed, "e".to_owned()));
        let later = drill("f", 600, Succeeded, &[("n1", 0)]);
        assert_eq!(told(&[unmade, later, given_up]).0, DrillPassed);
        let week = 7 * 24 * 3600 * 1000;
        assert_eq!(stands("weekly", std::slice::from_ref(&passed), 401 + 2 * week).0, DrillLate);
        assert_eq!(stands("off", &[passed], 401 + 2 * week).0, DrillPassed);
        let gone = drill("g", 100, Failed, &[("n9", 1)]);
        assert_eq!(told(&[gone]).0, DrillNever, "of a node that is in no new backup");
    }
}
