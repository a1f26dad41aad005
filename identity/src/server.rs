//! The coordinator's side of TLS: who calls, before anything that they say is read.
use std::convert::Infallible;
use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use palinurus_repository::{Clock, Error, Result, Timestamp};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tonic::Status;

use crate::explain;
use crate::files::{provider, read_authorities, read_pair};
use crate::reloading::Reloading;
use crate::revoked::Revoked;
use crate::settings::TlsConfig;
use crate::who::Who;

pub type Stream = tokio_rustls::server::TlsStream<TcpStream>;

/// What every TLS connection begins with.
const HANDSHAKE: u8 = 0x16;
const PLAIN: &str = "this port speaks TLS: write https://";
/// Of the call that hears it.
const HEADERS: u32 = 16 << 10;

/// For a caller that was refused to hear of it.
const LINGER: Duration = Duration::from_secs(1);

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing is encrypted, and nobody is asked.
    Plain,
    /// No certificate was shown: a token has to say.
    Nobody,
    Holder(Who),
    /// A certificate of our authority that says nothing we understand.
    Unclear(String),
}

/// A connection that is open, and what was shown for it.
#[derive(Debug)]
pub struct Proved {
    pub stream: Stream,
    pub known: Known,
    pub certificate: Option<CertificateDer<'static>>,
}

#[derive(Debug)]
struct Serving {
    config: Arc<ServerConfig>,
    revoked: Revoked,
}

#[derive(Debug)]
pub struct TlsServer(Reloading<Serving>);

impl TlsServer {
    /// With `tokens`, who shows no certificate is let through as nobody.
    pub fn new(config: &TlsConfig, tokens: bool, clock: Arc<dyn Clock>) -> Result<Self> {
        let (files, config) = (config.files(), config.clone());
        Reloading::new("tls", files, move || serving(&config, tokens, &*clock)).map(Self)
    }

    /// The caller bounds the time that this takes.
    pub async fn accept(&self, stream: TcpStream) -> Result<Proved> {
        let mut first = [0];
        let read =
            stream.peek(&mut first).await.map_err(|e| Error::unavailable("it went away").with_source(e))?;
        if read == 0 {
            return Err(Error::unavailable("it went away"));
        }
        if first != [HANDSHAKE] {
            refuse(stream).await;
            return Err(Error::invalid("it does not speak TLS"));
        }
        let accepted =
            TlsAcceptor::from(self.0.current().config.clone()).accept(stream).into_fallible().await;
        let stream = match accepted {
            Ok(stream) => stream,
            Err((e, stream)) => {
                linger(stream).await;
                return Err(explain::accepting(&e));
            }
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
        let known = match &certificate {
            None => Known::Nobody,
            Some(certificate) => match Who::of(certificate) {
                Ok(who) => Known::Holder(who),
                Err(e) => Known::Unclear(e.chain()),
            },
        };
        Ok(Proved { stream, known, certificate })
    }

    /// Whether a certificate that was good enough for a connection has been revoked since.
    pub fn has_revoked(&self, certificate: &CertificateDer<'_>) -> bool {
        self.0.current().revoked.holds(certificate)
    }
}

fn serving(config: &TlsConfig, tokens: bool, clock: &dyn Clock) -> Result<Serving> {
    let unusable = |e: String| Error::invalid("the TLS settings cannot be used").with_source(e);
    let roots = read_authorities(&config.ca)?;
    let revoked = Revoked::read(&config.revoked, &roots)?;
    let (pair, shown) = read_pair(&config.certificate, &config.key, clock)?;
    if !matches!(shown.who, Some(Who::Coordinator { .. })) {
        let whose = shown.who.map_or_else(|| "nobody's".to_owned(), |who| who.name());
        return Err(Error::invalid(format!(
            "{} is no coordinator's certificate: {whose}",
            config.certificate.display()
        ))
        .with_hint("palinurus certs issue DIR coordinator --name NAME --address HOST"));
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .with_crls(revoked.signed())
        // An authority of several that has no list revokes nothing.
        .allow_unknown_revocation_status();
    let verifier = if tokens { verifier.allow_unauthenticated() } else { verifier };
    let verifier = verifier.build().map_err(|e| unusable(e.to_string()))?;
    // A list with a wrong signature would lock everybody out: our own certificate tries it.
    if let Some((own, between)) = pair.cert.split_first()
        && let Err(rustls::Error::InvalidCertRevocationList(e)) = verifier.verify_client_cert(
            own,
            between,
            UnixTime::since_unix_epoch(clock.now().since(Timestamp(0))),
        )
    {
        return Err(Error::invalid(format!("{} is not signed by our authority", config.revoked.display()))
            .with_source(format!("{e:?}")));
    }
    let mut serving = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| unusable(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    serving.alpn_protocols = vec![b"h2".to_vec()];
    // Who resumes a session does not show the certificate again, which may have expired meanwhile.
    serving.session_storage = Arc::new(NoServerSessionStorage {});
    serving.send_tls13_tickets = 0;
    Ok(Serving { config: Arc::new(serving), revoked })
}

/// A connection that is closed with something unread is reset, and the caller would not hear why it was refused.
async fn linger(mut stream: TcpStream) {
    let read = async {
        let _ = stream.shutdown().await;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await.is_ok_and(|read| read > 0) {}
    };
    let _ = tokio::time::timeout(LINGER, read).await;
}

/// Answers one call as any gRPC client understands it. It has to be an answer: a GOAWAY that refuses a call which is just
/// being made has grpc-go before 1.50 hang for ever.
async fn refuse(stream: TcpStream) {
    let told = Notify::new();
    let answer = service_fn(|_| {
        told.notify_one();
        ready(Ok::<_, Infallible>(Status::failed_precondition(PLAIN).into_http::<String>()))
    });
    let mut serving = http2::Builder::new(TokioExecutor::new());
    serving.max_concurrent_streams(1).max_header_list_size(HEADERS);
    let mut connection = pin!(serving.serve_connection(TokioIo::new(stream), answer));
    tokio::select! {
        _ = &mut connection => return,
        () = told.notified() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
