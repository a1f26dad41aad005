use std::collections::BTreeMap;

use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, Result};
use serde::Serialize;

use crate::exit::Outcome;
use crate::output::{Output, fields, table};
use crate::{Global, client};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// The types of services, and what each plan keeps of them.
    List {
        /// Only that one's, such as postgresql.
        #[arg(long = "type")]
        kind: Option<String>,
    },
    /// One plan of one type, and the settings that it stands for.
    Show {
        /// Such as postgresql.
        kind: String,
        /// Such as business, or business-8.
        plan: String,
    },
}

#[derive(Serialize)]
struct Plan {
    r#type: String,
    plan: String,
    backups: String,
    /// By the coordinator's configuration, not built in.
    configured: bool,
    settings: BTreeMap<String, String>,
    /// The database's own tool for getting data out; no snapshot of the service.
    export: Option<String>,
    note: Option<String>,
}

#[derive(Serialize)]
struct Plans {
    plans: Vec<Plan>,
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    match verb {
        Verb::List { kind } => {
            let plans = list(global, kind.unwrap_or_default()).await?;
            output.data(&Plans { plans }, show_all);
        }
        Verb::Show { kind, plan } => {
            let base = plan.split_once('-').map_or(plan.as_str(), |(base, _)| base);
            let plans = list(global, kind.clone()).await?;
            let names = plans.iter().map(|known| known.plan.as_str()).collect::<Vec<_>>().join(", ");
            let missing = || {
                Error::invalid(format!("there is no plan {plan:?} for {kind}"))
                    .with_hint(format!("there is {names}; a size may follow, as in business-8"))
            };
            let found = plans.iter().find(|known| known.plan == base).ok_or_else(missing)?;
            output.data(found, show);
        }
    }
    Ok(Outcome::Done)
}

async fn list(global: &Global, kind: String) -> Result<Vec<Plan>> {
    let request = v1::ListPlansRequest { r#type: kind };
    let reply = client::connect(global).await?.list_plans(request).await.map_err(from_status)?;
    Ok(reply.into_inner().plans.into_iter().map(view).collect())
}

fn view(plan: v1::Plan) -> Plan {
    let said = |text: String| (!text.is_empty()).then_some(text);
    Plan {
        r#type: plan.r#type,
        plan: plan.name,
        backups: plan.backups,
        configured: plan.configured,
        settings: plan.settings.into_iter().collect(),
        export: said(plan.export),
        note: said(plan.note),
    }
}

/// A row a plan: four long cells beside each other are no table for eyes.
fn show_all(plans: &Plans) -> String {
    let row = |plan: &Plan| vec![plan.r#type.clone(), plan.plan.clone(), plan.backups.clone()];
    table(&["TYPE", "PLAN", "BACKUPS"], &[], &plans.plans.iter().map(row).collect::<Vec<_>>())
}

fn show(plan: &Plan) -> String {
    let settings: Vec<String> =
        plan.settings.iter().map(|(key, value)| format!("{key} = {value:?}")).collect();
    let mut lines = vec![
        ("type", plan.r#type.clone()),
        ("plan", plan.plan.clone()),
        ("backups", plan.backups.clone()),
        ("settings", settings.join(", ")),
    ];
    lines.extend(plan.export.as_deref().map(|tool| ("export", exported(tool))));
    lines.extend(plan.note.clone().map(|note| ("note", note)));
    fields(&lines)
}

pub(super) fn exported(tool: &str) -> String {
    format!("{tool} gets data out; it makes no snapshot of the service")
}
