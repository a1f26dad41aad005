//! Certificates that somebody looks after: made where there are none, and anew when they are damaged or near their end.
use std::time::Duration;

use palinurus_repository::{Clock, Error, ErrorKind, Result, Timestamp};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::authority::{Authority, Issued, VALID};
use crate::files::{provider, read_authorities, read_certificates, read_pair};
use crate::shown::Shown;
use crate::who::Who;

impl Authority {
    /// Sees to it that what was issued to somebody is good for `margin` at least. Says why, if it had to issue it anew.
    pub fn keep(
        &self,
        who: &Who,
        addresses: &[String],
        margin: Duration,
        clock: &dyn Clock,
    ) -> Result<Option<String>> {
        let issued = Issued::to(who, self.dir());
        let fault = match self.fault(&issued, who, addresses, margin, clock) {
            Ok(None) => return Ok(None),
            Ok(Some(fault)) => fault,
            // A key that others could read is known to them: the old certificate would go on to be believed.
            Err(e) if e.kind() == ErrorKind::Denied => return Err(e),
            Err(e) if e.kind() == ErrorKind::NotFound => "there was none".to_owned(),
            Err(e) => e.chain(),
        };
        self.issue(who, addresses, VALID, clock.now(), true)?;
        Ok(Some(fault))
    }

    fn fault(
        &self,
        issued: &Issued,
        who: &Who,
        addresses: &[String],
        margin: Duration,
        clock: &dyn Clock,
    ) -> Result<Option<String>> {
        let now = clock.now();
        let chain = read_certificates(&issued.certificate)?;
        let Some(first) = chain.first() else { return Err(Error::internal("no certificate")) };
        let shown = Shown::of(first)?;
        let soon = |left: Duration| left < margin && shown.not_after < self.ends();
        Ok(match shown.remains(now) {
            None => Some("it had expired".to_owned()),
            Some(left) if soon(left) => Some("it was near its end".to_owned()),
            Some(_) if shown.not_before > now => Some("it was not valid yet".to_owned()),
            Some(_) if shown.who.as_ref() != Some(who) => Some("it was another's".to_owned()),
            Some(_) if !addresses.iter().all(|one| shown.addresses.contains(one)) => {
                Some("it was for other addresses".to_owned())
            }
            Some(_) if self.has_revoked(&shown.serial)? => Some("it had been revoked".to_owned()),
            Some(_) => {
                read_pair(&issued.certificate, &issued.key, clock)?;
                let roots = read_authorities(&self.dir().join("ca.pem"))?;
                (!is_signed(first, &roots, now)).then(|| "another authority had signed it".to_owned())
            }
        })
    }
}

fn is_signed(certificate: &CertificateDer<'_>, roots: &RootCertStore, now: Timestamp) -> bool {
    let algorithms = provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(now.since(Timestamp(0)));
    EndEntityCert::try_from(certificate).is_ok_and(|parsed| {
        let usage = KeyUsage::client_auth();
        parsed.verify_for_usage(algorithms, &roots.roots, &[], now, usage, None, None).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use palinurus_repository::clock::ManualClock;
    use palinurus_repository::entropy::SeededEntropy;

    use super::*;
    use crate::Role;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const MARGIN: Duration = Duration::from_secs(30 * 24 * 3600);

    fn start() -> Timestamp {
        Timestamp(1_700_000_000_000)
    }

    fn authority(dir: &Path, seed: u64) -> Authority {
        Authority::init(dir, VALID * 3, start(), &SeededEntropy::new(seed)).unwrap();
        Authority::open(dir).unwrap()
    }

    fn coordinator() -> Who {
        Who::Coordinator { name: "c".into() }
    }

    #[test]
    fn what_is_good_stays_and_what_is_not_is_issued_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (authority(&dir.path().join("ours"), 1), authority(&dir.path().join("other"), 1));
        let clock = ManualClock::at(start());
        let (who, addresses) = (coordinator(), ["127.0.0.1".to_owned(), "localhost".to_owned()]);
        let at = Issued::to(&who, ours.dir());
        let keep = || ours.keep(&who, &addresses, MARGIN, &clock).unwrap();
        let files = || (std::fs::read(&at.certificate).unwrap(), std::fs::read(&at.key).unwrap());
        let holds = |why: &str| {
            let found = keep().unwrap_or_default();
            assert!(found.contains(why), "{why}: {found:?}");
            let good = files();
            assert_eq!((keep(), files() == good), (None, true), "after {why}");
        };
        holds("there was none");
        std::fs::write(&at.certificate, "garbage").unwrap();
        holds("holds no certificate");
        std::fs::remove_file(&at.key).unwrap();
        holds("there was none");
        std::fs::write(&at.key, "garbage").unwrap();
        holds("holds no private key");
        let key = std::fs::read(&at.key).unwrap();
        ours.issue(&who, &addresses, VALID, clock.now(), true).unwrap();
        std::fs::write(&at.key, key).unwrap();
        holds("is not that of the certificate");
        ours.issue(&who, &addresses[..1], VALID, clock.now(), true).unwrap();
        holds("other addresses");
        let stranger = other.issue(&who, &addresses, VALID, clock.now(), true).unwrap();
        std::fs::copy(&stranger.certificate, &at.certificate).unwrap();
        std::fs::copy(&stranger.key, &at.key).unwrap();
        holds("another authority");
        let ada = Who::Operator { name: "ada".into(), role: Role::Admin };
        let adas = ours.issue(&ada, &[], VALID, clock.now(), true).unwrap();
        std::fs::copy(&adas.certificate, &at.certificate).unwrap();
        std::fs::copy(&adas.key, &at.key).unwrap();
        holds("another's");
        ours.revoke(&[Shown::read(&at.certificate).unwrap().serial], clock.now()).unwrap();
        holds("revoked");
        clock.advance(VALID - MARGIN);
        assert_eq!(keep(), None);
        clock.advance(DAY);
        holds("near its end");
        clock.advance(VALID + DAY);
        holds("expired");
        clock.advance(VALID - MARGIN + DAY);
        holds("near its end");
        // Now the authority itself is: a new one would hold no longer.
        clock.advance(MARGIN);
        assert_eq!(keep(), None);
    }

    #[test]
    fn a_key_that_others_could_read_is_said_and_not_covered_up() {
        let dir = tempfile::tempdir().unwrap();
        let ours = authority(&dir.path().join("ours"), 1);
        let clock = ManualClock::at(start());
        ours.keep(&coordinator(), &[], MARGIN, &clock).unwrap();
        let key = Issued::to(&coordinator(), ours.dir()).key;
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
        let refused = ours.keep(&coordinator(), &[], MARGIN, &clock).unwrap_err();
        assert!(refused.kind() == ErrorKind::Denied && refused.hint().is_some(), "{refused:?}");
    }

    #[test]
    fn an_authority_with_anothers_key_does_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (authority(&dir.path().join("ours"), 1), authority(&dir.path().join("other"), 2));
        std::fs::copy(other.dir().join("ca.key"), ours.dir().join("ca.key")).unwrap();
        let refused = Authority::open(ours.dir()).unwrap_err();
        assert!(refused.what().contains("is not that of the certificate"), "{refused:?}");
    }
}
