//! Certificates and keys as they lie on disk.
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::{Clock, Error, Result};
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::shown::Shown;

/// A chain, a bundle of authorities, a list of tokens.
const FILE_MAX: u64 = 1 << 20;
/// Before its end, a certificate is warned of.
const SOON: std::time::Duration = std::time::Duration::from_secs(14 * 24 * 3600);

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

pub(crate) fn read(file: &Path) -> Result<Vec<u8>> {
    let failed = |e| Error::io(format!("read {}", file.display()), e);
    let mut text = Vec::new();
    File::open(file).and_then(|open| open.take(FILE_MAX + 1).read_to_end(&mut text)).map_err(failed)?;
    if text.len() as u64 > FILE_MAX {
        return Err(Error::invalid(format!("{} is larger than {FILE_MAX} bytes", file.display())));
    }
    Ok(text)
}

/// What others may not see. A group may: that is how secrets are handed to a service.
pub(crate) fn read_secret(what: &str, file: &Path) -> Result<Vec<u8>> {
    let found = std::fs::metadata(file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    if found.mode() & 0o007 != 0 {
        return Err(Error::denied(format!(
            "the {what} {} may be read or changed by everybody (mode {:04o})",
            file.display(),
            found.mode() & 0o7777
        ))
        .with_hint(format!(
            "chmod 600 {}; and take it for known if others use this machine",
            file.display()
        )));
    }
    read(file)
}

pub(crate) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(Error::invalid(format!("{} holds no certificate", file.display()))
            .with_hint("a certificate begins with -----BEGIN CERTIFICATE-----")),
        Err(e) => Err(Error::invalid(format!("{} is not PEM", file.display())).with_source(e)),
    }
}

pub(crate) fn read_authorities(file: &Path) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(file)? {
        roots.add(certificate).map_err(|e| {
            Error::invalid(format!("{} is not an authority's certificate", file.display())).with_source(e)
        })?;
    }
    Ok(Arc::new(roots))
}

/// The certificate and its key, which must fit. An expired one is no reason not to start: it may be replaced.
pub(crate) fn read_pair(
    certificate: &Path,
    key: &Path,
    clock: &dyn Clock,
) -> Result<(Arc<CertifiedKey>, Shown)> {
    let chain = read_certificates(certificate)?;
    let shown = chain.first().map_or_else(|| Err(Error::internal("no certificate")), Shown::of)?;
    let pair = fitting(chain, &read_secret("private key", key)?, certificate, key)?;
    let end = || humantime(&shown);
    match shown.remains(clock.now()) {
        None => {
            tracing::error!(certificate = %certificate.display(), ended = end(), "this certificate has expired: nobody will believe it")
        }
        Some(left) if left < SOON => {
            tracing::warn!(certificate = %certificate.display(), ends = end(), "this certificate expires soon");
        }
        Some(_) => {}
    }
    Ok((Arc::new(pair), shown))
}

/// A chain with the key of its first certificate.
pub(crate) fn fitting(
    chain: Vec<CertificateDer<'static>>,
    text: &[u8],
    certificate: &Path,
    key: &Path,
) -> Result<CertifiedKey> {
    let private = PrivateKeyDer::from_pem_slice(text).map_err(|e| {
        Error::invalid(format!("{} holds no private key", key.display()))
            .with_source(e)
            .with_hint("a key begins with -----BEGIN PRIVATE KEY-----")
    })?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => Error::invalid(format!(
            "the key {} is not that of the certificate {}",
            key.display(),
            certificate.display()
        ))
        .with_hint("issue them together, and copy both"),
        other => Error::invalid(format!("the key {} cannot be used", key.display())).with_source(other),
    })
}

fn humantime(shown: &Shown) -> String {
    let day =
        time::OffsetDateTime::from_unix_timestamp((shown.not_after.0 / 1000).try_into().unwrap_or(i64::MAX));
    day.map_or_else(|_| "?".to_owned(), |at| at.date().to_string())
}
