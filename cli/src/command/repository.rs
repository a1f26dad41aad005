//! What lies in the object store, looked at through the coordinator or straight with a key.
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use palinurus_proto::{from_status, v1};
use palinurus_repository::{Clock, Error, KeyFile, Repository, Result, SystemClock, storage, verify};
use serde::Serialize;

use crate::command::missing::{self, MissingView};
use crate::command::operation::{DamageView, LogCheckView, VerifyView, show_logs};
use crate::command::{copy, repair};
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
        /// Open every frame and compute every chunk's hash, too: of the whole repository, or with =N% of another share
        /// each day, so that everything is read in 100/N days.
        #[arg(long, value_name = "N%", num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_parser = percent)]
        read_data: Option<u32>,
    },
    /// Copies a repository into another store as it is; done again, only what is new.
    Copy(copy::Copy),
    /// Mends damage: from the nodes and later backups through the coordinator, or from a copy.
    Repair(repair::Repair),
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
    pub(crate) fn new(repository: String, given: Given) -> Self {
        Self { repository, given }
    }

    pub(crate) async fn open(&self, output: &Output) -> Result<Repository> {
        let given = self.given.read(output).await?;
        self.open_with(&given).await
    }

    pub(crate) async fn open_with(&self, given: &[GivenKey]) -> Result<Repository> {
        Self::open_at(&self.repository, given).await
    }

    pub(crate) async fn open_at(url: &str, given: &[GivenKey]) -> Result<Repository> {
        let keys: Vec<KeyFile> = given.iter().map(|given| given.key.clone()).collect();
        Repository::open(storage::open(url)?, &keys).await
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
            check_alone(&repository, read_data.unwrap_or_default(), output).await
        }
        Verb::Check { place, .. } if !place.given.sources().is_empty() => {
            Err(Error::invalid("a key opens a repository, and none is named")
                .with_hint("name it with --repository URL, or leave the key away to ask the coordinator"))
        }
        Verb::Check { service, read_data, .. } => {
            check(service, read_data.unwrap_or_default(), global, output).await
        }
        Verb::Copy(wanted) => copy::run(wanted, output).await,
        Verb::Repair(wanted) => repair::run(wanted, global, output).await,
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

async fn check(service: Option<String>, percent: u32, global: &Global, output: &Output) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    let service = client::service(&mut client, service).await?;
    let request = v1::CheckRepositoryRequest { service, read_data: percent > 0, percent };
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

async fn check_alone(repository: &Repository, percent: u32, output: &Output) -> Result<Outcome> {
    let bar = output.bars.then(|| ProgressBar::new(0));
    if let Some(bar) = &bar {
        if let Ok(style) = ProgressStyle::with_template("{msg:<9} [{wide_bar}] {pos} / {len}  {elapsed}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    let progress = |progress: verify::Progress| {
        if progress.again > 0 {
            output.note(format!(
                "there are more packs than fit in memory: {} index segments are read again for each part of the manifests",
                human::count(progress.again)
            ));
        }
        if let Some(bar) = &bar {
            bar.set_message(progress.phase);
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
    };
    let day = SystemClock.now().0 / (24 * 60 * 60 * 1000);
    let report = verify::check(repository, verify::ReadData::share(percent, day), &progress).await;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let report = report?;
    let damages = report.damages.iter().map(|damage| DamageView::of(&palinurus_proto::damage(damage)));
    let view = VerifyView {
        read_data: percent > 0,
        percent,
        packs_checked: report.packs_checked,
        backups_checked: report.backups_checked,
        damage_count: report.damages.len() as u64,
        damages: damages.collect(),
        logs: palinurus_proto::checked_logs(&report.logs).iter().map(LogCheckView::of).collect(),
    };
    output.data(&view, show);
    Ok(if view.damages.is_empty() { Outcome::Done } else { Outcome::Corrupt })
}

fn show(found: &VerifyView) -> String {
    let depth = match found.percent {
        0 => "names, sizes and structure; --read-data reads every chunk".to_owned(),
        100 => "every chunk".to_owned(),
        percent => format!("today's {percent}% of the chunks"),
    };
    let checked = format!(
        "checked {} backups and {} packs ({depth})\n",
        human::count(found.backups_checked),
        human::count(found.packs_checked)
    );
    let logs = show_logs(&found.logs);
    if found.damage_count == 0 {
        return checked + "no damage\n" + &logs;
    }
    let damaged: Vec<Vec<String>> = found
        .damages
        .iter()
        .map(|damage| vec![damage.object.clone(), damage.what.clone(), damage.backups.join(" ")])
        .collect();
    let more = found.damage_count.saturating_sub(found.damages.len() as u64);
    let more = if more > 0 { format!("and {more} more\n") } else { String::new() };
    let counted = format!("\n{} damaged objects\n", found.damage_count);
    let rows: Vec<Vec<String>> = found.damages.iter().flat_map(spoiled_rows).collect();
    let files = if rows.is_empty() {
        String::new()
    } else {
        format!("\n{}", table(&["SPOILED FILE", "BY"], &[], &rows))
    };
    checked
        + &counted
        + &table(&["OBJECT", "DAMAGE", "BACKUPS THAT NEED IT"], &[], &damaged)
        + &more
        + &files
        + &logs
}

fn spoiled_rows(damage: &DamageView) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> =
        damage.files.iter().map(|file| vec![file.clone(), damage.object.clone()]).collect();
    let more = damage.file_count.saturating_sub(damage.files.len() as u64);
    if more > 0 {
        rows.push(vec![format!("and {more} more"), damage.object.clone()]);
    }
    rows
}

/// `5` or `5%`.
fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u32>();
    number.ok().filter(|percent| (1..=100).contains(percent)).ok_or_else(|| "from 1% to 100%".to_owned())
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
