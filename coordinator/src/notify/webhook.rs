//! A POST of JSON, signed where there is a secret.
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use palinurus_repository::{Error, Result, Timestamp};
use reqwest::{Certificate, Client, Url, redirect};
use ring::hmac;

use super::channel::secret;
use super::record::Owed;
use crate::config::{WebhookConfig, check_webhook_url};

pub(crate) struct Webhook {
    name: String,
    url: Url,
    secret: Option<PathBuf>,
    timeout: Duration,
    client: Client,
}

impl Webhook {
    pub(super) async fn open(config: &WebhookConfig) -> Result<Self> {
        let said = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let url = match said(&config.url_file) {
            Some(path) => secret(&path).await?,
            None => config.url.clone(),
        };
        let url = check_webhook_url(&url, config.allow_http)?;
        // The one provider; that it is installed already is well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Who is signed for does not say where else it goes.
        let mut client = Client::builder().redirect(redirect::Policy::none());
        if let Some(path) = said(&config.ca) {
            let failed = |e| Error::io(format!("read {}", path.display()), e);
            let pem = tokio::fs::read(&path).await.map_err(failed)?;
            let unfit = |e| Error::invalid(format!("{} is not PEM", path.display())).with_source(e);
            client = client.tls_certs_only(Certificate::from_pem_bundle(&pem).map_err(unfit)?);
        } else if url.scheme() == "http" {
            // A machine without authorities has none to ask for.
            client = client.tls_certs_only([]);
        }
        if config.is_local(&url) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|e| {
            Error::invalid("its TLS cannot be set up").with_source(e.without_url()).with_hint("say `ca`")
        })?;
        let signing = said(&config.secret_file);
        if let Some(path) = &signing {
            secret(path).await?;
        }
        Ok(Self { name: config.name.clone(), url, secret: signing, timeout: config.timeout, client })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn send(&self, owed: &Owed, now: Timestamp) -> Result<()> {
        let body = owed.json();
        let seconds = (now.0 / 1000).to_string();
        let mut request = self
            .client
            .post(self.url.clone())
            .timeout(self.timeout)
            .header("content-type", "application/json")
            .header("user-agent", "palinurus")
            .header("palinurus-notice", owed.id.as_str())
            .header("palinurus-timestamp", seconds.as_str());
        if let Some(path) = &self.secret {
            // Read each time: it may have been changed.
            let secret = secret(path).await?;
            request = request.header("palinurus-signature", signature(&secret, &seconds, &body));
        }
        // The address may hold a secret.
        let answer =
            request.body(body).send().await.map_err(|e| {
                Error::unavailable("the webhook cannot be reached").with_source(e.without_url())
            })?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(Error::unavailable(format!("the webhook answers {}", answer.status())))
    }
}

/// `v1=` and HMAC-SHA256 over the seconds, a dot and the body, in hexadecimal.
pub(super) fn signature(secret: &str, seconds: &str, body: &[u8]) -> String {
    let mut signing = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    signing.update(seconds.as_bytes());
    signing.update(b".");
    signing.update(body);
    signing.sign().as_ref().iter().fold("v1=".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
