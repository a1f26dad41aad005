//! What is said to a service's actor.
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::Result;
use ractor::ActorId;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::failover::Wanted;
use super::logs::LogPlace;
use super::power;
use super::retention::Surveyed;
use super::schedule::Seen;
use crate::actor::Reply;
use crate::actor::agent::{Outbound, Permit};
use crate::drill::Prepared;
use crate::failover::Sources;
use crate::operation::Detail;
use crate::vault::Vault;

#[derive(Debug)]
pub(crate) enum ServiceMsg {
    Describe(Reply<Described>),
    /// The service as it is to be; validated, and the same repository.
    Apply(Box<v1::Service>, Reply<v1::Service>),
    Connect(Box<Connect>, Reply<Admission>),
    Report {
        node: Arc<str>,
        from: ActorId,
        report: Box<v1::TaskReport>,
        permit: Permit,
    },
    Beat {
        node: Arc<str>,
        from: ActorId,
        beat: v1::Heartbeat,
        permit: Permit,
    },
    /// Over which nodes: empty for all.
    Start {
        detail: Box<Detail>,
        nodes: Vec<String>,
        to: Reply<v1::Operation>,
    },
    Cancel(String, Reply<v1::Operation>),
    Vault(Reply<Arc<Vault>>),
    /// What a failover would do; changes nothing.
    PlanFailover(Box<Wanted>, Reply<v1::FailoverPlan>),
    ApplyFailover(Box<Wanted>, Reply<v1::Operation>),
    /// Gives a place to another agent: a step of the failover that runs.
    Fence(Box<v1::FailoverDetail>, Reply<String>),
    /// Look again whether a place needs another agent.
    Reconsider,
    Surveyed(Sources),
    /// Checked: that operation runs, with that node and transaction.
    Claim(v1::ClaimOpen, Reply<Arc<Vault>>),
    /// Checked: that agent has the place, and may write the log.
    Log(v1::LogOpen, Reply<LogPlace>),
    /// A full backup is wanted, and why.
    WantBackup(String),
    /// What was wanted, when nothing else runs.
    LogBackup,
    /// A backup is due if none was begun since the last failover.
    Rebuilt,
    /// The clock says that retention should look.
    RetentionDue,
    RetentionSurveyed(Box<Surveyed>),
    /// Look whether a backup is due.
    Schedule,
    ScheduleSeen(Box<Seen>),
    /// Look whether data is to be read again.
    Scrub,
    /// Look whether a drill is due.
    Drill,
    DrillPlanned(Box<Result<Prepared>>),
    PowerOff {
        no_backup: bool,
        to: Reply<v1::Service>,
    },
    PowerOn {
        delta: bool,
        to: Reply<v1::Service>,
    },
    /// Nothing in the repository stands against it.
    Delete(Reply<v1::Service>),
    /// Look what a service that is not on waits for.
    Power,
    PowerSeen(Box<power::Seen>),
    Open,
    Opened(Result<Arc<Vault>>),
    /// What agents may use of their machines; the nodes as they are then.
    SetLimits(Box<v1::SetLimitsRequest>, Reply<Vec<v1::Node>>),
    /// Give out the releases that connected nodes are owed.
    Clean,
    /// Run the operation that waits, if one does.
    Resume,
    /// Look again how the operation ended whose actor is gone.
    OperationEnded {
        why: String,
        failed: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) hello: v1::Hello,
    /// Its certificate is a spare's.
    pub(crate) spare: bool,
    pub(crate) outbound: Outbound,
    pub(crate) over: CancellationToken,
}

#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) service: v1::Service,
    pub(crate) nodes: Vec<v1::Node>,
}
