//! Which backups stay, why, and what goes.
use palinurus_proto::v1::OperationKind;
use palinurus_proto::{from_status, v1};
use palinurus_repository::Result;
use serde::Serialize;

use crate::command::backup::follow_or_detach;
use crate::command::operation::OperationView;
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::output::{Output, fields, table};
use crate::{Global, client, human};

mod alone;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Shows what `apply` would forget, why the rest stays, and what becomes free; changes nothing.
    Plan {
        /// May be left out when there is only one.
        service: Option<String>,
        #[command(flatten)]
        alone: alone::Alone,
    },
    /// Forgets what the policy does not keep and frees what only it used, now.
    Apply {
        /// May be left out when there is only one.
        service: Option<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Return at once with the operation's id.
        #[arg(long, conflicts_with = "repository")]
        detach: bool,
        #[command(flatten)]
        alone: alone::Alone,
    },
    /// The policy in force, and the runs that had something to do.
    Show {
        /// May be left out when there is only one.
        service: Option<String>,
    },
}

/// Times are RFC 3339, sizes bytes.
#[derive(Serialize)]
struct PlanView {
    service: String,
    backups: Vec<ChoiceView>,
    /// That no kept backup references.
    packs_freed: u64,
    bytes_freed: u64,
    /// Condemned, while a transaction is open that may use them.
    packs_waiting: u64,
    waits_for: Vec<String>,
    /// In use, while the backup that wrote them is gone: a run counts how much of them is.
    packs_partial: u64,
    bytes_partial: u64,
    automatic: String,
}

#[derive(Serialize)]
struct ChoiceView {
    backup: String,
    committed: Option<String>,
    keep: bool,
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct PolicyView {
    service: String,
    /// The settings that say what is kept; none: everything is.
    policy: Vec<String>,
    automatic: String,
    backups: usize,
    forgettable: usize,
    bytes_freed: u64,
    runs: Vec<OperationView>,
}

/// What a run did.
#[derive(Serialize)]
pub(crate) struct RetentionView {
    automatic: bool,
    forget: Vec<String>,
    backups_forgotten: u64,
    packs_condemned: u64,
    packs_swept: u64,
    objects_deleted: u64,
    bytes_deleted: u64,
    /// Leftovers of writers that died.
    temporaries: u64,
    packs_waiting: u64,
    waits_for: Vec<String>,
    rewrite: Option<RewriteView>,
}

/// Packs of which little was used any more.
#[derive(Serialize)]
struct RewriteView {
    packs_measured: u64,
    bytes_wasted: u64,
    packs: u64,
    bytes_moved: u64,
    bytes_freed: u64,
    backups: u64,
    unfinished: bool,
}

impl RewriteView {
    fn of(detail: &v1::RewriteDetail) -> Self {
        Self {
            packs_measured: detail.packs_measured,
            bytes_wasted: detail.bytes_wasted,
            packs: detail.packs,
            bytes_moved: detail.bytes_moved,
            bytes_freed: detail.bytes_freed,
            backups: detail.backups,
            unfinished: detail.unfinished,
        }
    }

    fn row(&self) -> String {
        let (moved, freed) = (human::size(self.bytes_moved), human::size(self.bytes_freed));
        let more = if self.unfinished { ", the rest another time" } else { "" };
        format!("{} of {} packs: {moved} moved, {freed} freed{more}", self.packs, self.packs_measured)
    }
}

fn deleted(objects: u64, bytes: u64) -> (&'static str, String) {
    ("deleted", format!("{} objects, {}", human::count(objects), human::size(bytes)))
}

fn waiting(packs: u64, waits_for: &[String]) -> (&'static str, String) {
    ("waiting", format!("{packs} packs, for {}", waits_for.join(", ")))
}

impl RetentionView {
    pub(crate) fn of(detail: &v1::RetentionDetail) -> Self {
        Self {
            automatic: detail.automatic,
            forget: detail.forget.clone(),
            backups_forgotten: detail.backups_forgotten,
            packs_condemned: detail.packs_condemned,
            packs_swept: detail.packs_swept,
            objects_deleted: detail.objects_deleted,
            bytes_deleted: detail.bytes_deleted,
            temporaries: detail.temporaries,
            packs_waiting: detail.packs_waiting,
            waits_for: detail.waits_for.clone(),
            rewrite: detail.rewrite.as_ref().map(RewriteView::of),
        }
    }

    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("by", if self.automatic { "itself".into() } else { "hand".into() }),
            ("forgotten", format!("{} of {} backups", self.backups_forgotten, self.forget.len())),
            ("packs", format!("{} condemned, {} swept", self.packs_condemned, self.packs_swept)),
            deleted(self.objects_deleted, self.bytes_deleted),
        ];
        if let Some(rewrite) = &self.rewrite {
            rows.push(("rewritten", rewrite.row()));
        }
        if self.temporaries > 0 {
            rows.push(("leftovers", self.temporaries.to_string()));
        }
        if self.packs_waiting > 0 {
            rows.push(waiting(self.packs_waiting, &self.waits_for));
        }
        rows
    }
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    match verb {
        Verb::Plan { service, alone } => {
            if let Some(looked) = alone.look(output).await? {
                output.data(&looked.plan().await?, show);
                return Ok(Outcome::Done);
            }
            let mut client = client::connect(global).await?;
            let service = client::service(&mut client, service).await?;
            output.data(&view(&plan(&mut client, service).await?), show);
            Ok(Outcome::Done)
        }
        Verb::Apply { service, yes, detach, alone } => {
            if let Some(looked) = alone.look(output).await? {
                return looked.apply(yes, output).await;
            }
            let mut client = client::connect(global).await?;
            let service = client::service(&mut client, service).await?;
            let plan = view(&plan(&mut client, service).await?);
            output.note(show(&plan));
            let forget: Vec<String> = plan
                .backups
                .iter()
                .filter(|choice| !choice.keep)
                .map(|choice| choice.backup.clone())
                .collect();
            if !confirm(yes, &question(&plan))? {
                output.note("nothing was deleted");
                return Ok(Outcome::Declined);
            }
            // Exactly what was shown: there may be other backups by now.
            let request = v1::RetentionRequest { service: plan.service, backups: forget };
            let started = client.apply_retention(request).await.map_err(from_status)?.into_inner();
            follow_or_detach(global, output, &started, detach).await
        }
        Verb::Show { service } => {
            let mut client = client::connect(global).await?;
            let service = client::service(&mut client, service).await?;
            let request = v1::GetServiceRequest { service: service.clone() };
            let found = client.get_service(request).await.map_err(from_status)?.into_inner();
            let mut settings = found.plan_settings;
            settings.extend(found.settings);
            let request = v1::ListOperationsRequest { service: service.clone(), running: false };
            let runs = client.list_operations(request).await.map_err(from_status)?.into_inner().operations;
            let plan = plan(&mut client, service).await?;
            let mut policy: Vec<String> = settings
                .iter()
                .filter(|(key, _)| {
                    palinurus_repository::retention::SETTINGS.contains(&key.as_str())
                        || palinurus_repository::rewrite::SETTINGS.contains(&key.as_str())
                })
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            policy.sort();
            let runs = runs.iter().filter(|operation| operation.kind() == OperationKind::Retention);
            let shown = PolicyView {
                service: plan.service,
                policy,
                automatic: plan.automatic,
                backups: plan.backups.len(),
                forgettable: plan.backups.iter().filter(|choice| !choice.keep).count(),
                bytes_freed: plan.bytes_freed,
                runs: runs.map(OperationView::brief).collect(),
            };
            output.data(&shown, show_policy);
            Ok(Outcome::Done)
        }
    }
}

fn question(plan: &PlanView) -> String {
    match plan.backups.iter().filter(|choice| !choice.keep).count() {
        0 => "Free what no backup needs?".to_owned(),
        1 => "Forget this backup? It cannot be had back.".to_owned(),
        n => format!("Forget these {n} backups? They cannot be had back."),
    }
}

async fn plan(client: &mut client::Client, service: String) -> Result<v1::RetentionPlan> {
    let request = v1::RetentionRequest { service, backups: Vec::new() };
    Ok(client.plan_retention(request).await.map_err(from_status)?.into_inner())
}

fn view(plan: &v1::RetentionPlan) -> PlanView {
    let choices = plan.backups.iter().map(|choice| ChoiceView {
        backup: choice.backup_id.clone(),
        committed: human::rfc3339(choice.committed_ms),
        keep: choice.keep,
        reasons: choice.reasons.clone(),
    });
    PlanView {
        service: plan.service.clone(),
        backups: choices.collect(),
        packs_freed: plan.packs_freed,
        bytes_freed: plan.bytes_freed,
        packs_waiting: plan.packs_waiting,
        waits_for: plan.waits_for.clone(),
        packs_partial: plan.packs_partial,
        bytes_partial: plan.bytes_partial,
        automatic: plan.automatic.clone(),
    }
}

fn show(plan: &PlanView) -> String {
    let row = |choice: &ChoiceView| {
        let why = if choice.keep { choice.reasons.join(", ") } else { "no rule keeps it".into() };
        vec![
            choice.backup.clone(),
            choice.committed.clone().unwrap_or_default().replacen('T', " ", 1),
            if choice.keep { "keep".into() } else { "forget".into() },
            human::name(why.as_bytes()),
        ]
    };
    let rows: Vec<Vec<String>> = plan.backups.iter().map(row).collect();
    let mut pairs = vec![
        ("service", plan.service.clone()),
        ("frees", format!("{} in {} packs", human::size(plan.bytes_freed), human::count(plan.packs_freed))),
        ("by itself", plan.automatic.clone()),
    ];
    if plan.packs_partial > 0 {
        let (packs, size) = (human::count(plan.packs_partial), human::size(plan.bytes_partial));
        pairs.push(("partly used", format!("{size} in {packs} packs at most")));
    }
    if plan.packs_waiting > 0 {
        pairs.push(("waiting", format!("{} packs, for {}", plan.packs_waiting, plan.waits_for.join(", "))));
    }
    format!("{}\n{}", fields(&pairs), table(&["BACKUP", "COMMITTED", "", "WHY"], &[], &rows))
}

fn show_policy(shown: &PolicyView) -> String {
    let policy =
        if shown.policy.is_empty() { "none: everything is kept".into() } else { shown.policy.join(", ") };
    let head = fields(&[
        ("service", shown.service.clone()),
        ("policy", policy),
        ("by itself", shown.automatic.clone()),
        ("backups", format!("{}, of them {} may be forgotten", shown.backups, shown.forgettable)),
        ("frees", human::size(shown.bytes_freed)),
    ]);
    let row = |operation: &OperationView| {
        let of =
            |cell: fn(&RetentionView) -> String| operation.retention.as_ref().map(cell).unwrap_or_default();
        vec![
            operation.id.clone(),
            operation.state.to_owned(),
            operation.created.clone().unwrap_or_default().replacen('T', " ", 1),
            of(|run| if run.automatic { "itself".into() } else { "hand".into() }),
            of(|run| run.backups_forgotten.to_string()),
            of(|run| human::count(run.objects_deleted)),
            of(|run| human::size(run.bytes_deleted)),
        ]
    };
    let rows: Vec<Vec<String>> = shown.runs.iter().map(row).collect();
    let header = ["OPERATION", "STATE", "STARTED", "BY", "FORGOTTEN", "DELETED", "FREED"];
    format!("{head}\n{}", table(&header, &[4, 5, 6], &rows))
}
