mod limits;

use palinurus_proto::{from_status, v1};
use palinurus_repository::Result;
use serde::Serialize;

use limits::{LimitsView, SetLimits};

use crate::exit::Outcome;
use crate::output::{Output, table};
use crate::{Global, client, human};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Who is connected, and whether its data directory is empty.
    List {
        /// Only of this service.
        #[arg(long, short)]
        service: Option<String>,
    },
    /// What agents may use of their machines, also while something runs; without a limit: shows them.
    Limits(SetLimits),
}

#[derive(Serialize)]
struct Nodes {
    nodes: Vec<NodeView>,
}

#[derive(Serialize)]
struct NodeView {
    service: String,
    name: String,
    zone: String,
    connected: bool,
    spare: bool,
    data_empty: bool,
    /// Counts who has had the place.
    node_epoch: u64,
    engine: String,
    version: String,
    instance: String,
    last_seen: Option<String>,
    /// Of its agent's clock before the coordinator's, when it connected.
    clock_ahead_ms: i64,
    /// Set by an operator; null: the agent's own settings count.
    limits: Option<LimitsView>,
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    let service = match verb {
        Verb::List { service } => service,
        Verb::Limits(set) => return limits::run(set, global, output).await,
    };
    let mut client = client::connect(global).await?;
    let request = v1::ListNodesRequest { service: service.unwrap_or_default() };
    let nodes = client.list_nodes(request).await.map_err(from_status)?.into_inner().nodes;
    let nodes = Nodes { nodes: nodes.into_iter().map(view).collect() };
    output.data(&nodes, show);
    Ok(Outcome::Done)
}

fn view(node: v1::Node) -> NodeView {
    NodeView {
        service: node.service,
        name: node.name,
        zone: node.zone,
        connected: node.connected,
        spare: node.spare,
        node_epoch: node.node_epoch,
        data_empty: node.data_empty,
        engine: node.engine,
        version: node.version,
        instance: node.instance,
        last_seen: human::rfc3339(node.last_seen_ms),
        clock_ahead_ms: node.clock_ahead_ms,
        limits: node.limits.as_ref().map(LimitsView::of),
    }
}

fn show(nodes: &Nodes) -> String {
    let row = |node: &NodeView| {
        let state = if node.connected { "connected" } else { "away" };
        let data = match (&node.last_seen, node.data_empty) {
            (None, _) => "-",
            (Some(_), true) => "empty",
            (Some(_), false) => "present",
        };
        let data = if node.spare { format!("{data} (spare)") } else { data.to_owned() };
        let seen = node.last_seen.clone().unwrap_or_else(|| "never".into()).replacen('T', " ", 1);
        let clock = clock(node.clock_ahead_ms);
        let cells =
            [&node.service, &node.name, &node.zone, state, &data, &node.engine, &node.version, &seen, &clock];
        cells.map(str::to_owned).into()
    };
    let rows: Vec<Vec<String>> = nodes.nodes.iter().map(row).collect();
    table(
        &["SERVICE", "NODE", "ZONE", "AGENT", "DATA", "ENGINE", "VERSION", "LAST SEEN", "CLOCK"],
        &[],
        &rows,
    )
}

/// Nothing hangs on it; logs of several machines are hard to read together.
fn clock(ahead_ms: i64) -> String {
    match ahead_ms {
        _ if ahead_ms.unsigned_abs() <= 1000 => "ok".to_owned(),
        0.. => format!("{} ahead", human::seconds(ahead_ms.unsigned_abs())),
        _ => format!("{} behind", human::seconds(ahead_ms.unsigned_abs())),
    }
}
