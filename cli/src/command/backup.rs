use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, Result};
use serde::Serialize;

use crate::command::missing::{self, MissingView};
use crate::command::operation::{self, OperationView};
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::output::{Output, fields, table};
use crate::{Global, client, follow, human};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Takes a backup of all nodes and follows it until it is committed.
    Start {
        /// May be left out when there is only one.
        #[arg(long, short)]
        service: Option<String>,
        /// Read every file again, also those that look unchanged.
        #[arg(long)]
        full: bool,
        /// Return at once with the operation's id.
        #[arg(long)]
        detach: bool,
    },
    /// The oldest first.
    List {
        /// Only of this service.
        #[arg(long, short)]
        service: Option<String>,
        /// Say of each why it is kept, or that it may be forgotten.
        #[arg(long)]
        why: bool,
    },
    Show {
        /// An id, a unique prefix of one, or `latest`.
        backup: String,
        #[arg(long, short)]
        service: Option<String>,
    },
    /// Keeps a backup until it is unpinned, whatever the policy says.
    Pin {
        /// An id, a unique prefix of one, or `latest`.
        backup: String,
        #[arg(long, short)]
        service: Option<String>,
        /// Shown wherever the backup is.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Leaves a backup to the policy again.
    Unpin {
        /// An id, a unique prefix of one, or `latest`.
        backup: String,
        #[arg(long, short)]
        service: Option<String>,
    },
    /// Keeps a backup until a date at the earliest. A hold can be made longer, not shorter.
    Hold {
        /// An id, a unique prefix of one, or `latest`.
        backup: String,
        #[arg(long, short)]
        service: Option<String>,
        /// A date in UTC, such as 2027-12-31 or 2027-12-31T18:00:00Z.
        #[arg(long)]
        until: String,
        /// Shown wherever the backup is.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Ends a hold before its date.
    Unhold {
        /// An id, a unique prefix of one, or `latest`.
        backup: String,
        #[arg(long, short)]
        service: Option<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Forgets a backup and frees what only it used.
    Delete {
        /// An id, a unique prefix of one, or `latest`.
        backup: String,
        #[arg(long, short)]
        service: Option<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Return at once with the operation's id.
        #[arg(long)]
        detach: bool,
    },
}

#[derive(Serialize)]
struct Backups {
    backups: Vec<BackupView>,
}

/// Times are RFC 3339, sizes bytes.
#[derive(Serialize)]
pub(crate) struct BackupView {
    id: String,
    service: String,
    started: Option<String>,
    committed: Option<String>,
    files: u64,
    /// Logical.
    bytes: u64,
    /// That nobody had stored.
    bytes_new: u64,
    /// What it added to the store.
    bytes_stored: u64,
    warnings: u64,
    nodes: Vec<BackupNodeView>,
    /// Not empty: the backup is partial.
    missing: Vec<MissingView>,
    /// Something that it needs is damaged: not all of it can be restored.
    spoiled: bool,
    /// Why retention keeps it, all reasons; none: it may be forgotten.
    kept_for: Vec<String>,
    pin: Option<PinView>,
    hold: Option<HoldView>,
}

#[derive(Serialize)]
struct PinView {
    reason: String,
    since: Option<String>,
}

#[derive(Serialize)]
struct HoldView {
    until: Option<String>,
    reason: String,
    since: Option<String>,
}

#[derive(Serialize)]
struct BackupNodeView {
    node: String,
    files: u64,
    bytes: u64,
    bytes_read: u64,
    bytes_new: u64,
    bytes_stored: u64,
    warnings: u64,
    /// Nothing had changed: the manifest of the base backup stands for this one too.
    unchanged: bool,
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    match verb {
        Verb::Start { service, full, detach } => {
            let service = client::service(&mut client, service).await?;
            let started =
                client.start_backup(v1::StartBackupRequest { service, full }).await.map_err(from_status)?;
            follow_or_detach(global, output, &started.into_inner(), detach).await
        }
        Verb::List { service, why } => {
            let request = v1::ListBackupsRequest { service: service.unwrap_or_default() };
            let reply = client.list_backups(request).await.map_err(from_status)?.into_inner();
            let backups = Backups { backups: reply.backups.iter().map(view).collect() };
            output.data(&backups, if why { show_why } else { show_list });
            Ok(Outcome::Done)
        }
        Verb::Pin { backup, service, reason } => {
            let service = client::service(&mut client, service).await?;
            let request = v1::PinBackupRequest { service, backup, reason };
            kept(client.pin_backup(request).await, output)
        }
        Verb::Unpin { backup, service } => {
            let service = client::service(&mut client, service).await?;
            kept(client.unpin_backup(v1::UnpinBackupRequest { service, backup }).await, output)
        }
        Verb::Hold { backup, service, until, reason } => {
            let until_ms = date(&until)?;
            let service = client::service(&mut client, service).await?;
            let request = v1::HoldBackupRequest { service, backup, until_ms, reason };
            kept(client.hold_backup(request).await, output)
        }
        Verb::Unhold { backup, service, yes } => {
            let service = client::service(&mut client, service).await?;
            if !confirm(yes, "End this hold before its date? The policy may forget the backup then.")? {
                output.note("the hold stays");
                return Ok(Outcome::Declined);
            }
            kept(client.unhold_backup(v1::UnholdBackupRequest { service, backup }).await, output)
        }
        Verb::Show { backup, service } => {
            let service = client::service(&mut client, service).await?;
            let found =
                client.get_backup(v1::GetBackupRequest { service, backup }).await.map_err(from_status)?;
            output.data(&view(&found.into_inner()), show);
            Ok(Outcome::Done)
        }
        Verb::Delete { backup, service, yes, detach } => {
            let service = client::service(&mut client, service).await?;
            let request = v1::GetBackupRequest { service: service.clone(), backup };
            let found = client.get_backup(request).await.map_err(from_status)?.into_inner();
            output.note(show(&view(&found)));
            if !confirm(yes, "Delete this backup? It cannot be had back.")? {
                output.note("nothing was deleted");
                return Ok(Outcome::Declined);
            }
            // By its full id: `latest` may be another one by now.
            let request = v1::DeleteBackupRequest { service, backup: found.id };
            let started = client.delete_backup(request).await.map_err(from_status)?.into_inner();
            follow_or_detach(global, output, &started, detach).await
        }
    }
}

fn kept(answer: Result<tonic::Response<v1::Backup>, tonic::Status>, output: &Output) -> Result<Outcome> {
    output.data(&view(&answer.map_err(from_status)?.into_inner()), show);
    Ok(Outcome::Done)
}

/// Milliseconds of Unix time.
fn date(text: &str) -> Result<u64> {
    let whole = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
    let time = humantime::parse_rfc3339(&whole).ok();
    let since = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_millis()).ok()).ok_or_else(|| {
        Error::invalid(format!("{text:?} is no date")).with_hint("such as 2027-12-31 or 2027-12-31T18:00:00Z")
    })
}

pub(crate) async fn follow_or_detach(
    global: &Global,
    output: &Output,
    started: &v1::Operation,
    detach: bool,
) -> Result<Outcome> {
    if detach {
        output.data(&OperationView::of(started), operation::show);
        output.note(format!("`palinurus operation watch {}` follows it", started.id));
        return Ok(Outcome::Done);
    }
    output.note(format!("operation {}", started.id));
    let ended = follow::follow(global, output, &started.id).await?;
    operation::finish(output, &ended)
}

fn view(backup: &v1::Backup) -> BackupView {
    let nodes = backup.nodes.iter().map(|node| BackupNodeView {
        node: node.node.clone(),
        files: node.files,
        bytes: node.bytes,
        bytes_read: node.bytes_read,
        bytes_new: node.bytes_new,
        bytes_stored: node.bytes_stored,
        warnings: node.warnings,
        unchanged: node.unchanged,
    });
    BackupView {
        id: backup.id.clone(),
        service: backup.service.clone(),
        started: human::rfc3339(backup.started_ms),
        committed: human::rfc3339(backup.committed_ms),
        files: backup.files,
        bytes: backup.bytes,
        bytes_new: backup.bytes_new,
        bytes_stored: backup.bytes_stored,
        warnings: backup.warnings,
        nodes: nodes.collect(),
        missing: backup.missing.iter().map(MissingView::of).collect(),
        spoiled: backup.spoiled,
        kept_for: backup.kept_for.clone(),
        pin: backup
            .pin
            .as_ref()
            .map(|pin| PinView { reason: pin.reason.clone(), since: human::rfc3339(pin.since_ms) }),
        hold: backup.hold.as_ref().map(|hold| HoldView {
            until: human::rfc3339(hold.until_ms),
            reason: hold.reason.clone(),
            since: human::rfc3339(hold.since_ms),
        }),
    }
}

fn why(backup: &BackupView) -> String {
    if backup.kept_for.is_empty() {
        return "may be forgotten".into();
    }
    human::name(backup.kept_for.join(", ").as_bytes())
}

fn show(backup: &BackupView) -> String {
    let time = |time: &Option<String>| time.clone().unwrap_or_default().replacen('T', " ", 1);
    let rows: Vec<Vec<String>> = backup
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.node.clone(),
                human::count(node.files),
                human::size(node.bytes),
                human::size(node.bytes_read),
                human::size(node.bytes_new),
                human::size(node.bytes_stored),
                node.warnings.to_string(),
                if node.unchanged { "unchanged".into() } else { String::new() },
            ]
        })
        .collect();
    let head = fields(&[
        ("backup", backup.id.clone()),
        ("service", backup.service.clone()),
        ("started", time(&backup.started)),
        ("committed", time(&backup.committed)),
        ("data", format!("{} in {} files", human::size(backup.bytes), human::count(backup.files))),
        ("stored", human::size(backup.bytes_stored)),
        ("kept for", why(backup)),
    ]);
    let header = ["NODE", "FILES", "DATA", "READ", "NEW", "STORED", "WARNINGS", ""];
    let nodes = table(&header, &[1, 2, 3, 4, 5, 6], &rows);
    let spoiled = if backup.spoiled { SPOILED } else { "" };
    format!("{head}\n{nodes}{}{spoiled}", missing::show(&backup.missing))
}

const SPOILED: &str =
    "\nspoiled: some of what it needs is damaged; `palinurus repository check` names the files\n";

fn state(backup: &BackupView) -> String {
    let spoiled = if backup.spoiled { "spoiled" } else { "" };
    let missing = missing::brief(&backup.missing);
    if spoiled.is_empty() || missing.is_empty() {
        format!("{spoiled}{missing}")
    } else {
        format!("{spoiled}, {missing}")
    }
}

fn show_why(backups: &Backups) -> String {
    let row = |backup: &BackupView| {
        vec![
            backup.id.clone(),
            backup.service.clone(),
            backup.committed.clone().unwrap_or_default().replacen('T', " ", 1),
            human::size(backup.bytes_stored),
            why(backup),
        ]
    };
    let rows: Vec<Vec<String>> = backups.backups.iter().map(row).collect();
    table(&["BACKUP", "SERVICE", "COMMITTED", "STORED", "WHY"], &[3], &rows)
}

fn show_list(backups: &Backups) -> String {
    let row = |backup: &BackupView| {
        vec![
            backup.id.clone(),
            backup.service.clone(),
            backup.committed.clone().unwrap_or_default().replacen('T', " ", 1),
            backup.nodes.len().to_string(),
            human::count(backup.files),
            human::size(backup.bytes),
            human::size(backup.bytes_new),
            human::size(backup.bytes_stored),
            backup.warnings.to_string(),
            state(backup),
        ]
    };
    let rows: Vec<Vec<String>> = backups.backups.iter().map(row).collect();
    let header =
        ["BACKUP", "SERVICE", "COMMITTED", "NODES", "FILES", "DATA", "NEW", "STORED", "WARNINGS", ""];
    table(&header, &[3, 4, 5, 6, 7, 8], &rows)
}
