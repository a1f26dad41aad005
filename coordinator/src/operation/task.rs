//! The message that asks a node for its share of a phase, made from the record alone: sent again after a crash it
//! is the same message.
use bytes::Bytes;
use palinurus_proto::v1::{self, TaskState, task};
use palinurus_repository::{Error, Result, TransactionId};

use super::{Work, agree, record};

pub(crate) fn task(
    operation: &v1::Operation,
    repository: &str,
    freeze_limit: std::time::Duration,
    node: &str,
    work: Work,
) -> Result<v1::Task> {
    let transaction = || -> Result<Bytes> {
        let id: TransactionId = operation.backup.as_ref().map_or("", |backup| &backup.backup_id).parse()?;
        Ok(Bytes::copy_from_slice(id.as_bytes()))
    };
    let base = || {
        let bases = operation.backup.iter().flat_map(|backup| &backup.bases);
        bases.clone().find(|base| base.node == node).map(|base| base.manifest.clone()).unwrap_or_default()
    };
    let work_of = match work {
        Work::Inspect => task::Work::Inspect(v1::InspectTask {}),
        Work::Freeze => task::Work::Freeze(v1::FreezeTask {
            dead_man_seconds: u32::try_from(freeze_limit.as_secs()).unwrap_or(u32::MAX).max(1),
        }),
        Work::Snapshot => task::Work::Snapshot(v1::SnapshotTask {}),
        Work::Thaw => task::Work::Thaw(v1::ThawTask { compare: agree::is_compared(operation) }),
        Work::Upload => task::Work::Upload(v1::UploadTask {
            transaction: transaction()?,
            base: base(),
            position: operation.nodes.iter().position(|each| each == node).unwrap_or_default() as u32,
            nodes: operation.nodes.len() as u32,
            take_over: has_uploaded(operation, node),
            damaged: operation.backup.as_ref().map(|backup| backup.damaged.clone()).unwrap_or_default(),
        }),
        Work::Manifest => {
            task::Work::Manifest(v1::ManifestTask { transaction: transaction()?, base: base() })
        }
        Work::Release => task::Work::Release(v1::ReleaseTask {}),
        Work::Restore => task::Work::Restore(restore(operation, node)?),
        Work::Verify => task::Work::Verify(v1::VerifyTask {
            read_data: operation.verify.as_ref().is_some_and(|verify| verify.read_data),
            percent: operation.verify.as_ref().map_or(0, |verify| verify.percent),
            day: operation.verify.as_ref().map_or(0, |verify| verify.day),
        }),
        Work::Probe => task::Work::Probe(v1::ProbeTask {
            wait: true,
            follows: operation.failover.as_ref().is_some_and(|failover| !failover.follows.is_empty()),
        }),
        Work::Drill => task::Work::Drill(drill(operation, node)?),
        own => return Err(Error::internal(format!("{} is no task of an agent", own.name()))),
    };
    Ok(v1::Task {
        operation: operation.id.clone(),
        task: work.name().to_owned(),
        attempt: record::attempt(operation, node, work),
        service: operation.service.clone(),
        node: node.to_owned(),
        repository: repository.to_owned(),
        key_epochs: key_epochs(operation).to_vec(),
        work: Some(work_of),
    })
}

/// Of all that the operation's tasks may write or read.
fn key_epochs(operation: &v1::Operation) -> &[v1::KeyEpoch] {
    let backup = operation.backup.as_ref().map(|detail| &detail.key_epochs);
    let restore = || operation.restore.as_ref().map(|detail| &detail.key_epochs);
    let failover = || operation.failover.as_ref().map(|detail| &detail.key_epochs);
    let drill = || operation.drill.as_ref().map(|detail| &detail.key_epochs);
    backup.or_else(restore).or_else(failover).or_else(drill).map_or(&[], Vec::as_slice)
}

/// An attempt before this one has got to its end.
fn has_uploaded(operation: &v1::Operation, node: &str) -> bool {
    let upload = |record: &&v1::TaskRecord| record.node == node && record.name == Work::Upload.name();
    operation.tasks.iter().filter(upload).any(|record| record.state() == TaskState::TaskDone)
}

fn restore(operation: &v1::Operation, node: &str) -> Result<v1::RestoreTask> {
    if let Some(failover) = &operation.failover {
        let manifest = failover.manifest.as_ref();
        let manifest = manifest.filter(|_| failover.node == node).ok_or_else(|| {
            Error::internal(format!("operation {} names no manifest for {node}", operation.id))
        })?;
        // Never onto data, whatever was seen when this was planned.
        return Ok(v1::RestoreTask {
            manifest: manifest.manifest.clone(),
            backup_id: manifest.backup_id.clone(),
            delta: false,
            logs: failover.logs.clone(),
            from_peers: failover.from_peers,
            ..v1::RestoreTask::default()
        });
    }
    let detail = operation.restore.as_ref();
    let manifest = detail.and_then(|detail| detail.manifests.iter().find(|each| each.node == node));
    let manifest = manifest
        .ok_or_else(|| Error::internal(format!("operation {} names no manifest for {node}", operation.id)))?;
    let plan = detail.and_then(|detail| detail.plan.as_ref());
    Ok(v1::RestoreTask {
        manifest: manifest.manifest.clone(),
        backup_id: manifest.backup_id.clone(),
        delta: plan.is_some_and(|plan| plan.delta),
        logs: plan.and_then(|plan| plan.logs.as_deref().cloned()),
        parent: detail.and_then(|detail| detail.parent.clone()),
        choice: plan.and_then(|plan| plan.choice.clone()),
        peers: detail.map(|detail| peers(detail, node)).unwrap_or_default(),
        from_peers: false,
    })
}

/// Of a node that is restored onto another nobody knows what it is called there: it is left out, by all of them.
fn peers(detail: &v1::RestoreDetail, node: &str) -> Vec<v1::NodeManifest> {
    let own = || detail.plan.iter().flat_map(|plan| &plan.nodes).filter(|it| it.node == it.source);
    let shard = own().find(|it| it.node == node).map_or("", |it| it.shard.as_str());
    let is_peer = |each: &&v1::NodeManifest| {
        each.node != node && own().any(|it| it.node == each.node && it.shard == shard)
    };
    match shard {
        "" => Vec::new(),
        _ => detail.manifests.iter().filter(is_peer).cloned().collect(),
    }
}

fn drill(operation: &v1::Operation, node: &str) -> Result<v1::DrillTask> {
    let detail = operation.drill.as_ref();
    let part = detail.and_then(|detail| detail.parts.iter().find(|part| part.node == node));
    let (Some(detail), Some(part)) = (detail, part) else {
        return Err(Error::internal(format!("operation {} names no manifest for {node}", operation.id)));
    };
    Ok(v1::DrillTask {
        manifest: part.manifest.clone(),
        backup_id: detail.backup_id.clone(),
        source: part.source.clone(),
        logs: detail.logs.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_those_of_the_shard_that_are_restored_onto_themselves() {
        let nodes =
            [("a1", "a1", "a"), ("a2", "a2", "a"), ("a3", "a1", "a"), ("b1", "b1", "b"), ("x", "x", "")];
        let assignment = |(node, source, shard): &(&str, &str, &str)| v1::RestoreAssignment {
            node: (*node).to_owned(),
            source: (*source).to_owned(),
            shard: (*shard).to_owned(),
            ..Default::default()
        };
        let plan = v1::RestorePlan { nodes: nodes.iter().map(assignment).collect(), ..Default::default() };
        let manifest = |(node, ..): &(&str, &str, &str)| v1::NodeManifest {
            node: (*node).to_owned(),
            ..Default::default()
        };
        let detail = v1::RestoreDetail {
            plan: Some(plan),
            manifests: nodes.iter().map(manifest).collect(),
            ..Default::default()
        };
        let of =
            |node: &str| -> Vec<String> { peers(&detail, node).into_iter().map(|each| each.node).collect() };
        assert_eq!((of("a1"), of("a2")), (vec!["a2".to_owned()], vec!["a1".to_owned()]));
        assert!(of("a3").is_empty() && of("b1").is_empty() && of("x").is_empty());
    }
}
