//! What an engine is asked when a backup was restored for proof, and what it answers.
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::Plan;
use crate::config;

#[derive(Clone, Debug)]
pub struct ProofOrder {
    /// What was restored; may be changed.
    pub data: PathBuf,
    /// The directory that `data` lies in, for whatever else is needed. All of it goes in the end.
    pub place: PathBuf,
    pub settings: config::Drill,
    /// How far along the log, and the command that log files are asked for with.
    pub recovery: Option<(Plan, Vec<String>)>,
    /// With a program and its arguments behind it: runs that for as long as its own input stays open.
    pub guard: Vec<String>,
    /// When the restore did.
    pub began: Instant,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// From the restore's beginning until the data was of use.
    pub rto: Duration,
    /// Up to when the data goes, by the database's clock in ms since 1970; 0: nothing says so.
    pub recovered_ms: u64,
    pub position: u64,
    /// The same in the engine's own words.
    pub reached: String,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub took: Duration,
    pub told: String,
    /// It could not run, and `told` says why.
    pub skipped: bool,
    /// None: it passed.
    pub findings: Vec<String>,
}
