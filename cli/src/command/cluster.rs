use palinurus_proto::{from_status, v1};
use palinurus_repository::Result;
use serde::Serialize;

use crate::exit::Outcome;
use crate::output::{Output, fields};
use crate::{Global, client};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Who leads, and who says so. Exit code 1 when nobody leads.
    Show,
}

#[derive(Serialize)]
struct ClusterView {
    /// Null: nobody leads, as far as the one that answers knows.
    leader: Option<String>,
    /// Where it is reached.
    address: Option<String>,
    epoch: Option<u64>,
    answered_by: String,
    /// Where the state lies.
    state: String,
    name: Option<String>,
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    let Verb::Show = verb;
    let mut client = client::connect(global).await?;
    let cluster = client.get_cluster(v1::GetClusterRequest {}).await.map_err(from_status)?.into_inner();
    let led = !cluster.leader.is_empty();
    let some = |text: String| (!text.is_empty()).then_some(text);
    let view = ClusterView {
        leader: some(cluster.leader),
        address: some(cluster.address),
        epoch: led.then_some(cluster.epoch),
        answered_by: cluster.answered_by,
        state: cluster.state,
        name: some(cluster.name),
    };
    output.data(&view, show);
    Ok(if led { Outcome::Done } else { Outcome::Failed })
}

fn show(cluster: &ClusterView) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut pairs = vec![
        ("leader", cluster.leader.clone().unwrap_or_else(|| "nobody".to_owned())),
        ("address", text(&cluster.address)),
        ("epoch", text(&cluster.epoch.map(|epoch| epoch.to_string()))),
        ("state", cluster.state.clone()),
        ("answered by", cluster.answered_by.clone()),
    ];
    if let Some(name) = &cluster.name {
        pairs.insert(0, ("cluster", name.clone()));
    }
    fields(&pairs)
}
