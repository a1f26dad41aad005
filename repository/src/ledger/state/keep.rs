//! Pins and holds: backups that nobody forgets, whatever a policy says.
use std::sync::Arc;

use super::State;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::ledger::{BackupRecord, Body};

const REASON_MAX: usize = 500;

/// Until it is unpinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub reason: String,
    pub since: Timestamp,
}

/// Until that time. It can be made longer; only taking it away ends it earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub until: Timestamp,
    pub reason: String,
    pub since: Timestamp,
}

impl BackupRecord {
    /// Why it must not be forgotten at that time.
    pub fn check_free(&self, now: Timestamp) -> Result<()> {
        let id = self.id;
        if let Some(pin) = &self.pin {
            return Err(Error::conflict(format!("backup {id} is pinned{}", because(&pin.reason)))
                .with_hint(format!("`palinurus backup unpin {id}` first")));
        }
        match self.hold.as_ref().filter(|hold| hold.until > now) {
            None => Ok(()),
            Some(hold) => Err(Error::conflict(format!(
                "backup {id} is held until {}{}",
                crate::retention::date(hold.until),
                because(&hold.reason)
            ))
            .with_hint(format!(
                "wait until then; an administrator can end it: `palinurus backup unhold {id}`"
            ))),
        }
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

fn check_reason(reason: &str) -> Result<()> {
    if reason.chars().count() > REASON_MAX || reason.chars().any(char::is_control) {
        return Err(Error::invalid("the reason is too long, or no plain text")
            .with_hint(format!("at most {REASON_MAX} characters on one line")));
    }
    Ok(())
}

impl State {
    /// By the record's own time, so that every reader of the ledger decides alike.
    pub(super) fn check_forget(&self, backup: BackupId, at: Timestamp) -> Result<()> {
        let found = self.check_backup(backup)?;
        if self.rules.pins { found.check_free(at) } else { Ok(()) }
    }

    pub(super) fn check_pin(&self, backup: BackupId, reason: &str) -> Result<()> {
        check_reason(reason)?;
        self.check_backup(backup).map(drop)
    }

    pub(super) fn check_unpin(&self, backup: BackupId) -> Result<()> {
        match self.check_backup(backup)?.pin {
            Some(_) => Ok(()),
            None => Err(Error::conflict(format!("backup {backup} is not pinned"))),
        }
    }

    pub(super) fn check_hold(&self, backup: BackupId, until: Timestamp, reason: &str) -> Result<()> {
        check_reason(reason)?;
        match &self.check_backup(backup)?.hold {
            Some(hold) if hold.until > until => Err(Error::conflict(format!(
                "backup {backup} is held until {} already",
                crate::retention::date(hold.until)
            ))
            .with_hint("a hold can be made longer, not shorter")),
            _ => Ok(()),
        }
    }

    pub(super) fn check_unhold(&self, backup: BackupId) -> Result<()> {
        match self.check_backup(backup)?.hold {
            Some(_) => Ok(()),
            None => Err(Error::conflict(format!("backup {backup} is not held"))),
        }
    }

    /// Folds a checked pin, hold, or the end of one.
    pub(super) fn keep(&mut self, body: &Body, at: Timestamp) {
        let (Body::Pin { backup, .. }
        | Body::Unpin { backup }
        | Body::Hold { backup, .. }
        | Body::Unhold { backup }) = body
        else {
            return;
        };
        let slot = self.slot(*backup);
        let Some(record) = slot.and_then(|slot| self.backups.get_mut(&slot)) else { return };
        let record = Arc::make_mut(record);
        match body {
            Body::Pin { reason, .. } => record.pin = Some(Pin { reason: reason.clone(), since: at }),
            Body::Hold { until, reason, .. } => {
                record.hold = Some(Hold { until: *until, reason: reason.clone(), since: at });
            }
            Body::Unhold { .. } => record.hold = None,
            _ => record.pin = None,
        }
    }
}
