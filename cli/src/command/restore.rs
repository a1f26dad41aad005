//! Restore through the coordinator. Without one, see [`crate::command::offline`].
use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, Result};
use serde::Serialize;

use crate::command::backup::follow_or_detach;
use crate::command::offline::{self, Offline};
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::output::{Output, fields, table};
use crate::{Global, client, human, target};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Restore {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    offline: Option<Offline>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Shows what `apply` would do; changes nothing.
    Plan(Wanted),
    /// Restores nodes onto their agents' data directories.
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
}

#[derive(Debug, clap::Args)]
struct Wanted {
    /// An id, a unique prefix of one, or `latest`.
    #[arg(default_value = "latest")]
    backup: String,
    /// May be left out when there is only one.
    #[arg(long, short)]
    service: Option<String>,
    /// A fork: onto the nodes of this other service, which must be new, and which goes on by itself.
    #[arg(long, value_name = "SERVICE", conflicts_with = "delta")]
    into: Option<String>,
    /// NODE, or NODE=SOURCE to write onto NODE what SOURCE held; may be repeated. Without it: every node.
    #[arg(long = "node", value_name = "NODE[=SOURCE]")]
    nodes: Vec<String>,
    /// Rewrite what differs in a directory that holds data; files that the backup does not have are removed.
    #[arg(long)]
    delta: bool,
    /// These tables alone, beside what is there: DATABASE.TABLE or DATABASE.*, several between commas; may be repeated. Names with
    /// other signs go into backquotes. Of a clickhouse.
    #[arg(long, value_name = "TABLES", conflicts_with_all = ["delta", "into", "to"])]
    tables: Vec<String>,
    /// DATABASE=OTHER or DATABASE.TABLE=OTHER.NAME: restore what is chosen under another name; may be repeated.
    #[arg(long, value_name = "OLD=NEW", requires = "tables")]
    rename: Vec<String>,
    /// Go along the log behind the backup: latest, immediate, a time in UTC, a position like 16/B374D848, or name:NAME.
    /// Without it: the backup as it is.
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
    /// The history that leads there, or the beginning of its id: where the log has forked, and another than the one that is
    /// written now is meant.
    #[arg(long, requires = "to")]
    lineage: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct PlanView {
    service: String,
    /// The service that becomes a fork; empty: none does.
    into: String,
    backup: String,
    delta: bool,
    /// Where it ends, when it goes along the log.
    to: Option<String>,
    /// None: all of the backup.
    tables: Vec<String>,
    renames: Vec<String>,
    nodes: Vec<AssignmentView>,
    warnings: Vec<String>,
    /// Not empty: `apply` will refuse, and why.
    refusals: Vec<String>,
}

#[derive(Serialize)]
struct AssignmentView {
    /// The node written to.
    node: String,
    /// The node in the backup.
    source: String,
    files: u64,
    bytes: u64,
    data_empty: bool,
    connected: bool,
    /// Nodes of one shard hold the same.
    #[serde(skip_serializing_if = "String::is_empty")]
    shard: String,
}

pub(crate) async fn run(restore: Restore, global: &Global, output: &Output) -> Result<Outcome> {
    match (restore.verb, restore.offline) {
        (Some(Verb::Plan(wanted)), _) => plan(wanted, global, output).await,
        (Some(Verb::Apply { wanted, yes, detach }), _) => apply(wanted, yes, detach, global, output).await,
        (None, Some(offline)) => offline::run(offline, output).await,
        (None, None) => Err(Error::invalid("restore what, and from where?").with_hint(
            "`palinurus restore apply` goes through the coordinator; \
             `palinurus restore --repository URL --keys FILE --target DIR` needs none",
        )),
    }
}

async fn plan(wanted: Wanted, global: &Global, output: &Output) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    let plan = ask(&mut client, wanted).await?;
    let view = PlanView::of(&plan);
    output.data(&view, show);
    Ok(if view.refusals.is_empty() { Outcome::Done } else { Outcome::Failed })
}

async fn apply(wanted: Wanted, yes: bool, detach: bool, global: &Global, output: &Output) -> Result<Outcome> {
    let aimed = wanted.to.is_some();
    let mut client = client::connect(global).await?;
    let plan = ask(&mut client, wanted).await?;
    output.note(show(&PlanView::of(&plan)));
    if !plan.refusals.is_empty() {
        return Err(Error::conflict(format!("this restore cannot be applied: {}", plan.refusals.join("; "))));
    }
    let question = match plan.delta {
        _ if plan.choice.is_some() => "Restore these tables into the servers in use?",
        _ if !plan.into.is_empty() => "Fork into the empty data directories of these nodes?",
        true => "Restore? What differs in the data directories of these nodes is overwritten or removed.",
        false => "Restore into the empty data directories of these nodes?",
    };
    if !confirm(yes, question)? {
        output.note("nothing was changed");
        return Ok(Outcome::Declined);
    }
    let goes_on = plan.logs.filter(|_| aimed);
    // Exactly what was shown: `latest` may be another one by now.
    let nodes = plan.nodes.iter().map(|node| format!("{}={}", node.node, node.source)).collect();
    let request = v1::RestoreRequest {
        service: plan.service,
        backup: plan.backup_id,
        nodes,
        delta: plan.delta,
        target: goes_on.and_then(|logs| logs.target),
        into: plan.into,
        choice: plan.choice,
    };
    let started = client.apply_restore(request).await.map_err(from_status)?.into_inner();
    follow_or_detach(global, output, &started, detach).await
}

async fn ask(client: &mut client::Client, wanted: Wanted) -> Result<v1::RestorePlan> {
    let service = client::service(client, wanted.service).await?;
    let target = wanted.to.as_deref().map(target::parse).transpose()?;
    let target =
        target.map(|to| v1::LogTarget { target: Some(to), lineage: wanted.lineage.unwrap_or_default() });
    let request = v1::RestoreRequest {
        service,
        backup: wanted.backup,
        nodes: wanted.nodes,
        delta: wanted.delta,
        target,
        into: wanted.into.unwrap_or_default(),
        choice: (!wanted.tables.is_empty())
            .then_some(v1::Choice { tables: wanted.tables, renames: wanted.rename }),
    };
    Ok(client.plan_restore(request).await.map_err(from_status)?.into_inner())
}

impl PlanView {
    pub(crate) fn of(plan: &v1::RestorePlan) -> Self {
        let nodes = plan.nodes.iter().map(|node| AssignmentView {
            node: node.node.clone(),
            source: node.source.clone(),
            files: node.files,
            bytes: node.bytes,
            data_empty: node.data_empty,
            connected: node.connected,
            shard: node.shard.clone(),
        });
        let choice = plan.choice.clone().unwrap_or_default();
        Self {
            service: plan.service.clone(),
            into: plan.into.clone(),
            backup: plan.backup_id.clone(),
            delta: plan.delta,
            to: plan.logs.as_ref().and_then(|logs| logs.target.as_ref()?.target.as_ref()).map(target::show),
            tables: choice.tables,
            renames: choice.renames,
            nodes: nodes.collect(),
            warnings: plan.warnings.clone(),
            refusals: plan.refusals.clone(),
        }
    }
}

fn show(plan: &PlanView) -> String {
    let rows: Vec<Vec<String>> = plan
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.node.clone(),
                match node.shard.as_str() {
                    "" => node.source.clone(),
                    shard => format!("{} (shard {})", node.source, human::name(shard.as_bytes())),
                },
                human::count(node.files),
                human::size(node.bytes),
                if node.data_empty { "empty".into() } else { "present".into() },
                if node.connected { "connected".into() } else { "away".into() },
            ]
        })
        .collect();
    let service = match plan.into.as_str() {
        "" => plan.service.clone(),
        into => format!("{into}, as a fork of {}", plan.service),
    };
    let into = match (plan.delta, plan.tables.is_empty()) {
        (_, false) => "servers in use: chosen tables, of what the backup has",
        (true, _) => "existing data (delta)",
        _ => "empty directories",
    };
    let mut text = fields(&[
        ("backup", plan.backup.clone()),
        ("service", service),
        ("up to", plan.to.clone().unwrap_or_else(|| "the backup's own moment".into())),
        ("into", into.into()),
    ]);
    if !plan.tables.is_empty() {
        text.push_str(&fields(&[("tables", plan.tables.join(", ")), ("renamed", plan.renames.join(", "))]));
    }
    text.push('\n');
    text.push_str(&table(&["NODE", "FROM", "FILES", "DATA", "DIRECTORY", "AGENT"], &[2, 3], &rows));
    for warning in &plan.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    for refusal in &plan.refusals {
        text.push_str(&format!("refused: {refusal}\n"));
    }
    text
}
