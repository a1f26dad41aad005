//! What the coordinator's own tasks find out, and how the record takes it in.
use bytes::Bytes;
use palinurus_proto::v1::{self, TaskRecord, TaskState};
use palinurus_repository::Timestamp;
use palinurus_repository::sweep::Swept;

use super::damage::verify;
use super::note;
use super::warning::warn;
use crate::operation::progress::sum;
use crate::operation::{Chosen, OWN, Work};

/// What a task of the coordinator's own found out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Patch {
    Nothing,
    Begun {
        bases: Vec<v1::NodeManifest>,
        key_epochs: Vec<v1::KeyEpoch>,
        /// Packs of the bases, encoded.
        damaged: Bytes,
        warnings: Vec<v1::Warning>,
    },
    Committed {
        chunks_moved: u64,
    },
    /// How many of those that were to go are gone, and why others are not.
    Forgot {
        gone: u64,
        kept: Vec<String>,
    },
    /// None: it was not the time to look.
    Rewrote(Option<v1::RewriteDetail>),
    Swept(Swept),
    Checked(v1::VerifyDetail),
    /// The ledger knows of the damage.
    Marked,
    Mended(v1::MendDetail),
    /// The ledger knows of the drill.
    Drilled,
    Fenced {
        /// Who has the place now.
        told: String,
        chosen: Option<Box<Chosen>>,
    },
}

/// How a task of the coordinator's own ended.
pub(crate) fn own(
    operation: &mut v1::Operation,
    work: Work,
    ended: Result<Patch, v1::Failure>,
    now: Timestamp,
) {
    let patch = match ended {
        Ok(patch) => patch,
        Err(failure) => {
            if let Some(record) = own_record(operation, work) {
                record.set_state(TaskState::TaskFailed);
                record.failure = Some(failure);
                record.ended_ms = now.0;
            }
            operation.updated_ms = now.0;
            return;
        }
    };
    match patch {
        Patch::Nothing => {}
        Patch::Begun { bases, key_epochs, damaged, warnings } => {
            warn(operation, "", warnings, 0);
            if let Some(backup) = &mut operation.backup {
                backup.base_id = bases.first().map(|base| base.backup_id.clone()).unwrap_or_default();
                backup.bases = bases;
                backup.key_epochs = key_epochs;
                backup.damaged = damaged;
            }
        }
        Patch::Committed { chunks_moved } => {
            if let Some(backup) = &mut operation.backup {
                backup.committed = true;
                backup.chunks_moved = backup.chunks_moved.max(chunks_moved);
            }
        }
        Patch::Forgot { gone, kept } => {
            if let Some(retention) = &mut operation.retention {
                retention.backups_forgotten = gone;
            }
            for text in kept {
                note(operation, now, text);
            }
        }
        Patch::Rewrote(rewrite) => {
            if let Some(retention) = &mut operation.retention {
                retention.rewrite = rewrite;
            }
        }
        Patch::Swept(swept) => self::swept(operation, &swept, now),
        Patch::Checked(detail) => verify(operation, detail),
        Patch::Marked => {
            if let Some(verify) = &mut operation.verify {
                (verify.damaged, verify.whole) = Default::default();
            }
        }
        Patch::Mended(mend) => {
            if let Some(verify) = &mut operation.verify {
                verify.mend = Some(mend);
            }
        }
        Patch::Drilled => {
            if let Some(drill) = &mut operation.drill {
                drill.recorded = true;
            }
        }
        Patch::Fenced { told, chosen } => {
            note(operation, now, told);
            if let (Some(chosen), Some(failover)) = (chosen, &mut operation.failover) {
                failover.manifest = Some(chosen.manifest);
                failover.key_epochs = chosen.key_epochs;
                failover.logs = Some(chosen.logs);
                if let Some(moment) = chosen.moment {
                    failover.backup_ms = moment.0;
                    failover.data_age_ms = failover.gone_ms.saturating_sub(moment.0);
                }
                note(operation, now, chosen.told);
            }
        }
    }
    if let Some(record) = own_record(operation, work) {
        record.set_state(TaskState::TaskDone);
    }
    operation.updated_ms = now.0;
}

fn swept(operation: &mut v1::Operation, swept: &Swept, now: Timestamp) {
    if let Some(delete) = &mut operation.delete {
        delete.packs_condemned = swept.condemned;
        delete.packs_swept = swept.packs;
        delete.objects_deleted = swept.deleted.objects;
        delete.objects_locked = swept.deleted.locked;
        delete.locked_until_ms = swept.deleted.locked_until.map_or(0, |until| until.0);
    }
    if let Some(retention) = &mut operation.retention {
        retention.packs_condemned = swept.condemned;
        retention.packs_swept = swept.packs;
        retention.objects_deleted = swept.deleted.objects;
        retention.bytes_deleted = swept.deleted.bytes;
        retention.temporaries = swept.deleted.temporaries;
        retention.objects_locked = swept.deleted.locked;
        retention.locked_until_ms = swept.deleted.locked_until.map_or(0, |until| until.0);
        retention.packs_waiting = swept.waiting;
        retention.waits_for = swept.waits_for.iter().map(ToString::to_string).collect();
    }
    if swept.waiting > 0 {
        let text = format!("{} packs wait for {} open transactions", swept.waiting, swept.waits_for.len());
        note(operation, now, text);
    }
    if swept.gave_way {
        note(operation, now, "stopped before all was deleted: the next run goes on");
    }
}

/// How far a task of the coordinator's own is.
pub(crate) fn own_progress(operation: &mut v1::Operation, work: Work, progress: v1::Progress) {
    if let Some(record) = own_record(operation, work) {
        let requests = record.progress.and_then(|before| before.requests);
        record.progress = Some(v1::Progress { requests, ..progress });
    }
    operation.progress = Some(sum(&operation.tasks));
}

/// What a task of the coordinator's own has asked of the store.
pub(crate) fn own_requests(operation: &mut v1::Operation, work: Work, requests: v1::Requests) {
    if let Some(record) = own_record(operation, work) {
        let progress = record.progress.get_or_insert_default();
        progress.requests.get_or_insert_default().add(&requests);
    }
    operation.progress = Some(sum(&operation.tasks));
}

fn own_record(operation: &mut v1::Operation, work: Work) -> Option<&mut TaskRecord> {
    operation.tasks.iter_mut().find(|record| record.node == OWN && record.name == work.name())
}
