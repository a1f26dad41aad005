//! What lies in the object store, looked at through the coordinator or straight with a key.
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, KeyFile, Repository, Result, storage, verify};
use serde::Serialize;

use crate::command::missing::{self, MissingView};
use crate::command::operation::{DamageView, VerifyView};
use crate::exit::Outcome;
use crate::given::{Given, GivenKey};
use crate::output::{Output, table};
use crate::{Global, client, follow, human};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Looks for damage, and names every object that has some. Exit code 6 when there is any.
    Check {
        /// Through the coordinator; may be left out when there is only one.
        #[arg(long, short, conflicts_with = "repository")]
        service: Option<String>,
        #[command(flatten)]
        place: Place,
        /// Open every frame and compute every chunk's hash, too: reads the whole repository.
        #[arg(long)]
        read_data: bool,
    },
    /// Lists the backups in a repository without a coordinator.
    List {
        #[command(flatten)]
        place: KnownPlace,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Without a coordinator, with an operator key: where the backups lie, file:///path.
    #[arg(long, value_name = "URL")]
    repository: Option<String>,
    #[command(flatten)]
    given: Given,
}

#[derive(Debug, clap::Args)]
pub(crate) struct KnownPlace {
    /// Where the backups lie: file:///path.
    #[arg(long, value_name = "URL")]
    pub(crate) repository: String,
    #[command(flatten)]
    pub(crate) given: Given,
}

impl KnownPlace {
    pub(crate) async fn open(&self, output: &Output) -> Result<Repository> {
        let given = self.given.read(output).await?;
        self.open_with(&given).await
    }

    pub(crate) async fn open_with(&self, given: &[GivenKey]) -> Result<Repository> {
        let keys: Vec<KeyFile> = given.iter().map(|given| given.key.clone()).collect();
        Repository::open(storage::open(&self.repository)?, &keys).await
    }
}

#[derive(Serialize)]
struct Backups {
    repository: String,
    backups: Vec<BackupView>,
}

#[derive(Serialize)]
struct BackupView {
    id: String,
    started: Option<String>,
    committed: Option<String>,
    nodes: Vec<String>,
    files: u64,
    bytes: u64,
    /// Not empty: the backup is partial.
    missing: Vec<MissingView>,
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    match verb {
        Verb::Check { place: Place { repository: Some(repository), given }, read_data, .. } => {
            let repository = KnownPlace { repository, given }.open(output).await?;
            check_alone(&repository, read_data, output).await
        }
        Verb::Check { place, .. } if !place.given.sources().is_empty() => {
            Err(Error::invalid("a key opens a repository, and none is named")
                .with_hint("name it with --repository URL, or leave the key away to ask the coordinator"))
        }
        Verb::Check { service, read_data, .. } => check(service, read_data, global, output).await,
        Verb::List { place } => {
            let repository = place.open(output).await?;
            let backups = repository.backups().await;
            let view = |backup: &palinurus_repository::ledger::BackupRecord| BackupView {
                id: backup.id.to_string(),
                started: human::rfc3339(backup.started.0),
                committed: human::rfc3339(backup.committed.0),
                nodes: backup.nodes.iter().map(|node| node.node.clone()).collect(),
                files: backup.nodes.iter().map(|node| node.files).sum(),
                bytes: backup.nodes.iter().map(|node| node.bytes).sum(),
                missing: backup.missing.iter().map(MissingView::of_record).collect(),
            };
            let list = Backups {
                repository: repository.id().to_string(),
                backups: backups.iter().map(|backup| view(backup)).collect(),
            };
            output.data(&list, show_list);
            Ok(Outcome::Done)
        }
    }
}

async fn check(
    service: Option<String>,
    read_data: bool,
    global: &Global,
    output: &Output,
) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    let service = client::service(&mut client, service).await?;
    let request = v1::CheckRepositoryRequest { service, read_data };
    let started = client.check_repository(request).await.map_err(from_status)?.into_inner();
    output.note(format!("operation {}", started.id));
    let ended = follow::follow(global, output, &started.id).await?;
    let detail = ended.verify.clone().unwrap_or_default();
    let damaged = detail.damage_count > 0;
    if damaged || ended.failure.is_none() {
        output.data(&VerifyView::of(&detail), show);
    }
    if damaged {
        return Ok(Outcome::Corrupt);
    }
    follow::say_warnings(output, &ended);
    follow::outcome(&ended)
}

async fn check_alone(repository: &Repository, read_data: bool, output: &Output) -> Result<Outcome> {
    let bar = output.bars.then(|| ProgressBar::new(0));
    if let Some(bar) = &bar {
        if let Ok(style) = ProgressStyle::with_template("{msg:<9} [{wide_bar}] {pos} / {len}  {elapsed}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    let progress = |progress: verify::Progress| {
        if let Some(bar) = &bar {
            bar.set_message(progress.phase);
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
    };
    let report = verify::check(repository, read_data, &progress).await;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let report = report?;
    let damages = report.damages.iter().map(|damage| DamageView {
        object: damage.object.clone(),
        what: damage.what.clone(),
        backups: damage.backups.iter().map(ToString::to_string).collect(),
    });
    let view = VerifyView {
        read_data,
        packs_checked: report.packs_checked,
        backups_checked: report.backups_checked,
        damage_count: report.damages.len() as u64,
        damages: damages.collect(),
    };
    output.data(&view, show);
    Ok(if view.damages.is_empty() { Outcome::Done } else { Outcome::Corrupt })
}

fn show(found: &VerifyView) -> String {
    let depth = if found.read_data {
        "every chunk"
    } else {
        "names, sizes and structure; --read-data reads every chunk"
    };
    let checked = format!(
        "checked {} backups and {} packs ({depth})\n",
        human::count(found.backups_checked),
        human::count(found.packs_checked)
    );
    if found.damage_count == 0 {
        return checked + "no damage\n";
    }
    let rows: Vec<Vec<String>> = found
        .damages
        .iter()
        .map(|damage| vec![damage.object.clone(), damage.what.clone(), damage.backups.join(" ")])
        .collect();
    let more = found.damage_count.saturating_sub(found.damages.len() as u64);
    let more = if more > 0 { format!("and {more} more\n") } else { String::new() };
    let counted = format!("\n{} damaged objects\n", found.damage_count);
    checked + &counted + &table(&["OBJECT", "DAMAGE", "BACKUPS THAT NEED IT"], &[], &rows) + &more
}

fn show_list(list: &Backups) -> String {
    let rows: Vec<Vec<String>> = list
        .backups
        .iter()
        .map(|backup| {
            vec![
                backup.id.clone(),
                backup.committed.clone().unwrap_or_default().replacen('T', " ", 1),
                human::count(backup.files),
                human::size(backup.bytes),
                backup.nodes.join(" "),
                missing::brief(&backup.missing),
            ]
        })
        .collect();
    table(&["BACKUP", "COMMITTED", "FILES", "DATA", "NODES", ""], &[2, 3], &rows)
}
