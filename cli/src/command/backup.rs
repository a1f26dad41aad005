use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, Result};

use crate::command::operation::{self, OperationView};
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::output::Output;
use crate::{Global, client, follow};

mod view;

use view::{Backups, show, show_list, show_why, view};

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
