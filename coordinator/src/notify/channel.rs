//! Where notices go, as the settings say.
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::{Error, Result, Timestamp};

use super::email::Email;
use super::record::Owed;
use super::webhook::Webhook;
use crate::config::NotifyConfig;

#[derive(Clone, Debug, Default)]
pub(crate) struct Channels(Vec<Arc<Channel>>);

pub(crate) enum Channel {
    Webhook(Webhook),
    Email(Email),
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.name())
    }
}

impl Channels {
    /// Reads every file that is named, so that what is missing is told at the start.
    pub(crate) async fn open(config: &NotifyConfig) -> Result<Self> {
        let mut channels = Vec::new();
        for webhook in &config.webhook {
            let opened = Webhook::open(webhook).await.map_err(|e| unfit(&webhook.name, &e))?;
            channels.push(Arc::new(Channel::Webhook(opened)));
        }
        for email in &config.email {
            let opened = Email::open(email).await.map_err(|e| unfit(&email.name, &e))?;
            channels.push(Arc::new(Channel::Email(opened)));
        }
        Ok(Self(channels))
    }

    pub(super) fn all(&self) -> &[Arc<Channel>] {
        &self.0
    }
}

fn unfit(name: &str, error: &Error) -> Error {
    let named = Error::new(error.kind(), format!("notify: the channel {name}")).with_source(error.chain());
    match error.hint() {
        Some(hint) => named.with_hint(hint),
        None => named,
    }
}

impl Channel {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Webhook(webhook) => webhook.name(),
            Self::Email(email) => email.name(),
        }
    }

    /// Bounded in time. `by` is the coordinator's name.
    pub(super) async fn send(&self, owed: &Owed, by: &str, now: Timestamp) -> Result<()> {
        match self {
            Self::Webhook(webhook) => Box::pin(webhook.send(owed, now)).await,
            Self::Email(email) => Box::pin(email.send(owed, by)).await,
        }
    }
}

/// A file's one line, which nobody sees.
pub(super) async fn secret(path: &Path) -> Result<String> {
    let failed = |e| Error::io(format!("read {}", path.display()), e);
    let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.contains('\n') {
        return Err(Error::invalid(format!("{} is not one line", path.display())));
    }
    Ok(line.to_owned())
}
