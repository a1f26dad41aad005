//! What a certificate says, for an operator's eyes.
use std::path::Path;
use std::time::Duration;

use palinurus_repository::{Error, Result, Timestamp};
use rustls::pki_types::CertificateDer;

use crate::der;
use crate::files::read_certificates;
use crate::who::Who;

#[derive(Clone, Debug)]
pub struct Shown {
    /// In hexadecimal, as the authority's own list has it.
    pub serial: String,
    /// None: it names nobody; an authority's does not.
    pub who: Option<Who>,
    pub subject: String,
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub addresses: Vec<String>,
}

impl Shown {
    /// The first in the file.
    pub fn read(file: &Path) -> Result<Self> {
        let all = read_certificates(file)?;
        all.first().map_or_else(|| Err(unreadable()), Self::of)
    }

    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self> {
        let found = der::fields(certificate).ok_or_else(unreadable)?;
        Ok(Self {
            serial: hex(&found.serial),
            who: Who::of(certificate).ok(),
            subject: found.subject,
            issuer: found.issuer,
            not_before: Timestamp(found.not_before.saturating_mul(1000)),
            not_after: Timestamp(found.not_after.saturating_mul(1000)),
            addresses: found.addresses,
        })
    }

    /// None: it is over. It holds through its last second.
    pub fn remains(&self, now: Timestamp) -> Option<Duration> {
        (now.0 / 1000 <= self.not_after.0 / 1000).then(|| self.not_after.since(now))
    }
}

/// Without the zeros before a number.
pub(crate) fn hex(number: &[u8]) -> String {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number[first..].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unreadable() -> Error {
    Error::invalid("the certificate cannot be read")
}
