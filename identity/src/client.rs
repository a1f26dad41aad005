//! The callers' side of TLS: agents and operators prove a coordinator, and show who they are.
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use palinurus_repository::{Clock, Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::explain;
use crate::files::{provider, read_authorities, read_pair};
use crate::reloading::Reloading;
use crate::revoked::Revoked;
use crate::settings::TlsConfig;
use crate::who::Who;

/// Connects to coordinators by https, with what the files hold at that moment.
#[derive(Clone, Debug)]
pub struct Dialer {
    tls: Arc<Reloading<Arc<ClientConfig>>>,
    /// Only when it is over can a client know that the server did not want it.
    refused: Arc<Mutex<Option<Error>>>,
}

impl Dialer {
    pub fn new(config: &TlsConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let pair = Some((config.certificate.clone(), config.key.clone()));
        Self::reading(config.files(), &config.ca, &config.revoked, pair, clock)
    }

    /// Without a pair of certificate and key: a token is to say who we are.
    pub fn open(
        ca: &Path,
        revoked: Option<&Path>,
        pair: Option<(PathBuf, PathBuf)>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let mut files = vec![ca.to_owned()];
        files.extend(revoked.map(Path::to_owned));
        files.extend(pair.iter().flat_map(|(certificate, key)| [certificate.clone(), key.clone()]));
        Self::reading(files, ca, revoked.unwrap_or(Path::new("")), pair, clock)
    }

    fn reading(
        files: Vec<PathBuf>,
        ca: &Path,
        revoked: &Path,
        pair: Option<(PathBuf, PathBuf)>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let (ca, revoked) = (ca.to_owned(), revoked.to_owned());
        let tls = Reloading::new("tls", files, move || dialling(&ca, &revoked, pair.as_ref(), &*clock))?;
        Ok(Self { tls: Arc::new(tls), refused: Arc::default() })
    }

    pub async fn connect(&self, uri: &Uri, tune: impl FnOnce(Endpoint) -> Endpoint) -> Result<Channel> {
        self.refusal();
        let unusable = |e: String| Error::invalid(format!("{uri} is not an address")).with_source(e);
        let authority = uri.authority().ok_or_else(|| unusable("it names no host".into()))?;
        // tonic's own TLS would want the scheme: this one knows what it does.
        let plain = Uri::builder().scheme("http").authority(authority.clone()).path_and_query("/").build();
        let endpoint = tune(Endpoint::from(plain.map_err(|e| unusable(e.to_string()))?)).origin(uri.clone());
        let connected = endpoint.connect_with_connector(Connector(self.clone())).await;
        connected.map_err(|e| {
            let why = || Error::unavailable(format!("no coordinator answers at {authority}")).with_source(e);
            self.refusal().unwrap_or_else(why)
        })
    }

    /// Why the last connection was not wanted; told once.
    pub fn refusal(&self) -> Option<Error> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, refused: Error) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(refused);
    }

    async fn open_stream(self, uri: Uri) -> io::Result<TokioIo<Watched>> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = uri.authority().map_or_else(|| host.clone(), ToString::to_string);
        let opened = async {
            let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            TlsConnector::from((*self.tls.current()).clone()).connect(name, stream).await
        };
        match opened.await {
            Ok(stream) => Ok(TokioIo::new(Watched { stream, dialer: self.clone() })),
            Err(e) => {
                let error = explain::dialling(&address, e);
                let told = io::Error::other(error.chain());
                self.note(error);
                Err(told)
            }
        }
    }
}

fn dialling(
    ca: &Path,
    revoked: &Path,
    pair: Option<&(PathBuf, PathBuf)>,
    clock: &dyn Clock,
) -> Result<Arc<ClientConfig>> {
    let unusable = |e: String| Error::invalid("the TLS settings cannot be used").with_source(e);
    let roots = read_authorities(ca)?;
    let revoked = Revoked::read(revoked, &roots)?;
    let proves = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .with_crls(revoked.signed())
        .allow_unknown_revocation_status()
        .build()
        .map_err(|e| unusable(e.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| unusable(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(IsCoordinator(proves)));
    let mut dialling = match pair {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let (pair, _) = read_pair(certificate, key, clock)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
    };
    dialling.alpn_protocols = vec![b"h2".to_vec()];
    dialling.resumption = Resumption::disabled();
    Ok(Arc::new(dialling))
}

/// More than TLS asks: an agent of the same authority that listens somewhere is no coordinator.
#[derive(Debug)]
struct IsCoordinator(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for IsCoordinator {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.0.verify_server_cert(certificate, between, name, ocsp, now)?;
        let other = |e: Error| rustls::Error::from(CertificateError::Other(OtherError(Arc::new(e))));
        match Who::of(certificate) {
            Ok(Who::Coordinator { .. }) => Ok(verified),
            Ok(who) => Err(other(Error::denied(format!("it is {}'s", who.name())))),
            Err(e) => Err(other(e)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

struct Connector(Dialer);

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Watched>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.0.clone().open_stream(uri))
    }
}

/// Notes an alert: what a server thinks of a client's certificate comes after the handshake.
struct Watched {
    stream: TlsStream<TcpStream>,
    dialer: Dialer,
}

impl Watched {
    fn seen<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(e)) = &polled
            && let Some(rustls::Error::AlertReceived(alert)) = explain::tls(e)
        {
            self.dialer.note(explain::refused(*alert));
        }
        polled
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        self.seen(polled)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.seen(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.seen(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A secret in an address stands in argv, logs and process lists. What is wrong is said without it.
pub fn check_url(url: &str) -> Result<()> {
    let after = url.split_once("://").map_or(url, |(_, after)| after);
    let authority = after.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') || after.contains(['?', '#']) {
        return Err(Error::invalid("a coordinator's address holds more than host and port")
            .with_hint("a token or password never goes into an address: use --token-file, and make a new one if this was one"));
    }
    Ok(())
}
