//! A mail by SMTP.
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use palinurus_repository::{Error, Result};

use super::channel::secret;
use super::record::Owed;
use crate::config::{EmailConfig, MailTls};

pub(crate) struct Email {
    name: String,
    host: String,
    port: u16,
    tls: Tls,
    user: String,
    password: PathBuf,
    from: Mailbox,
    to: Vec<Mailbox>,
    timeout: Duration,
}

impl Email {
    pub(super) async fn open(config: &EmailConfig) -> Result<Self> {
        let (host, port) = config.place()?;
        let tls = match config.tls {
            MailTls::None => Tls::None,
            MailTls::Starttls => Tls::Required(parameters(config, host).await?),
            MailTls::Tls => Tls::Wrapper(parameters(config, host).await?),
        };
        if !config.user.is_empty() {
            secret(&config.password_file).await?;
        }
        Ok(Self {
            name: config.name.clone(),
            host: host.to_owned(),
            port,
            tls,
            user: config.user.clone(),
            password: config.password_file.clone(),
            from: mailbox(&config.from)?,
            to: config.to.iter().map(|to| mailbox(to)).collect::<Result<_>>()?,
            timeout: config.timeout,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn send(&self, owed: &Owed, by: &str) -> Result<()> {
        let message = self.message(owed, by)?;
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host)
            .port(self.port)
            .tls(self.tls.clone())
            .timeout(Some(self.timeout));
        if !self.user.is_empty() {
            // Read each time: it may have been changed.
            let password = secret(&self.password).await?;
            transport = transport.credentials(Credentials::new(self.user.clone(), password));
        }
        let transport = transport.build();
        // The whole of it: each answer of a slow server may take as long as the timeout.
        let sent = tokio::time::timeout(self.timeout, transport.send(message)).await;
        let sent = sent.map_err(|_| Error::unavailable("the mail server does not answer in time"))?;
        sent.map_err(|e| Error::unavailable("the mail server did not take the mail").with_source(e))?;
        Ok(())
    }

    /// Under one id at every try.
    fn message(&self, owed: &Owed, by: &str) -> Result<Message> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(owed.at().0);
        let mut message = Message::builder()
            .message_id(Some(format!("<{}@palinurus>", owed.id)))
            .date(at)
            .from(self.from.clone())
            .subject(format!("[palinurus {by}] {}", owed.what))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            message = message.to(to.clone());
        }
        message.body(owed.text()).map_err(|e| Error::invalid("the mail cannot be written").with_source(e))
    }
}

pub(crate) fn mailbox(text: &str) -> Result<Mailbox> {
    text.parse().map_err(|e| {
        Error::invalid(format!("{text:?} is no mail address"))
            .with_source(e)
            .with_hint("write name@example.com, or Name <name@example.com>")
    })
}

async fn parameters(config: &EmailConfig, host: &str) -> Result<TlsParameters> {
    let unfit = |e| Error::invalid("its TLS cannot be set up").with_source(e);
    let mut builder = TlsParameters::builder(host.to_owned());
    if !config.ca.as_os_str().is_empty() {
        let failed = |e| Error::io(format!("read {}", config.ca.display()), e);
        let pem = tokio::fs::read(&config.ca).await.map_err(failed)?;
        builder = builder.certificate_store(CertificateStore::None);
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(unfit)?);
    }
    builder.build_rustls().map_err(unfit)
}
