//! Retention of a repository whose coordinator is gone, by its ledger alone.
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use palinurus_coordinator::plans::{Plans, Type};
use palinurus_repository::ledger::State;
use palinurus_repository::retention::{self, Candidate, Policy, SETTINGS, Verdict, decide};
use palinurus_repository::sweep::sweep;
use palinurus_repository::{BackupId, Error, ErrorKind, Repository, Result, rewrite};
use serde::Serialize;

use super::{ChoiceView, PlanView, deleted, question, show, waiting};
use crate::command::repository::KnownPlace;
use crate::command::service;
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::given::Given;
use crate::human;
use crate::output::{Output, fields};

/// Where, and by which policy.
#[derive(Debug, clap::Args)]
pub(crate) struct Alone {
    /// Without a coordinator, where none runs any more: where the backups lie, file:///path.
    #[arg(long, value_name = "URL", conflicts_with = "service")]
    repository: Option<String>,
    #[command(flatten)]
    given: Given,
    /// The service's file, as for `service apply`: its settings say what is kept.
    #[arg(long, value_name = "FILE", requires = "repository")]
    policy: Option<PathBuf>,
    /// A rule, such as keep_daily=7; goes before the file's; may be repeated.
    #[arg(long = "set", value_name = "RULE=VALUE", requires = "repository")]
    rules: Vec<String>,
}

#[derive(Serialize)]
struct Applied {
    forgotten: Vec<String>,
    /// What stays after all.
    kept: Vec<Kept>,
    packs_condemned: u64,
    packs_swept: u64,
    objects_deleted: u64,
    bytes_deleted: u64,
    /// Condemned, while a transaction is open that may use them.
    packs_waiting: u64,
    waits_for: Vec<String>,
}

#[derive(Serialize)]
struct Kept {
    backup: String,
    reason: String,
}

/// An open repository, and what is to be kept of it.
pub(super) struct Looked {
    repository: Repository,
    policy: Policy,
    name: String,
}

impl Alone {
    /// None when a coordinator is to be asked.
    pub(super) async fn look(&self, output: &Output) -> Result<Option<Looked>> {
        let Some(repository) = self.repository.clone() else {
            // What `requires` would say, but for clap's silence where a service is named.
            if self.policy.is_some() || !self.rules.is_empty() {
                return Err(Error::invalid("a coordinator keeps by its own policy").with_hint(
                    "set it with `palinurus service apply`, or leave the coordinator out with --repository URL",
                ));
            }
            return match self.given.sources().as_slice() {
                [] => Ok(None),
                _ => Err(Error::invalid("a key opens a repository, and none is named").with_hint(
                    "name it with --repository URL, or leave the key away to ask the coordinator",
                )),
            };
        };
        let (name, policy) = self.policy()?;
        let given = self.given.read(output).await?;
        let repository = KnownPlace::open_at(&repository, &given).await?;
        let name = name.unwrap_or_else(|| repository.id().to_string());
        Ok(Some(Looked { repository, policy, name }))
    }

    fn policy(&self) -> Result<(Option<String>, Policy)> {
        let (mut name, mut settings) = (None, HashMap::new());
        if let Some(file) = &self.policy {
            let service = service::file::read(file)?;
            if !service.plan.is_empty() {
                let known = Plans::default().find(Type::named(&service.r#type)?, &service.plan);
                let hint = "say its settings, a coordinator's own plan is not known here: --set keep_daily=7";
                settings = known.map_err(|e| e.with_hint(hint))?.settings;
            }
            settings.extend(service.settings);
            name = Some(service.name);
        }
        for rule in &self.rules {
            let known = rule.split_once('=').filter(|(key, _)| SETTINGS.contains(key));
            let (key, value) = known.ok_or_else(|| {
                Error::invalid(format!("--set {rule:?} is no rule"))
                    .with_hint(format!("RULE=VALUE, with one of {}", SETTINGS.join(", ")))
            })?;
            settings.insert(key.to_owned(), value.to_owned());
        }
        let policy = Policy::read(&settings)?;
        if policy.is_empty() {
            return Err(Error::invalid("no rule says what is kept").with_hint(
                "a coordinator's policy is in its state; without it, name the service's file with --policy, or a rule \
                 with --set keep_daily=7",
            ));
        }
        Ok((name, policy))
    }
}

impl Looked {
    fn verdicts(&self, state: &State) -> Vec<Verdict> {
        let now = self.repository.now();
        let candidates: Vec<Candidate> = state.backups().map(|backup| Candidate::of(backup, now)).collect();
        decide(&candidates, &self.policy)
    }

    pub(super) async fn plan(&self) -> Result<PlanView> {
        let partial = rewrite::partial(&self.repository).await?;
        let (choices, forget) = self
            .repository
            .read(|state| {
                let verdicts = self.verdicts(state);
                let forget: BTreeSet<BackupId> =
                    verdicts.iter().filter(|it| !it.keeps()).map(|verdict| verdict.backup).collect();
                let both = state.backups().zip(&verdicts);
                let choices: Vec<ChoiceView> = both
                    .map(|(backup, verdict)| ChoiceView {
                        backup: backup.id.to_string(),
                        committed: human::rfc3339(backup.committed.0),
                        keep: verdict.keeps(),
                        reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
                    })
                    .collect();
                (choices, forget)
            })
            .await;
        let freed = retention::freed(&self.repository, &forget).await?;
        Ok(PlanView {
            service: self.name.clone(),
            backups: choices,
            packs_freed: freed.packs,
            bytes_freed: freed.bytes,
            packs_waiting: freed.waiting,
            waits_for: freed.waits_for.iter().map(ToString::to_string).collect(),
            packs_partial: partial.packs,
            bytes_partial: partial.bytes,
            automatic: "never: no coordinator was asked".to_owned(),
        })
    }

    /// In the name of whoever led last: the ledger takes nothing from a leader that is over, and each FORGET is decided on
    /// the state that it follows. Nobody's open transaction is ended, and what one may use is only condemned.
    pub(super) async fn apply(&self, yes: bool, output: &Output) -> Result<Outcome> {
        let plan = self.plan().await?;
        output.note(show(&plan));
        let (epoch, leader) =
            self.repository.read(|state| (state.leader().0, state.leader().1.to_owned())).await;
        if !leader.is_empty() {
            output.note(format!(
                "coordinator {} has led this repository; where it still runs, let it do this: a restore that it runs of \
                 what goes here breaks off",
                human::name(leader.as_bytes())
            ));
        }
        if !confirm(yes, &question(&plan))? {
            output.note("nothing was deleted");
            return Ok(Outcome::Declined);
        }
        let wanted: Vec<BackupId> = plan
            .backups
            .iter()
            .filter(|choice| !choice.keep)
            .map(|choice| choice.backup.parse())
            .collect::<Result<_>>()?;
        let decide = |state: &State| self.verdicts(state);
        let done =
            retention::forget(&self.repository, epoch, &wanted, &decide, &|| false).await.map_err(led)?;
        let swept = sweep(&self.repository, epoch).await.map_err(led)?;
        let kept = done.kept.into_iter().map(|(id, reason)| Kept { backup: id.to_string(), reason });
        let applied = Applied {
            forgotten: done.gone.iter().map(ToString::to_string).collect(),
            kept: kept.collect(),
            packs_condemned: swept.condemned,
            packs_swept: swept.packs,
            objects_deleted: swept.deleted.objects,
            bytes_deleted: swept.deleted.bytes,
            packs_waiting: swept.waiting,
            waits_for: swept.waits_for.iter().map(ToString::to_string).collect(),
        };
        for kept in &applied.kept {
            output.warn(format!(
                "backup {} stays by now: {}",
                kept.backup,
                human::name(kept.reason.as_bytes())
            ));
        }
        output.data(&applied, show_applied);
        Ok(if applied.kept.is_empty() { Outcome::Done } else { Outcome::Warnings })
    }
}

fn led(error: Error) -> Error {
    if error.kind() != ErrorKind::Fenced {
        return error;
    }
    error.with_hint(
        "a coordinator has begun to lead here meanwhile: let it do this, `palinurus retention apply`",
    )
}

fn show_applied(applied: &Applied) -> String {
    let mut pairs = vec![
        ("forgotten", format!("{} backups", applied.forgotten.len())),
        ("packs", format!("{} condemned, {} swept", applied.packs_condemned, applied.packs_swept)),
        deleted(applied.objects_deleted, applied.bytes_deleted),
    ];
    if applied.packs_waiting > 0 {
        pairs.push(waiting(applied.packs_waiting, &applied.waits_for));
    }
    fields(&pairs)
}
