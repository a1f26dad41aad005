//! How far an operation is, from its tasks.
use std::collections::BTreeMap;

use palinurus_proto::v1::{self, TaskRecord};

/// Over all nodes. What is to be done is the same for each of a node's tasks; what was moved adds up.
pub(super) fn sum(tasks: &[TaskRecord]) -> v1::Progress {
    let mut nodes: BTreeMap<&str, v1::Progress> = BTreeMap::new();
    for (node, progress) in tasks.iter().filter_map(|record| Some((record.node.as_str(), record.progress?))) {
        let sum = nodes.entry(node).or_default();
        sum.files_total = sum.files_total.max(progress.files_total);
        sum.files_done = sum.files_done.max(progress.files_done);
        sum.bytes_total = sum.bytes_total.max(progress.bytes_total);
        sum.bytes_done = sum.bytes_done.max(progress.bytes_done);
        sum.bytes_read += progress.bytes_read;
        sum.bytes_new += progress.bytes_new;
        sum.bytes_stored += progress.bytes_stored;
        add(&mut sum.requests, progress.requests);
    }
    nodes.values().fold(v1::Progress::default(), |mut all, node| {
        all.files_total += node.files_total;
        all.files_done += node.files_done;
        all.bytes_total += node.bytes_total;
        all.bytes_done += node.bytes_done;
        all.bytes_read += node.bytes_read;
        all.bytes_new += node.bytes_new;
        all.bytes_stored += node.bytes_stored;
        add(&mut all.requests, node.requests);
        all
    })
}

fn add(sum: &mut Option<v1::Requests>, more: Option<v1::Requests>) {
    if let Some(more) = more {
        sum.get_or_insert_default().add(&more);
    }
}
