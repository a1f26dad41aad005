//! The operator's word on whether restored data is in use.
use std::time::Duration;

use palinurus_repository::Result;
use tokio_util::sync::CancellationToken;

use crate::engine::command::{self, Limit};

#[derive(Clone, Debug)]
pub(super) struct Probe {
    /// Empty: nobody is asked.
    pub(super) argv: Vec<String>,
    pub(super) time: Duration,
    pub(super) environment: Vec<(&'static str, String)>,
}

impl Probe {
    pub(super) async fn run(&self, operation: &str, cancel: &CancellationToken) -> Result<()> {
        let given = self.environment.iter().map(|(name, value)| (*name, value.as_str()));
        let environment: Vec<(&str, &str)> = given.chain([("PALINURUS_OPERATION", operation)]).collect();
        let limit = Limit { time: self.time, setting: "probe_timeout" };
        command::run(&self.argv, &environment, limit, cancel).await
    }
}
