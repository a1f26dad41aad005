//! Which backups a policy keeps, and why. Pure: no store, no clock of its own.
//!
//! The rules are restic's, which operators know: each counting rule goes from the newest backup back and keeps the
//! newest of each hour, day, … until it has its number; periods without a backup cost nothing. What two rules name is
//! kept once, with both reasons.
//!
//! 1. Complete backups are judged as if there were no partial ones, partial ones as if they were complete: a partial
//!    backup never takes the place of a complete one.
//! 2. The newest complete backup is always kept; while there is none, the newest of all.
//! 3. What is pinned, held, or needed by a log stream is kept, whatever the policy says.
//! 4. Where any moment of some time is to be restorable, so is its first: the newest complete backup from before that
//!    time is kept, from which a log leads on; while there is none, the oldest.
//! 5. A policy without a rule keeps everything.
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::BackupId;
use crate::ledger::BackupRecord;

mod forget;
mod outlook;
mod period;
mod policy;
#[cfg(test)]
mod tests;

pub use forget::{Forgot, forget};
pub use outlook::{Chores, Freed, chores, freed};
pub use period::Period;
pub(crate) use period::date;
pub use policy::{Policy, SETTINGS};

/// A backup as a policy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: BackupId,
    /// When it was committed.
    pub at: Timestamp,
    pub complete: bool,
    /// Whether a log begins there, through which later moments are reached.
    pub log: bool,
    /// Reasons outside of the policy.
    pub kept_by: Vec<Reason>,
}

impl Candidate {
    pub fn of(backup: &BackupRecord, now: Timestamp) -> Self {
        let pin = backup.pin.iter().map(|pin| Reason::Pin(pin.reason.clone()));
        let hold = backup.hold.iter().filter(|hold| hold.until > now);
        let hold = hold.map(|hold| Reason::Hold { until: hold.until, reason: hold.reason.clone() });
        Self {
            id: backup.id,
            at: backup.committed,
            complete: backup.missing.is_empty(),
            log: backup.nodes.iter().any(|node| node.log.is_some()),
            kept_by: pin.chain(hold).collect(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    NoPolicy,
    /// The how manieth, from 1.
    Last(u32),
    /// The newest of that day, month, …
    Newest(Period, String),
    /// Its rule still had room, and nothing older is there to take it.
    Oldest(Period),
    Within(String),
    Minimum(u32),
    NewestComplete,
    NewestOfAll,
    Pin(String),
    Hold {
        until: Timestamp,
        reason: String,
    },
    /// What needs it, such as a log stream that begins there.
    Needed(String),
    /// The service is powered off.
    Off,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let because = |reason: &str| if reason.is_empty() { String::new() } else { format!(": {reason}") };
        match self {
            Reason::NoPolicy => f.write_str("no policy: everything is kept"),
            Reason::Last(n) => write!(f, "last {n}"),
            Reason::Newest(period, name) => write!(f, "{period} {name}"),
            Reason::Oldest(period) => write!(f, "{period}: the oldest there is"),
            Reason::Within(span) => write!(f, "within {span}"),
            Reason::Minimum(n) => write!(f, "minimum {n}"),
            Reason::NewestComplete => f.write_str("the newest complete backup is never forgotten"),
            Reason::NewestOfAll => f.write_str("the newest backup, and none is complete"),
            Reason::Pin(reason) => write!(f, "pin{}", because(reason)),
            Reason::Hold { until, reason } => {
                write!(f, "held until {}{}", date(*until), because(reason))
            }
            Reason::Needed(by) => write!(f, "needed by {by}"),
            Reason::Off => f.write_str("the service is not on: everything is kept"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub backup: BackupId,
    /// Every reason to keep it; none: it may go.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    pub fn keeps(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Asked of all backups in the order of their commits; answers in that order.
pub fn decide(backups: &[Candidate], policy: &Policy) -> Vec<Verdict> {
    let complete: Vec<usize> = (0..backups.len()).filter(|i| backups[*i].complete).collect();
    let all: Vec<usize> = (0..backups.len()).collect();
    let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); backups.len()];
    if policy.is_empty() {
        reasons.fill(vec![Reason::NoPolicy]);
    } else {
        apply(policy, backups, &complete, |_| true, &mut reasons);
        apply(policy, backups, &all, |i| !backups[i].complete, &mut reasons);
        if let Some(base) = policy.logs.and_then(|span| base(backups, &complete, span)) {
            reasons[base].push(Reason::Needed("the log after it".to_owned()));
        }
    }
    for (backup, reasons) in backups.iter().zip(&mut reasons) {
        reasons.extend(backup.kept_by.iter().cloned());
    }
    match (complete.last(), all.last()) {
        (Some(newest), _) => reasons[*newest].push(Reason::NewestComplete),
        (None, Some(newest)) => reasons[*newest].push(Reason::NewestOfAll),
        (None, None) => {}
    }
    let kept = complete.iter().filter(|i| !reasons[**i].is_empty()).count();
    let short = (policy.minimum as usize).saturating_sub(kept);
    let spare: Vec<usize> =
        complete.iter().rev().filter(|i| reasons[**i].is_empty()).take(short).copied().collect();
    for i in spare {
        reasons[i].push(Reason::Minimum(policy.minimum));
    }
    let verdicts = backups.iter().zip(reasons);
    verdicts.map(|(backup, reasons)| Verdict { backup: backup.id, reasons }).collect()
}

/// From which the first moment of the log's time is restored, by the newest backup's clock as in the rest.
fn base(backups: &[Candidate], complete: &[usize], span: Duration) -> Option<usize> {
    let logged = || complete.iter().copied().filter(|i| backups[*i].log);
    let newest = backups[logged().next_back()?].at;
    logged().rfind(|i| newest.since(backups[*i].at) >= span).or_else(|| logged().next())
}

/// `which`: the places of those that are counted, the oldest first; reasons are noted of those that `told` names.
fn apply(
    policy: &Policy,
    backups: &[Candidate],
    which: &[usize],
    told: impl Fn(usize) -> bool,
    reasons: &mut [Vec<Reason>],
) {
    let Some(newest) = which.iter().map(|i| backups[*i].at).max() else { return };
    let mut note = |i: usize, reason: Reason| {
        if told(i) {
            reasons[i].push(reason);
        }
    };
    for (n, i) in (1..=policy.last).zip(which.iter().rev()) {
        note(*i, Reason::Last(n));
    }
    for period in Period::ALL {
        let mut room = policy.count(period);
        let mut seen = BTreeSet::new();
        for i in which.iter().rev() {
            if room == 0 {
                break;
            }
            let name = period.name(backups[*i].at, &policy.zone);
            if seen.insert(name.clone()) {
                room -= 1;
                note(*i, Reason::Newest(period, name));
            } else if which.first() == Some(i) {
                note(*i, Reason::Oldest(period));
            }
        }
    }
    if let Some((span, text)) = &policy.within {
        for i in which {
            // Counted from the newest backup: a service that makes none any more loses none either.
            if newest.since(backups[*i].at) <= *span {
                note(*i, Reason::Within(text.clone()));
            }
        }
    }
}
