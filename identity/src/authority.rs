//! A certificate authority in a directory: for a first cluster, or where nobody runs another one.
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_repository::{Entropy, Error, Result, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose as Usage, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::files::{fitting, read_certificates, read_secret};
use crate::shown::Shown;
use crate::who::Who;

/// How long what is issued holds, if nothing is said.
pub const VALID: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks differ.
const EARLIER: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ends: Timestamp,
}

/// Where they lie now.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Issued {
    /// Where an authority puts what it issues to somebody.
    pub fn to(who: &Who, dir: &Path) -> Self {
        let name = match who {
            Who::Coordinator { name } => format!("coordinator-{name}"),
            Who::Agent { service, node, .. } => format!("agent-{node}@{service}"),
            Who::Operator { name, .. } => format!("operator-{name}"),
            Who::Tenant { name, .. } => format!("tenant-{name}"),
        };
        Self { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) }
    }
}

impl Authority {
    /// A new one, in a directory that has none: whoever replaces an authority locks everybody out.
    pub fn init(dir: &Path, valid: Duration, now: Timestamp, entropy: &dyn Entropy) -> Result<Issued> {
        let mut making = std::fs::DirBuilder::new();
        making
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Error::io(format!("make {}", dir.display()), e))?;
        let tag: [u8; 4] = entropy.array()?;
        let mut params = CertificateParams::default();
        // Authorities of one name with different keys are hard to tell apart when something is refused.
        params.distinguished_name = named(&format!("palinurus authority {:08x}", u32::from_be_bytes(tag)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = between(now, now.plus(valid))?;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let made = Issued { certificate: dir.join("ca.pem"), key: dir.join("ca.key") };
        write(&made.key, &key.serialize_pem(), 0o600, false)?;
        write(&made.certificate, &certificate.pem(), 0o644, false)?;
        Self::open(dir)?.sign_revoked(now)?;
        Ok(made)
    }

    pub fn open(dir: &Path) -> Result<Self> {
        let hint = |e: Error| e.with_hint("`palinurus certs init` makes an authority");
        let files = Issued { certificate: dir.join("ca.pem"), key: dir.join("ca.key") };
        let shown = Shown::read(&files.certificate).map_err(hint)?;
        let key = read_secret("authority's key", &files.key).map_err(|e| match e.hint() {
            Some(_) => e,
            None => hint(e),
        })?;
        // What another key signs nobody would believe.
        fitting(read_certificates(&files.certificate)?, &key, &files.certificate, &files.key)?;
        let key = String::from_utf8(key).map_err(|_| Error::invalid("the authority's key is not PEM"))?;
        let key = KeyPair::from_pem(&key).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&shown.subject);
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key), ends: shown.not_after })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub fn ends(&self) -> Timestamp {
        self.ends
    }

    /// A new key and its certificate; with `renew` in the place of the old.
    pub fn issue(
        &self,
        who: &Who,
        addresses: &[String],
        valid: Duration,
        now: Timestamp,
        renew: bool,
    ) -> Result<Issued> {
        who.check()?;
        let uri = rcgen::string::Ia5String::try_from(who.to_string()).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&who.name());
        params.subject_alt_names = vec![SanType::URI(uri)];
        for address in addresses {
            params.subject_alt_names.push(alternative(address)?);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match who {
            Who::Coordinator { .. } => vec![Usage::ServerAuth, Usage::ClientAuth],
            Who::Agent { .. } | Who::Operator { .. } | Who::Tenant { .. } => vec![Usage::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = between(now, now.plus(valid).min(self.ends))?;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let made = Issued::to(who, &self.dir);
        self.note_issued(&Shown::of(certificate.der())?, who)?;
        // A reader that sees the new key with the old certificate goes on with what it had.
        write(&made.key, &key.serialize_pem(), 0o600, renew)?;
        write(&made.certificate, &certificate.pem(), 0o644, renew)?;
        Ok(made)
    }
}

fn alternative(address: &str) -> Result<SanType> {
    if let Ok(ip) = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let fits = !address.is_empty()
        && address.len() <= 253
        && address.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_*".contains(&b));
    let name = rcgen::string::Ia5String::try_from(address).ok().filter(|_| fits);
    name.map(SanType::DnsName).ok_or_else(|| {
        Error::invalid(format!("{address:?} is no host name or address"))
            .with_hint("without scheme and port: db1.example, 10.0.0.1")
    })
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn between(now: Timestamp, end: Timestamp) -> Result<(OffsetDateTime, OffsetDateTime)> {
    let begin = now.0.saturating_sub(u64::try_from(EARLIER.as_millis()).unwrap_or(0));
    if end <= now {
        return Err(Error::invalid("it would have expired already").with_hint(
            "give --valid a time; what an authority that is at its end issues is not believed either",
        ));
    }
    Ok((at(begin)?, at(end.0)?))
}

pub(crate) fn at(ms: u64) -> Result<OffsetDateTime> {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|_| Error::invalid("it would be valid beyond the year 9999"))
}

pub(crate) fn failed(error: rcgen::Error) -> Error {
    Error::internal("make a certificate").with_source(error)
}

/// Whole or not there.
pub(crate) fn write(file: &Path, text: &str, mode: u32, replace: bool) -> Result<()> {
    let failed = |e| Error::io(format!("write {}", file.display()), e);
    let beside = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(beside).map_err(failed)?;
    new.as_file().set_permissions(PermissionsExt::from_mode(mode)).map_err(failed)?;
    new.write_all(text.as_bytes()).and_then(|()| new.as_file().sync_all()).map_err(failed)?;
    if replace {
        new.persist(file).map_err(|e| failed(e.error))?;
        return Ok(());
    }
    new.persist_noclobber(file).map_err(|e| match e.error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::conflict(format!("{} exists already", file.display()))
            .with_hint("what is in use is not overwritten; `certs issue --renew` puts a new certificate in its place"),
        _ => failed(e.error),
    })?;
    Ok(())
}
