//! The operations that have ended, by id, and which of them may still owe a node its release: these few are looked
//! through at every report, and not all that ever were.
use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Keys, Values};

use palinurus_proto::v1;

use super::sessions::owes_release;
use crate::operation::OWN;
use crate::state::Versioned;

#[derive(Debug, Default)]
pub(super) struct History {
    all: BTreeMap<String, Versioned<v1::Operation>>,
    owing: BTreeSet<String>,
}

impl History {
    pub(super) fn insert(&mut self, operation: Versioned<v1::Operation>) {
        let id = operation.value.id.clone();
        let nodes = operation.value.tasks.iter().map(|task| task.node.as_str());
        let nodes: BTreeSet<&str> = nodes.filter(|node| *node != OWN).collect();
        if nodes.into_iter().any(|node| owes_release(&operation.value, node)) {
            self.owing.insert(id.clone());
        } else {
            self.owing.remove(&id);
        }
        self.all.insert(id, operation);
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.all.remove(id);
        self.owing.remove(id);
    }

    pub(super) fn get(&self, id: &str) -> Option<&Versioned<v1::Operation>> {
        self.all.get(id)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn keys(&self) -> Keys<'_, String, Versioned<v1::Operation>> {
        self.all.keys()
    }

    pub(super) fn values(&self) -> Values<'_, String, Versioned<v1::Operation>> {
        self.all.values()
    }

    /// Those that have ended without the release of some node: perhaps of one that is no longer there.
    pub(super) fn owing(&self) -> impl Iterator<Item = &v1::Operation> {
        self.owing.iter().filter_map(|id| self.all.get(id)).map(|operation| &operation.value)
    }

    pub(super) fn owes(&self, id: &str) -> bool {
        self.owing.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use palinurus_proto::v1::{OperationKind, TaskRecord, TaskState};

    use super::*;

    fn operation(id: &str, released: TaskState) -> Versioned<v1::Operation> {
        let task = |name: &str, state: TaskState| {
            let mut task = TaskRecord { node: "n1".into(), name: name.into(), ..Default::default() };
            task.set_state(state);
            task
        };
        let mut value = v1::Operation { id: id.into(), ..Default::default() };
        value.set_kind(OperationKind::Backup);
        value.tasks = vec![task("upload", TaskState::TaskDone), task("release", released)];
        value.tasks.push(TaskRecord { name: "commit".into(), ..Default::default() });
        Versioned { value, revision: 1 }
    }

    #[test]
    fn only_those_that_owe_are_looked_through() {
        let mut history = History::default();
        history.insert(operation("a", TaskState::TaskDone));
        history.insert(operation("b", TaskState::TaskFailed));
        let owing = |history: &History| history.owing().map(|it| it.id.clone()).collect::<Vec<_>>();
        assert_eq!((owing(&history), history.len()), (vec!["b".to_owned()], 2));
        history.insert(operation("b", TaskState::TaskDone));
        assert!(owing(&history).is_empty() && !history.owes("b"));
        history.insert(operation("b", TaskState::TaskCancelled));
        assert!(history.owes("b"));
        history.remove("b");
        assert!(owing(&history).is_empty());
    }
}
