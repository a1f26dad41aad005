//! A database stops before the first record that begins at a position or behind it, and takes it for a failure when there is
//! none. Where the position lies in the last record, the end of the log is meant.
use palinurus_repository::Result;
use palinurus_repository::log::{LogReader, LogStore, READ_MAX};

use crate::engine::{Logs, Plan, Target};

/// The plan with a target that can be reached. Where that cannot be seen, it stays: the database says so.
pub(crate) async fn reachable(plan: Plan, store: LogStore, logs: &dyn Logs) -> Result<Plan> {
    let (Target::Position(at), Some(last)) = (&plan.target, plan.chain.last()) else { return Ok(plan) };
    let segment = u64::from(last.lineage.segment).max(1);
    let from = plan.end.saturating_sub(1) / segment * segment;
    if *at <= from || plan.end - from > READ_MAX {
        return Ok(plan);
    }
    let mut reader = LogReader::open(store, plan.chain.clone(), from).await?;
    if reader.end_from(from) < plan.end {
        return Ok(plan);
    }
    let bytes = reader.read(from..plan.end).await?;
    match logs.last_record(from, segment, &bytes) {
        Some(last) if last < *at => Ok(Plan { target: Target::End, ..plan }),
        _ => Ok(plan),
    }
}
