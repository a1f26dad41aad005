//! The `[notify]` table: who is told what has changed, beside the log.
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_repository::{Error, Result};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{duration, human};
use crate::notify::mailbox;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotifyConfig {
    pub webhook: Vec<WebhookConfig>,
    pub email: Vec<EmailConfig>,
    /// What could not be delivered for so long is given up.
    #[serde(deserialize_with = "duration", serialize_with = "human")]
    pub give_up_after: Duration,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// What is owed is owed to this name.
    pub name: String,
    pub url: String,
    /// In its place, where the address itself is a secret.
    pub url_file: PathBuf,
    /// For the signature; empty: none is made.
    pub secret_file: PathBuf,
    /// Who has signed the receiver's certificate; empty: whom this machine trusts.
    pub ca: PathBuf,
    /// Without encryption, to another machine.
    pub allow_http: bool,
    #[serde(deserialize_with = "duration", serialize_with = "human")]
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmailConfig {
    pub name: String,
    /// host:port
    pub server: String,
    pub tls: MailTls,
    /// Without encryption, to another machine.
    pub allow_plaintext: bool,
    pub user: String,
    pub password_file: PathBuf,
    pub from: String,
    pub to: Vec<String>,
    pub ca: PathBuf,
    #[serde(deserialize_with = "duration", serialize_with = "human")]
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    #[default]
    Starttls,
    Tls,
    None,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self { webhook: Vec::new(), email: Vec::new(), give_up_after: Duration::from_secs(24 * 3600) }
    }
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            name: "webhook".to_owned(),
            url: String::new(),
            url_file: PathBuf::new(),
            secret_file: PathBuf::new(),
            ca: PathBuf::new(),
            allow_http: false,
            timeout: Duration::from_secs(10),
        }
    }
}

impl Default for EmailConfig {
    fn default() -> Self {
        Self {
            name: "email".to_owned(),
            server: String::new(),
            tls: MailTls::default(),
            allow_plaintext: false,
            user: String::new(),
            password_file: PathBuf::new(),
            from: String::new(),
            to: Vec::new(),
            ca: PathBuf::new(),
            timeout: Duration::from_secs(30),
        }
    }
}

/// The address may hold a secret.
impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = Url::parse(&self.url).ok().and_then(|url| url.host_str().map(str::to_owned));
        f.debug_struct("WebhookConfig")
            .field("name", &self.name)
            .field("host", &host.unwrap_or_default())
            .field("secret_file", &self.secret_file)
            .finish_non_exhaustive()
    }
}

impl NotifyConfig {
    pub(super) fn check(&self) -> Result<()> {
        if self.give_up_after < Duration::from_secs(1) {
            return Err(Error::invalid("notify.give_up_after is below 1s").with_hint("24h is the default"));
        }
        let mut names = BTreeSet::new();
        let webhooks = self.webhook.iter().map(|it| (&it.name, it.timeout, it.check()));
        let emails = self.email.iter().map(|it| (&it.name, it.timeout, it.check()));
        for (name, timeout, checked) in webhooks.chain(emails) {
            palinurus_repository::id::check_name("channel", name)?;
            if !names.insert(name) {
                return Err(Error::invalid(format!("notify: two channels have the name {name:?}"))
                    .with_hint("say `name` in each: what is owed is owed to a name"));
            }
            if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&timeout) {
                return Err(Error::invalid(format!("notify: timeout of {name} is not between 1s and 5m")));
            }
            checked?;
        }
        Ok(())
    }
}

fn said(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl WebhookConfig {
    fn check(&self) -> Result<()> {
        if self.url.is_empty() != said(&self.url_file) {
            return Err(Error::invalid(format!("notify: {} wants either url or url_file", self.name)));
        }
        if self.url.is_empty() { Ok(()) } else { check_webhook_url(&self.url, self.allow_http).map(drop) }
    }

    pub(crate) fn is_local(&self, url: &Url) -> bool {
        url.host_str().is_some_and(is_local)
    }
}

/// Nothing of it is in the error: it may hold a secret.
pub(crate) fn check_webhook_url(text: &str, allow_http: bool) -> Result<Url> {
    let url = Url::parse(text).map_err(|_| Error::invalid("the webhook's url is none"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::invalid("the webhook's url has a user in it").with_hint("use secret_file"));
    }
    match (url.scheme(), url.host_str()) {
        ("https", Some(_)) => Ok(url),
        ("http", Some(host)) if allow_http || is_local(host) => Ok(url),
        ("http", Some(_)) => Err(Error::denied("the webhook's url is not encrypted")
            .with_hint("use https://, or say allow_http = true")),
        _ => Err(Error::invalid("the webhook's url is not https://host/..")),
    }
}

impl EmailConfig {
    fn check(&self) -> Result<()> {
        let refuse = |what: &str, hint: &str| {
            Err(Error::invalid(format!("notify: {} {what}", self.name)).with_hint(hint))
        };
        let (host, _) = self.place()?;
        if self.user.is_empty() == said(&self.password_file) {
            return refuse("wants user and password_file together", "say both, or neither");
        }
        if self.tls == MailTls::None && !self.allow_plaintext && !is_local(host) {
            return refuse(
                "would send unencrypted to another machine",
                "tls = \"starttls\" or \"tls\"; or say allow_plaintext = true",
            );
        }
        if self.tls == MailTls::None && said(&self.ca) {
            return refuse("has a ca, and no TLS", "tls = \"starttls\" or \"tls\"");
        }
        if self.to.is_empty() {
            return refuse("has nobody to write to", "to = [\"ops@example.com\"]");
        }
        std::iter::once(&self.from).chain(&self.to).try_for_each(|address| mailbox(address).map(drop))
    }

    pub(crate) fn place(&self) -> Result<(&str, u16)> {
        let place = self.server.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        place.filter(|(host, _)| !host.is_empty()).ok_or_else(|| {
            Error::invalid(format!("notify: server {:?} of {} is no address", self.server, self.name))
                .with_hint("write host:587")
        })
    }
}
