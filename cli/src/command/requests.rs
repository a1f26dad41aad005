//! What an operation has asked of the object store, in all and by whom: stores charge for it.
use std::collections::BTreeMap;

use palinurus_proto::v1;
use serde::Serialize;

use crate::human;
use crate::output::table;

/// Who asks in the coordinator's own tasks.
const COORDINATOR: &str = "coordinator";

#[derive(Debug, Default, Serialize)]
pub(crate) struct RequestsView {
    /// Nodes, and `coordinator`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    by: Vec<AskedView>,
    #[serde(flatten)]
    all: Asked,
}

#[derive(Debug, Serialize)]
struct AskedView {
    who: String,
    #[serde(flatten)]
    asked: Asked,
}

/// Retries are counted among the others too.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Asked {
    total: u64,
    puts: u64,
    gets: u64,
    sizes: u64,
    lists: u64,
    deletes: u64,
    objects_deleted: u64,
    retries: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

impl Asked {
    fn of(asked: &v1::Requests) -> Self {
        Self {
            total: asked.total(),
            puts: asked.puts,
            gets: asked.gets,
            sizes: asked.sizes,
            lists: asked.lists,
            deletes: asked.deletes,
            objects_deleted: asked.deleted,
            retries: asked.retries,
            bytes_sent: asked.bytes_sent,
            bytes_received: asked.bytes_received,
        }
    }
}

impl RequestsView {
    /// None where no agent and no coordinator counted: of an older version, or not yet.
    pub(crate) fn of(operation: &v1::Operation) -> Option<Self> {
        let all = operation.progress.and_then(|progress| progress.requests)?;
        let mut by: BTreeMap<&str, v1::Requests> = BTreeMap::new();
        for task in &operation.tasks {
            let who = if task.node.is_empty() { COORDINATOR } else { &task.node };
            if let Some(more) = task.progress.and_then(|progress| progress.requests) {
                by.entry(who).or_default().add(&more);
            }
        }
        let by =
            by.into_iter().map(|(who, asked)| AskedView { who: who.to_owned(), asked: Asked::of(&asked) });
        Some(Self { by: by.collect(), all: Asked::of(&all) })
    }

    pub(crate) fn without_whom(mut self) -> Self {
        self.by.clear();
        self
    }

    pub(crate) fn show(&self) -> String {
        let row = |who: &str, asked: &Asked| {
            let counts = [asked.puts, asked.gets, asked.sizes, asked.lists, asked.deletes, asked.retries];
            let mut row = vec![human::name(who.as_bytes())];
            row.extend(counts.map(human::count));
            row.extend([asked.bytes_sent, asked.bytes_received].map(human::size));
            row
        };
        let mut rows: Vec<_> = self.by.iter().map(|by| row(&by.who, &by.asked)).collect();
        rows.push(row("all", &self.all));
        let header = ["REQUESTS OF", "PUT", "GET", "HEAD", "LIST", "DELETE", "RETRIES", "SENT", "RECEIVED"];
        table(&header, &[1, 2, 3, 4, 5, 6, 7, 8], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_by_whom() {
        let progress = |puts, gets| {
            let requests = v1::Requests { puts, gets, bytes_sent: 2048, ..Default::default() };
            Some(v1::Progress { requests: Some(requests), ..Default::default() })
        };
        let task =
            |node: &str, progress| v1::TaskRecord { node: node.into(), progress, ..Default::default() };
        let operation = v1::Operation {
            tasks: vec![task("", progress(2, 0)), task("n1", progress(1, 1)), task("n1", progress(4, 0))],
            progress: progress(7, 1),
            ..Default::default()
        };
        let text = RequestsView::of(&operation).unwrap().show();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..3], ["coordinator", "2", "0"]);
        assert_eq!(lines[2][..3], ["n1", "5", "1"]);
        assert_eq!(lines[3][..3], ["all", "7", "1"]);
        assert!(RequestsView::of(&v1::Operation::default()).is_none());
    }
}
