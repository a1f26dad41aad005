//! A lost node: who takes its place, by hand, and what has happened by itself.
use palinurus_proto::v1::OperationKind;
use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, Result};
use serde::Serialize;

use crate::command::backup::follow_or_detach;
use crate::command::operation::OperationView;
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::output::{Output, fields, table};
use crate::{Global, client, human};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Shows what `apply` would do, and what happens without it; changes nothing.
    Plan(Wanted),
    /// Gives the node's place to another agent, shuts the old one out, and restores its newest backup there.
    Apply {
        #[command(flatten)]
        wanted: Wanted,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Return at once with the operation's id.
        #[arg(long)]
        detach: bool,
    },
    /// What was done, and what every node that is not well waits for.
    List {
        /// Only of this service.
        #[arg(long, short)]
        service: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    service: String,
    /// The lost one.
    node: String,
    /// A spare that takes its place; without it: the agent that has connected for the node, else a spare that is free.
    #[arg(long, value_name = "SPARE")]
    onto: Option<String>,
    /// An id, or a unique prefix of one; without it: the newest that has the node.
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
}

/// Times are RFC 3339, spans milliseconds.
#[derive(Serialize)]
pub(crate) struct FailoverView {
    lost: String,
    /// Who is restored onto.
    node: String,
    instance: String,
    /// The agent that had the place and is shut out.
    fenced: String,
    node_epoch: u64,
    /// The node that it is made a replica of.
    follows: Option<String>,
    backup: Option<String>,
    automatic: bool,
    gone: Option<String>,
    /// The moment that the restored data stands for.
    data_of: Option<String>,
    /// From the loss until it is in use again; null: not yet.
    rto_ms: Option<u64>,
    /// What was written in this time before the loss may be lost.
    data_age_ms: u64,
}

impl FailoverView {
    pub(crate) fn of(detail: &v1::FailoverDetail) -> Self {
        Self {
            lost: detail.lost.clone(),
            node: detail.node.clone(),
            instance: detail.instance.clone(),
            fenced: detail.fenced.clone(),
            node_epoch: detail.node_epoch,
            follows: Some(detail.follows.clone()).filter(|node| !node.is_empty()),
            backup: detail.manifest.as_ref().map(|manifest| manifest.backup_id.clone()),
            automatic: detail.automatic,
            gone: human::rfc3339(detail.gone_ms),
            data_of: human::rfc3339(detail.backup_ms),
            rto_ms: (detail.rto_ms > 0).then_some(detail.rto_ms),
            data_age_ms: detail.data_age_ms,
        }
    }

    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".into()).replacen('T', " ", 1);
        let mut rows = vec![
            ("lost", format!("{}, gone since {}", self.lost, time(&self.gone))),
            ("onto", format!("{}, agent {}", self.node, self.instance)),
        ];
        if let Some(backup) = &self.backup {
            rows.push(("from", format!("backup {backup}, data of {}", time(&self.data_of))));
        }
        if let Some(follows) = &self.follows {
            rows.push(("replica of", follows.clone()));
        }
        if !self.fenced.is_empty() {
            rows.push(("shut out", format!("agent {}", self.fenced)));
        }
        rows.push(("data age", human::seconds(self.data_age_ms)));
        if let Some(rto) = self.rto_ms {
            rows.push(("in use after", human::seconds(rto)));
        }
        rows
    }
}

#[derive(Serialize)]
struct PlanView {
    service: String,
    failover: FailoverView,
    files: u64,
    bytes: u64,
    reasons: Vec<String>,
    warnings: Vec<String>,
    /// Not empty: `apply` will refuse, and why.
    refusals: Vec<String>,
    /// What happens without anybody asking.
    automatic: String,
}

#[derive(Serialize)]
struct Failovers {
    failovers: Vec<OperationView>,
    waiting: Vec<PlanView>,
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    match verb {
        Verb::Plan(wanted) => plan(wanted, global, output).await,
        Verb::Apply { wanted, yes, detach } => apply(wanted, yes, detach, global, output).await,
        Verb::List { service } => list(service.unwrap_or_default(), global, output).await,
    }
}

async fn plan(wanted: Wanted, global: &Global, output: &Output) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    let view = PlanView::of(&ask(&mut client, wanted.request()).await?);
    output.data(&view, show);
    Ok(if view.refusals.is_empty() { Outcome::Done } else { Outcome::Failed })
}

async fn apply(wanted: Wanted, yes: bool, detach: bool, global: &Global, output: &Output) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    let plan = ask(&mut client, wanted.request()).await?;
    output.note(show(&PlanView::of(&plan)));
    if !plan.refusals.is_empty() {
        return Err(Error::conflict(format!(
            "this failover cannot be applied: {}",
            plan.refusals.join("; ")
        )));
    }
    let detail = plan.failover.unwrap_or_default();
    let question = format!(
        "Restore {} onto {} and shut its former agent out? What was written after the backup is lost.",
        detail.lost, detail.node
    );
    if !confirm(yes, &question)? {
        output.note("nothing was changed");
        return Ok(Outcome::Declined);
    }
    // Exactly what was shown: there may be another spare and another backup by now.
    let request = v1::FailoverRequest {
        service: plan.service,
        node: detail.lost,
        onto: detail.node,
        backup: detail.manifest.unwrap_or_default().backup_id,
    };
    let started = client.apply_failover(request).await.map_err(from_status)?.into_inner();
    follow_or_detach(global, output, &started, detach).await
}

async fn list(service: String, global: &Global, output: &Output) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    let request = v1::ListOperationsRequest { service: service.clone(), running: false };
    let operations = client.list_operations(request).await.map_err(from_status)?.into_inner().operations;
    let past = operations.iter().filter(|operation| operation.kind() == OperationKind::Failover);
    let failovers = past.map(OperationView::of).collect();
    let nodes = client.list_nodes(v1::ListNodesRequest { service }).await.map_err(from_status)?;
    let unwell =
        |node: &v1::Node| !node.spare && node.last_seen_ms > 0 && (!node.connected || node.data_empty);
    let mut waiting = Vec::new();
    for node in nodes.into_inner().nodes.into_iter().filter(unwell) {
        let request = v1::FailoverRequest { service: node.service, node: node.name, ..Default::default() };
        waiting.push(PlanView::of(&ask(&mut client, request).await?));
    }
    output.data(&Failovers { failovers, waiting }, show_list);
    Ok(Outcome::Done)
}

async fn ask(client: &mut client::Client, request: v1::FailoverRequest) -> Result<v1::FailoverPlan> {
    Ok(client.plan_failover(request).await.map_err(from_status)?.into_inner())
}

impl Wanted {
    fn request(self) -> v1::FailoverRequest {
        v1::FailoverRequest {
            service: self.service,
            node: self.node,
            onto: self.onto.unwrap_or_default(),
            backup: self.backup.unwrap_or_default(),
        }
    }
}

impl PlanView {
    fn of(plan: &v1::FailoverPlan) -> Self {
        Self {
            service: plan.service.clone(),
            failover: FailoverView::of(plan.failover.as_ref().unwrap_or(&v1::FailoverDetail::default())),
            files: plan.files,
            bytes: plan.bytes,
            reasons: plan.reasons.clone(),
            warnings: plan.warnings.clone(),
            refusals: plan.refusals.clone(),
            automatic: plan.automatic.clone(),
        }
    }
}

fn show(plan: &PlanView) -> String {
    let mut pairs = vec![("service", plan.service.clone())];
    if plan.failover.node.is_empty() {
        pairs.push(("lost", plan.failover.lost.clone()));
    } else {
        pairs.extend(plan.failover.rows());
        pairs.push(("data", format!("{} in {} files", human::size(plan.bytes), human::count(plan.files))));
    }
    pairs.push(("by itself", plan.automatic.clone()));
    let mut text = fields(&pairs);
    for (what, lines) in
        [("because", &plan.reasons), ("warning", &plan.warnings), ("refused", &plan.refusals)]
    {
        for line in lines {
            text.push_str(&format!("{what}: {}\n", human::name(line.as_bytes())));
        }
    }
    text
}

fn show_list(found: &Failovers) -> String {
    let row = |operation: &OperationView| {
        let failover = operation.failover.as_ref();
        let of = |cell: fn(&FailoverView) -> String| failover.map(cell).unwrap_or_default();
        vec![
            operation.id.clone(),
            operation.service.clone(),
            of(|failover| failover.lost.clone()),
            of(|failover| failover.node.clone()),
            of(|failover| if failover.automatic { "itself".into() } else { "hand".into() }),
            operation.state.to_owned(),
            operation.created.clone().unwrap_or_default().replacen('T', " ", 1),
            of(|failover| failover.rto_ms.map_or_else(|| "-".into(), human::seconds)),
            of(|failover| human::seconds(failover.data_age_ms)),
        ]
    };
    let rows: Vec<Vec<String>> = found.failovers.iter().map(row).collect();
    let header =
        ["OPERATION", "SERVICE", "LOST", "ONTO", "BY", "STATE", "STARTED", "IN USE AFTER", "DATA AGE"];
    let mut text = table(&header, &[7, 8], &rows);
    for plan in &found.waiting {
        let automatic = human::name(plan.automatic.as_bytes());
        text.push_str(&format!("\n{} of {}: {automatic}", plan.failover.lost, plan.service));
    }
    text
}
