//! What an operator of many services asks.
use palinurus_proto::{from_failure, from_status, v1};
use palinurus_repository::{Error, Result};
use tokio::task::JoinSet;

use crate::client::Client;

/// Commands at a time.
const ASKING: usize = 16;

#[derive(Default)]
pub(super) struct Planned {
    pub(super) backups: u64,
    pub(super) files: u64,
}

pub(super) async fn apply(client: &Client, requests: Vec<v1::ApplyServiceRequest>) -> Result<()> {
    at_once(requests, |request| {
        let mut client = client.clone();
        async move { client.apply_service(request).await.map_err(from_status).map(drop) }
    })
    .await
    .map(drop)
}

/// One of each service, all at once. Returns the operations' ids.
pub(super) async fn start_backups(client: &Client, services: &[String]) -> Result<Vec<String>> {
    at_once(services.to_vec(), |service| {
        let mut client = client.clone();
        let request = v1::StartBackupRequest { service, full: false };
        async move { Ok(client.start_backup(request).await.map_err(from_status)?.into_inner().id) }
    })
    .await
}

/// Of each service's newest backup, one after the other, as an operator would ask.
pub(super) async fn plans(client: &mut Client, services: &[String]) -> Result<Planned> {
    let mut planned = Planned::default();
    for service in services {
        let request = v1::RestoreRequest {
            service: service.clone(),
            backup: "latest".into(),
            delta: true,
            ..Default::default()
        };
        let plan = client.plan_restore(request).await.map_err(from_status)?.into_inner();
        planned.files += plan.nodes.iter().map(|node| node.files).sum::<u64>();
        let listed = client.list_backups(v1::ListBackupsRequest { service: service.clone() }).await;
        planned.backups += listed.map_err(from_status)?.into_inner().backups.len() as u64;
    }
    Ok(planned)
}

/// Some of them at a time; the answers in any order.
async fn at_once<Q: Send + 'static, A: Send + 'static, F>(
    all: impl IntoIterator<Item = Q>,
    ask: impl Fn(Q) -> F,
) -> Result<Vec<A>>
where
    F: Future<Output = Result<A>> + Send + 'static,
{
    let (mut asked, mut answers) = (JoinSet::new(), Vec::new());
    let answer =
        |one| Result::and_then(Result::map_err(one, |e| Error::internal("a task").with_source(e)), |it| it);
    for one in all {
        if asked.len() >= ASKING
            && let Some(one) = asked.join_next().await
        {
            answers.push(answer(one)?);
        }
        asked.spawn(ask(one));
    }
    while let Some(one) = asked.join_next().await {
        answers.push(answer(one)?);
    }
    Ok(answers)
}

pub(super) fn longest(operations: &[v1::Operation], of: fn(&v1::Operation) -> Option<u64>) -> f64 {
    operations.iter().filter_map(of).max().unwrap_or_default() as f64 / 1000.0
}

/// From the request until the first agent is told what to upload.
pub(super) fn until_planned(operation: &v1::Operation) -> Option<u64> {
    let told = operation.tasks.iter().filter(|task| task.name == "upload").map(|task| task.assigned_ms).min();
    Some(told?.saturating_sub(operation.created_ms))
}

/// The agents are released once the backup exists.
pub(super) fn until_released(operation: &v1::Operation) -> Option<u64> {
    let asked = operation.tasks.iter().find(|task| task.name == "commit")?.assigned_ms;
    let released = operation.tasks.iter().filter(|task| task.name == "release").map(|task| task.assigned_ms);
    Some(released.min()?.saturating_sub(asked))
}

pub(super) fn failed(operation: &v1::Operation) -> Error {
    let failure = operation.failure.as_ref().map(from_failure);
    let why = failure.map_or_else(|| operation.state().as_str_name().to_owned(), |failure| failure.chain());
    Error::unavailable(format!("the backup of {} did not succeed", operation.service)).with_source(why)
}
