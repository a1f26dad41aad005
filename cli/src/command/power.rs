//! Powering a service off and on, and deleting one that is off.
use std::time::Duration;

use palinurus_proto::v1::PowerState;
use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, ErrorKind, Result};
use serde::Serialize;
use tokio::time::Instant;

use super::service::view::{show, view};
use crate::client::{self, Client};
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::output::Output;
use crate::{Global, human};

/// Between two looks at a change that is under way.
const LOOK: Duration = Duration::from_millis(500);
/// How long a coordinator may be away before watching gives up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Off {
    service: String,
    /// Without a last backup: what was written since the newest one is lost with the nodes.
    #[arg(long)]
    no_backup: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Return at once.
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct On {
    service: String,
    /// Also over directories that hold data: what differs from the backup is overwritten.
    #[arg(long)]
    delta: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Return at once.
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    service: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Return at once.
    #[arg(long)]
    detach: bool,
}

/// Whether a service is in use.
#[derive(Serialize)]
pub(super) struct Power {
    /// `on`, `stopping`, `off`, `starting` or `deleting`.
    state: &'static str,
    /// What it waits for, or what stood against what was asked for last.
    why: String,
    /// Since when it is off.
    off: Option<String>,
    /// Since when it is listed for review, and when it is deleted by itself.
    review: Option<String>,
    deletes: Option<String>,
}

impl Power {
    pub(super) fn of(service: &v1::Service) -> Self {
        let power = service.power.clone().unwrap_or_default();
        Self {
            state: power.state().name(),
            why: power.why,
            off: human::rfc3339(power.off_ms),
            review: human::rfc3339(power.review_ms),
            deletes: human::rfc3339(power.deletes_ms),
        }
    }

    pub(super) fn in_review(&self) -> bool {
        self.review.is_some()
    }

    /// Of one that is not on the health says all of it.
    pub(super) fn field(&self) -> Option<(&'static str, String)> {
        (self.state == "on" && !self.why.is_empty()).then(|| ("power", format!("on; {}", self.why)))
    }
}

#[derive(Serialize)]
struct Deleted {
    service: String,
    deleted: bool,
}

pub(super) async fn off(off: Off, global: &Global, output: &Output) -> Result<Outcome> {
    let Off { service, no_backup, yes, detach } = off;
    let question = match no_backup {
        true => format!(
            "Power {service} off without a last backup? What was written since the newest one is lost."
        ),
        false => format!(
            "Back {service} up once more and power it off? Then nothing backs it up or fails it over."
        ),
    };
    if !confirm(yes, &question)? {
        output.note("it stays on");
        return Ok(Outcome::Declined);
    }
    let mut client = client::connect(global).await?;
    let request = v1::PowerOffRequest { service: service.clone(), no_backup };
    let begun = client.power_off(request).await.map_err(from_status)?.into_inner();
    let ended = if detach { begun } else { settled(&mut client, output, &service).await?.unwrap_or(begun) };
    match state(&ended) {
        PowerState::PowerOn if !detach => Err(stood_against(&ended, "on", "off")),
        _ => {
            output.data(&view(ended), show);
            Ok(Outcome::Done)
        }
    }
}

pub(super) async fn on(on: On, global: &Global, output: &Output) -> Result<Outcome> {
    let On { service, delta, yes, detach } = on;
    let question = format!(
        "Make the directories of {service} what they were in its latest backup? What differs is lost."
    );
    if !confirm(yes || !delta, &question)? {
        output.note("it stays off");
        return Ok(Outcome::Declined);
    }
    let mut client = client::connect(global).await?;
    let request = v1::PowerOnRequest { service: service.clone(), delta };
    let begun = client.power_on(request).await.map_err(from_status)?.into_inner();
    let ended = if detach { begun } else { settled(&mut client, output, &service).await?.unwrap_or(begun) };
    match state(&ended) {
        PowerState::PowerOff => Err(stood_against(&ended, "off", "on")),
        state => {
            let told = ended.power.as_ref().map(|power| power.why.clone()).unwrap_or_default();
            let warned = state == PowerState::PowerOn && !told.is_empty();
            if warned {
                output.warn(told);
            }
            output.data(&view(ended), show);
            Ok(if warned { Outcome::Warnings } else { Outcome::Done })
        }
    }
}

pub(super) async fn delete(delete: Delete, global: &Global, output: &Output) -> Result<Outcome> {
    let Delete { service, yes, detach } = delete;
    let mut client = client::connect(global).await?;
    let request = v1::ListBackupsRequest { service: service.clone() };
    let backups = client.list_backups(request).await.map_err(from_status)?.into_inner().backups;
    let times = || backups.iter().map(|backup| backup.committed_ms);
    let span = match (times().min(), times().max()) {
        (Some(first), Some(last)) => format!(
            ", from {} to {}, {} as they were",
            human::rfc3339(first).unwrap_or_default(),
            human::rfc3339(last).unwrap_or_default(),
            human::size(backups.iter().map(|backup| backup.bytes).sum())
        ),
        _ => String::new(),
    };
    output.note(format!("service {service} goes, with its log and {} backups{span}", backups.len()));
    if !confirm(yes, &format!("Delete {service} and all of its backups? There is no way back."))? {
        output.note("nothing is deleted");
        return Ok(Outcome::Declined);
    }
    let request = v1::DeleteServiceRequest { service: service.clone() };
    let begun = client.delete_service(request).await.map_err(from_status)?.into_inner();
    let ended = if detach { Some(begun) } else { settled(&mut client, output, &service).await? };
    match ended {
        Some(ended) if state(&ended) == PowerState::PowerOff => Err(stood_against(&ended, "off", "deleted")),
        ended => {
            output.data(&Deleted { deleted: ended.is_none(), service }, |it| match it.deleted {
                true => format!("service {} is deleted", it.service),
                false => format!("service {} is being deleted", it.service),
            });
            Ok(Outcome::Done)
        }
    }
}

fn state(service: &v1::Service) -> PowerState {
    service.power.as_ref().map(v1::Power::state).unwrap_or_default()
}

fn stood_against(service: &v1::Service, is: &str, wanted: &str) -> Error {
    let why = service.power.as_ref().map(|power| power.why.clone()).unwrap_or_default();
    let what = match why.is_empty() {
        true => format!("service {} is {is} again: somebody has asked for that", service.name),
        false => format!("service {} is not {wanted}: {why}", service.name),
    };
    Error::conflict(what)
}

/// Until its power changes no more; none: it is gone. Leaving does not stop it.
async fn settled(client: &mut Client, output: &Output, service: &str) -> Result<Option<v1::Service>> {
    let watch = until_settled(client, output, service);
    tokio::select! {
        biased;
        ended = watch => ended,
        _ = tokio::signal::ctrl_c() => {
            Err(Error::unavailable(format!("stopped watching service {service}; what was asked for goes on"))
                .with_hint(format!("`palinurus service show {service}` says how far it is")))
        }
    }
}

async fn until_settled(client: &mut Client, output: &Output, service: &str) -> Result<Option<v1::Service>> {
    let (mut said, mut heard) = (String::new(), Instant::now());
    loop {
        let request = v1::GetServiceRequest { service: service.to_owned() };
        match client.get_service(request).await.map_err(from_status) {
            Ok(found) => {
                let found = found.into_inner();
                heard = Instant::now();
                if matches!(state(&found), PowerState::PowerOn | PowerState::PowerOff) {
                    return Ok(Some(found));
                }
                let why = found.power.map(|power| power.why).unwrap_or_default();
                if why != said && !why.is_empty() {
                    if output.progress_lines {
                        output.json_line(&serde_json::json!({ "waits": why }));
                    }
                    output.note(format!("{service}: {why}"));
                }
                said = why;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Unavailable && heard.elapsed() < PATIENCE => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}
